"""From available to claimed: move, then stamp."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy

from . cimport posix
from .hold cimport close_all, hold_unverified, verify
from .mark cimport ENFORCED, GUARDED, MARK_START, MARK_START_BYTES, Sector, Text, admits
from .move cimport move, move_back
from .outcome cimport BUSY, DONE, FAILED, STALE, UNJUDGED, UNPROVEN
from .replace cimport exchange, undo_exchange
from .sector cimport (
    SECTOR_BYTES,
    STATE_CLAIMED,
    STATE_CLAIMED_BYTES,
    TOKEN_MEMBER,
    TOKEN_MEMBER_BYTES,
    append,
    append_mark,
    append_timed,
    pad,
    waiting_state,
)
from .stamp cimport proven_sector, put_stamp, undo_stamp
from .step cimport Destination, Step, fail, sync_directories

cdef enum:
    SMALL_BYTES = 4096  # documents up to here are read without an allocation
    TURNS = 8  # what others do with a task mostly is over, and the task gone, by then


# What a claim asks for and writes: see `_transition_py.claim`.
cdef struct Demand:
    Text enforcement
    Text fields
    Text token
    Text capabilities  # NULL: none are asked for


cdef struct Content:
    bint whole  # is wanted
    char *raw  # `small`, or to be freed
    Py_ssize_t count
    char small[SMALL_BYTES]


cdef inline bint is_settled(const Step *step, int64_t changed_ns, int64_t now_ns) noexcept nogil:
    """Whether a change of `tasks/` from now on gives it another time than that."""
    # It is the kernel's last tick's, cut to what the file system can write: ours by less than a
    # millisecond, FAT's by two seconds; or another machine's, whose clock may differ.
    cdef int64_t cut_by_ns = 1000000
    if changed_ns % cut_by_ns == 0 or not posix.has_kernels_clock(step.at):
        cut_by_ns = 3000000000
    return now_ns - changed_ns > cut_by_ns


cdef inline bint is_paused(const Step *step, int64_t *unpaused_mtime_ns) noexcept nogil:
    """Whether there is a file `paused`; looked for only if `tasks/` has changed since last time."""
    cdef posix.stat_result status, found
    cdef int64_t changed_ns, now_ns
    if posix.fstat(step.at, &status) != 0:
        return True
    changed_ns = posix.mtime_ns_of(&status)
    if changed_ns == unpaused_mtime_ns[0]:
        return False
    now_ns = posix.file_clock_ns()  # before the look: what is made after it, is made from now on
    if (posix.fstatat(step.at, b"paused", &found, posix.AT_SYMLINK_NOFOLLOW) == 0
            or errno != posix.ENOENT):
        return True
    if is_settled(step, changed_ns, now_ns):
        unpaused_mtime_ns[0] = changed_ns
    return False


cdef inline bint has_to_be_seen_to(
    const Step *step, bint heed_pause, int64_t *unpaused_mtime_ns, int owner
) noexcept nogil:
    """Whether the pool is paused, or our owner file has gone, or it cannot be told."""
    cdef posix.stat_result status
    if heed_pause and is_paused(step, unpaused_mtime_ns):
        return True
    return owner >= 0 and (posix.fstat(owner, &status) != 0 or status.st_nlink == 0)


cdef inline int hold_patiently(Step *step, int turns) noexcept nogil:
    """As `hold_unverified`; BUSY only if others have the task after some microseconds, too."""
    cdef int turn, outcome = hold_unverified(step)
    for turn in range(1, turns):
        if outcome != BUSY:
            break
        posix.sched_yield()
        outcome = hold_unverified(step)
    return outcome


cdef inline int read_content(Step *step, Content *content) noexcept nogil:
    """DONE or FAILED."""
    cdef Py_ssize_t wanted = SECTOR_BYTES
    if content.whole and step.task_status.st_size > SECTOR_BYTES:
        wanted = step.task_status.st_size
    if wanted > SMALL_BYTES:
        # What lies there may be a hole of a terabyte: only a document of ours is read whole.
        content.count = posix.read_all(step.task, content.raw, SECTOR_BYTES)
        if content.count < 0:
            return fail(step, step.path)
        if (content.count < SECTOR_BYTES
                or memcmp(content.raw, MARK_START, MARK_START_BYTES) != 0):
            return DONE
        content.raw = <char *>malloc(wanted)
        if content.raw == NULL:
            content.raw = content.small
            posix.set_errno(posix.ENOMEM)
            return fail(step, step.path)
    content.count = posix.read_all(step.task, content.raw, wanted)
    return DONE if content.count >= 0 else fail(step, step.path)


cdef inline bint claim_stamp(
    char *stamp, const char *raw, const Sector *sector, const Demand *demand
) noexcept nogil:
    """False if the claim needs more of a judgement than this."""
    cdef char now_text[posix.TIMESTAMP_BYTES]
    cdef Text now
    cdef int at, kept_at
    if sector.flags & GUARDED:
        return False
    if demand.capabilities.at != NULL and not admits(raw, sector, demand.capabilities):
        return False
    kept_at = waiting_state(raw, sector)
    if kept_at < 0:
        return False
    now.at, now.size_bytes = now_text, posix.timestamp(now_text)
    at = append_mark(stamp, raw, sector, sector.size_bytes)
    if sector.flags & ENFORCED:
        at = append_timed(stamp, at, demand.enforcement, now)
        at = append(stamp, at, b"}", 1)
    at = append(stamp, at, STATE_CLAIMED, STATE_CLAIMED_BYTES)
    at = append(stamp, at, raw + kept_at, sector.state_end - kept_at)
    at = append_timed(stamp, at, demand.fields, now)
    at = append(stamp, at, TOKEN_MEMBER, TOKEN_MEMBER_BYTES)
    at = append(stamp, at, demand.token.at, demand.token.size_bytes)
    return pad(stamp, append(stamp, at, b'"', 1))


cdef inline int claim_proven(
    Step *step, char *raw, const char *stamp, uint64_t mtime_ns, const Destination *to
) noexcept nogil:
    """Move and stamp what is held and proven; the stamp stands in `raw` afterwards."""
    cdef int outcome = move(step, to.path, to.replace)
    if outcome == DONE:
        outcome = put_stamp(step, stamp, mtime_ns, to.sync)
        if outcome == DONE:
            outcome = sync_directories(step, to)
        if outcome != DONE:
            undo_stamp(step, raw, mtime_ns)
    if outcome == FAILED:
        move_back(step, to.path)
    if outcome == DONE:
        memcpy(raw, stamp, SECTOR_BYTES)
    return outcome


cdef inline int claim_held(
    Step *step, bint heed_pause, int64_t *unpaused_mtime_ns, int owner, const Destination *to,
    const Demand *demand, Content *content
) noexcept nogil:
    """The whole try, from the hold on; all but UNPROVEN hold nothing."""
    cdef char stamp[SECTOR_BYTES]
    cdef Sector sector
    # Who chooses has others to try.
    cdef int outcome = hold_patiently(step, TURNS if demand.capabilities.at == NULL else 1)
    if outcome != DONE:
        return outcome
    if has_to_be_seen_to(step, heed_pause, unpaused_mtime_ns, owner):
        outcome = STALE
    else:
        outcome = read_content(step, content)
    if outcome == DONE:
        if (proven_sector(step, content.raw, content.count, &sector)
                and claim_stamp(stamp, content.raw, &sector, demand)):
            outcome = claim_proven(step, content.raw, stamp, sector.mtime_ns, to)
        elif demand.capabilities.at != NULL:
            outcome = UNJUDGED
        else:
            outcome = verify(step)
            return UNPROVEN if outcome == DONE else outcome
    close_all(step)
    return outcome


cdef inline int claim_prepared(Step *step, const Destination *to) noexcept nogil:
    """Move the task, then replace it by what was prepared."""
    cdef int outcome = move(step, to.path, to.replace)
    if outcome == DONE:
        outcome = exchange(step, to.path)
        if outcome == DONE:
            outcome = sync_directories(step, to)
        if outcome != DONE:
            undo_exchange(step, to.path)
            move_back(step, to.path)
    elif outcome == FAILED:
        move_back(step, to.path)
    return outcome
