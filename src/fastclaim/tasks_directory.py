"""`tasks/`, open: what names are looked up from, and who it is that opened it."""

from __future__ import annotations

import errno
import os
import sys

from .owners import OwnerFile, owner_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .locked_inode import LockedInode

AT_FDCWD: Final = -100 if sys.platform.startswith("linux") else -2


class TasksDirectory:
    """A descriptor of one pool's `tasks/`, and what is known of it.

    Attributes
    ----------
    path : bytes
        Where it stood when it was opened.
    status : os.stat_result or None
        Which directory it is, one object for all who have it open; None once the descriptor is
        somebody else's.
    descriptor, prefix_bytes : int
        What names are looked up from, and how many bytes of a whole path it stands for.
    owner : OwnerFile
        What says that this process lives.
    locked_inode : LockedInode or None
        What the cores link to the names of lock files, if there is one.
    unpaused_mtime_ns : int
        As long as this is when the directory last changed, there is no file `paused` in it.
    """

    __slots__ = (
        "_wants_locked_inode",
        "descriptor",
        "locked_inode",
        "owner",
        "path",
        "prefix_bytes",
        "status",
        "unpaused_mtime_ns",
    )

    def __init__(self, path: bytes) -> None:
        self.status: os.stat_result | None = None  # for __del__, if the next line fails
        # As text: so are the file names of all our errors.
        self.descriptor = os.open(os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.status = os.fstat(self.descriptor)
        self.owner: OwnerFile = owner_file(self.status)
        self.status = self.owner.tasks
        self.path = path
        self.prefix_bytes = len(path) + 1
        self.locked_inode: LockedInode | None = None
        self.unpaused_mtime_ns = -1
        self._wants_locked_inode: bool | None = None

    def __del__(self) -> None:
        try:
            if self._is_open():
                os.close(self.descriptor)
        except OSError:
            pass  # there is nobody to tell

    def expect_locks(self) -> None:
        """Have an inode ready for lock files from the second time on: it costs more than one."""
        if self._wants_locked_inode is None:
            self._wants_locked_inode = True
        elif self._wants_locked_inode:
            self._wants_locked_inode = False
            self._make_locked_inode()

    def replace_locked_inode(self, given_up: LockedInode, is_of_use: bool) -> None:
        """Somebody waits for its lock, or (not `is_of_use`) it cannot be linked; never fails."""
        if self.locked_inode is given_up:
            self.locked_inode = None
            if is_of_use:
                self._make_locked_inode()

    def _make_locked_inode(self) -> None:
        from .locked_inode import LockedInode  # not before: who claims once does without

        try:
            self.locked_inode = LockedInode(self.path)
        except OSError:
            pass  # lock files are made one by one, then

    def is_current(self) -> bool:
        """Whether the descriptor is open, and of what stands at the path now."""
        opened = self.status
        if opened is None or not self._is_open():
            return False
        try:
            return os.path.samestat(os.stat(os.fsdecode(self.path)), opened)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _is_open(self) -> bool:
        """Whether the number still is our descriptor's: a daemon closes whatever is open."""
        if self.status is None:
            return False
        try:
            is_ours = os.path.samestat(os.fstat(self.descriptor), self.status)
        except OSError as error:
            if error.errno != errno.EBADF:
                error.filename = os.fsdecode(self.path)
                raise
            is_ours = False
        if not is_ours:
            self.status = None  # and never again, whatever gets the number next
        return is_ours
