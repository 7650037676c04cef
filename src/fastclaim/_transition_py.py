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

import fcntl
import os
import stat
import struct
import sys
import termios
from typing import Final

from ._core import posix
from ._core.claim import Demand, claim_held, claim_prepared
from ._core.finish import Ending, finish_held, finish_prepared
from ._core.hold import close_all, hold_task, read_held
from ._core.look import peek_at, read_file
from ._core.move import move
from ._core.publish import publish_prepared
from ._core.replace import prepare
from ._core.step import Destination, Step, errors_of
from .outcome import ABSENT, DONE, LOST, QUIET, UNPROVEN
from .tasks_directory import TasksDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .directories import Directories

NAME: Final = "python"
_EVENT: Final = struct.Struct("iIII")  # wd, mask, cookie, length of the name


class Held(Step):
    """A task whose inode we hold. Close it whatever comes, or use it as a context manager."""

    def close(self) -> None:
        """Give up a temporary file that is left, the lock file, and the hold; never fails."""
        close_all(self)

    def __del__(self) -> None:
        if hasattr(self, "open"):  # else an interrupt came before there was anything to give up
            self.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except BaseException:
            self.close()  # again: it was interrupted in the middle
            raise

    def read(self, at_most_bytes: int | None = None) -> bytes:
        """The document, or its start, as long as it was when we got hold of it."""
        return read_held(self, at_most_bytes)

    def move(self, target: bytes, replace: bool = False) -> int:
        """Rename the task to `target`: the arbiter.

        Returns
        -------
        int
            DONE, LOST or COLLISION; BUSY if it was given back meanwhile; CHANGED if what has been
            moved is not what was read; STALE, and nothing moved, if `target` is somewhere else.
        """
        return move(self, target, replace)

    def prepare(self, temporary: bytes, content: bytes, mtime_ns: int, sync: int) -> None:
        """Write what is to replace this document into a temporary file, flocked and synced."""
        prepare(self, temporary, content, mtime_ns, sync)

    def claim(
        self, claimed: bytes, directories: tuple[bytes, bytes], sync: int, replace: bool = False
    ) -> int:
        """Move the task to `claimed`, then replace it by what was prepared.

        Returns
        -------
        int
            What `move` returns; BUSY also if the temporary file was taken for a dead process's.
        """
        return claim_prepared(self, Destination(claimed, replace, directories, sync))

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
        return finish_prepared(self, Destination(target, replace, directories, sync))

    def fileno(self) -> int:
        """The descriptor of what was prepared."""
        return self.open["replacement"]

    def publish(self, directories: tuple[bytes, bytes], sync: int, replace: bool) -> int:
        """Let what `prepare_new` has prepared be the task.

        Returns
        -------
        int
            As `publish`; also COLLISION, if something is there that is not to be replaced.
        """
        return publish_prepared(self, Destination(self.path, replace, directories, sync))


def hold(tasks: TasksDirectory, path: bytes, lock: bytes | None) -> tuple[int, Held | None]:
    """Hold the file at `path`, verified; with `lock`, take that lock file too.

    Returns
    -------
    tuple
        DONE and the `Held`; else ABSENT, LOST (no directory for the lock file), BUSY,
        NOT_REGULAR or STALE, and None.
    """
    held = Held(tasks, path, lock)
    outcome = None
    try:
        outcome = hold_task(held)
    finally:
        if outcome != DONE:
            held.close()
    return outcome, held if outcome == DONE else None


def claim(
    pool: Directories,
    tasks: TasksDirectory,
    task_id: object,
    agent_id: object,
    enforcement: bytes,
    fields: bytes,
    token: str,
    heed_pause: bool,
    owner: int,
    want_document: bool,
    capabilities: bytes | None = None,
) -> tuple[int, Held | bytes | None]:
    """One try to claim a task.

    Parameters
    ----------
    pool, tasks : Directories, TasksDirectory
        Where the task waits, and where names are looked up from.
    task_id, agent_id : object
        Which task, for whom: what file names are made of, as `Directories.claim_files` says.
    enforcement, fields : bytes
        What the stamp writes into `constraint_enforcement` and after `status`, as JSON text; the
        byte `TIME` stands for the time of the claim.
    token : str
        The claim's, the stamp's last member; plain ASCII.
    heed_pause : bool
        Whether to claim nothing if the file `paused` is there.
    owner : int
        Descriptor of the owner file that the claim is bound to; -1: to none.
    want_document : bool
        Whether to return the claimed document.
    capabilities : bytes or None
        If the task's mark does not say that they are enough (see `document.admits`), the task is
        UNJUDGED and not touched; None claims it whatever it asks for.

    Returns
    -------
    tuple
        DONE and the document (or None); UNPROVEN and the `Held` task, not moved; else ABSENT,
        QUIET, LOST, BUSY, COLLISION, CHANGED (moved, and to be given back), NOT_REGULAR, STALE or
        UNJUDGED, and None.

    Raises
    ------
    InvalidName
        The ids make no file name; nothing was looked at.
    """
    path, claimed = pool.claim_files(task_id, agent_id)
    to = Destination(claimed, False, pool.claim_directories, pool.stamp_sync)
    demand = Demand(enforcement, fields, token, capabilities)
    held = Held(tasks, path, pool.lock_file(path))
    try:
        with errors_of(held, path):
            outcome, document = claim_held(held, heed_pause, owner, to, demand, want_document)
            if outcome == UNPROVEN:
                return UNPROVEN, held
            held.close()
            if outcome == ABSENT and capabilities is None and pool.is_quiet():
                outcome = QUIET
            return outcome, document if want_document else None
    except BaseException:
        held.close()  # again, if it was interrupted in the middle
        raise


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
    directories : tuple of bytes
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
        DONE and None; UNPROVEN and the `Held` claim; else ABSENT, LOST, BUSY, COLLISION,
        NOT_REGULAR or STALE, and None. All but DONE leave the claim as it was.
    """
    to = Destination(target, replace, directories, sync)
    ending = Ending(expected, status, fields, result, temporary)
    outcome, held = hold(tasks, path, lock)
    if held is None:
        return outcome, None
    try:
        with errors_of(held, path):
            outcome = finish_held(held, ending, to)
            if outcome == UNPROVEN:
                return UNPROVEN, held
            held.close()
            return outcome, None
    except BaseException:
        held.close()  # again, if it was interrupted in the middle
        raise


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
    return read_file(os.fsencode(path), at_most_bytes, tasks)


def is_there(path: str, tasks: TasksDirectory | None = None) -> bool | None:
    """Whether something has that name; True if that cannot be told.

    Parameters
    ----------
    path : str
        Which.
    tasks : TasksDirectory, optional
        Where to look the name up, without waiting for those who change its directory.

    Returns
    -------
    bool or None
        None, with `tasks` alone: it seems to have gone, and to be sure would take that wait. Only
        `_transition_c` can look without it; here it is waited for.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # a claim will say what it is
    return True


def inotify_init() -> int:
    """A new inotify instance, which never blocks and is closed by exec; returns its descriptor.

    Raises
    ------
    OSError
        The system has no inotify (ENOSYS), or no instance is left (EMFILE).
    """
    return posix.inotify_init()


def inotify_add_watch(descriptor: int, path: bytes, mask: int) -> int:
    """Watch a directory, or change the mask of a watch; returns the watch's number.

    Raises
    ------
    OSError
        It is not there, must not be read, or the user has no watch left (ENOSPC).
    ValueError
        There is a NUL in `path`.
    """
    return posix.inotify_add_watch(descriptor, path, mask)


def waiting_bytes(descriptor: int) -> int:
    """How much can be read from an inotify instance; -1 if the descriptor is of none."""
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) != 0:
            return -1  # all others of which this can be asked have a type
        fcntl.ioctl(descriptor, termios.FIONREAD, count := bytearray(4))
    except (ValueError, OSError):
        return -1
    return int.from_bytes(count, sys.byteorder, signed=True)


def events_in(raw: bytes) -> list[tuple[int, int, bytes, int]]:
    """What was read from an inotify instance: `wd`, mask, name (may be empty) and cookie of each.

    Raises
    ------
    ValueError
        It is cut off, which the kernel never does.
    """
    events = []
    position = 0
    while position < len(raw):
        start = position + _EVENT.size
        if start > len(raw):
            raise ValueError("an inotify event is cut off")
        wd, mask, cookie, name_bytes = _EVENT.unpack_from(raw, position)
        position = start + name_bytes
        if position > len(raw):
            raise ValueError("an inotify event is cut off")
        events.append((wd, mask, raw[start:position].rstrip(b"\0"), cookie))  # padded
    return events


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
    sector = peek_at(os.fsencode(path), capabilities, tasks)
    return None if sector is None else (sector.mtime_ns, sector.rank)
