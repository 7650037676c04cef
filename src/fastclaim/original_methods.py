"""The original's five methods: what goes wrong becomes False, {} or [], and a log line."""

from __future__ import annotations

import time

from .errors import AlreadyClaimed, ClaimLost, LockTimeout, TaskPoolError
from .log import ERROR, INFO, WARNING, is_heard, logger
from .tokens import new_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class OriginalMethods:
    """The five, for a pool that brings the verbs which they are made of."""

    if TYPE_CHECKING:

        def _publish_original(self, task: dict[str, Any]) -> None:
            """Publish a task, over one of the same id."""

        def _claim_original(
            self, task_id: str, agent_id: str, token: str, timeout: float
        ) -> dict[str, Any]:
            """The claimed task; {} if it is not there, which is no news."""

        def _release_quietly(self, task_id: object, agent_id: object, token: str) -> None:
            """End a claim of which nobody was told; never fails."""

        def complete(self, task_id: object, agent_id: object, result: object = None) -> None: ...
        def tasks(self) -> Iterator[dict[str, Any]]: ...

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
        extra = {"task_id": task_id}
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
            self._publish_original(task)
        except Exception as error:
            logger().error("Failed to publish task %s: %s", task_id, error, extra=extra)
            return False
        if is_heard(INFO):
            logger().info("Published task %s", task_id, extra=extra)
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
            task = self._claim_original(task_id, agent_id, token, timeout)
            if task and is_heard(INFO):
                extra = _extra(task_id, agent_id, started_s)
                logger().info("Task %s claimed by %s", task_id, agent_id, extra=extra)
            return task
        except Exception as error:
            if not isinstance(error, TaskPoolError | OSError):
                # sys.set_int_max_str_digits() may have changed since the task was published.
                self._release_quietly(task_id, agent_id, token)
            level = WARNING if isinstance(error, AlreadyClaimed | LockTimeout) else ERROR
            extra = _extra(task_id, agent_id, started_s)
            logger().log(level, "Failed to claim task %s: %s", task_id, error, extra=extra)
            return {}
        except BaseException:
            # Interrupted; the claim may stand, and nobody will ever be told about it.
            self._release_quietly(task_id, agent_id, token)
            raise

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
            self.complete(task_id, agent_id, result)
        except Exception as error:
            if not isinstance(error, ClaimLost) or error.holder is not None:
                extra = _extra(task_id, agent_id, started_s)
                logger().error("Failed to complete task %s: %s", task_id, error, extra=extra)
            return False
        if is_heard(INFO):
            extra = _extra(task_id, agent_id, started_s)
            logger().info("Task %s completed by %s", task_id, agent_id, extra=extra)
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
            for task in self.tasks():
                if _meets_any(task, capability_filter):
                    tasks.append(task)
        except Exception as error:
            logger().error("Failed to list the available tasks: %s", error)
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
            logger().warning("Task requires validation but agent lacks validation capability")
        return True


def _extra(task_id: object, agent_id: object, started_s: float) -> dict[str, object]:
    """What a log record carries for whoever formats or filters records."""
    wait_s = time.monotonic() - started_s
    return {"task_id": task_id, "agent_id": agent_id, "wait_s": wait_s}


def _meets_any(task: dict[str, Any], capabilities: list[str] | None) -> bool:
    """As the original matches: any of the requirements, or none required, or no filter."""
    try:
        required = task.get("requirements")
        if not capabilities or not required:
            return True
        return any(requirement in capabilities for requirement in required)
    except TypeError as error:
        logger().error("Failed to load task %s: requirements: %s", task.get("task_id"), error)
        return False
