"""Move: the one rename that decides who wins, and its way back."""

from libc.errno cimport errno

from . cimport posix
from .outcome cimport BUSY, CHANGED, COLLISION, DONE, LOST, STALE
from .step cimport Step, fail, find, is_named, rename_new, rename_over


cdef inline int rename_to(
    Step *step, const char *source, const char *target, bint replace
) noexcept nogil:
    """DONE, LOST, COLLISION or FAILED."""
    cdef int failed = (rename_over(step, source, target) if replace
                       else rename_new(step, source, target))
    if failed == 0:
        return DONE
    if errno == posix.ENOENT:
        return LOST
    if errno == posix.EEXIST:
        return COLLISION
    return fail(step, source)


cdef inline int check_vacant(Step *step, const char *target) noexcept nogil:
    """DONE, COLLISION or FAILED."""
    cdef posix.stat_result found
    if find(step, target, &found) == 0:
        return COLLISION
    return DONE if errno == posix.ENOENT else fail(step, target)


cdef inline void move_back(Step *step, const char *claimed) noexcept nogil:
    """Undo the move without writing a byte; what stands in our place by now, stays."""
    if is_named(step, claimed, &step.task_status):
        rename_new(step, claimed, step.path)


cdef inline int move(Step *step, const char *target, bint replace) noexcept nogil:
    """The arbiter: one claimer gets DONE, the others LOST."""
    cdef posix.stat_result moved
    cdef bint found
    cdef int outcome = rename_to(step, step.path, target, replace)
    if outcome != DONE:
        return outcome
    found = posix.lstat(target, &moved) == 0
    if not found and errno != posix.ENOENT:
        return fail(step, target)
    if found and posix.same_inode(&moved, &step.task_status):
        if (moved.st_size == step.task_status.st_size
                and posix.mtime_ns_of(&moved) == posix.mtime_ns_of(&step.task_status)):
            return DONE
        return CHANGED
    if is_named(step, target, &step.task_status):
        move_back(step, target)
        return STALE
    return CHANGED if found else BUSY
