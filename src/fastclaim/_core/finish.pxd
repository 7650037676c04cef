"""From claimed to wherever the task is to go: stamp, then move."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from . cimport posix
from .mark cimport ENFORCED, Sector, Text
from .move cimport check_vacant, rename_to
from .outcome cimport DONE, FAILED, UNPROVEN
from .replace cimport exchange, prepare, undo_exchange
from .sector cimport (
    CLAIM_FIELDS_START,
    CLAIM_FIELDS_START_BYTES,
    SECTOR_BYTES,
    STATE_CLAIMED,
    STATE_CLAIMED_BYTES,
    append,
    append_mark,
    append_timed,
    pad,
)
from .stamp cimport proven_sector, put_stamp, undo_stamp
from .step cimport Destination, Step, fail, is_named, rename_new, sync_directories


# What a finish writes: see `_transition_py.finish`.
cdef struct Ending:
    Text expected
    Text status
    Text fields  # NULL: those of the claim go
    Text result
    const char *temporary


# The state of a claimed task, taken apart.
cdef struct ClaimedState:
    const char *start
    const char *claimed  # where its status stands
    const char *fields  # what follows it
    const char *kept_end  # where the claim's own begin
    const char *end


cdef inline const char *found_in(
    const char *start, const char *end, const char *wanted, Py_ssize_t wanted_bytes
) noexcept nogil:
    return <const char *>posix.memmem(start, end - start, wanted, wanted_bytes)


cdef inline bint read_claimed_state(
    const char *raw, const Sector *sector, Text expected, ClaimedState *state
) noexcept nogil:
    """Whether it is that of a claim that contains `expected`."""
    state.start = raw + sector.head_end
    state.end = raw + sector.state_end
    state.claimed = found_in(state.start, state.end, STATE_CLAIMED, STATE_CLAIMED_BYTES)
    if state.claimed == NULL:
        return False
    state.fields = state.claimed + STATE_CLAIMED_BYTES
    if found_in(state.fields, state.end, expected.at, expected.size_bytes) == NULL:
        return False
    state.kept_end = found_in(
        state.fields, state.end, CLAIM_FIELDS_START, CLAIM_FIELDS_START_BYTES)
    return state.kept_end != NULL


cdef inline int append_finished_state(
    char *stamp, int at, const Sector *sector, const ClaimedState *state, const Ending *ending,
    Text now
) noexcept nogil:
    cdef bint keep = ending.fields.at != NULL
    if keep:
        at = append(stamp, at, state.start, state.claimed - state.start)
    elif sector.flags & ENFORCED:
        at = append(stamp, at, b"}", 1)
    at = append(stamp, at, ending.status.at, ending.status.size_bytes)
    if keep:
        at = append(stamp, at, state.fields, state.end - state.fields)
        return append_timed(stamp, at, ending.fields, now)
    return append(stamp, at, state.fields, state.kept_end - state.fields)


cdef inline void undo_finish(Step *step, const char *target, int finished) noexcept nogil:
    """Undo the move of the inode that the descriptor `finished` has open."""
    cdef posix.stat_result status
    if posix.fstat(finished, &status) == 0 and is_named(step, target, &status):
        rename_new(step, target, step.path)


cdef inline int finish_move(Step *step, const Destination *to, int finished) noexcept nogil:
    """Move what is stamped; all but DONE have moved it back."""
    cdef int outcome = rename_to(step, step.path, to.path, to.replace)
    if outcome == DONE:
        outcome = sync_directories(step, to)
    if outcome == FAILED:
        # Also if it was the rename that failed: not every failure means that nothing was done.
        undo_finish(step, to.path, finished)
    return outcome


cdef inline int finish_prepared(Step *step, const Destination *to) noexcept nogil:
    """Replace the claim by what was prepared, then move it."""
    cdef int outcome = DONE if to.replace else check_vacant(step, to.path)
    if outcome != DONE:
        return outcome
    outcome = exchange(step, step.path)
    if outcome == DONE:
        outcome = finish_move(step, to, step.replacement)
    if outcome != DONE:
        undo_exchange(step, step.path)
    return outcome


cdef inline int finish_in_place(
    Step *step, const char *raw, const char *stamp, uint64_t mtime_ns, const Destination *to
) noexcept nogil:
    cdef int outcome = DONE if to.replace else check_vacant(step, to.path)
    if outcome != DONE:
        return outcome
    outcome = put_stamp(step, stamp, mtime_ns, to.sync)
    if outcome == DONE:
        outcome = finish_move(step, to, step.task)
    if outcome != DONE:
        undo_stamp(step, raw, mtime_ns)
    return outcome


cdef inline int finish_with_result(
    Step *step, const char *stamp, uint64_t mtime_ns, const Ending *ending, const Destination *to
) noexcept nogil:
    """Replace the claim by one with another sector and, at its end, the result; then move it."""
    cdef Py_ssize_t old_bytes = step.task_status.st_size, end_bytes = 2
    cdef Py_ssize_t kept_bytes = old_bytes - end_bytes
    cdef Text content, result = ending.result
    cdef int outcome
    cdef char *text = <char *>malloc(old_bytes + result.size_bytes)
    if text == NULL:
        posix.set_errno(posix.ENOMEM)
        return fail(step, step.path)
    if posix.read_all(step.task, text, old_bytes) != old_bytes:
        outcome = fail(step, step.path)
    else:
        memcpy(text, stamp, SECTOR_BYTES)
        memcpy(text + kept_bytes, result.at, result.size_bytes)
        memcpy(text + kept_bytes + result.size_bytes, b"}\n", end_bytes)
        content.at, content.size_bytes = text, old_bytes + result.size_bytes
        outcome = prepare(step, ending.temporary, content, <int64_t>mtime_ns, to.sync)
    free(text)
    return finish_prepared(step, to) if outcome == DONE else outcome


cdef inline int finish_held(Step *step, const Ending *ending, const Destination *to) noexcept nogil:
    """Stamp and move what is held, if it is proven and contains what is expected."""
    cdef char raw[SECTOR_BYTES]
    cdef char stamp[SECTOR_BYTES]
    cdef char now_text[posix.TIMESTAMP_BYTES]
    cdef Sector sector
    cdef ClaimedState state
    cdef Text now
    cdef int at
    cdef Py_ssize_t count = posix.read_all(step.task, raw, SECTOR_BYTES)
    if count < 0:
        return fail(step, step.path)
    if (not proven_sector(step, raw, count, &sector)
            or not read_claimed_state(raw, &sector, ending.expected, &state)):
        return UNPROVEN
    now.at, now.size_bytes = now_text, posix.timestamp(now_text)
    at = append_mark(stamp, raw, &sector, sector.size_bytes)
    at = append_finished_state(stamp, at, &sector, &state, ending, now)
    if pad(stamp, append(stamp, at, ending.result.at, ending.result.size_bytes)):
        return finish_in_place(step, raw, stamp, sector.mtime_ns, to)
    at = append_mark(stamp, raw, &sector, sector.size_bytes + ending.result.size_bytes)
    at = append_finished_state(stamp, at, &sector, &state, ending, now)
    if pad(stamp, at):
        return finish_with_result(step, stamp, sector.mtime_ns, ending, to)
    return UNPROVEN
