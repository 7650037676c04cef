"""Hold, move, stamp: how a task changes its state. The reference, and the fallback.

Every transition is made of the same three steps, and one rename decides who wins.

hold    Open the task (O_NOFOLLOW, O_NONBLOCK, a regular file only), flock its inode without
        waiting, then verify that the name still is this inode. Who holds it is a live process in
        the middle of a transition; the kernel drops the lock when it dies.
move    renameat2(from, to, RENAME_NOREPLACE), the arbiter: one claimer gets 0, the others ENOENT.
        Then compare inode, size and mtime with what was read: a publication that slipped in
        between is given back, not stamped. A claim of a document of ours needs no other verify.
stamp   Overwrite the 512-byte sector of a document that is proven to be ours, sync it, and put the
        file's mtime back to what the sector says. Any other document is replaced: a temporary
        file, flocked and synced, changes places with it (RENAME_EXCHANGE) and is unlinked.

A claim moves, then stamps. A completion and a release stamp, then move, so that what appears in
completed/ or available/ is whole. Nobody writes a byte of a task that it does not hold. What lies
on disk if the process dies:

    before the move             available/x.json, untouched
    claim, before the stamp     claimed/x_a.json without `claimed_by`: half a claim
    finish, before the move     claimed/x_a.json, stamped with where it was going
    at any time                 a temporary file or an x.lock that nobody holds

Claims from and releases to available/ also take x.lock, which is all that the original looks at:
a link to an inode that this process keeps flocked (`locked_inode`), or, where there is something of
that name already, that file: flocked, then verified, unlinked by who had it while it holds it and
the path still names it, left alone by who did not get it.

Names are looked up from a descriptor of tasks/, which is cheaper than from the root; but what
verifies goes by the whole path, so that a descriptor of a directory that was moved away or made
anew is found out: STALE. A claim is STALE also if there is a file `paused`, or if the file that
says that its process lives has gone.

A try that meets somebody else's lock comes back with BUSY; waiting is the caller's. System errors
are OSError with the file's name, and leave the task where and as it was, and so does
KeyboardInterrupt: what has to be undone is read off the disk, not off a variable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import Final

from . import _posix_py as posix
from .descriptors import sync_directory, try_flock
from .document import (
    CLAIM_FIELDS_START,
    ENFORCED,
    GUARDED,
    SECTOR_BYTES,
    STATE_CLAIMED,
    TIME,
    Sector,
    admits,
    append_member,
    read_sector,
    timestamp,
    waiting_state,
    write_sector,
)
from .outcome import (
    ABSENT,
    BUSY,
    CHANGED,
    COLLISION,
    DONE,
    LOST,
    NOT_REGULAR,
    STALE,
    SYNC_DATA,
    SYNC_FULL,
    UNJUDGED,
    UNPROVEN,
)
from .tasks_directory import AT_FDCWD, TasksDirectory

NAME: Final = "python"

# How often a name may turn out to be another inode before we call it busy.
_VERIFY_TRIES: Final = 8
# What open(2) says of a symlink, a directory, and a socket.
_NOT_REGULAR: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
# A change that comes so soon after another may leave a directory with the same time.
_TICK_NS: Final = 3_000_000_000


# Hold ---------------------------------------------------------------------------------------------


def _rename(at: int, source: bytes, target: bytes, replace: bool) -> int:
    try:
        if replace:
            os.rename(source, target, src_dir_fd=at, dst_dir_fd=at)
        else:
            posix.rename_new(at, source, target)
    except FileNotFoundError:
        return LOST
    except FileExistsError:
        return COLLISION
    return DONE


def _sync_directories(directories: tuple[bytes, bytes], sync: int) -> None:
    if sync >= SYNC_FULL:
        for directory in directories:
            sync_directory(directory)


class Held:
    """A task whose inode we hold. Close it whatever comes, or use it as a context manager.

    Every descriptor is in `_open` from the line that opened it to the line that closes it, so that
    an interrupt between two lines loses none.
    """

    def __init__(self, tasks: TasksDirectory | None, path: bytes, lock: bytes | None) -> None:
        self.path = path
        self._tasks = tasks
        self._at = AT_FDCWD if tasks is None else tasks.descriptor
        self._prefix_bytes = 0 if tasks is None else tasks.prefix_bytes
        self._lock_path = lock
        self._ready = tasks.locked_inode if lock is not None and tasks is not None else None
        self._may_be_linked = False
        self._temporary: bytes | None = None
        self._open: dict[str, int] = {}
        self._writable = False
        self._status: os.stat_result

    def close(self) -> None:
        """Give up a temporary file that is left, the lock file, and the hold; never fails."""
        try:
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._name(self._temporary), dir_fd=self._at)
            self._temporary = None
        finally:
            try:
                self._let_go("replacement")
            finally:
                try:
                    self._release_lock()
                finally:
                    self._let_go("task")

    __del__ = close

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except BaseException:
            self.close()  # again: it was interrupted in the middle
            raise

    def _name(self, path: bytes) -> bytes:
        """`path` as seen from `_at`."""
        return path[self._prefix_bytes :]

    def _found(self, path: bytes) -> os.stat_result | None:
        return posix.lstat(self._name(path), self._at)

    def _errors_of(self, path: bytes) -> posix.NamedErrors:
        return posix.NamedErrors(path, b"" if self._tasks is None else self._tasks.path)

    def _let_go(self, which: str) -> None:
        """Unlock, then close: a child forked meanwhile has a copy, and the lock with it."""
        if which in self._open:
            try:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._open[which], fcntl.LOCK_UN)
            finally:
                with contextlib.suppress(OSError):  # also EINTR: it is closed all the same
                    os.close(self._open.pop(which))

    def _release_lock(self) -> None:
        """Unlink the lock file while we hold it, and only if the path still is what we hold."""
        if self._may_be_linked:
            self._release_link()
        if "lock" not in self._open:
            return
        assert self._lock_path is not None
        with contextlib.suppress(OSError):
            opened = os.fstat(self._open["lock"])
            # Asked again: an error or an interrupt may have come before we knew.
            if (
                stat.S_ISREG(opened.st_mode)
                and try_flock(self._open["lock"])
                and posix.same_inode(self._found(self._lock_path), opened)
            ):
                os.unlink(self._name(self._lock_path), dir_fd=self._at)
        self._let_go("lock")

    def _release_link(self) -> None:
        """Unlink it; left to others, with its flock, if that fails or an original has opened it."""
        assert self._lock_path is not None
        assert self._ready is not None
        assert self._tasks is not None
        is_left = True
        with contextlib.suppress(OSError):
            named = self._found(self._lock_path)
            is_ours = named is not None and named.st_ino == self._ready.number
            if named is not None and is_ours and named.st_dev == self._ready.device:
                os.unlink(self._name(self._lock_path), dir_fd=self._at)
            is_left = os.fstat(self._ready.descriptor).st_size == 0
        self._may_be_linked = False
        if is_left:
            self._tasks.replace_locked_inode(self._ready, is_of_use=True)
            self._ready = None  # whoever waits, waits until nobody uses it any more

    def _link_lock(self) -> bool:
        """Let our locked inode be the lock file, if there is one and no lock file yet."""
        if self._ready is None or self._ready.descriptor < 0:
            return False
        assert self._lock_path is not None
        assert self._tasks is not None
        names = self._ready.name, self._name(self._lock_path)
        self._may_be_linked = True
        try:
            os.link(*names, src_dir_fd=self._at, dst_dir_fd=self._at, follow_symlinks=False)
        except OSError as error:
            self._may_be_linked = False
            if error.errno != errno.EEXIST:
                self._tasks.replace_locked_inode(self._ready, is_of_use=False)
            return False
        return True

    def _take_lock(self) -> int:
        """DONE, LOST (no directory for it) or BUSY."""
        assert self._lock_path is not None
        if self._link_lock():
            return DONE
        name = self._name(self._lock_path)
        for _ in range(_VERIFY_TRIES):
            try:
                # No O_TRUNC: a loser must not touch the holder's file.
                self._open["lock"], _ = posix.open_for_flock(self._at, name, os.O_CREAT)
            except FileNotFoundError:
                return LOST
            taken = try_flock(self._open["lock"])
            opened = os.fstat(self._open["lock"])
            if not stat.S_ISREG(opened.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self._lock_path)
            # Who had it may have unlinked it between our open and our flock.
            if taken and posix.same_inode(self._found(self._lock_path), opened):
                return DONE
            self._let_go("lock")
            if not taken:
                return BUSY
        return BUSY

    def _hold(self) -> int:
        """DONE, ABSENT, LOST, BUSY, NOT_REGULAR or STALE."""
        for _ in range(_VERIFY_TRIES):
            outcome = self._hold_once()
            if outcome != CHANGED:
                return outcome
            self._let_go("task")
        return BUSY

    def _hold_once(self) -> int:
        """CHANGED means that the name was another inode when we had flocked the one we opened."""
        try:
            name = self._name(self.path)
            self._open["task"], self._writable = posix.open_for_flock(self._at, name, 0)
        except (FileNotFoundError, NotADirectoryError):
            return self._absence()
        except OSError as error:
            if error.errno == errno.EBADF:
                return STALE
            if error.errno not in _NOT_REGULAR:
                raise
            return NOT_REGULAR
        if not try_flock(self._open["task"]):
            return BUSY
        self._status = os.fstat(self._open["task"])
        if not stat.S_ISREG(self._status.st_mode):
            return NOT_REGULAR
        if self._status.st_nlink == 0:
            return CHANGED
        if self._lock_path is not None and not self._may_be_linked and "lock" not in self._open:
            # Only now: a claim of a task that is not there creates nothing.
            with self._errors_of(self._lock_path):
                return self._take_lock()
        return DONE

    def _absence(self) -> int:
        """ABSENT or STALE: a name that is not there from here may be there from the root."""
        return ABSENT if self._tasks is None or self._tasks.is_current() else STALE

    def _verify(self) -> int:
        """DONE if the whole path still names what we hold; else ABSENT, STALE or BUSY."""
        with self._errors_of(self.path):
            named = posix.lstat(self.path)
        if named is None:
            return self._absence()
        return DONE if posix.same_inode(named, self._status) else BUSY

    def read(self, at_most_bytes: int | None = None) -> bytes:
        """The document, or its start, as long as it was when we got hold of it."""
        size_bytes = self._status.st_size
        with self._errors_of(self.path):
            return posix.pread(self._open["task"], min(size_bytes, at_most_bytes or size_bytes))

    def move(self, target: bytes, replace: bool = False) -> int:
        """Rename the task to `target`: the arbiter.

        Returns
        -------
        int
            DONE, LOST or COLLISION; BUSY if it was given back meanwhile; CHANGED if what has been
            moved is not what was read; STALE, and nothing moved, if `target` is somewhere else.
        """
        with self._errors_of(self.path):
            outcome = _rename(self._at, self._name(self.path), self._name(target), replace)
            if outcome != DONE:
                return outcome
            moved = posix.lstat(target)
            if moved is not None and posix.same_inode(moved, self._status):
                unchanged = (
                    moved.st_size == self._status.st_size
                    and moved.st_mtime_ns == self._status.st_mtime_ns
                )
                return DONE if unchanged else CHANGED
            if posix.same_inode(self._found(target), self._status):
                self._move_back(target)
                return STALE
            return BUSY if moved is None else CHANGED

    def prepare(self, temporary: bytes, content: bytes, mtime_ns: int, sync: int) -> None:
        """Write what is to replace this document into a temporary file, flocked and synced."""
        with self._errors_of(temporary):
            self._temporary = temporary
            self._open["replacement"] = os.open(
                self._name(temporary),
                os.O_CREAT | os.O_EXCL | os.O_RDWR | posix.OPEN_FLAGS,
                0o666,
                dir_fd=self._at,
            )
            descriptor = self._open["replacement"]
            if not try_flock(descriptor):
                # Taken for a dead process's: it must not be there to change places with a task.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name(temporary), dir_fd=self._at)
            posix.pwrite(descriptor, content)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            if sync >= SYNC_DATA:
                os.fsync(descriptor)

    def claim(
        self, claimed: bytes, directories: tuple[bytes, bytes], sync: int, replace: bool = False
    ) -> int:
        """Move the task to `claimed`, then replace it by what was prepared.

        Returns
        -------
        int
            What `move` returns; BUSY also if the temporary file was taken for a dead process's.
        """
        with self._errors_of(claimed):
            try:
                outcome = self.move(claimed, replace)
                if outcome == DONE and not self._exchange(claimed):
                    self._move_back(claimed)
                    return BUSY
                if outcome == DONE:
                    _sync_directories(directories, sync)
            except BaseException:
                self._undo_exchange(claimed)
                self._move_back(claimed)
                raise
        return outcome

    def finish(
        self, target: bytes, directories: tuple[bytes, bytes], sync: int, replace: bool
    ) -> int:
        """Replace the task by what was prepared, then move it to `target`.

        Returns
        -------
        int
            DONE; COLLISION if `target` is there and is not to be replaced; LOST if a directory has
            gone; BUSY if the temporary file was taken for a dead process's.
        """
        with self._errors_of(self.path):
            if not replace and self._found(target) is not None:
                return COLLISION
            outcome = BUSY
            try:
                if self._exchange(self.path):
                    names = self._name(self.path), self._name(target)
                    outcome = _rename(self._at, *names, replace)
                    if outcome == DONE:
                        _sync_directories(directories, sync)
            except BaseException:
                self._undo_finish(target, self._open["replacement"])
                self._undo_exchange(self.path)
                raise
            if outcome != DONE:
                self._undo_exchange(self.path)
        return outcome

    def fileno(self) -> int:
        """The descriptor of what was prepared."""
        return self._open["replacement"]

    def publish(self, directories: tuple[bytes, bytes], sync: int, replace: bool) -> int:
        """Let what `prepare_new` has prepared be the task.

        Returns
        -------
        int
            As `publish`; also COLLISION, if something is there that is not to be replaced.
        """
        assert self._temporary is not None
        with self._errors_of(self.path):
            # Only where something can fail after the rename is the old one to be kept for it.
            may_replace = replace
            exchange = replace and sync >= SYNC_FULL and posix.lstat(self.path) is not None
            replace = replace and sync < SYNC_FULL
            try:
                if exchange:
                    outcome = DONE if self._exchange(self.path) else LOST
                else:
                    outcome = _rename(self._at, self._temporary, self.path, replace)
                    if outcome == COLLISION and may_replace:
                        outcome = LOST  # somebody published it meanwhile
                    if outcome == DONE:
                        self._temporary = None
                if outcome == DONE:
                    _sync_directories(directories, sync)
            except OSError:
                if exchange or not replace:  # else the old one is no more, and ours is all there is
                    self._undo_publish(self.path, exchange)
                raise
            return outcome

    def _exchange(self, path: bytes) -> bool:
        """The prepared document and the one at `path` change places; False if it has gone."""
        assert self._temporary is not None
        names = self._name(self._temporary), self._name(path)
        try:
            posix.rename_with(self._at, *names, posix.RENAME_EXCHANGE)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in posix.UNSUPPORTED:
                raise
            # Only a directory that cannot be synced could still make us want the old one back.
            os.rename(*names, src_dir_fd=self._at, dst_dir_fd=self._at)
        return True

    def _undo_exchange(self, path: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._temporary is not None and posix.same_inode(
                self._found(self._temporary), self._status
            ):
                names = self._name(self._temporary), self._name(path)
                posix.rename_with(self._at, *names, posix.RENAME_EXCHANGE)

    def _undo_finish(self, target: bytes, finished: int) -> None:
        """Undo the move of the inode that the descriptor `finished` has open."""
        with contextlib.suppress(OSError):
            if posix.same_inode(self._found(target), os.fstat(finished)):
                posix.rename_new(self._at, self._name(target), self._name(self.path))

    def _undo_publish(self, target: bytes, exchanged: bool) -> None:
        with contextlib.suppress(OSError):
            # Nobody of ours can have claimed it: we hold it.
            if posix.same_inode(self._found(target), os.fstat(self._open["replacement"])):
                if exchanged:
                    assert self._temporary is not None
                    names = self._name(self._temporary), self._name(target)
                    posix.rename_with(self._at, *names, posix.RENAME_EXCHANGE)
                else:
                    os.unlink(self._name(target), dir_fd=self._at)

    def _move_back(self, claimed: bytes) -> None:
        """Undo the move without writing a byte; what stands in our place by now, stays."""
        with contextlib.suppress(OSError):
            if posix.same_inode(self._found(claimed), self._status):
                posix.rename_new(self._at, self._name(claimed), self._name(self.path))


def hold(tasks: TasksDirectory, path: bytes, lock: bytes | None) -> tuple[int, Held | None]:
    """Hold the file at `path`, verified; with `lock`, take that lock file too.

    Returns
    -------
    tuple
        DONE and the `Held`; else ABSENT, LOST (no directory for the lock file), BUSY or
        NOT_REGULAR, and None.
    """
    held = Held(tasks, path, lock)
    outcome = None
    try:
        with held._errors_of(path):
            outcome = held._hold()
            if outcome == DONE:
                outcome = held._verify()
    finally:
        if outcome != DONE:
            held.close()
    return outcome, held if outcome == DONE else None


# Stamp --------------------------------------------------------------------------------------------


def _proven_sector(held: Held, raw: bytes) -> Sector | None:
    """The sector, if the file proves to be as we left it, and is ours to write."""
    return _as_left(raw, held._status) if held._writable else None


def _as_left(raw: bytes, status: os.stat_result) -> Sector | None:
    """The sector, if the file proves to be as its last writer of ours left it."""
    sector = read_sector(raw)
    if (
        sector is not None
        and sector.size_bytes == status.st_size
        and sector.mtime_ns == status.st_mtime_ns
        and status.st_nlink == 1
    ):
        return sector
    return None


def _stamp(held: Held, stamp: bytes, mtime_ns: int, sync: int) -> None:
    posix.pwrite(held._open["task"], stamp)
    if sync >= SYNC_DATA:
        os.fdatasync(held._open["task"])
    # After the sync, which then has no inode to write. Unproven is all that can come of a failure.
    with contextlib.suppress(OSError):
        os.utime(held._open["task"], ns=(held._status.st_atime_ns, mtime_ns))


def _undo_stamp(held: Held, sector: bytes, mtime_ns: int) -> None:
    with contextlib.suppress(OSError):
        try:
            posix.pwrite(held._open["task"], sector)
        except OSError:
            posix.pwrite(held._open["task"], sector)  # half a sector would be worse than none
        os.utime(held._open["task"], ns=(held._status.st_atime_ns, mtime_ns))


# The transitions ----------------------------------------------------------------------------------


def claim(
    tasks: TasksDirectory,
    heed_pause: bool,
    owner: int,
    path: bytes,
    lock: bytes | None,
    claimed: bytes,
    directories: tuple[bytes, bytes],
    enforcement: bytes,
    fields: bytes,
    sync: int,
    want_document: bool,
    capabilities: bytes | None = None,
) -> tuple[int, Held | bytes | None]:
    """One try to claim the task at `path`.

    Parameters
    ----------
    tasks : TasksDirectory
        Where names are looked up from.
    heed_pause : bool
        Whether to claim nothing if the file `paused` is there.
    owner : int
        Descriptor of the owner file that the claim is bound to; -1: to none.
    path, lock, claimed : bytes
        The waiting task, the original's lock file (None: do without), and the claim's file.
    directories : sequence of bytes
        What SYNC_FULL syncs.
    enforcement, fields : bytes
        What the stamp writes into `constraint_enforcement` and after `status`, as JSON text; the
        byte `TIME` stands for the time of the claim.
    sync : int
        SYNC_NONE, SYNC_DATA or SYNC_FULL.
    want_document : bool
        Whether to return the claimed document.
    capabilities : bytes or None
        If the task's mark does not say that they are enough (see `document.admits`), the task is
        UNJUDGED and not touched; None claims it whatever it asks for.

    Returns
    -------
    tuple
        DONE and the document (or None); UNPROVEN and the `Held` task, not moved; else ABSENT,
        LOST, BUSY, COLLISION, CHANGED (moved, and to be given back), NOT_REGULAR, STALE or
        UNJUDGED, and None.
    """
    held = Held(tasks, path, lock)
    try:
        with held._errors_of(path):
            outcome, document = _claim_held(
                held,
                heed_pause,
                owner,
                claimed,
                directories,
                enforcement,
                fields,
                sync,
                want_document,
                capabilities,
            )
            if outcome == UNPROVEN:
                return UNPROVEN, held
            held.close()
            return outcome, document if want_document else None
    except BaseException:
        held.close()  # again, if it was interrupted in the middle
        raise


def _claim_held(
    held: Held,
    heed_pause: bool,
    owner: int,
    claimed: bytes,
    directories: tuple[bytes, bytes],
    enforcement: bytes,
    fields: bytes,
    sync: int,
    whole: bool,
    capabilities: bytes | None,
) -> tuple[int, bytes | None]:
    outcome = held._hold()
    if outcome != DONE:
        return outcome, None
    if _has_to_be_seen_to(held._tasks, heed_pause, owner):
        return STALE, None
    # What lies there may be a hole of a terabyte: only a document of ours is read whole.
    raw = held.read(SECTOR_BYTES)
    sector = _proven_sector(held, raw)
    if sector is not None and whole:
        raw = held.read()
    stamp = _claim_stamp(sector, enforcement, fields, capabilities)
    if sector is None or stamp is None:
        if capabilities is not None:
            return UNJUDGED, None
        outcome = held._verify()
        return UNPROVEN if outcome == DONE else outcome, None
    try:
        outcome = held.move(claimed)
        if outcome != DONE:
            return outcome, None
        _stamp(held, stamp, sector.mtime_ns, sync)
        _sync_directories(directories, sync)
    except BaseException:
        _undo_stamp(held, raw[:SECTOR_BYTES], sector.mtime_ns)
        held._move_back(claimed)
        raise
    return DONE, stamp + raw[SECTOR_BYTES:]


def _has_to_be_seen_to(tasks: TasksDirectory | None, heed_pause: bool, owner: int) -> bool:
    """Whether the pool is paused, or our owner file has gone, or it cannot be told."""
    try:
        if heed_pause and tasks is not None and _is_paused(tasks):
            return True
        return owner >= 0 and os.fstat(owner).st_nlink == 0
    except OSError:
        return True


def _is_paused(tasks: TasksDirectory) -> bool:
    """Whether there is a file `paused`; looked for only if `tasks/` has changed since last time."""
    changed_ns = os.fstat(tasks.descriptor).st_mtime_ns
    if changed_ns == tasks.unpaused_mtime_ns:
        return False
    if posix.lstat(b"paused", tasks.descriptor) is not None:
        return True
    if time.time_ns() - changed_ns > _TICK_NS:
        tasks.unpaused_mtime_ns = changed_ns
    return False


def _claim_stamp(
    sector: Sector | None, enforcement: bytes, fields: bytes, capabilities: bytes | None
) -> bytes | None:
    """None if the claim needs more of a judgement than this."""
    if sector is None or sector.flags & GUARDED:
        return None
    if capabilities is not None and not admits(sector, capabilities):
        return None
    kept = waiting_state(sector)
    if kept is None:
        return None
    state = (enforcement + b"}") * (sector.flags & ENFORCED) + STATE_CLAIMED + kept + fields
    return write_sector(sector, sector.size_bytes, state.replace(TIME, timestamp(time.time_ns())))


def finish(
    tasks: TasksDirectory,
    path: bytes,
    lock: bytes | None,
    target: bytes,
    directories: tuple[bytes, bytes],
    expected: bytes,
    status: bytes,
    fields: bytes | None,
    result: bytes,
    temporary: bytes,
    sync: int,
    replace: bool,
) -> tuple[int, Held | None]:
    """One try to complete or release the claim at `path`.

    Parameters
    ----------
    tasks : TasksDirectory
        Where names are looked up from.
    path, lock, target : bytes
        The claim's file, the original's lock file or None, and where the task is to go.
    directories : sequence of bytes
        What SYNC_FULL syncs.
    expected : bytes
        What the claim's stamp must contain: whose claim it is, as JSON text.
    status : bytes
        The new `status`, as a JSON member.
    fields : bytes or None
        What the stamp adds to those of the claim, with `TIME`; None takes the claim's out.
    result : bytes
        A last JSON member, of any length; may be empty.
    temporary : bytes
        A name for the document in case `result` does not fit into the sector.
    sync : int
        SYNC_NONE, SYNC_DATA or SYNC_FULL.
    replace : bool
        Whether what stands at `target` may be replaced.

    Returns
    -------
    tuple
        DONE and None; UNPROVEN and the `Held` claim; else ABSENT, LOST, BUSY, COLLISION or
        NOT_REGULAR, and None. All but DONE leave the claim as it was.
    """
    outcome, held = hold(tasks, path, lock)
    if held is None:
        return outcome, None
    try:
        with held._errors_of(path):
            outcome = _finish_held(
                held,
                target,
                directories,
                expected,
                status,
                fields,
                result,
                temporary,
                sync,
                replace,
            )
            if outcome == UNPROVEN:
                return UNPROVEN, held
            held.close()
            return outcome, None
    except BaseException:
        held.close()  # again, if it was interrupted in the middle
        raise


def _finish_held(
    held: Held,
    target: bytes,
    directories: tuple[bytes, bytes],
    expected: bytes,
    status: bytes,
    fields: bytes | None,
    result: bytes,
    temporary: bytes,
    sync: int,
    replace: bool,
) -> int:
    raw = held.read(SECTOR_BYTES)
    sector = _proven_sector(held, raw)
    state = _finished_state(sector, expected, status, fields)
    if sector is None or state is None:
        return UNPROVEN
    stamp = write_sector(sector, sector.size_bytes, state + result)
    if stamp is not None:
        return _finish_in_place(held, raw, stamp, target, directories, sync, replace)
    content = append_member(sector, held.read(), state, result)
    if content is None:
        return UNPROVEN
    held.prepare(temporary, content, sector.mtime_ns, sync)
    return held.finish(target, directories, sync, replace)


def _finished_state(
    sector: Sector | None, expected: bytes, status: bytes, fields: bytes | None
) -> bytes | None:
    if sector is None:
        return None
    enforcement, claimed, claim_fields = sector.state.partition(STATE_CLAIMED)
    kept, claim_start, _ = claim_fields.partition(CLAIM_FIELDS_START)
    if not claimed or expected not in claim_fields or not claim_start:
        return None
    if fields is None:
        return b"}" * (sector.flags & ENFORCED) + status + kept
    return enforcement + status + claim_fields + fields.replace(TIME, timestamp(time.time_ns()))


def _finish_in_place(
    held: Held,
    raw: bytes,
    stamp: bytes,
    target: bytes,
    directories: tuple[bytes, bytes],
    sync: int,
    replace: bool,
) -> int:
    if not replace and held._found(target) is not None:
        return COLLISION
    mtime_ns = held._status.st_mtime_ns
    try:
        _stamp(held, stamp, mtime_ns, sync)
        outcome = _rename(held._at, held._name(held.path), held._name(target), replace)
        if outcome == DONE:
            _sync_directories(directories, sync)
    except BaseException:
        held._undo_finish(target, held._open["task"])
        _undo_stamp(held, raw, mtime_ns)
        raise
    if outcome != DONE:
        _undo_stamp(held, raw, mtime_ns)
    return outcome


def publish(
    temporary: bytes,
    target: bytes,
    directories: tuple[bytes, bytes],
    content: bytes,
    mtime_ns: int,
    sync: int,
) -> int:
    """Make `content` the task at `target`, whatever is there: by whole paths, as `prepare_new`.

    Returns
    -------
    int
        DONE, or LOST: the directory has gone, or the temporary file was taken for a dead process's.
    """
    with Held(None, target, None) as new:
        try:
            new.prepare(temporary, content, mtime_ns, sync)
        except FileNotFoundError:
            return LOST
        return new.publish(directories, sync, replace=True)


def prepare_new(
    temporary: bytes, target: bytes, content: bytes, mtime_ns: int, sync: int
) -> tuple[int, Held | None]:
    """Write a task that is to be at `target` into a temporary file, flocked.

    By whole paths: a descriptor could be that of a directory that is no longer the pool's.

    Returns
    -------
    tuple
        DONE and what `Held.publish` publishes, or LOST and None: the directory has gone.
    """
    new = Held(None, target, None)
    try:
        new.prepare(temporary, content, mtime_ns, sync)
    except FileNotFoundError:
        new.close()
        return LOST, None
    except BaseException:
        new.close()
        raise
    return DONE, new


def read(
    path: str | bytes, at_most_bytes: int, tasks: TasksDirectory | None = None
) -> bytes | None:
    """The start of the file at `path`, all of it if it is shorter; None if it is no regular file.

    Parameters
    ----------
    path : str or bytes
        Which.
    at_most_bytes : int
        How much.
    tasks : TasksDirectory, optional
        Where to look the name up first; the file may be read from there although it is the pool's
        no more.

    Raises
    ------
    FileNotFoundError
        Nothing is there.
    OSError
        The system refused.
    """
    with posix.NamedErrors(os.fsencode(path)):
        try:
            descriptor = _open_to_read(os.fsencode(path), tasks)
            try:
                return os.pread(descriptor, at_most_bytes, 0)
            finally:
                with contextlib.suppress(OSError):
                    os.close(descriptor)  # it is closed all the same
        except OSError as error:
            # A directory can be opened, and so can a FIFO, but neither be read from at a position.
            if error.errno in (*_NOT_REGULAR, errno.ESPIPE):
                return None
            raise


def is_there(path: str) -> bool:
    """Whether something has that name; True if that cannot be told."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # a claim will say what it is
    return True


def peek(path: str, capabilities: bytes, tasks: TasksDirectory) -> tuple[int, bytes] | None:
    """The rank of a task that proves to wait, for which these capabilities are enough.

    Parameters
    ----------
    path : str
        Which.
    capabilities : bytes
        An agent's: see `document.admits`.
    tasks : TasksDirectory
        Where to look the name up.

    Returns
    -------
    tuple or None
        The document's mtime, ns since the epoch, and the rank as it stands in the mark; None if
        only `read` can tell more, whatever the reason.
    """
    try:
        name = os.fsencode(path)[tasks.prefix_bytes :]
        descriptor = os.open(name, os.O_RDONLY | posix.OPEN_FLAGS, dir_fd=tasks.descriptor)
        try:
            status = os.fstat(descriptor)
            sector = _as_left(os.pread(descriptor, SECTOR_BYTES, 0), status)
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)  # it is closed all the same
    except OSError:
        return None
    if sector is None or not sector.rank or not admits(sector, capabilities):
        return None
    return None if waiting_state(sector) is None else (sector.mtime_ns, sector.rank)


def _open_to_read(path: bytes, tasks: TasksDirectory | None) -> int:
    flags = os.O_RDONLY | posix.OPEN_FLAGS
    if tasks is not None:
        with contextlib.suppress(OSError):
            return os.open(path[tasks.prefix_bytes :], flags, dir_fd=tasks.descriptor)
    return os.open(path, flags)
