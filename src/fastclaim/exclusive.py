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
import fcntl
import os
from collections.abc import Iterator, Set
from typing import Final

from . import claiming, finishing, layout, outcome
from .directories import Directories
from .document import loads
from .errors import InvalidTask, LockTimeout, TaskNotAvailable
from .listing import read_task
from .matching import Task, names_in
from .waiting import turns

DIRECTORY: Final = b"keys"
FIELD: Final = "exclusive"
_KEY_SUFFIX: Final = b".key"
_AGENT_SUFFIX: Final = b".agent"
_RECORD_BYTES: Final = 512  # what a disk writes whole
_END: Final = b"\0"  # of a name, in which it cannot be
_VERIFY_TRIES: Final = 8
_NO_KEYS: Final[frozenset[str]] = frozenset()
# By their available/: pools with keys, not to be looked for again; and those looked for at all.
_in_use: set[bytes] = set()
_looked_at: set[bytes] = set()


class KeyHeld(TaskNotAvailable):
    """Another task's claim holds a key that this one needs."""

    claim_name = ""  # of that claim's file


def claim(
    pool: Directories,
    task_id: object,
    agent_id: object,
    token: str,
    timeout_s: float | None,
    want_document: bool,
    task: Task | None = None,
) -> tuple[int, bytes | None]:
    """`claiming.claim`, with the keys that the task names.

    Parameters
    ----------
    task : dict, optional
        The task as it was just read, if it was.

    Raises
    ------
    KeyHeld
        The task is where and as it was.
    """
    while True:
        in_use = _is_known_to_be_in_use(pool)
        if task is None and in_use:
            task = _read(pool.available_file(task_id))
        keys = keys_of(task, task_id) if task else _NO_KEYS
        if not keys:
            came_to, document = claiming.claim(
                pool, task_id, agent_id, token, timeout_s, want_document or in_use
            )
            # After the claim: who publishes a task with keys makes their directory before.
            if came_to != outcome.DONE or not (in_use or is_in_use(pool)):
                return came_to, document
            claimed_keys = _claimed_keys(pool, task_id, agent_id, document)
        else:
            with _held(pool, keys, task_id, agent_id, timeout_s):
                came_to, document = claiming.claim(
                    pool, task_id, agent_id, token, timeout_s, want_document=True
                )
                if came_to != outcome.DONE:
                    return came_to, document
                claimed_keys = _claimed_keys(pool, task_id, agent_id, document)
        if keys >= claimed_keys:
            return came_to, document
        # Published anew, with other keys, between our look and our claim: nobody was told of it.
        finishing.release(pool, task_id, agent_id, token)
        task = None


def keys_of(task: Task, task_id: object = None) -> set[str]:
    """The keys that a task names.

    Raises
    ------
    InvalidTask
        The field is no list of them.
    """
    if FIELD not in task:
        return set()
    try:
        return {f"{key}" for key in names_in(task, FIELD)}
    except TypeError as error:
        raise InvalidTask(f"task {task_id!r}: {error}", task_id) from None


def is_in_use(pool: Directories) -> bool:
    """Whether a task with keys was ever published or claimed here."""
    if pool.available in _in_use:
        return True
    if not os.access(_directory(pool), os.F_OK):
        return False
    _in_use.add(pool.available)
    return True


def _is_known_to_be_in_use(pool: Directories) -> bool:
    """What `is_in_use` said; it is asked for each claim, but before it only for the first."""
    if pool.available in _looked_at:
        return pool.available in _in_use
    _looked_at.add(pool.available)
    return is_in_use(pool)


def prepare(pool: Directories) -> None:
    """To be called before a task with keys is published: those who claim it will look for them."""
    os.makedirs(_directory(pool), exist_ok=True)


def holder_of(pool: Directories, key: str) -> str | None:
    """The file name of the claim that holds a key; None if it is free."""
    try:
        with open(_key_file(pool, key), "rb") as file:
            return _standing(pool, file.read(_RECORD_BYTES))
    except FileNotFoundError:
        return None


def forget_free_keys(pool: Directories) -> None:
    """Remove the files of keys that nobody holds."""
    try:
        names = os.listdir(_directory(pool))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(_directory(pool), name)
        descriptor = _flocked(path) if name.endswith(_KEY_SUFFIX) else None
        if descriptor is None:
            continue
        try:
            if _standing(pool, os.pread(descriptor, _RECORD_BYTES, 0)) is None:
                os.unlink(path)  # who waits for it will see that it has gone
        finally:
            _let_go(descriptor)


@contextlib.contextmanager
def alone(pool: Directories, agent_id: object) -> Iterator[None]:
    """Keep other processes and threads of this agent out, for as long as it takes to claim."""
    prepare(pool)
    path = b"%b/%b%b" % (_directory(pool), _digest(f"{agent_id}"), _AGENT_SUFFIX)
    descriptor = next(found for _ in turns(None) if (found := _flocked(path)) is not None)
    try:
        yield
    finally:
        _let_go(descriptor)


@contextlib.contextmanager
def _held(
    pool: Directories,
    keys: Set[str],
    task_id: object,
    agent_id: object,
    timeout_s: float | None,
) -> Iterator[None]:
    """Hold keys for a claim that is made inside: steps 1 to 3, and 5."""
    claim_name = os.fsdecode(os.path.basename(pool.claimed_file(task_id, agent_id)))
    prepare(pool)
    held: list[tuple[str, int]] = []
    try:
        for key in sorted(keys):
            held.append((key, _flock(pool, key, task_id, timeout_s)))
            _check_is_free(pool, key, held[-1][1], claim_name, task_id)
        for key, descriptor in held:
            _write_name(pool, key, descriptor, claim_name)
        yield
    finally:
        for _, descriptor in held:
            _let_go(descriptor)


def _flock(pool: Directories, key: str, task_id: object, timeout_s: float | None) -> int:
    path = _key_file(pool, key)
    for _ in turns(timeout_s):
        descriptor = _flocked(path)
        if descriptor is not None:
            return descriptor
    raise LockTimeout(
        f"task {task_id!r}: the key {key!r} was in the middle of others' claims for {timeout_s} s",
        task_id,
    )


def _flocked(path: bytes) -> int | None:
    """A descriptor of the file, made if need be, with its flock; None if somebody has that."""
    for _ in range(_VERIFY_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            _let_go(descriptor)
            raise
        _let_go(descriptor)  # `forget_free_keys` unlinked it between our open and our flock
    return None


def _is_named(path: bytes, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _let_go(descriptor: int) -> None:
    """Unlock, then close: a child forked meanwhile has a copy, and the flock with it."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _check_is_free(
    pool: Directories, key: str, descriptor: int, claim_name: str, task_id: object
) -> None:
    holder = _standing(pool, os.pread(descriptor, _RECORD_BYTES, 0))
    # Our own name: an earlier claim of this task by this agent, which the new one replaces.
    if holder is not None and holder != claim_name:
        error = KeyHeld(f"task {task_id!r} needs the key {key!r}, which {holder} holds", task_id)
        error.claim_name = holder
        raise error


def _standing(pool: Directories, record: bytes) -> str | None:
    """The claim that a key's file names, if it stands."""
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
        _sync_directory(_directory(pool))


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claimed_keys(
    pool: Directories, task_id: object, agent_id: object, document: bytes | None
) -> set[str]:
    """The keys in what was claimed."""
    if document is None:
        return keys_of(_read(pool.claimed_file(task_id, agent_id)) or {}, task_id)
    # Most tasks have none, and need no parsing to say so.
    return keys_of(loads(document), task_id) if FIELD.encode() in document else set()


def _read(path: bytes) -> Task | None:
    try:
        return read_task(path)
    except (FileNotFoundError, InvalidTask):
        return None  # the claim says what there is to say


def _directory(pool: Directories) -> bytes:
    return pool.available[: -len(layout.AVAILABLE)] + DIRECTORY


def _key_file(pool: Directories, key: str) -> bytes:
    return b"%b/%b%b" % (_directory(pool), _digest(key), _KEY_SUFFIX)


def _digest(text: str) -> bytes:
    import hashlib  # few tasks have keys, and OpenSSL takes long to load

    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32].encode()
