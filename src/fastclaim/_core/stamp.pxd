"""Stamp: what proves to be ours, its sector written in place, and the undoing of that."""

from libc.stdint cimport int64_t, uint64_t

from . cimport posix
from .mark cimport Sector
from .outcome cimport DONE, SYNC_DATA
from .sector cimport SECTOR_BYTES, read_sector
from .step cimport Step, fail


cdef inline bint as_left(
    const posix.stat_result *status, const char *raw, Py_ssize_t count, Sector *sector
) noexcept nogil:
    """Whether the file proves to be as its last writer of ours left it."""
    return (read_sector(raw, count, sector)
            and sector.size_bytes == status.st_size
            and <int64_t>sector.mtime_ns == posix.mtime_ns_of(status)
            and status.st_nlink == 1)


cdef inline bint proven_sector(
    const Step *step, const char *raw, Py_ssize_t count, Sector *sector
) noexcept nogil:
    """Whether that can be proven, and the file is ours to write."""
    return step.writable and as_left(&step.task_status, raw, count, sector)


cdef inline int put_stamp(Step *step, const char *stamp, uint64_t mtime_ns, int sync) noexcept nogil:
    if posix.write_all(step.task, stamp, SECTOR_BYTES) != 0:
        return fail(step, step.path)
    if sync >= SYNC_DATA and posix.fdatasync(step.task) != 0:
        return fail(step, step.path)
    # After the sync, which then has no inode to write. Unproven is all that can come of a failure.
    posix.set_mtime(step.task, <int64_t>mtime_ns)
    return DONE


cdef inline void undo_stamp(Step *step, const char *sector, uint64_t mtime_ns) noexcept nogil:
    if posix.write_all(step.task, sector, SECTOR_BYTES) != 0:
        posix.write_all(step.task, sector, SECTOR_BYTES)  # half a sector would be worse than none
    posix.set_mtime(step.task, <int64_t>mtime_ns)
