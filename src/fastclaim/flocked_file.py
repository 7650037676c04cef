"""A file to flock, which is closed when nobody has it any more, and in a forked child."""

from __future__ import annotations

import fcntl
import os

from .owners import no_fork


class FlockedFile:
    """An open file to flock; unlocked and closed when nobody has it any more.

    So an interrupt between two lines leaves no lock that nobody can drop, and the child of a
    process that was killed in the middle keeps none.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    __slots__ = ("_open", "_process_id")

    def __init__(self, path: str | bytes, flags: int) -> None:
        self._open: list[int] = []  # the descriptor, until it is closed
        self._process_id = os.getpid()
        with no_fork:
            # Without a step of Python's in between, before which an interrupt could come.
            self._open.extend(map(os.open, (path,), (flags | os.O_CLOEXEC,), (0o666,)))
            _descriptors.update(self._open)

    def fileno(self) -> int:
        """The descriptor."""
        return self._open[0]

    def close(self) -> None:
        """Unlock and close it; again, or in a forked child: nothing. Never fails."""
        if not self._open or self._process_id != os.getpid():
            return
        try:
            fcntl.flock(self._open[0], fcntl.LOCK_UN)
        except OSError:
            pass  # the close does it, too
        _descriptors.difference_update(self._open)
        try:
            # Likewise; and never twice: the number may be another file's then.
            next(map(os.close, map(self._open.pop, (0,))))
        except OSError:
            pass  # it is closed all the same

    __del__ = close


_descriptors: set[int] = set()


def _in_child() -> None:
    while _descriptors:
        try:
            os.close(_descriptors.pop())
        except OSError:
            pass  # it is closed all the same


os.register_at_fork(after_in_child=_in_child)
