"""From available to claimed: move, then stamp."""

from __future__ import annotations

import os
import time
from typing import Final

from ..document import (
    ENFORCED,
    GUARDED,
    SECTOR_BYTES,
    STATE_CLAIMED,
    TIME,
    Sector,
    admits,
    timestamp,
    waiting_state,
    write_sector,
)
from ..named_tuple import NamedTuple
from ..outcome import BUSY, DONE, STALE, UNJUDGED, UNPROVEN
from ..stamps import token_member
from ..tasks_directory import TasksDirectory
from . import posix
from .hold import hold_unverified, read_held, verify
from .move import move, move_back
from .replace import exchange, undo_exchange
from .stamp import proven_sector, put_stamp, undo_stamp
from .step import Destination, Step, errors_of, let_go, sync_directories

_TURNS: Final = 8  # what others do with a task mostly is over, and the task gone, by then


class Demand(NamedTuple):
    """What a claim asks for and writes: see `_transition_py.claim`."""

    enforcement: bytes
    fields: bytes
    token: str
    capabilities: bytes | None


def is_settled(tasks: TasksDirectory, changed_ns: int, now_ns: int) -> bool:
    """Whether a change of `tasks/` from now on gives it another time than that."""
    # It is the kernel's last tick's, cut to what the file system can write: ours by less than a
    # millisecond, FAT's by two seconds; or another machine's, whose clock may differ.
    cut_by_ns = 1_000_000
    if changed_ns % cut_by_ns == 0 or not posix.has_kernels_clock(tasks.descriptor):
        cut_by_ns = 3_000_000_000
    return now_ns - changed_ns > cut_by_ns


def is_paused(tasks: TasksDirectory) -> bool:
    """Whether there is a file `paused`; looked for only if `tasks/` has changed since last time."""
    changed_ns = os.fstat(tasks.descriptor).st_mtime_ns
    if changed_ns == tasks.unpaused_mtime_ns:
        return False
    now_ns = posix.file_clock_ns()  # before the look: what is made after it, is made from now on
    if posix.lstat(b"paused", tasks.descriptor) is not None:
        return True
    if is_settled(tasks, changed_ns, now_ns):
        tasks.unpaused_mtime_ns = changed_ns
    return False


def has_to_be_seen_to(step: Step, heed_pause: bool, owner: int) -> bool:
    """Whether the pool is paused, or our owner file has gone, or it cannot be told."""
    try:
        if heed_pause and step.tasks is not None and is_paused(step.tasks):
            return True
        return owner >= 0 and os.fstat(owner).st_nlink == 0
    except OSError:
        return True


def hold_patiently(step: Step, turns: int) -> int:
    """As `hold_unverified`; BUSY only if others have the task after some microseconds, too."""
    outcome = hold_unverified(step)
    for _ in range(1, turns):
        if outcome != BUSY:
            break
        let_go(step, "task")
        os.sched_yield()
        outcome = hold_unverified(step)
    return outcome


def claim_stamp(sector: Sector | None, demand: Demand) -> bytes | None:
    """None if the claim needs more of a judgement than this."""
    if sector is None or sector.flags & GUARDED:
        return None
    if demand.capabilities is not None and not admits(sector, demand.capabilities):
        return None
    kept = waiting_state(sector)
    if kept is None:
        return None
    enforcement = (demand.enforcement + b"}") * (sector.flags & ENFORCED)
    state = enforcement + STATE_CLAIMED + kept + demand.fields + b"," + token_member(demand.token)
    state = state.replace(TIME, timestamp(time.time_ns()))
    return write_sector(sector, sector.size_bytes, state)


def claim_proven(
    step: Step, raw: bytes, stamp: bytes, mtime_ns: int, to: Destination
) -> tuple[int, bytes | None]:
    """Move and stamp what is held and proven."""
    try:
        outcome = move(step, to.path, to.replace)
        if outcome != DONE:
            return outcome, None
        put_stamp(step, stamp, mtime_ns, to.sync)
        sync_directories(to)
    except BaseException:
        undo_stamp(step, raw[:SECTOR_BYTES], mtime_ns)
        move_back(step, to.path)
        raise
    return DONE, stamp + raw[SECTOR_BYTES:]


def claim_held(
    step: Step, heed_pause: bool, owner: int, to: Destination, demand: Demand, whole: bool
) -> tuple[int, bytes | None]:
    """The whole try, from the hold on; what is claimed, all of it if `whole`."""
    # Who chooses has others to try.
    outcome = hold_patiently(step, _TURNS if demand.capabilities is None else 1)
    if outcome != DONE:
        return outcome, None
    if has_to_be_seen_to(step, heed_pause, owner):
        return STALE, None
    # What lies there may be a hole of a terabyte: only a document of ours is read whole.
    raw = read_held(step, SECTOR_BYTES)
    sector = proven_sector(step, raw)
    if sector is not None and whole:
        raw = read_held(step)
    stamp = claim_stamp(sector, demand)
    if sector is not None and stamp is not None:
        return claim_proven(step, raw, stamp, sector.mtime_ns, to)
    if demand.capabilities is not None:
        return UNJUDGED, None
    outcome = verify(step)
    return UNPROVEN if outcome == DONE else outcome, None


def claim_prepared(step: Step, to: Destination) -> int:
    """Move the task, then replace it by what was prepared."""
    with errors_of(step, to.path):
        try:
            outcome = move(step, to.path, to.replace)
            if outcome == DONE and exchange(step, to.path) == BUSY:
                move_back(step, to.path)
                return BUSY
            if outcome == DONE:
                sync_directories(to)
        except BaseException:
            undo_exchange(step, to.path)
            move_back(step, to.path)
            raise
    return outcome
