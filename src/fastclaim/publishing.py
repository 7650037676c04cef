"""From a caller's dict to a waiting task."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from itertools import islice

from . import exclusive, outcome
from .checking import check_task, checked
from .descriptors import MOST_TOGETHER, sync_directory
from .directories import Directories
from .document import ENFORCEMENT, MANAGED_FIELDS, dumps_payload, lay_out
from .errors import InvalidTask, TaskExists
from .listing import is_seen_at_once, known_among, known_ids
from .stamps import published_fields
from .terms import terms_of
from .uniqueness import PublishLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
    from typing import Any, Final

IF_EXISTS: Final = ("error", "replace", "ignore")
# How often the directory may vanish between being made and being written to.
_WRITE_TRIES: Final = 8


class Publication:
    """A task ready to be written: everything that could refuse it has been asked.

    Parameters
    ----------
    pool : Directories
        Where.
    task : Mapping
        The task; `task_id` names it. Fields that the pool itself manages (`status`, `claimed_by`,
        ...) are taken as those of a waiting task.

    Raises
    ------
    InvalidTask
        Not JSON-serialisable.
    InvalidName
        The id cannot be part of a file name.
    """

    @classmethod
    def completable(cls, pool: Directories, task: Mapping[str, Any]) -> Publication:
        """One that can be completed too, for which the file name is longer."""
        publication = cls(pool, task)
        pool.completed_file(publication.task_id)
        return publication

    def __init__(self, pool: Directories, task: Mapping[str, Any]) -> None:
        self.task_id = task["task_id"]
        self.target = pool.available_file(self.task_id)
        self.mtime_ns = time.time_ns()
        self._pool = pool
        fields = dict(task)
        exclusive.keys_of(fields, self.task_id)
        if not isinstance(fields.get(ENFORCEMENT, {}), dict):
            raise InvalidTask(f"task {self.task_id!r}: {ENFORCEMENT} is not a dict", self.task_id)
        try:
            terms = terms_of(fields, self.mtime_ns)
            managed = published_fields(fields)
            for name in MANAGED_FIELDS.intersection(fields):
                del fields[name]
            self.content = lay_out(managed, dumps_payload(fields), self.mtime_ns, terms)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidTask(
                f"task {self.task_id!r} is not JSON-serialisable: {error}", self.task_id
            ) from error

    def write(self, must_be_new: bool) -> bool:
        """Publish it, over what stands there; False if it must be new and the pool knows its id.

        Raises
        ------
        OSError
            Nothing new is there.
        """
        for _ in range(_WRITE_TRIES):
            came_to = self._try_new() if must_be_new else self._try_over()
            if came_to != outcome.LOST:
                return came_to == outcome.DONE
            self._pool.make()
        raise FileNotFoundError(
            errno.ENOENT, "its directory vanishes as often as it is made", os.fsdecode(self.target)
        )

    def _try_over(self) -> int:
        pool = self._pool
        came_to: int = pool.core.publish(
            self._temporary(),
            self.target,
            pool.publish_directories,
            self.content,
            self.mtime_ns,
            pool.sync,
        )
        return came_to

    def _try_new(self) -> int:
        came_to, prepared = self.prepare(self._pool.sync)
        if prepared is None:
            return came_to
        with prepared:
            ((_, came_to),) = _publish_together(
                self._pool, [(self, prepared)], must_be_new=True, stops=True
            )
        return came_to

    def prepare(self, sync: int) -> tuple[int, Any]:
        """Write it under no task's name: what a core's `prepare_new` returns."""
        found: tuple[int, Any] = self._pool.core.prepare_new(
            self._temporary(), self.target, self.content, self.mtime_ns, sync
        )
        return found

    def _temporary(self) -> bytes:
        """Not in available/: who waits for tasks would wake for what is written there."""
        return self._pool.temporary_file(self._pool.claimed)


def _publish_together(
    pool: Directories,
    written: Sequence[tuple[Publication, Any]],
    *,
    must_be_new: bool,
    stops: bool,
) -> list[tuple[Publication, int]]:
    """Give each its name: DONE, LOST, or COLLISION, after which come no more if it `stops`."""
    if not must_be_new:
        return _give_names(pool, written, set(), replace=True, stops=stops)
    try:
        lock = PublishLock(pool)
    except FileNotFoundError:
        return [(publication, outcome.LOST) for publication, _ in written]
    with lock:
        known = known_among(pool, {f"{publication.task_id}" for publication, _ in written})
        return _give_names(pool, written, known, replace=False, stops=stops)


def _give_names(
    pool: Directories,
    written: Sequence[tuple[Publication, Any]],
    known: Set[str],
    *,
    replace: bool,
    stops: bool,
) -> list[tuple[Publication, int]]:
    came_to: list[tuple[Publication, int]] = []
    for publication, prepared in written:
        if f"{publication.task_id}" in known:
            result = outcome.COLLISION
        elif prepared is None:
            result = outcome.LOST
        else:
            # The directory, with the names of all, is synced after the last.
            is_last = prepared is written[-1][1]
            sync = pool.sync if is_last else min(pool.sync, outcome.SYNC_DATA)
            with prepared:
                result = prepared.publish(pool.publish_directories, sync, replace)
        came_to.append((publication, result))
        if stops and result == outcome.COLLISION:
            break
    return came_to


def publish(pool: Directories, task: Mapping[str, Any], if_exists: str) -> bool:
    """Publish one task.

    Parameters
    ----------
    if_exists : str
        "error", "ignore" or "replace": what to do if the pool knows a task of this id, in whatever
        state. "replace" publishes in any case, like the original.

    Returns
    -------
    bool
        False if it was ignored.

    Raises
    ------
    TaskExists, InvalidTask, InvalidName, OSError
        Nothing new is there.
    """
    check_if_exists(if_exists)
    check_task(task)
    publication = Publication.completable(pool, task)
    if if_exists == "replace":
        return publication.write(must_be_new=False)
    # Who publishes the same tasks again and again need not write what is known already.
    is_seen = if_exists == "ignore" and is_seen_at_once(pool, publication.task_id)
    if not is_seen and publication.write(must_be_new=True):
        return True
    if if_exists == "error":
        raise TaskExists(f"task {publication.task_id!r} exists already", publication.task_id)
    return False


def check_if_exists(if_exists: str) -> None:
    """Raise ValueError unless `if_exists` is one of `IF_EXISTS`."""
    if if_exists not in IF_EXISTS:
        raise ValueError(f"if_exists {if_exists!r} is none of {', '.join(IF_EXISTS)}")


def publish_many(pool: Directories, tasks: Iterable[Mapping[str, Any]], if_exists: str) -> int:
    """Publish many tasks, each asked everything before the first is written.

    Returns
    -------
    int
        How many were published.

    Raises
    ------
    TaskExists, InvalidTask, InvalidName, OSError
        See `fastclaim.TaskPool.publish_many`.
    """
    check_if_exists(if_exists)
    publications: dict[bytes, Publication] = {}
    known = set() if if_exists == "replace" else known_ids(pool)
    for task in checked(tasks):
        publication = Publication.completable(pool, task)
        if publication.target in publications:
            raise TaskExists(f"task {publication.task_id!r} comes twice", publication.task_id)
        if f"{publication.task_id}" not in known:
            publications[publication.target] = publication
        elif if_exists == "error":
            raise TaskExists(f"task {publication.task_id!r} exists already", publication.task_id)
    published = 0
    for publication, is_new in _written(pool, publications.values(), if_exists):
        if is_new:
            published += 1
        elif if_exists == "error":
            raise TaskExists(f"task {publication.task_id!r} exists already", publication.task_id)
    return published


def _written(
    pool: Directories, publications: Iterable[Publication], if_exists: str
) -> Iterator[tuple[Publication, bool]]:
    """Publish them, in their order; each with what `Publication.write` returns for it."""
    must_be_new = if_exists != "replace"
    remaining = iter(publications)
    while piece := list(islice(remaining, MOST_TOGETHER)):
        with ExitStack() as stack:
            written = list(zip(piece, _prepared(pool, piece, stack), strict=True))
            came_to = _publish_together(
                pool, written, must_be_new=must_be_new, stops=if_exists == "error"
            )
            if pool.sync >= outcome.SYNC_FULL and came_to[-1][1] == outcome.COLLISION:
                for directory in pool.publish_directories:
                    sync_directory(directory)
        for publication, result in came_to:
            if result == outcome.LOST:
                yield publication, publication.write(must_be_new)
            else:
                yield publication, result == outcome.DONE


def _prepared(
    pool: Directories, publications: Sequence[Publication], stack: ExitStack
) -> list[Any]:
    """Their documents under no task's name yet, on disk by one flush; None: the directory went."""
    prepared = []
    for publication in publications:
        _, held = publication.prepare(outcome.SYNC_NONE)
        prepared.append(None if held is None else stack.enter_context(held))
    if pool.sync >= outcome.SYNC_DATA:
        from .batches import put_new_on_disk  # who syncs nothing has no use for ctypes

        put_new_on_disk(pool, [held for held in prepared if held is not None])
    return prepared
