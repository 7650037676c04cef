"""From a prepared document to a waiting task."""

from . cimport posix
from .move cimport check_vacant, rename_to
from .outcome cimport BUSY, COLLISION, DONE, FAILED, LOST, SYNC_FULL
from .replace cimport exchange
from .step cimport Destination, Step, exchange_names, is_named, remove, sync_directories


cdef inline void undo_publish(Step *step, const char *target, bint exchanged) noexcept nogil:
    cdef posix.stat_result status
    # Nobody of ours can have claimed it: we hold it.
    if posix.fstat(step.replacement, &status) == 0 and is_named(step, target, &status):
        if exchanged:
            exchange_names(step, step.temporary, target)
        else:
            remove(step, target)


cdef inline int publish_prepared(Step *step, const Destination *to) noexcept nogil:
    """DONE, COLLISION, LOST (no directory, or somebody else was faster) or FAILED."""
    cdef bint exchanged = False
    cdef int outcome
    # Only where something can fail after the rename does the old one have to be kept for it.
    if to.replace and to.sync >= SYNC_FULL:
        outcome = check_vacant(step, to.path)
        if outcome == FAILED:
            return FAILED
        exchanged = outcome == COLLISION
    if exchanged:
        outcome = exchange(step, to.path)
    else:
        outcome = rename_to(step, step.temporary, to.path, to.replace and to.sync < SYNC_FULL)
        if outcome == COLLISION and to.replace:
            outcome = LOST  # somebody published it meanwhile
        if outcome == DONE:
            step.temporary = NULL
    if outcome == DONE:
        outcome = sync_directories(step, to)
    if outcome == FAILED and (exchanged or not to.replace or to.sync >= SYNC_FULL):
        undo_publish(step, to.path, exchanged)
    return LOST if outcome == BUSY else outcome
