"""Keys that no two claims hold at the same time: a file, a branch, a deploy target.

A key is a file in tasks/keys/ that names a claim. It is *held* while a claim of that file name
stands in claimed/, so it becomes free in the same instant in which the claim is completed, released
or recovered, by whomever, and nobody has to let go of it. To claim a task with keys is to

    1. flock the file of each of its keys, in sorted order and without waiting,
    2. look that none names another claim that stands in claimed/,
    3. write the name of the claim to be made into each, and put that on disk,
    4. make the claim,
    5. drop the flocks.

Two claimers that share a key meet at 1. From 3 on the key is held by the flock, and once the claim
stands by its name. A death before 4 leaves a name that does not stand: free. A death inside 4, with
the task moved but not stamped, leaves the key held until recovery moves the task back. The name is
enough: should a later claim have the same one, it is of the same task by the same agent (or of two
that share a file name, and then too much is held, never too little).
"""

from __future__ import annotations

import contextlib
import os

from . import layout, outcome
from .descriptors import ErrorsOf, is_named, sync_directory, try_flock
from .directories import Directories
from .document import EXCLUSIVE
from .errors import InvalidTask, KeyHeld
from .flocked_file import FlockedFile
from .matching import Task, names_in
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Set
    from typing import Final

_KEY_SUFFIX: Final = layout.KEY_SUFFIX.encode()
_AGENT_SUFFIX: Final = layout.AGENT_SUFFIX.encode()
_RECORD_BYTES: Final = 512  # what a disk writes whole
_END: Final = b"\0"  # of a name, in which it cannot be
_VERIFY_TRIES: Final = 8
# How long an agent's other processes may take to claim; it is milliseconds, unless one is stopped.
_AGENT_LOCK_S: Final = 1.0


class KeyBusy(Exception):
    """Another claim that needs a key is just being made: try again."""


@contextlib.contextmanager
def held(pool: Directories, keys: Set[str], task_id: object, claim_name: str) -> Iterator[None]:
    """Hold keys for a claim that is made inside: steps 1 to 3, and 5.

    Raises
    ------
    KeyHeld
        Another claim has one of them.
    KeyBusy
        Another claim that needs one of them is just being made.
    """
    if keys:
        os.makedirs(_directory(pool), exist_ok=True)
    files: list[FlockedFile] = []
    try:
        for key in sorted(keys):
            file = _flocked(_key_file(pool, key))
            if file is None:
                raise KeyBusy
            files.append(file)
            _check_is_free(pool, key, file.fileno(), claim_name, task_id)
        for key, file in zip(sorted(keys), files, strict=True):
            _write_name(pool, key, file.fileno(), claim_name)
        yield
    finally:
        for file in files:
            file.close()


def keys_of(task: Task, task_id: object = None) -> set[str]:
    """The keys that a task names.

    Raises
    ------
    InvalidTask
        The field is no list of them.
    """
    if EXCLUSIVE not in task:
        return set()
    try:
        return {f"{key}" for key in names_in(task, EXCLUSIVE)}
    except TypeError as error:
        raise InvalidTask(f"task {task_id!r}: {error}", task_id) from None


def holder_of(pool: Directories, key: str) -> str | None:
    """The file name of the claim that holds a key; None if it is free."""
    try:
        with open(_key_file(pool, key), "rb") as file:
            return _standing(pool, file.read(_RECORD_BYTES))
    except FileNotFoundError:
        return None


def forget_free_keys(pool: Directories) -> None:
    """Remove the files of keys that nobody holds, and of agents none of which is just claiming."""
    try:
        names = os.listdir(_directory(pool))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(_directory(pool), name)
        file = _flocked(path) if name.endswith((_KEY_SUFFIX, _AGENT_SUFFIX)) else None
        if file is None:
            continue
        try:
            if _standing(pool, os.pread(file.fileno(), _RECORD_BYTES, 0)) is None:
                os.unlink(path)  # who waits for it will see that it has gone
        finally:
            file.close()


@contextlib.contextmanager
def agent_lock(pool: Directories, agent_id: object) -> Iterator[bool]:
    """Keep other processes and threads of this agent out, for as long as it takes to claim.

    Yields
    ------
    bool
        False if one of them does not go on: it was stopped in the middle.
    """
    os.makedirs(_directory(pool), exist_ok=True)
    path = b"%b/%b%b" % (_directory(pool), _digest(f"{agent_id}"), _AGENT_SUFFIX)
    tries = (_flocked(path) for _ in turns(_AGENT_LOCK_S))
    file = next((found for found in tries if found is not None), None)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()


def _flocked(path: bytes) -> FlockedFile | None:
    """The file, made if need be, with its flock; None if somebody has that."""
    for _ in range(_VERIFY_TRIES):
        with ErrorsOf(path):
            file = FlockedFile(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            if not try_flock(file.fileno()):
                return None
            if is_named(path, file.fileno()):
                return file
        file.close()  # `forget_free_keys` unlinked it between our open and our flock
    return None


def _check_is_free(
    pool: Directories, key: str, descriptor: int, claim_name: str, task_id: object
) -> None:
    holder = _standing(pool, os.pread(descriptor, _RECORD_BYTES, 0))
    # Our own name: an earlier claim of this task by this agent, which the new one replaces.
    if holder is not None and holder != claim_name:
        from .why import described_claim  # it imports us; and few claims are refused

        task, agent, since = described_claim(pool, holder)
        message = f"task {task_id!r} needs the key {key!r}, which {task} ({since}) holds"
        raise KeyHeld(message, task_id, agent, key, holder)


def _standing(pool: Directories, record: bytes) -> str | None:
    """The claim that a key's file names, if it stands; an agent's names none."""
    name = os.fsdecode(record.partition(_END)[0])
    if name and os.path.lexists(os.path.join(os.fsdecode(pool.claimed), name)):
        return name
    return None


def _write_name(pool: Directories, key: str, descriptor: int, claim_name: str) -> None:
    text = os.fsencode(claim_name) + _END + key.encode("utf-8", "backslashreplace")
    record = text[: _RECORD_BYTES - 1].ljust(_RECORD_BYTES, _END)
    old = os.pread(descriptor, _RECORD_BYTES, 0)
    if old == record:
        return
    os.pwrite(descriptor, record, 0)
    # A claim must not outlive a power cut in which its key is lost.
    if pool.sync >= outcome.SYNC_DATA:
        os.fdatasync(descriptor)
    if pool.sync >= outcome.SYNC_FULL and not old:
        sync_directory(_directory(pool))


def _directory(pool: Directories) -> bytes:
    return pool.available[: -len(layout.AVAILABLE)] + layout.KEYS.encode()


def _key_file(pool: Directories, key: str) -> bytes:
    return b"%b/%b%b" % (_directory(pool), _digest(key), _KEY_SUFFIX)


def _digest(text: str) -> bytes:
    import hashlib  # few tasks have keys, and OpenSSL takes long to load

    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32].encode()
