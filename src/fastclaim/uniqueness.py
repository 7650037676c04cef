"""Publishing what must be new to the pool: one publisher at a time.

Whether the pool knows an id is a look into four directories, and the task's name in available/
comes after it. Were another publisher to publish the same id in between, and somebody to claim that
task, the name would be free again and the task be there twice. So who publishes what must be new
holds the flock of available/ for the look and the rename; what has to be written and synced is
under a temporary name before that.
"""

from __future__ import annotations

import errno
import os

from .descriptors import ErrorsOf, try_flock
from .directories import Directories
from .flocked_file import FlockedFile
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# A publisher needs it for microseconds, unless it was stopped just then.
_TIMEOUT_S: Final = 5.0


class PublishLock:
    """Keeps out others who publish what must be new, as a context manager.

    Raises
    ------
    FileNotFoundError
        The directory has gone.
    TimeoutError
        Another publisher was stopped in the middle.
    """

    def __init__(self, pool: Directories) -> None:
        self._path = os.fsdecode(pool.available)
        self._file = FlockedFile(self._path, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> None:
        if not any(self._flock() for _ in turns(_TIMEOUT_S)):
            raise TimeoutError(
                errno.ETIMEDOUT, "a publisher that has its flock does not go on", self._path
            )

    def _flock(self) -> bool:
        with ErrorsOf(self._path):
            return try_flock(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        self._file.close()
