"""What can go wrong, by type.

A system error stays an ``OSError`` with its file name; everything else that a verb refuses is a
`TaskPoolError`. Each also derives from the built-in error that a caller would expect.
"""

from __future__ import annotations

_INFINITY = float("inf")


class TaskPoolError(Exception):
    """Base of all errors of a pool.

    Parameters
    ----------
    message : str
        One sentence for people.
    task_id : object
        The task that was asked for, as the caller gave it; None where no single task is meant.
    holder : object
        The agent that holds the task, where known.
    """

    def __init__(self, message: str, task_id: object = None, holder: object = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.holder = holder

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.task_id, self.holder)


class TaskNotAvailable(TaskPoolError, LookupError):
    """The task is not waiting: never published, or no longer there."""


class AlreadyClaimed(TaskNotAvailable):
    """Another agent has the task."""


class PoolPaused(TaskNotAvailable):
    """Nothing may be claimed for now; the message says why, `until` when that ends.

    Parameters
    ----------
    until : float
        Seconds since the epoch; infinity: when somebody resumes the pool.
    """

    def __init__(
        self,
        message: str,
        task_id: object = None,
        holder: object = None,
        until: float = _INFINITY,
    ) -> None:
        super().__init__(message, task_id, holder)
        self.until = until

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.task_id, self.holder, self.until)


class KeyHeld(TaskNotAvailable):
    """Another task's claim holds an `exclusive` key that this one needs: `key`.

    Parameters
    ----------
    key : str
        Which.
    claim_name : str
        The file name of the claim that holds it; empty on PostgreSQL.
    """

    def __init__(
        self,
        message: str,
        task_id: object = None,
        holder: object = None,
        key: str = "",
        claim_name: str = "",
    ) -> None:
        super().__init__(message, task_id, holder)
        self.key, self.claim_name = key, claim_name

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.task_id, self.holder, self.key, self.claim_name)


class LockTimeout(TaskPoolError, TimeoutError):
    """Others were in the middle of a transition of this task until the timeout was over."""


class InvalidTask(TaskPoolError, ValueError):
    """What is, or should become, a task cannot be one: no JSON object, no regular file, ..."""


class InvalidName(TaskPoolError, ValueError):
    """A task or agent id that cannot be part of one file name."""


class TaskExists(TaskPoolError, FileExistsError):
    """The pool already has a task of this id."""


class NameCollision(TaskPoolError):
    """Another task's claim has the file name that this claim needs ("a_b"+"c" and "a"+"b_c")."""


class ClaimLost(TaskPoolError):
    """The claim is not (or no longer) the caller's; nothing was changed."""


class PoolUnavailable(TaskPoolError, OSError):
    """The pool's server cannot be reached, or refuses; only pools on PostgreSQL."""
