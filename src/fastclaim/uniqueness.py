"""Publishing what must be new to the pool: one publisher at a time.

Whether the pool knows an id is a look into four directories, and the task's name in available/
comes after it. Were another publisher to publish the same id in between, and somebody to claim that
task, the name would be free again and the task be there twice. So who publishes what must be new
holds the flock of available/ for the look and the rename; what has to be written and synced is
under a temporary name before that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from .directories import Directories
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

# A publisher needs it for microseconds, unless it was stopped just then.
_TIMEOUT_S: Final = 5.0


@contextlib.contextmanager
def alone(pool: Directories) -> Iterator[None]:
    """Keep out others who publish what must be new.

    Raises
    ------
    FileNotFoundError
        The directory has gone.
    TimeoutError
        Another publisher has been stopped in the middle.
    """
    path = os.fsdecode(pool.available)
    directory = _Directory(path)
    try:
        if not any(_flock(directory.descriptor) for _ in turns(_TIMEOUT_S)):
            raise TimeoutError(
                errno.ETIMEDOUT, "a publisher that has its flock does not go on", path
            )
        yield
    finally:
        directory.let_go()


class _Directory:
    """An open directory, closed when nobody has it any more: an interrupt leaves no flock."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1  # for __del__, if the next line fails
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def let_go(self) -> None:
        """Unlock it first: a child forked meanwhile has a copy, and the flock with it."""
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(self.descriptor)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
