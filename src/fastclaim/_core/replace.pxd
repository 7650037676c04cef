"""Replace: what cannot be stamped in place changes places with a temporary file."""

from libc.errno cimport errno
from libc.stdint cimport int64_t

from . cimport posix
from .mark cimport Text
from .outcome cimport BUSY, DONE, FAILED, SYNC_DATA
from .step cimport Step, exchange_names, fail, is_named, name_of, remove, rename_over


cdef inline int prepare(
    Step *step, const char *temporary, Text content, int64_t mtime_ns, int sync
) noexcept nogil:
    """Write `content` into a temporary file, flocked and synced: DONE or FAILED."""
    cdef int fd = posix.open_retried(step.at, name_of(step, temporary),
                                     posix.O_CREAT | posix.O_EXCL | posix.O_RDWR)
    cdef int taken
    if fd < 0:
        return fail(step, temporary)
    taken = posix.try_flock(fd)
    step.replacement, step.temporary = fd, temporary
    # Taken for a dead process's: it must not be there to change places with a task.
    if taken == BUSY and remove(step, temporary) != 0 and errno != posix.ENOENT:
        return fail(step, temporary)
    if (taken == FAILED
            or posix.write_all(fd, content.at, content.size_bytes) != 0
            or posix.set_mtime(fd, mtime_ns) != 0
            or (sync >= SYNC_DATA and posix.fsync(fd) != 0)):
        return fail(step, temporary)
    return DONE


cdef inline int exchange(Step *step, const char *path) noexcept nogil:
    """The prepared document and the one at `path` change places; BUSY if it has gone."""
    if exchange_names(step, step.temporary, path) == 0:
        return DONE
    # Only a directory that cannot be synced could still make us want the old one back.
    if posix.unsupported() and rename_over(step, step.temporary, path) == 0:
        return DONE
    return BUSY if errno == posix.ENOENT else fail(step, path)


cdef inline void undo_exchange(Step *step, const char *path) noexcept nogil:
    if is_named(step, step.temporary, &step.task_status):
        exchange_names(step, step.temporary, path)
