"""What wakes a thread that polls the kernel. By itself: few wait, and it imports `weakref`."""

from __future__ import annotations

import os
import weakref

from .owners import no_fork


class Bell:
    """Wakes a thread that polls: a descriptor that becomes readable.

    Raises
    ------
    OSError
        The process has no descriptor left.
    """

    def __init__(self) -> None:
        self._descriptor = -1  # for __del__, if the next line fails
        with no_fork:
            self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            _bells.add(self)

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def ring(self) -> None:
        """Make it readable."""
        os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Close it; again: nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


# In a forked child nobody polls them.
_bells: weakref.WeakSet[Bell] = weakref.WeakSet()


def _in_child() -> None:
    for bell in list(_bells):
        bell.close()


os.register_at_fork(after_in_child=_in_child)
