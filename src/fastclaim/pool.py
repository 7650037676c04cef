"""`TaskPool`: the verbs, and the original's five methods."""

from __future__ import annotations

import functools
import os
import time

from . import claiming, finishing, layout, listing, outcome, stamps, tokens
from .arguments import (
    as_task,
    check_agent_id,
    check_is_agent,
    check_is_name,
    check_max_attempts,
    check_moment,
    check_place,
    check_seconds,
    check_text,
    check_whole,
)
from .claim import Claim
from .directories import Directories
from .document import loads
from .errors import (
    AlreadyClaimed,
    ClaimLost,
    InvalidTask,
    TaskNotAvailable,
    TaskPoolError,
)
from .log import logger
from .original_methods import OriginalMethods
from .stamps import Hold
from .tokens import new_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    from .diagnosis import Finding
    from .literals import Durability, IfExists, Order, PrunableState, State
    from .pausing import Pause
    from .recovery import RecoveryReport
    from .selection import Selection


class TaskPool(OriginalMethods):
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
    bind_claims : bool
        Whether claims end with the process that made them, unless they say otherwise. False for
        code that claims in one process and completes in another.
    max_attempts : int, optional
        How many claims of a task may fail, or be lost with their process, before the task is given
        up; a task's own ``max_attempts`` takes precedence. Default: any number.

    Raises
    ------
    ValueError
        `base_dir` is empty or a URL of another kind, `durability` none of the three, or
        `max_attempts` not positive.
    OSError
        The directories cannot be made; on PostgreSQL (PoolUnavailable) the server not be reached.
    ImportError
        `base_dir` is a URL, and what extra ``postgres`` brings is not installed.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "data",
        lock_files: bool = True,
        bind_claims: bool = True,
        max_attempts: int | None = None,
        _core: ModuleType | None = None,
        _ask_kernel: bool = True,
    ) -> None:
        base = os.fsdecode(layout.default_base_dir() if base_dir is None else base_dir)
        check_place(base)
        check_max_attempts(max_attempts)
        if layout.is_url(base):
            from .postgres.pool import become

            return become(
                self,
                base,
                durability=durability,
                bind_claims=bind_claims,
                max_attempts=max_attempts,
            )
        self._directories = Directories(base, durability, lock_files, _core)
        self._bind_claims = bind_claims
        self._max_attempts = max_attempts
        # Not by who claims once: to end a watch takes the kernel longer than to claim.
        self._asks_kernel = _ask_kernel
        self._selections: dict[str, Selection] = {}  # by the process
        self._checked_agent_id: object = ""  # which can be one
        self._has_missed = False
        self._directories.make()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_selections": {}}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {os.fspath(self.base_dir)!r}>"

    @property
    def base_dir(self) -> Path | str:
        """The pool's directory, absolute; on PostgreSQL its URL, without secrets."""
        from pathlib import Path

        return Path(self._directories.base_dir)

    @functools.cached_property
    def tasks_dir(self) -> Path:
        """Where the directories of the states are."""
        from pathlib import Path

        return Path(self._directories.tasks_path)

    @functools.cached_property
    def available_dir(self) -> Path:
        """Where tasks wait."""
        return self.tasks_dir / layout.AVAILABLE

    @functools.cached_property
    def claimed_dir(self) -> Path:
        """Where claims are."""
        return self.tasks_dir / layout.CLAIMED

    @functools.cached_property
    def completed_dir(self) -> Path:
        """Where completed tasks are."""
        return self.tasks_dir / layout.COMPLETED

    @functools.cached_property
    def failed_dir(self) -> Path:
        """Where tasks are that were given up."""
        return self.tasks_dir / layout.FAILED

    # The verbs ----------------------------------------------------------------------------------

    def publish(
        self,
        task: str | Mapping[str, Any],
        description: str | None = None,
        *,
        if_exists: IfExists = "error",
        **fields: Any,
    ) -> bool:
        """Publish one task: all of it, or nothing.

        Parameters
        ----------
        task : str or Mapping
            The task's id, with its other fields as keyword arguments; or the whole task, a mapping
            with a ``task_id``. Every value must be JSON-serialisable; NaN and the infinities are
            written as Python's ``json`` does, which others may not read.
        description : str, optional
            The field of that name.
        if_exists : {"error", "ignore", "replace"}
            What to do if the pool has a task of this id, in whatever state. "replace" publishes in
            any case: a waiting one is replaced, a claimed one is claimable again.
        **fields
            More fields: ``requirements``, ``priority``, ``blocked_by``, whatever the agents need.
            Those that claims go by have to be what these take them for. What a pool itself writes
            into a task (``status``, ``owner``, ``result``, ``attempts``, ...) is refused here, and
            left out of a mapping, which may be a task that was read.

        Returns
        -------
        bool
            True; False if it was there and ``if_exists="ignore"``.

        Raises
        ------
        TaskExists, InvalidTask, InvalidName
            Nothing was published.
        OSError
            The system refused, or (TimeoutError) another publisher was stopped in the middle;
            nothing was published.
        ValueError
            `if_exists` is none of the three.
        """
        from .publishing import publish

        return publish(self._directories, as_task(task, description, fields), if_exists)

    def publish_many(
        self, tasks: Iterable[Mapping[str, Any]], *, if_exists: IfExists = "error"
    ) -> int:
        """Publish many tasks; all are looked at before the first is published.

        The disk is flushed for many at once.

        Parameters
        ----------
        tasks : iterable of Mapping
            Each as for `publish`; an id may come once, and none may wait for itself in a circle.
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
            As for `publish`, but the first tasks may be published, and none after one that is not.
        ValueError
            `if_exists` is none of the three.
        """
        from .publishing import publish_many

        return publish_many(self._directories, tasks, if_exists)

    def claim(
        self,
        task_id: object,
        agent_id: object,
        *,
        timeout: float | None = 10.0,
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> Claim:
        """Claim a task that is waiting.

        An agent that has the task already, by a claim bound to this process, gets that claim again,
        as it is: `lease_s` and `bind` do not change it. So threads that are to compete need agent
        ids of their own.

        Parameters
        ----------
        task_id, agent_id : str
            Which task, and for whom.
        timeout : float or None
            Seconds to wait while others are in the middle of claiming or releasing this very task;
            0 tries once, None waits as long as it takes. A task that is gone is never waited for.
        lease_s : float, optional
            The claim ends this many seconds from now, unless it is renewed. For claims on behalf of
            somebody who is not this process; it is not bound to this process then. Others get the
            task from the next whole second on; until somebody has it the claim can still be
            renewed or completed.
        bind : bool, optional
            Whether the claim ends with this process. Default: the pool's ``bind_claims``.

        Returns
        -------
        Claim
            The hold on the task; it ends with ``complete()``, ``release()`` or ``fail()``.

        Raises
        ------
        AlreadyClaimed
            Somebody has it; ``holder`` says who.
        PoolPaused
            Nothing may be claimed for now.
        TaskNotAvailable
            It is not waiting, or not yet to be claimed, and nobody has it.
        KeyHeld
            Another task's claim holds an `exclusive` key that it needs.
        LockTimeout
            The timeout was over.
        InvalidTask, InvalidName, NameCollision
            It cannot be claimed; the message says why.
        ValueError
            `timeout` or `lease_s` is not a number of seconds.
        OSError
            The system refused; the task is where it was.
        """
        # Seldom; to ask it of each claim would show in its time.
        if type(task_id) is not str or type(agent_id) is not str:
            check_is_name("task id", task_id)
            check_is_agent(agent_id)
        if type(timeout) is not float or timeout != timeout:
            check_seconds("timeout", timeout)
        token = new_token()
        hold = self._hold(lease_s, bind)
        try:
            came_to, _ = claiming.claim(
                self._directories,
                task_id,
                agent_id,
                hold,
                token,
                timeout,
                False,
                None,
                self,
            )
            if came_to == outcome.DONE:
                return Claim(self, task_id, agent_id, token)
        except (TaskPoolError, OSError):
            raise
        except BaseException:
            # Interrupted; the claim may stand, and nobody will ever be told about it.
            self._release_quietly(task_id, agent_id, token)
            raise
        return self._claim_of_before(task_id, agent_id)

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
        finishing.Complete(self._directories, task_id, agent_id, token, result).run()

    def release(
        self,
        task_id: object,
        agent_id: object,
        *,
        token: str | None = None,
        not_before: float | None = None,
    ) -> None:
        """Give a claimed task back, for anybody to claim.

        Parameters
        ----------
        task_id, agent_id, token
            As for `complete`.
        not_before : float, optional
            Nobody may claim it before; seconds since the epoch. A length of time is refused.

        Raises
        ------
        TaskExists
            The task was published again meanwhile; the claim stands.
        ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
            The claim is as it was.
        ValueError
            `not_before` is not a time in seconds since the epoch.
        """
        check_moment("not_before", not_before)
        finishing.Release(self._directories, task_id, agent_id, token, not_before).run()

    def fail(
        self,
        task_id: object,
        agent_id: object,
        error: object,
        *,
        token: str | None = None,
        retry_after_s: float | None = None,
    ) -> str:
        """Report that a claim failed: the task waits for another attempt, or is given up.

        Parameters
        ----------
        task_id, agent_id, token
            As for `complete`.
        error : object
            What happened, as text; it is added to the task's ``failures``.
        retry_after_s : float, optional
            Nobody may claim the task for this many seconds.

        Returns
        -------
        str
            What the task is now: "available", or "failed" after ``max_attempts``.

        Raises
        ------
        TaskExists, ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
            As for `release`.
        ValueError
            `retry_after_s` is not a number of seconds.
        """
        check_seconds("retry_after_s", retry_after_s)
        failing = finishing.Fail(
            self._directories,
            task_id,
            agent_id,
            token,
            f"{error}",
            retry_after_s,
            self._max_attempts,
        )
        failing.run()
        return failing.state

    def renew(
        self, task_id: object, agent_id: object, lease_s: float, *, token: str | None = None
    ) -> float:
        """Let a claim last `lease_s` seconds from now, and then end.

        Parameters
        ----------
        task_id, agent_id, token
            As for `complete`.
        lease_s : float
            Seconds.

        Returns
        -------
        float
            When the claim ends, seconds since the epoch.

        Raises
        ------
        ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
            The claim lasts as long as before.
        ValueError
            `lease_s` is not a number of seconds.
        """
        check_seconds("lease_s", lease_s, optional=False)
        renewal = finishing.Renew(self._directories, task_id, agent_id, token, lease_s)
        renewal.run()
        return renewal.lease_expires_at

    def recover(self, older_than: float | None = None, dry_run: bool = False) -> RecoveryReport:
        """Put right what the dead have left; safe at any moment, by any number of processes.

        The claims of processes that have ended, and those whose lease is over, come to nothing as
        if they had failed: the task waits again, or is given up. Half-made transitions are made
        whole or undone, and temporary files, lock files and owner files of the dead removed. Claims
        of live processes are never touched, however old. A claim call that finds nothing to claim
        does the first part by itself; the first claim by id in vain through a pool object, for that
        task alone.

        Parameters
        ----------
        older_than : float, optional
            Also claims that are bound to no process and have no lease (those of originals, and
            with ``bind=False``) end if they are older than this, in seconds.
        dry_run : bool
            Say what would become of which task, and change nothing.

        Returns
        -------
        RecoveryReport
            What went where; true if a task went anywhere.

        Raises
        ------
        OSError
            The system refused; what was not put right can be by another call.
        ValueError
            `older_than` is not a number of seconds.
        """
        check_seconds("older_than", older_than, least=0.0)
        from .recovery import recover

        return recover(self._directories, older_than, dry_run, self._max_attempts)

    def doctor(self) -> list[Finding]:
        """What may be wrong with this pool, and what to do about it; changes no task.

        Locks, renames and messages of the kernel are really tried, between two processes, in a
        temporary directory inside the pool.

        Returns
        -------
        list of Finding
            Each with ``level`` ("ok", "warning", "error"), ``check``, ``message`` and ``advice``.

        Raises
        ------
        OSError
            The pool cannot be read at all.
        """
        from .diagnosis import diagnose  # not before somebody asks: it takes subprocess

        return diagnose(self._directories)

    def retry_failed(self, task_id: object = None) -> int:
        """Let tasks that were given up wait again, with their ``attempts`` at 0.

        Parameters
        ----------
        task_id : str, optional
            Which; default: all.

        Returns
        -------
        int
            How many.

        Raises
        ------
        TaskNotAvailable
            That task is not among those that were given up.
        TaskExists
            It was published again meanwhile, and both stay.
        InvalidTask, InvalidName, LockTimeout, OSError
            It is where it was; of all, those before it wait again.
        """
        from .retrying import retry, retry_all

        if task_id is None:
            return retry_all(self._directories)
        retry(self._directories, task_id)
        return 1

    def pause(self, until: float | None = None, reason: str = "") -> None:
        """Let nothing be claimed: a limit that all agents share, say. Claims that stand go on.

        Parameters
        ----------
        until : float, optional
            Seconds since the epoch; default: until `resume`. A length of time is refused.
        reason : str
            What agents are told.

        Raises
        ------
        OSError
            The system refused; nothing has changed.
        TypeError, ValueError
            `reason` is not text, or `until` not a time in seconds since the epoch.
        """
        check_moment("until", until)
        check_text("reason", reason)
        self._directories.make()
        from .pausing import pause

        pause(self._directories.tasks, until, reason)

    def resume(self) -> None:
        """End a pause; without one, do nothing.

        Raises
        ------
        OSError
            The system refused; the pause goes on.
        """
        from .pausing import resume

        resume(self._directories.tasks)

    def paused(self) -> Pause | None:
        """The pause that is in effect, with ``until`` and ``reason``; None without one.

        Raises
        ------
        OSError
            The system does not tell.
        """
        from .pausing import read_pause

        return read_pause(self._directories.tasks)

    def tasks(self, state: State = layout.AVAILABLE) -> Iterator[dict[str, Any]]:
        """The tasks in one state, as they are read, in no particular order.

        Parameters
        ----------
        state : {"available", "claimed", "completed", "failed"}
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
        return (
            task
            for path in listing.task_files(directory)
            if (task := _read_or_log(path)) is not None
        )

    def find(self, task_id: object) -> dict[str, Any] | None:
        """One task, whatever its state, which is its ``status``; None if the pool has none such.

        One that was published again while it was claimed, or afterwards, is found as it waits.

        Raises
        ------
        InvalidTask, InvalidName
            What is there cannot be read as a task, or the id cannot be part of a file name.
        OSError
            The system refused.
        """
        for _ in range(2):  # it may have been released from where we have not looked yet
            for state, task in listing.states_of(self._directories, task_id):
                return task | {"status": state}
        return None

    def counts(self) -> dict[State, int]:
        """How many tasks are in each state: "available", "claimed", "completed" and "failed".

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

    # Which task next ----------------------------------------------------------------------------

    def claim_next(
        self,
        agent_id: object,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        wait: float | None = 0.0,
        lease_s: float | None = None,
        bind: bool | None = None,
        max_claims: int | None = None,
    ) -> Claim | None:
        """Claim the next task that this agent may have.

        Left out are tasks whose ``requirements`` are all not among the capabilities (an agent that
        names none is not asked), that lack one of ``constraints.required_capabilities``, whose
        ``constraints.deadline`` is past, whose ``not_before`` is to come, that are ``blocked_by``
        tasks not completed, or that need an ``exclusive`` key which another claim holds.

        Parameters
        ----------
        agent_id : str
            For whom.
        capabilities : iterable of str
            What the agent can do.
        order : {"priority", "oldest", "any"}
            "priority": higher ``priority`` first, then older ``created_at``; "oldest":
            ``created_at`` alone; "any": whichever is found first, which reads no other task and
            suits many agents on one large pool best.
        wait : float or None
            Seconds to wait until there is one; 0 does not wait, None waits as long as it takes.
            While the pool is paused there is none.
        lease_s, bind
            As for `claim`.
        max_claims : int, optional
            Claim nothing while the agent has this many claims already. Another process of the agent
            that is stopped while it claims is waited for, up to a second.

        Returns
        -------
        Claim or None
            None if there was none until the time was over.

        Raises
        ------
        InvalidName, InvalidTask
            The agent id cannot be part of a file name, or is no JSON.
        TypeError, ValueError
            Another argument is not what it should be; the message says which.
        OSError
            The system refused; nothing was claimed.
        """
        if agent_id != self._checked_agent_id:
            check_agent_id(agent_id)
            self._checked_agent_id = agent_id
        if wait != 0.0:
            check_seconds("wait", wait)
        selection = self._selections.get(tokens.own_id) or self._selected()
        view = selection.view(order, capabilities)
        attempt = _CandidateClaimer(self, self._directories, agent_id, lease_s, bind)
        claim_one = functools.partial(selection.claim_one, view, attempt)
        if max_claims is not None:
            check_whole("max_claims", max_claims, least=0)
            claim_one = functools.partial(self._claim_one_within, max_claims, agent_id, claim_one)
        try:
            return selection.claim_at_once(view, claim_one) or selection.claim_later(
                view,
                claim_one,
                self._look_after_dead_owners,
                wait,
                at_claimed=max_claims is not None,
            )
        except BaseException:
            attempt.give_back()  # interrupted, maybe, before anybody was told
            raise

    def claim_many(
        self,
        agent_id: object,
        n: int,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> list[Claim]:
        """Claim up to `n` tasks, and flush the disk once for all.

        If that fails, all are given back.

        Parameters
        ----------
        agent_id, capabilities, order, lease_s, bind
            As for `claim_next`.
        n : int
            How many at most.

        Returns
        -------
        list of Claim
            Fewer than `n` if there were no more.

        Raises
        ------
        InvalidName, InvalidTask, TypeError, ValueError
            As for `claim_next`.
        OSError
            The system refused; what had been claimed was given back.
        """
        from .batches import directories_for_claims, put_on_disk

        check_agent_id(agent_id)
        check_whole("n", n, least=0)
        selection = self._selected()
        view = selection.view(order, capabilities)
        directories = directories_for_claims(self._directories)
        attempt = _CandidateClaimer(self, directories, agent_id, lease_s, bind)
        claim_one = functools.partial(selection.claim_one, view, attempt)
        claims: list[Claim] = []
        paths: list[bytes] = []
        try:
            while len(claims) < n:
                claim = selection.claim_at_once(view, claim_one)
                if claim is not None:
                    claims.append(claim)
                    paths.append(self._directories.claimed_file(claim.task_id, agent_id))
                elif claims or not self._look_after_dead_owners():
                    break
            put_on_disk(directories, paths)
            return claims
        except BaseException:
            for claim in claims:
                self._release_quietly(claim.task_id, agent_id, claim.token)
            attempt.give_back()
            raise

    def why(self, task_id: object, capabilities: Iterable[str] | None = None) -> str:
        """Where a task is, and what it waits for: one sentence for people.

        Parameters
        ----------
        task_id : str
            Which.
        capabilities : iterable of str, optional
            What the agent can do for which one asks.

        Raises
        ------
        InvalidName
            No task can have that id.
        OSError
            The pool cannot be read.
        """
        from .why import why

        return why(self._directories, task_id, capabilities)

    def prune(self, state: PrunableState, older_than: float, *, dry_run: bool = True) -> list[str]:
        """Remove old tasks for good, or say which ones that would be.

        Completed tasks by which others are still ``blocked_by`` stay: without them these would
        wait for ever.

        Parameters
        ----------
        state : {"available", "completed", "failed"}
            Where they are. Claims are not pruned; they end, or `recover` ends them.
        older_than : float
            Seconds since they were published, completed or given up.
        dry_run : bool
            Whether to remove nothing.

        Returns
        -------
        list of str
            The ids of the tasks that were removed, or would be.

        Raises
        ------
        ValueError
            There is no such state, or `older_than` is not a number of seconds.
        OSError
            The system refused; some may have been removed.
        """
        check_seconds("older_than", older_than, optional=False)
        from .pruning import prune

        return prune(self._directories, state, older_than, dry_run)

    # What the original's five are made of -------------------------------------------------------

    def _publish_original(self, task: dict[str, Any]) -> None:
        from .publishing import Publication

        Publication(self._directories, task).write(must_be_new=False)

    def _claim_original(
        self, task_id: str, agent_id: str, token: str, timeout: float
    ) -> dict[str, Any]:
        _, document = claiming.claim(
            self._directories,
            task_id,
            agent_id,
            stamps.own_hold if self._bind_claims else stamps.UNTIL_ENDED,
            token,
            timeout,
            True,
            None,
            self,
        )
        return {} if document is None else loads(document)

    # ----------------------------------------------------------------------------------------------

    def _hold(self, lease_s: float | None, bind: bool | None) -> Hold:
        if lease_s is not None:
            check_seconds("lease_s", lease_s)
            return Hold(tokens.own_id if bind else None, time.time() + lease_s)
        bound = self._bind_claims if bind is None else bind
        return stamps.own_hold if bound else stamps.UNTIL_ENDED

    def _selected(self) -> Selection:
        """What this process knows of the waiting tasks."""
        process_id = tokens.own_id
        selection = self._selections.get(process_id)
        if selection is None:
            # Here: who only claims by id has no use for what it imports.
            from .selection import Selection

            for parent_id in self._selections.keys() - {process_id}:
                self._selections.pop(parent_id, None)  # a fork copied it
            # Of two threads that come here at once, one's is used.
            selection = self._selections.setdefault(
                process_id, Selection(self._directories, self._asks_kernel)
            )
        return selection

    def _claim_one_within(
        self, max_claims: int, agent_id: object, claim_one: Callable[[], Claim | None]
    ) -> Claim | None:
        from .exclusive import agent_lock

        # Two processes of one agent must not both see the last place free.
        with agent_lock(self._directories, agent_id) as is_alone:
            if not is_alone:
                return None
            held = sum(1 for _ in listing.claims_by(self._directories, agent_id))
            return claim_one() if held < max_claims else None

    def _bring_back(self, task_id: object) -> bool:
        """Give back the task if its claim has ended; whether it may be waiting now."""
        if not self._has_missed:
            # Most processes miss once, in a race for one task: its owner alone is asked then. Who
            # does so again listens to the kernel.
            self._has_missed = True
            from .recovery import give_back_claims_of

            came_back = give_back_claims_of(self._directories, task_id, self._max_attempts)
            if came_back is not None:
                return came_back
        # The core has just found that what we have open is the pool's directory.
        return self._look_after_dead_owners(self._directories.opened().status)

    def _look_after_dead_owners(self, tasks: os.stat_result | None = None) -> bool:
        """Give back claims that have ended; True if a task may be waiting now that was not."""
        deaths = self._directories.deaths() if self._asks_kernel else None
        look = 0 if deaths is None else deaths.may_have_come(tasks)
        if deaths is not None and look == 0:
            return False
        from .recovery import give_back_of_dead_owners

        is_settled = False
        try:
            came_back, is_settled = give_back_of_dead_owners(self._directories, self._max_attempts)
        finally:
            if deaths is not None:
                deaths.looked(look, is_settled)
        return came_back

    def _claim_of_before(self, task_id: object, agent_id: object) -> Claim:
        for task in listing.claims_of(self._directories, task_id):
            holder, token = task.get("claimed_by"), task.get("claim_token")
            if task.get("owner") == tokens.own_id and f"{holder}" == f"{agent_id}":
                return Claim(self, task_id, agent_id, f"{token}")
            self._directories.opened().owner.count_conflict()
            words = "is just being claimed" if holder is None else f"is claimed by {holder!r}"
            raise AlreadyClaimed(f"task {task_id!r} {words}", task_id, holder)
        raise TaskNotAvailable(f"task {task_id!r} is not available", task_id)

    def _release_quietly(self, task_id: object, agent_id: object, token: str) -> None:
        try:
            finishing.Release(self._directories, task_id, agent_id, token, None).run()
        except (TaskPoolError, OSError) as error:
            if not isinstance(error, ClaimLost):
                logger().error("Failed to give back task %s: %s", task_id, error)

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


class _CandidateClaimer:
    """Claims candidates, one by one, for one agent."""

    def __init__(
        self,
        pool: TaskPool,
        directories: Directories,
        agent_id: object,
        lease_s: float | None,
        bind: bool | None,
    ) -> None:
        self.agent_id = agent_id
        self._pool, self._directories = pool, directories
        self._lease_s, self._bind = lease_s, bind
        self._last: tuple[str, str] | None = None  # a task, and the token of a claim of it

    def __call__(self, name: str, capabilities: bytes | None) -> tuple[int, Claim | None]:
        """See `search.Attempt`."""
        task_id = name[: -len(layout.TASK_SUFFIX)]
        token = new_token()
        self._last = task_id, token
        came_to, _ = claiming.claim(
            self._directories,
            task_id,
            self.agent_id,
            self._pool._hold(self._lease_s, self._bind),
            token,
            0.0,
            False,
            capabilities,
        )
        if came_to != outcome.DONE:
            return came_to, None
        return came_to, Claim(self._pool, task_id, self.agent_id, token)

    def give_back(self) -> None:
        """The last claim, if it was made: nobody will ever be told about it."""
        if self._last is not None:
            task_id, token = self._last
            self._pool._release_quietly(task_id, self.agent_id, token)


def _read_or_log(path: str) -> dict[str, Any] | None:
    try:
        return listing.read_task(path)
    except FileNotFoundError:
        return None  # it has moved on
    except (InvalidTask, OSError) as error:
        logger().error("Failed to load task: %s", error)
        return None
