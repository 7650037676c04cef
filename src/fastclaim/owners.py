"""Who is alive: the kernel's word. Each process that claims holds a flock for its whole life.

A process that claims makes `owners/{owner}.owner` and flocks it; the kernel drops the lock when the
process ends, however it ends. Whoever can take the lock knows that the owner is dead; who cannot,
knows that it lives: stopped, swapped out, in another container, or busy for a week. No clock, no
heartbeat, no process ids.

There is one such file and one descriptor for each pool that a process claims from. A forked child
shares the lock with its parent for as long as it has the descriptor: it closes it, and makes a file
of its own when it claims. Nobody forks while a descriptor is being opened.

What is in the file is how many of the process's claims have met others', for `serve-metrics`.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
import time
from _thread import RLock  # `threading` takes ten times as long to import
from _weakref import ref  # as does `weakref`

from . import layout, tokens
from .descriptors import ErrorsOf, is_named, unlock_and_close
from .forks import import_the_rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open(2) says of a file that we may not read, a symlink, and a socket.
_NOT_TO_BE_TOLD: Final = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)
# Who asks whether we live holds the lock for a moment; who cleans up may have unlinked the file.
_TRIES: Final = 1000
_PAUSE_S: Final = 100e-6


class OwnerFile:
    """This process's file in one pool.

    Attributes
    ----------
    tasks : os.stat_result
        The `tasks/` that it is of: the same object for all pool objects that mean that directory.
    descriptor : int
        Flocked; -1 where there is none (yet, or in a forked child).
    """

    __slots__ = ("__weakref__", "_conflicts", "_opened", "descriptor", "tasks")

    def __init__(self, tasks: os.stat_result) -> None:
        self.tasks = tasks
        self.descriptor = -1
        self._conflicts = 0
        self._opened: os.stat_result | None = None

    def stands(self) -> bool:
        """Whether it is there: a clean-up may have removed it."""
        if self._opened is None:
            return False
        try:
            status = os.fstat(self.descriptor)
        except OSError:
            return False  # a daemon closes whatever is open
        return os.path.samestat(status, self._opened) and status.st_nlink > 0

    def ensure(self, tasks: bytes) -> None:
        """Make it, or make it anew; earlier claims of this process are then safe again."""
        with no_fork:
            if not self.stands():
                self.forget()
                _open[self] = None
                self._make(owner_path(tasks, tokens.own_id))

    def _make(self, path: bytes) -> None:
        descriptor = -1
        try:
            with ErrorsOf(path):
                descriptor = make_flocked(path)
            self._opened = os.fstat(descriptor)
            self.descriptor = descriptor
        except BaseException:
            # A lock that we do not know of would keep ourselves out, and nobody tells of our death.
            self._opened, self.descriptor = None, -1
            if descriptor >= 0:
                unlock_and_close(descriptor)
            raise

    def count_conflict(self) -> None:
        """Tell, in the file, of one more claim that met somebody else's; never fails."""
        self._conflicts += 1
        try:
            os.pwrite(self.descriptor, b"%d\n" % self._conflicts, 0)
        except OSError:
            pass  # there is none, or no room: who counts conflicts counts those that are told

    def hand_over(self) -> int:
        """The descriptor, which is somebody else's to close from now on."""
        _open.pop(self, None)
        descriptor, self.descriptor, self._opened = self.descriptor, -1, None
        return descriptor

    def forget(self) -> None:
        """Close it. In a forked child the parent keeps the lock."""
        _open.pop(self, None)
        descriptor, opened = self.descriptor, self._opened
        self.descriptor, self._opened = -1, None
        if opened is not None:
            try:
                if os.path.samestat(os.fstat(descriptor), opened):
                    os.close(descriptor)
            except OSError:
                pass  # a daemon closes whatever is open


def owner_path(tasks: bytes, owner: str) -> bytes:
    """Where an owner's file stands; raises ValueError if `owner` is no file name."""
    name = layout.encode_name(f"{owner}{layout.OWNER_SUFFIX}")
    return os.path.join(tasks, layout.OWNERS.encode(), name)


def conflicts_told(path: str) -> int:
    """How many claims of that owner file's process have met somebody else's, as it says."""
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, os.O_RDONLY | _FLAGS)) as file:
            return int(file.read(20) or b"0")
    except (OSError, ValueError):
        return 0  # gone, or not of our making


def is_alive(path: bytes) -> bool:
    """Whether the process whose owner file this is lives; also true where nobody can tell.

    Raises
    ------
    OSError
        The system refused; nobody may take it for dead then.
    """
    return _ask(path)[0]


def file_of_dead(path: bytes) -> os.stat_result | None:
    """What that file is, if its process is dead; None if it lives, or nobody can tell.

    Raises
    ------
    OSError
        As for `is_alive`.
    """
    return _ask(path)[1]


def _ask(path: bytes) -> tuple[bool, os.stat_result | None]:
    with ErrorsOf(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return False, None
        except OSError as error:
            if error.errno not in _NOT_TO_BE_TOLD:
                raise
            return True, None
        try:
            # Shared: two that ask at once must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False, os.fstat(descriptor)
        except BlockingIOError:
            return True, None
        finally:
            unlock_and_close(descriptor)


def remove_dead(path: bytes, asked: os.stat_result) -> bool:
    """Unlink the owner file of a process that has died; whether that was done.

    Parameters
    ----------
    path : bytes
        Where it is.
    asked : os.stat_result
        What `file_of_dead` said. A file that was just being made is not the same when its process
        has locked it and died: there may be claims that nobody has looked at.
    """
    with ErrorsOf(path):
        return _remove_dead(path, asked)


def _remove_dead(path: bytes, asked: os.stat_result) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_NOT_TO_BE_TOLD):
            raise
        return False
    try:
        # Exclusive, and held while it is unlinked: a process may just be making it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if not os.path.samestat(status, asked) or status.st_size != asked.st_size:
            return False
        if not is_named(path, descriptor):
            return False
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError, IsADirectoryError, PermissionError):
        return False  # it lives, somebody else did it, or it is not ours to remove
    finally:
        unlock_and_close(descriptor)
    return True


def make_flocked(path: bytes) -> int:
    """Make a file and lock it, or take over what this process has there; returns its descriptor."""
    for _ in range(_TRIES):
        try:
            os.mkdir(os.path.dirname(path))
        except FileExistsError:
            pass
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except FileNotFoundError:
            continue
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever cleans up may have taken it for a dead process's before we had it locked.
            if is_named(path, descriptor):
                _say_locked(descriptor)
                return descriptor
        except BlockingIOError:
            own = _taken_over(status)
            if own is not None:
                unlock_and_close(descriptor)
                return own
            time.sleep(_PAUSE_S)
        except BaseException:
            unlock_and_close(descriptor)
            raise
        unlock_and_close(descriptor)
    raise OSError(errno.EBUSY, "others hold its lock", os.fsdecode(path))


def _taken_over(status: os.stat_result) -> int | None:
    """The descriptor of that file, if this process has it locked itself.

    Somebody may have moved all that is in a tasks/ into another one.
    """
    for file in tuple(_open):
        if file.stands() and os.path.samestat(os.fstat(file.descriptor), status):
            return file.hand_over()
    return None


def _say_locked(descriptor: int) -> None:
    """Let whoever has taken it for a dead process's, before it was locked, find it changed."""
    try:
        os.pwrite(descriptor, b"0\n", 0)
    except OSError:
        pass  # no room: the claims of a process that dies in that moment wait for `recover()`


# A process may come to thousands of pools, one after the other: what it has open is kept, and for
# the rest the one file that all who use a pool share is known as long as somebody uses it.
_open: dict[OwnerFile, None] = {}  # in the order in which they came
_known: dict[tuple[int, int], ref[OwnerFile]] = {}
# Held across fork: a child must know of every descriptor that it inherits.
no_fork = RLock()


def owner_file(tasks: os.stat_result) -> OwnerFile:
    """This process's file in the pool that has this `tasks/`.

    It stays open until the process ends, whatever becomes of the pool object.
    """
    identity = tasks.st_dev, tasks.st_ino
    with no_fork:
        for file in tuple(_open):
            if not file.stands():
                file.forget()
        known = _known.get(identity)
        found = None if known is None else known()
        if found is None:
            found = OwnerFile(tasks)
            _known[identity] = ref(found, functools.partial(_unknown, identity))
        return found


def _unknown(identity: tuple[int, int], gone: ref[OwnerFile]) -> None:
    if _known.get(identity) is gone:
        del _known[identity]


def _before_fork() -> None:
    try:
        import_the_rest()  # first: somebody who imports may want `no_fork`
    finally:
        no_fork.acquire()  # whatever happens, as it is released after the fork


def _in_child() -> None:
    # They stay known: a pool that came along goes on with them.
    for file in tuple(_open):
        file.forget()
    no_fork.release()


os.register_at_fork(before=_before_fork, after_in_parent=no_fork.release, after_in_child=_in_child)
