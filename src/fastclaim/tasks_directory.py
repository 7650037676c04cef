"""`tasks/`, open: what names are looked up from, and who it is that opened it."""

from __future__ import annotations

import errno
import os
import sys

from .owners import OwnerFile, owner_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

AT_FDCWD: Final = -100 if sys.platform.startswith("linux") else -2


class TasksDirectory:
    """A descriptor of one pool's `tasks/`, and what is known of it.

    Attributes
    ----------
    path : bytes
        Where it stood when it was opened.
    descriptor, prefix_bytes : int
        What names are looked up from, and how many bytes of a whole path it stands for.
    owner : OwnerFile
        What says that this process lives.
    """

    __slots__ = ("_opened", "descriptor", "owner", "path", "prefix_bytes")

    def __init__(self, path: bytes) -> None:
        self._opened: os.stat_result | None = None  # for __del__, if the next line fails
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened = os.fstat(self.descriptor)
        self.path = path
        self.prefix_bytes = len(path) + 1
        self.owner: OwnerFile = owner_file((self._opened.st_dev, self._opened.st_ino))

    def __del__(self) -> None:
        try:
            if self._is_open():
                os.close(self.descriptor)
        except OSError:
            pass  # there is nobody to tell

    def is_current(self) -> bool:
        """Whether the descriptor is open, and of what stands at the path now."""
        opened = self._opened
        if opened is None or not self._is_open():
            return False
        try:
            return os.path.samestat(os.stat(os.fsdecode(self.path)), opened)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _is_open(self) -> bool:
        """Whether the number still is our descriptor's: a daemon closes whatever is open."""
        if self._opened is None:
            return False
        try:
            is_ours = os.path.samestat(os.fstat(self.descriptor), self._opened)
        except OSError as error:
            if error.errno != errno.EBADF:
                error.filename = os.fsdecode(self.path)
                raise
            is_ours = False
        if not is_ours:
            self._opened = None  # and never again, whatever gets the number next
        return is_ours
