"""From claimed to wherever the task is to go: stamp, then move."""

from __future__ import annotations

import contextlib
import os
import time

from ..document import (
    CLAIM_FIELDS_START,
    ENFORCED,
    SECTOR_BYTES,
    STATE_CLAIMED,
    TIME,
    Sector,
    append_member,
    timestamp,
    write_sector,
)
from ..named_tuple import NamedTuple
from ..outcome import BUSY, COLLISION, DONE, UNPROVEN
from .hold import read_held
from .move import rename_to
from .replace import exchange, prepare, undo_exchange
from .stamp import proven_sector, put_stamp, undo_stamp
from .step import Destination, Step, errors_of, find, is_named, rename_new, sync_directories


class Ending(NamedTuple):
    """What a finish writes: see `_transition_py.finish`."""

    expected: bytes
    status: bytes
    fields: bytes | None
    result: bytes
    temporary: bytes


def finished_state(sector: Sector | None, ending: Ending) -> bytes | None:
    """None if it is not the state of a claim that contains what is expected."""
    if sector is None:
        return None
    enforcement, claimed, claim_fields = sector.state.partition(STATE_CLAIMED)
    kept, claim_start, _ = claim_fields.partition(CLAIM_FIELDS_START)
    if not claimed or ending.expected not in claim_fields or not claim_start:
        return None
    if ending.fields is None:
        return b"}" * (sector.flags & ENFORCED) + ending.status + kept
    fields = ending.fields.replace(TIME, timestamp(time.time_ns()))
    return enforcement + ending.status + claim_fields + fields


def undo_finish(step: Step, target: bytes, finished: int) -> None:
    """Undo the move of the inode that the descriptor `finished` has open."""
    with contextlib.suppress(OSError):
        if is_named(step, target, os.fstat(finished)):
            rename_new(step, target, step.path)


def finish_move(step: Step, to: Destination) -> int:
    """Move what is stamped; whoever stamped it undoes this, too."""
    outcome = rename_to(step, step.path, to.path, to.replace)
    if outcome == DONE:
        sync_directories(to)
    return outcome


def finish_prepared(step: Step, to: Destination) -> int:
    """Replace the claim by what was prepared, then move it."""
    with errors_of(step, step.path):
        if not to.replace and find(step, to.path) is not None:
            return COLLISION
        outcome = BUSY
        try:
            outcome = exchange(step, step.path)
            if outcome == DONE:
                outcome = finish_move(step, to)
        except BaseException:
            undo_finish(step, to.path, step.open["replacement"])
            undo_exchange(step, step.path)
            raise
        if outcome != DONE:
            undo_exchange(step, step.path)
    return outcome


def finish_in_place(step: Step, raw: bytes, stamp: bytes, to: Destination) -> int:
    if not to.replace and find(step, to.path) is not None:
        return COLLISION
    mtime_ns = step.status.st_mtime_ns
    try:
        put_stamp(step, stamp, mtime_ns, to.sync)
        outcome = finish_move(step, to)
    except BaseException:
        undo_finish(step, to.path, step.open["task"])
        undo_stamp(step, raw, mtime_ns)
        raise
    if outcome != DONE:
        undo_stamp(step, raw, mtime_ns)
    return outcome


def finish_held(step: Step, ending: Ending, to: Destination) -> int:
    """Stamp and move what is held, if it is proven and contains what is expected."""
    raw = read_held(step, SECTOR_BYTES)
    sector = proven_sector(step, raw)
    state = finished_state(sector, ending)
    if sector is None or state is None:
        return UNPROVEN
    stamp = write_sector(sector, sector.size_bytes, state + ending.result)
    if stamp is not None:
        return finish_in_place(step, raw, stamp, to)
    content = append_member(sector, read_held(step), state, ending.result)
    if content is None:
        return UNPROVEN
    prepare(step, ending.temporary, content, sector.mtime_ns, to.sync)
    return finish_prepared(step, to)
