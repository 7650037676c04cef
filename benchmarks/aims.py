"""The speed that fastclaim is to have, held against one comparison's figures.

Each aim is a ratio, so that it can be asked on any machine. What was not measured is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Results = list[dict[str, Any]]

OURS, BARE = "fastclaim", "fastclaim, no lock files"
MANY = "fastclaim, no lock files, any order, 64 at once"
ORIGINAL, SQLITE, SQLITE_FULL = "original", "sqlite3 WAL, NORMAL", "sqlite3 WAL, FULL"
POSTGRES, REDIS = "PostgreSQL SKIP LOCKED", "Redis, always"
FLUSH, STAT = "floor: pwrite + fdatasync", "floor: stat"
RENAMED_FLUSH = "floor: rename + pwrite + fdatasync"
BY_ID, LARGE, USUAL = "claim by id", "1,000,000 B", "600 B"


class Figure(NamedTuple):
    """One cell of the tables."""

    peer: str
    workload: str
    figure: str


class Aim(NamedTuple):
    """`first` divided by `second`, which is to be at least, or at most, `bound`."""

    what: str
    memory: bool  # on a tmpfs, else on a disk
    first: Figure
    second: Figure
    bound: float
    at_least: bool = True


def _one(peer: str, figure: str) -> Figure:
    return Figure(peer, "one process", figure)


def _times_faster(what: str, memory: bool, ours: Figure, theirs: Figure, bound: float) -> Aim:
    return Aim(what, memory, theirs, ours, bound)


def _at_most(what: str, memory: bool, ours: Figure, theirs: Figure, bound: float) -> Aim:
    return Aim(what, memory, ours, theirs, bound, at_least=False)


def _drain(peer: str, how: str, workers: int) -> Figure:
    return Figure(peer, f"processes, {how}", str(workers))


def _eight(what: str, ours: str, theirs: str, how: str) -> Aim:
    return Aim(
        f"8 processes, {what}, {how}, against {theirs}",
        False,
        _drain(ours, how, 8),
        _drain(theirs, how, 8),
        1.0,
    )


_LAST = "until the last loser knows"
AIMS = (
    _times_faster("claim by id", True, _one(OURS, BY_ID), _one(ORIGINAL, BY_ID), 5),
    _times_faster(
        "claim by id without lock files", True, _one(BARE, BY_ID), _one(ORIGINAL, BY_ID), 9
    ),
    _times_faster(
        "claim by id without lock files, against sqlite3 WAL",
        True,
        _one(BARE, BY_ID),
        _one(SQLITE, BY_ID),
        1,
    ),
    _times_faster("claim by id", False, _one(OURS, BY_ID), _one(ORIGINAL, BY_ID), 4),
    _at_most(
        "claim by id without lock files, against the flush",
        False,
        _one(BARE, BY_ID),
        _one(FLUSH, BY_ID),
        1.4,
    ),
    # What a file that has just been renamed makes of the same flush; see docs/performance.md.
    _at_most(
        "... against the flush after a rename",
        False,
        _one(BARE, BY_ID),
        _one(RENAMED_FLUSH, BY_ID),
        1.4,
    ),
    _times_faster(
        "claim by id, against sqlite3 FULL", False, _one(OURS, BY_ID), _one(SQLITE_FULL, BY_ID), 1
    ),
    _eight("durable", BARE, SQLITE_FULL, "next"),
    _eight("durable", BARE, POSTGRES, "next"),
    _eight("durable", BARE, SQLITE_FULL, "by id"),
    _eight("durable", BARE, POSTGRES, "by id"),
    _eight("64 at once here and one at a time there", MANY, REDIS, "next"),
    Aim(
        "8 threads, against 1",
        True,
        Figure(BARE, "threads, by id", "8"),
        Figure(BARE, "threads, by id", "1"),
        1.5,
    ),
    _times_faster("miss", True, _one(OURS, "miss"), _one(ORIGINAL, "miss"), 4),
    _times_faster("miss", False, _one(OURS, "miss"), _one(ORIGINAL, "miss"), 4),
    _at_most(
        "32 processes race for one task, against 32 stat calls",
        True,
        Figure(OURS, "race", _LAST),
        Figure(STAT, "race", _LAST),
        1.5,
    ),
    _times_faster("complete", True, _one(OURS, "complete"), _one(ORIGINAL, "complete"), 3),
    _at_most(
        "claim of a 1 MB task, against 600 B",
        True,
        Figure(OURS, "task sizes: claim by id", LARGE),
        Figure(OURS, "task sizes: claim by id", USUAL),
        1.5,
    ),
    _at_most(
        "complete of a 1 MB task, against 600 B",
        True,
        Figure(OURS, "task sizes: complete", LARGE),
        Figure(OURS, "task sizes: complete", USUAL),
        2,
    ),
)


def table(results: Results, places: list[dict[str, Any]]) -> Iterator[str]:
    """The aims that the figures can answer, line by line."""
    yield "| aim | where | at least / at most | measured | |"
    yield "|---|---|---:|---:|---|"
    for place in places:
        found = {
            (one["peer"], one["workload"], one["figure"]): one["median"]
            for one in results
            if one["place"] == place["name"]
        }
        for aim in AIMS:
            first, second = found.get(aim.first), found.get(aim.second)
            if aim.memory is place["is_memory"] and first is not None and second is not None:
                yield _row(aim, place["name"], first / second)
        if not place["is_memory"]:
            yield from _completion(found, place["name"])


def _row(aim: Aim, place: str, ratio: float) -> str:
    bound = f"{'≥' if aim.at_least else '≤'} {aim.bound:g} x"
    is_met = ratio >= aim.bound if aim.at_least else ratio <= aim.bound
    return f"| {aim.what} | {place} | {bound} | {ratio:.2f} x | {_verdict(is_met)} |"


def _completion(found: dict[Any, float], place: str) -> Iterator[str]:
    """The one aim that is no ratio: the original does not sync what it completes."""
    wanted = (_one(OURS, "complete"), _one(ORIGINAL, "complete"), _one(FLUSH, BY_ID))
    ours, theirs, flush = (found.get(figure) for figure in wanted)
    if ours is not None and theirs is not None and flush is not None:
        limit = theirs + flush
        yield (
            f"| complete, against the original's unsynced one and a flush | {place} |"
            f" ≤ {limit:.0f} µs | {ours:.0f} µs | {_verdict(ours <= limit)} |"
        )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "**not met**"
