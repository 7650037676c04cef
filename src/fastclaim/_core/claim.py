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
from ..tasks_directory import TasksDirectory
from . import posix
from .hold import hold_unverified, read_held, verify
from .move import move, move_back
from .replace import exchange, undo_exchange
from .stamp import proven_sector, put_stamp, undo_stamp
from .step import Destination, Step, errors_of, sync_directories

# A change that comes so soon after another may leave a directory with the same time.
_TICK_NS: Final = 3_000_000_000


class Demand(NamedTuple):
    """What a claim asks for and writes: see `_transition_py.claim`."""

    enforcement: bytes
    fields: bytes
    capabilities: bytes | None


def is_paused(tasks: TasksDirectory) -> bool:
    """Whether there is a file `paused`; looked for only if `tasks/` has changed since last time."""
    changed_ns = os.fstat(tasks.descriptor).st_mtime_ns
    if changed_ns == tasks.unpaused_mtime_ns:
        return False
    if posix.lstat(b"paused", tasks.descriptor) is not None:
        return True
    if time.time_ns() - changed_ns > _TICK_NS:
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
    state = (enforcement + STATE_CLAIMED + kept + demand.fields).replace(
        TIME, timestamp(time.time_ns())
    )
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
    outcome = hold_unverified(step)
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
