"""`Claim`: an agent's hold on one task."""

from __future__ import annotations

from .errors import InvalidTask, TaskPoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from .pool import TaskPool


class Claim:
    """An agent's exclusive hold on a task, as `TaskPool.claim` returns it.

    As a context manager it completes the task at the end of the block with what `result` is by
    then. If the block raises, or that cannot be written as JSON, the claim fails with that error,
    which is raised again; what is no `Exception` (Ctrl-C, the cancelling of a coroutine, exit)
    gives the task back instead.

    Attributes
    ----------
    task_id, agent_id : object
        Which task, and who has it.
    token : str
        What tells this claim from every other claim of the task.
    result : object
        What leaving a ``with`` block completes the task with; a JSON value, None at first.
    """

    __slots__ = ("_open", "_pool", "_task", "agent_id", "result", "task_id", "token")

    def __init__(self, pool: TaskPool, task_id: object, agent_id: object, token: str) -> None:
        self._pool = pool
        self._task: dict[str, Any] | None = None
        self._open = True
        self.task_id = task_id
        self.agent_id = agent_id
        self.token = token
        self.result: object = None

    @property
    def task(self) -> dict[str, Any]:
        """The claimed task, read when first asked for.

        Raises
        ------
        ClaimLost
            The claim is not there any more, and the task was never asked for while it was.
        """
        if self._task is None:
            self._task = self._pool._read_claim(self)
        return self._task

    def complete(self, result: object = None) -> None:
        """Complete the task with a JSON-serialisable result.

        Raises
        ------
        ClaimLost
            The claim was given away or ended; nothing was changed.
        InvalidTask
            The result is not JSON-serialisable; the claim stands.
        OSError
            The system refused; the claim stands.
        """
        self._pool.complete(self.task_id, self.agent_id, result, token=self.token)
        self._open = False

    def release(self, not_before: float | None = None) -> None:
        """Give the task back, for anybody to claim; see `TaskPool.release`.

        Raises
        ------
        ClaimLost
            The claim was given away or ended; nothing was changed.
        TaskExists
            The task was published again meanwhile; the claim stands.
        OSError
            The system refused; the claim stands.
        """
        self._pool.release(self.task_id, self.agent_id, token=self.token, not_before=not_before)
        self._open = False

    def fail(self, error: object, retry_after_s: float | None = None) -> str:
        """Report that this attempt failed; see `TaskPool.fail`.

        Returns
        -------
        str
            What the task is now: "available", for another try, or "failed".

        Raises
        ------
        ClaimLost, TaskExists, OSError
            As for `release`.
        """
        state = self._pool.fail(
            self.task_id, self.agent_id, error, token=self.token, retry_after_s=retry_after_s
        )
        self._open = False
        return state

    def renew(self, lease_s: float) -> float:
        """Let the claim last `lease_s` seconds from now; see `TaskPool.renew`.

        Returns
        -------
        float
            When it ends, seconds since the epoch.

        Raises
        ------
        ClaimLost
            It has ended; nothing was changed.
        OSError
            The system refused; the claim lasts as long as before.
        """
        return self._pool.renew(self.task_id, self.agent_id, lease_s, token=self.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        if error is None:
            try:
                self.complete(self.result)
            except InvalidTask as refused:  # a result that is no JSON can never be handed in
                self._end_after(refused)
                raise
        else:
            self._end_after(error)

    def _end_after(self, error: BaseException) -> None:
        try:
            if isinstance(error, Exception):
                self.fail(f"{type(error).__name__}: {error}")
            else:
                self.release()
        except (TaskPoolError, OSError) as problem:
            error.add_note(f"task {self.task_id!r} could not be given back: {problem}")

    def __repr__(self) -> str:
        return f"<Claim of {self.task_id!r} by {self.agent_id!r}>"
