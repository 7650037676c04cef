"""What may be wrong with a pool where it lies, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from . import layout, owners, recovery, stuck
from ._core.posix import RENAME_EXCHANGE, RENAME_NOREPLACE, rename_with
from .directories import Directories
from .file_system import lacks_journal, mounts, number_of
from .inotify import Inotify
from .inotify_masks import IN_CREATE
from .pausing import described_pause, read_pause
from .tasks_directory import AT_FDCWD

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"

# What does not carry locks from one machine to another, or not always to another process.
_RISKY: Final = ("nfs", "9p", "virtiofs", "cifs", "smb", "fuse", "ceph", "lustre")
_OVERLAY: Final = "overlay"
_CLEANERS: Final = ("systemd-tmpfiles", "tmpreaper", "tmpwatch")
_OTHER_PROCESS_S: Final = 30.0
# Runs in the other process: is the lock taken, is our descriptor there, and a file to hear of.
_OTHER: Final = """
import fcntl, os, sys
directory, descriptor = sys.argv[1], int(sys.argv[2])
file = open(os.path.join(directory, "lock"))
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock = "free"
except BlockingIOError:
    lock = "taken"
try:
    same = os.path.samestat(os.fstat(descriptor), os.fstat(file.fileno()))
except OSError:
    same = False
open(os.path.join(directory, "heard"), "x").close()
print(lock, "inherited" if same and descriptor != file.fileno() else "closed")
"""


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    level : str
        "ok", "warning" or "error".
    check : str
        What was looked at, in a word or two.
    message : str
        What was found.
    advice : str
        What to do about it; empty if nothing.
    """

    level: str
    check: str
    message: str
    advice: str = ""


def diagnose(pool: Directories) -> list[Finding]:
    """See `TaskPool.doctor`."""
    pool.make()
    tasks_dir = Path(pool.tasks_path)
    return [
        Finding(OK, "core", f"{pool.core.NAME}"),
        _file_system(tasks_dir),
        _space(tasks_dir),
        *_tries(tasks_dir),
        _cleaned(tasks_dir),
        _writers(pool),
        _owners(pool),
        _pause(pool),
        *_contents(pool),
        *as_findings(stuck.problems(pool)),
    ]


def _file_system(path: Path) -> Finding:
    kind = _type_of_file_system(path)
    if kind == _OVERLAY:
        # Locks and renames are the overlay's own, also of files from a layer that is only read.
        note = "whoever sees it by another mount, as another container does, has another pool"
        return Finding(OK, "file system", f"{kind}: {note}")
    if lacks_journal(os.stat(path).st_dev):
        return Finding(
            WARNING,
            "file system",
            f"{kind} without a journal: a power cut can lose tasks, whatever the durability",
            "keep the pool where there is a journal (tune2fs -O has_journal makes one)",
        )
    if not kind.startswith(_RISKY):
        return Finding(OK, "file system", kind)
    return Finding(
        WARNING,
        "file system",
        f"{kind}: locks may not reach other machines, or other mounts of the same files",
        "keep the pool on a local disk or tmpfs that all its processes see by the same mount",
    )


def _space(path: Path) -> Finding:
    """Whether one more file goes there; a file system that has no end says 0 of 0."""
    found = os.statvfs(path)
    # Some is kept for root.
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    inodes = found.f_ffree if os.geteuid() == 0 else found.f_favail
    free = []
    if found.f_blocks:
        free.append(f"{blocks * found.f_frsize / 1e6:,.1f} MB")
    if found.f_files:
        free.append(f"{inodes:,} files")
    message = f"{' and '.join(free) or 'as much as there may be'} free"
    if (blocks or not found.f_blocks) and (inodes or not found.f_files):
        return Finding(OK, "space", message)
    return Finding(ERROR, "space", message, "make room: without it nothing can be published")


def _type_of_file_system(path: Path) -> str:
    """That of the mount nearest above it, but rather of one of the same device."""
    number = number_of(os.stat(path).st_dev)
    real = os.path.realpath(path)
    best = (False, -1, "unknown")
    for mount in mounts():
        if real == mount.where or real.startswith(mount.where.rstrip("/") + "/"):
            best = max(best, (mount.number == number, len(mount.where), mount.kind))
    return best[2]


def _tries(tasks_dir: Path) -> Iterator[Finding]:
    """Use what the pool rests on, in a directory of its own."""
    try:
        directory = tempfile.mkdtemp(
            prefix=layout.TEMPORARY_PREFIX, suffix=layout.TEMPORARY_SUFFIX, dir=tasks_dir
        )
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room" if is_full else "run as who owns the pool"
        yield Finding(ERROR, "permissions", f"nothing can be made there: {error}", advice)
        return
    try:
        yield from _between_processes(directory)
        yield _rename(directory, "RENAME_NOREPLACE", RENAME_NOREPLACE)
        yield _rename(directory, "RENAME_EXCHANGE", RENAME_EXCHANGE)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _between_processes(directory: str) -> Iterator[Finding]:
    try:
        found = _tried_by_another(directory)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(ERROR, "flock", f"no other process could try it: {error}", "try again")
        return
    if found.lock == "taken":
        yield Finding(OK, "flock", "keeps other processes out")
    else:
        yield Finding(
            ERROR,
            "flock",
            f"does not keep other processes out: {found.error or found.lock}",
            "move the pool to a local file system",
        )
    if found.descriptor == "closed":
        yield Finding(OK, "O_CLOEXEC", "no descriptor outlives an exec")
    else:
        yield Finding(
            ERROR,
            "O_CLOEXEC",
            "a program that is started keeps our descriptors, and our locks with them",
            "start programs with close_fds=True",
        )
    if found.was_heard:
        yield Finding(OK, "inotify", "tells what other processes do")
    else:
        yield Finding(
            WARNING,
            "inotify",
            "tells nothing of what other processes do: waiting agents look again and again",
            "raise fs.inotify.max_user_instances; or move the pool to a local file system",
        )


class _Tried(NamedTuple):
    """What another process has found, and whether the kernel told us of it."""

    lock: str
    descriptor: str
    error: str
    was_heard: bool


def _tried_by_another(directory: str) -> _Tried:
    watch: Inotify | None = None
    with contextlib.suppress(OSError):
        watch = Inotify()
        watch.add(directory, IN_CREATE)
    descriptor = owners.make_flocked(os.fsencode(os.path.join(directory, "lock")))
    try:
        # close_fds=False: O_CLOEXEC has to do it.
        command = [sys.executable, "-I", "-S", "-c", _OTHER, directory, str(descriptor)]
        other = subprocess.run(
            command, capture_output=True, text=True, timeout=_OTHER_PROCESS_S, close_fds=False
        )
    finally:
        os.close(descriptor)
        was_heard = watch is not None and _heard(watch)
        if watch is not None:
            watch.close()
    lock, _, kept = other.stdout.strip().partition(" ")
    return _Tried(lock, kept, other.stderr.strip(), was_heard)


def _heard(watch: Inotify) -> bool:
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(0)) and any(event.name == b"heard" for event in watch.read())


def _rename(directory: str, name: str, flag: int) -> Finding:
    one, other = (os.path.join(directory, f"{name}{n}") for n in (1, 2))
    for path in (one, other):
        Path(path).touch()
    before = os.stat(one)
    number = 0
    try:
        rename_with(AT_FDCWD, os.fsencode(one), os.fsencode(other), flag)
    except OSError as error:
        number = error.errno or 0
    if flag == RENAME_NOREPLACE:
        works = number == errno.EEXIST
    else:
        works = number == 0 and os.path.samestat(before, os.stat(other))
    if works:
        return Finding(OK, name, "works")
    return Finding(
        WARNING,
        name,
        "does not work here; a look and a plain rename serve",
        "use no task and agent ids that make the same file name, as a_b + c and a + b_c do",
    )


def _cleaned(tasks_dir: Path) -> Finding:
    real = os.path.realpath(tasks_dir)
    above = next((d for d in ("/tmp", "/var/tmp") if real.startswith(f"{d}/")), None)
    cleaners = [name for name in _CLEANERS if shutil.which(name)]
    if above is None or not cleaners:
        return Finding(OK, "clean-up", "nothing is known to remove old files there")
    return Finding(
        WARNING,
        "clean-up",
        f"it is under {above}, where {' and '.join(cleaners)} may remove what is old",
        "keep the pool in a directory elsewhere, or exempt this one",
    )


def _writers(pool: Directories) -> Finding:
    paths = (pool.tasks, *(getattr(pool, state) for state in layout.STATES))
    open_to = {stat.S_IWOTH: "everybody", stat.S_IWGRP: "its group"}
    for bit, whom in open_to.items():
        for path in map(os.fsdecode, paths):
            if os.stat(path).st_mode & bit:
                level = WARNING if bit == stat.S_IWOTH else OK
                advice = f"chmod o-w {path}" if level == WARNING else ""
                return Finding(level, "writers", f"{whom} can write {path}", advice)
    return Finding(OK, "writers", "nobody else can write it")


def _owners(pool: Directories) -> Finding:
    directory = os.path.join(os.fsdecode(pool.tasks), layout.OWNERS)
    if os.access(directory, os.W_OK | os.X_OK):
        return Finding(OK, "owners", "claims end with their process")
    return Finding(
        WARNING,
        "owners",
        f"{directory} cannot be written: claims stay when their process dies",
        f"make {directory} writable, or run recover(older_than=...) now and then",
    )


def _pause(pool: Directories) -> Finding:
    pause = read_pause(pool.tasks)
    if pause is None:
        return Finding(OK, "pause", "not paused")
    return Finding(WARNING, "pause", described_pause(pause), "run resume() when it is time")


def as_findings(problems: Iterable[stuck.Problem]) -> Iterator[Finding]:
    """What is wrong with tasks; or that nothing is."""
    found = [Finding(WARNING, *problem) for problem in problems]
    yield from found
    if not found:
        yield Finding(OK, "blocked", "no task waits for what can never be")


def _contents(pool: Directories) -> Iterator[Finding]:
    report = recovery.recover(pool, None, True, None)
    moves = {
        "waiting again": report.returned,
        "given up": report.failed,
        "completed": report.completed,
    }
    for fate, ids in moves.items():
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            message = f"the dead have left {len(ids)} that would be {fate}: {shown}"
            yield Finding(WARNING, "left behind", message, "run recover()")
    for problem in report.problems:
        yield Finding(WARNING, "contents", problem, "look at the file; remove or mend it by hand")
    if not report and not report.problems:
        yield Finding(OK, "contents", "every task is whole and in one place")
