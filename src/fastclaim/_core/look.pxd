"""Reading what nobody holds."""

from libc.errno cimport errno

from . cimport posix
from .mark cimport Sector, Text, admits
from .sector cimport SECTOR_BYTES, waiting_state
from .stamp cimport as_left
from .step cimport Step, name_of


cdef inline int read_file(const Step *step, char *content, Py_ssize_t *count) noexcept nogil:
    """0 or an errno; `count` is how much is wanted, then how much there was."""
    cdef int fd = posix.open_retried(step.at, name_of(step, step.path), posix.O_RDONLY), error = 0
    cdef Py_ssize_t wanted = count[0]
    if fd < 0 and step.at != posix.AT_FDCWD:
        fd = posix.open_retried(posix.AT_FDCWD, step.path, posix.O_RDONLY)
    if fd < 0:
        return errno
    while True:
        count[0] = posix.pread(fd, content, wanted, 0)
        error = errno if count[0] < 0 else 0
        if error != posix.EINTR:
            break
    posix.close(fd)
    return error


cdef inline int look_for(const Step *step) noexcept nogil:
    """0 or an errno; EAGAIN, with a descriptor alone, if it only seems to have gone."""
    cdef posix.stat_result found
    cdef int error = posix.ENOSYS
    if step.at != posix.AT_FDCWD:
        error = posix.look_at_once(step.at, name_of(step, step.path))
    if error == 0 or error == posix.EAGAIN:
        return error
    return errno if posix.lstat(step.path, &found) != 0 else 0


cdef inline bint peek_at(
    const Step *step, Text capabilities, char *raw, Sector *sector
) noexcept nogil:
    """Whether the task proves to wait, these are enough for it, and it has a rank."""
    cdef posix.stat_result status
    cdef Py_ssize_t count = -1
    cdef int fd = posix.open_retried(step.at, name_of(step, step.path), posix.O_RDONLY)
    if fd < 0:
        return False
    if posix.fstat(fd, &status) == 0:
        count = posix.pread(fd, raw, SECTOR_BYTES, 0)
    posix.close(fd)
    return (as_left(&status, raw, count, sector)
            and sector.rank_at < sector.requirements_at
            and admits(raw, sector, capabilities)
            and waiting_state(raw, sector) >= 0)
