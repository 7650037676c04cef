"""`TaskPool`: the verbs, and the original's five methods."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from . import claiming, finishing, layout, listing, outcome, publishing
from .claim import Claim
from .directories import Directories
from .document import loads
from .errors import (
    AlreadyClaimed,
    ClaimLost,
    InvalidTask,
    LockTimeout,
    TaskNotAvailable,
    TaskPoolError,
)
from .tokens import new_token

logger = logging.getLogger(__name__)


class TaskPool:
    """A pool of tasks in a directory; each task is claimed by exactly one agent.

    Any number of pools, threads and processes may use one directory. The original's five methods
    (`publish_task`, `claim_task`, `complete_task`, `get_available_tasks`,
    `validate_task_constraints`) behave as in `orchestration.a2a_integration`: they turn every
    failure into False, {} or [], and a log line. The other verbs say what went wrong, by type.

    Parameters
    ----------
    base_dir : str or os.PathLike, optional
        The pool's directory; made if it is not there. Default: ``$A2A_BASE_DIR``, read now, or
        ``/tmp/orchestration/a2a``. ``postgresql://...`` makes it a `PostgresPool`.
    durability : {"data", "none", "full"}
        What a power cut can do. "none": anything to recent changes (the death of processes loses
        nothing). "data": undo a transition, but not tear, empty or lose a task. "full": nothing to
        what has returned.
    lock_files : bool
        Whether to take the original's lock files too; needed where originals share the pool.

    Raises
    ------
    ValueError
        `durability` is none of the three.
    OSError
        The directories cannot be made.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str] | None = None,
        *,
        durability: str = "data",
        lock_files: bool = True,
        _core: ModuleType | None = None,
    ) -> None:
        base = layout.default_base_dir() if base_dir is None else base_dir
        if layout.is_url(base):
            from .postgres.pool import become

            return become(self, base, durability=durability)
        self._directories = Directories(base, durability, lock_files, _core)
        self.tasks_dir = self._directories.tasks_dir
        self.available_dir = self.tasks_dir / layout.AVAILABLE
        self.claimed_dir = self.tasks_dir / layout.CLAIMED
        self.completed_dir = self.tasks_dir / layout.COMPLETED
        self._directories.make()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {os.fspath(self.base_dir)!r}>"

    @property
    def base_dir(self) -> os.PathLike[str]:
        """The pool's directory, absolute."""
        return self._directories.base_dir

    # The verbs ----------------------------------------------------------------------------------

    def publish(
        self,
        task: str | Mapping[str, Any],
        description: str | None = None,
        *,
        if_exists: str = "error",
        **fields: Any,
    ) -> bool:
        """Publish one task: all of it, or nothing.

        Parameters
        ----------
        task : str or Mapping
            The task's id, with its other fields as keyword arguments; or the whole task, a mapping
            with a ``task_id``. Every value must be JSON-serialisable.
        description : str, optional
            The field of that name.
        if_exists : {"error", "ignore", "replace"}
            What to do if the pool knows a task of this id, waiting, claimed or completed.
            "replace" publishes in any case: a waiting one is replaced, a claimed one is claimable
            again.
        **fields
            More fields: ``requirements``, ``priority``, ``blocked_by``, whatever the agents need.

        Returns
        -------
        bool
            True; False if it was there and ``if_exists="ignore"``.

        Raises
        ------
        TaskExists, InvalidTask, InvalidName
            Nothing was published.
        OSError
            The system refused; nothing was published.
        """
        return publishing.publish(self._directories, _as_task(task, description, fields), if_exists)

    def publish_many(self, tasks: Iterable[Mapping[str, Any]], *, if_exists: str = "error") -> int:
        """Publish many tasks; all are looked at before the first is published.

        Parameters
        ----------
        tasks : iterable of Mapping
            Each as for `publish`; an id may come once.
        if_exists : {"error", "ignore", "replace"}
            As for `publish`.

        Returns
        -------
        int
            How many were published.

        Raises
        ------
        TaskExists, InvalidTask, InvalidName
            Nothing was published. (TaskExists also if another process publishes one of them
            meanwhile: those before it are then published.)
        OSError
            The system refused; the tasks before the one that it names are published.
        """
        return publishing.publish_many(self._directories, tasks, if_exists)

    def claim(self, task_id: object, agent_id: object, *, timeout: float | None = 10.0) -> Claim:
        """Claim a task that is waiting.

        Parameters
        ----------
        task_id, agent_id : str
            Which task, and for whom.
        timeout : float or None
            Seconds to wait while others are in the middle of claiming or releasing this very task;
            0 tries once, None waits as long as it takes. A task that is gone is never waited for.

        Returns
        -------
        Claim
            The hold on the task; it ends with ``complete()`` or ``release()``.

        Raises
        ------
        AlreadyClaimed
            Somebody has it; ``holder`` says who.
        TaskNotAvailable
            It is not waiting, and nobody has it.
        LockTimeout
            The timeout was over.
        InvalidTask, InvalidName, NameCollision
            It cannot be claimed; the message says why.
        OSError
            The system refused; the task is where it was.
        """
        token = new_token()
        came_to, _ = self._claim(task_id, agent_id, token, timeout, want_document=False)
        if came_to == outcome.DONE:
            return Claim(self, task_id, agent_id, token)
        for task in listing.claims_of(self._directories, task_id):
            holder = task.get("claimed_by")
            raise AlreadyClaimed(f"task {task_id!r} is claimed by {holder!r}", task_id, holder)
        raise TaskNotAvailable(f"task {task_id!r} is not available", task_id)

    def complete(
        self,
        task_id: object,
        agent_id: object,
        result: object = None,
        *,
        token: str | None = None,
    ) -> None:
        """Complete a claimed task.

        Parameters
        ----------
        task_id, agent_id : str
            Which task, and who has it.
        result : object
            What came of it; JSON-serialisable.
        token : str, optional
            The claim's: only that very claim is then completed, not a later one by the same agent.

        Raises
        ------
        ClaimLost
            The agent has no such claim; nothing was changed.
        InvalidTask, InvalidName, LockTimeout, OSError
            The claim is as it was, and completing again works.
        """
        finishing.complete(self._directories, task_id, agent_id, token, result)

    def release(self, task_id: object, agent_id: object, *, token: str | None = None) -> None:
        """Give a claimed task back, for anybody to claim.

        Parameters
        ----------
        task_id, agent_id, token
            As for `complete`.

        Raises
        ------
        TaskExists
            The task was published again meanwhile; the claim stands.
        ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
            The claim is as it was.
        """
        finishing.release(self._directories, task_id, agent_id, token)

    def tasks(self, state: str = layout.AVAILABLE) -> Iterator[dict[str, Any]]:
        """The tasks in one state, as they are read, in no particular order.

        Parameters
        ----------
        state : {"available", "claimed", "completed"}
            Which.

        Yields
        ------
        dict
            A task. What cannot be read as one is left out, with a log line that says why.

        Raises
        ------
        ValueError
            There is no such state.
        OSError
            The directory cannot be read.
        """
        directory = self._directory_of(state)
        return (task for path in listing.task_files(directory) if (task := _read_or_log(path)))

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state: ``{"available": 3, "claimed": 1, "completed": 7}``.

        Raises
        ------
        OSError
            A directory cannot be read.
        """
        return {
            state: sum(1 for _ in listing.task_files(self._directory_of(state)))
            for state in layout.STATES
        }

    def mine(self, agent_id: object) -> list[Claim]:
        """The claims that an agent holds, for an agent that has forgotten.

        Raises
        ------
        OSError
            The directory cannot be read.
        """
        return [
            Claim(self, task["task_id"], agent_id, task["claim_token"])
            for task in self.tasks(layout.CLAIMED)
            if f"{task.get('claimed_by')}" == f"{agent_id}"
            and "task_id" in task
            and "claim_token" in task
        ]

    # The original's five ------------------------------------------------------------------------

    def publish_task(
        self,
        task_id: str,
        task_description: str,
        requirements: list[str] | None = None,
        constraints: dict[str, Any] | None = None,
    ) -> bool:
        """Publish a task; one of the same id that is waiting is replaced.

        Parameters
        ----------
        task_id, task_description : str
            The task.
        requirements : list of str, optional
            Capabilities; an agent needs any of them.
        constraints : dict, optional
            ``required_capabilities``, ``deadline`` (seconds since the epoch), and what agents like.

        Returns
        -------
        bool
            False, and a log line, if it could not be published.
        """
        try:
            now_s = time.time()
            task = {
                "task_id": task_id,
                "description": task_description,
                "requirements": requirements or [],
                "constraints": constraints or {},
                "constraint_enforcement": {
                    "enabled": bool(constraints),
                    "validation_required": bool(
                        constraints and constraints.get("validation_rules")
                    ),
                    "created_at": now_s,
                },
                "created_at": now_s,
            }
            publishing.Publication(self._directories, task).write(replace=True)
        except Exception as error:
            logger.error(
                "Failed to publish task %s: %s", task_id, error, extra={"task_id": task_id}
            )
            return False
        if logger.isEnabledFor(logging.INFO):
            logger.info("Published task %s", task_id, extra={"task_id": task_id})
        return True

    def claim_task(self, task_id: str, agent_id: str, timeout: float = 10.0) -> dict[str, Any]:
        """Claim a task.

        Parameters
        ----------
        task_id, agent_id : str
            Which task, and for whom.
        timeout : float
            Seconds to wait for others who are in the middle of claiming it.

        Returns
        -------
        dict
            The task as it is now; {} and, where that is news, a log line if it was not claimed.
        """
        started_s = time.monotonic()
        token = new_token()
        try:
            _, document = self._claim(task_id, agent_id, token, timeout, want_document=True)
            if document is None:
                return {}
            task = self._loads_or_release(document, task_id, agent_id, token)
        except Exception as error:
            level = logging.ERROR
            if isinstance(error, AlreadyClaimed | LockTimeout):
                level = logging.WARNING
            extra = _extra(task_id, agent_id, started_s)
            logger.log(level, "Failed to claim task %s: %s", task_id, error, extra=extra)
            return {}
        if logger.isEnabledFor(logging.INFO):
            extra = _extra(task_id, agent_id, started_s)
            logger.info("Task %s claimed by %s", task_id, agent_id, extra=extra)
        return task

    def complete_task(self, task_id: str, agent_id: str, result: dict[str, Any]) -> bool:
        """Mark a claimed task as completed.

        Parameters
        ----------
        task_id, agent_id : str
            Which task, and who has it.
        result : dict
            What came of it.

        Returns
        -------
        bool
            False if the agent has no such claim, or, with a log line, if it could not be completed.
        """
        started_s = time.monotonic()
        try:
            finishing.complete(self._directories, task_id, agent_id, None, result)
        except Exception as error:
            if not isinstance(error, ClaimLost) or error.holder is not None:
                extra = _extra(task_id, agent_id, started_s)
                logger.error("Failed to complete task %s: %s", task_id, error, extra=extra)
            return False
        if logger.isEnabledFor(logging.INFO):
            extra = _extra(task_id, agent_id, started_s)
            logger.info("Task %s completed by %s", task_id, agent_id, extra=extra)
        return True

    def get_available_tasks(
        self, capability_filter: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """The waiting tasks.

        Parameters
        ----------
        capability_filter : list of str, optional
            Leave out tasks with ``requirements`` none of which is in it.

        Returns
        -------
        list of dict
            What cannot be read is left out, with a log line.
        """
        tasks = []
        try:
            for path in listing.task_files(self._directories.available):
                task = _read_or_log(path)
                if task is not None and _meets_any(task, capability_filter, path):
                    tasks.append(task)
        except OSError as error:
            logger.error("Failed to list the available tasks: %s", error)
        return tasks

    def validate_task_constraints(
        self, task_data: dict[str, Any], agent_capabilities: list[str]
    ) -> bool:
        """Whether an agent may take a task, by the task's ``constraints``.

        Parameters
        ----------
        task_data : dict
            The task.
        agent_capabilities : list of str
            What the agent can do.

        Returns
        -------
        bool
            False if one of ``required_capabilities`` is missing or the ``deadline`` is past.
        """
        constraints = task_data.get("constraints", {})
        if not constraints:
            return True
        # Looked up only if it is "in" them: constraints need not be a dict, nor were they ever.
        if "required_capabilities" in constraints:
            required = constraints["required_capabilities"]
            if not all(capability in agent_capabilities for capability in required):
                return False
        if "deadline" in constraints:
            deadline = constraints["deadline"]
            if isinstance(deadline, int | float) and deadline < time.time():
                return False
        if "validation_rules" in constraints and "validation" not in agent_capabilities:
            logger.warning("Task requires validation but agent lacks validation capability")
        return True

    # ----------------------------------------------------------------------------------------------

    def _claim(
        self,
        task_id: object,
        agent_id: object,
        token: str,
        timeout: float | None,
        want_document: bool,
    ) -> tuple[int, bytes | None]:
        try:
            return claiming.claim(
                self._directories, task_id, agent_id, token, timeout, want_document
            )
        except (TaskPoolError, OSError):
            raise
        except BaseException:
            # Interrupted; the claim may stand, and nobody will ever be told about it.
            self._release_quietly(task_id, agent_id, token)
            raise

    def _loads_or_release(
        self, document: bytes, task_id: object, agent_id: object, token: str
    ) -> dict[str, Any]:
        try:
            return loads(document)
        except BaseException:
            # sys.set_int_max_str_digits() may have changed since the task was published.
            self._release_quietly(task_id, agent_id, token)
            raise

    def _release_quietly(self, task_id: object, agent_id: object, token: str) -> None:
        try:
            finishing.release(self._directories, task_id, agent_id, token)
        except (TaskPoolError, OSError) as error:
            if not isinstance(error, ClaimLost):
                logger.error("Failed to give back task %s: %s", task_id, error)

    def _read_claim(self, claim: Claim) -> dict[str, Any]:
        path = self._directories.claimed_file(claim.task_id, claim.agent_id)
        try:
            task = listing.read_task(path)
        except FileNotFoundError:
            task = {}
        if task.get("claim_token") != claim.token:
            raise ClaimLost(
                f"task {claim.task_id!r} is not claimed by {claim.agent_id!r} any more",
                claim.task_id,
                task.get("claimed_by"),
            )
        return task

    def _directory_of(self, state: str) -> bytes:
        if state not in layout.STATES:
            raise ValueError(f"state {state!r} is none of {', '.join(layout.STATES)}")
        directory: bytes = getattr(self._directories, state)
        return directory


def _as_task(
    task: str | Mapping[str, Any], description: str | None, fields: dict[str, Any]
) -> Mapping[str, Any]:
    if isinstance(task, Mapping):
        whole = {**task, **fields}
    elif isinstance(task, str | int):
        whole = {"task_id": task, **fields}
    else:
        raise InvalidTask(f"a task is a mapping or an id, not {type(task).__name__}")
    if description is not None:
        whole["description"] = description
    return whole


def _extra(task_id: object, agent_id: object, started_s: float) -> dict[str, object]:
    """What a log record carries for whoever formats or filters records."""
    wait_s = time.monotonic() - started_s
    return {"task_id": task_id, "agent_id": agent_id, "wait_s": wait_s}


def _read_or_log(path: str) -> dict[str, Any] | None:
    try:
        return listing.read_task(path)
    except FileNotFoundError:
        return None  # it has moved on
    except (InvalidTask, OSError) as error:
        logger.error("Failed to load task: %s", error)
        return None


def _meets_any(task: dict[str, Any], capabilities: list[str] | None, path: str) -> bool:
    """As the original matches: any of the requirements, or none required, or no filter."""
    try:
        required = task.get("requirements")
        if not capabilities or not required:
            return True
        return any(requirement in capabilities for requirement in required)
    except TypeError as error:
        logger.error("Failed to load task %s: requirements: %s", path, error)
        return False
