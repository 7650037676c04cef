"""One try of a transition: what it knows, has open and failed at; names as it looks them up."""

from libc.errno cimport errno

from . cimport posix
from .outcome cimport DONE, FAILED, SYNC_FULL

cdef enum:
    VERIFY_TRIES = 8  # how often a name may turn out to be another inode before we call it busy


cdef struct Ready:
    int inode  # descriptor of the inode that we keep flocked; -1: there is none
    unsigned long device
    unsigned long number
    const char *name
    bint is_linked  # it is the lock file now
    bint is_useless
    bint is_left  # to an original that may wait for it


cdef struct Step:
    int at  # the descriptor that names are looked up from, and
    Py_ssize_t prefix_bytes  # how much of a whole path it stands for,
    const char *tasks  # and that path; NULL: names are whole paths
    int task  # descriptors; -1: none
    int lock
    int replacement
    bint writable
    bint lock_is_held
    Ready ready
    posix.stat_result task_status
    posix.stat_result lock_status
    const char *path
    const char *lock_path
    const char *temporary
    int error
    const char *where


cdef struct Destination:
    const char *path
    bint replace  # what stands there
    const char *first  # what SYNC_FULL syncs
    const char *second
    int sync


cdef inline void start(
    Step *step, int at, Py_ssize_t prefix_bytes, const char *path, const char *lock_path
) noexcept nogil:
    step.at, step.prefix_bytes, step.tasks = at, prefix_bytes, NULL
    step.task = step.lock = step.replacement = step.ready.inode = -1
    step.ready.is_linked = step.ready.is_useless = step.ready.is_left = False
    step.path = path
    step.lock_path = lock_path
    step.temporary = NULL
    step.error = 0
    step.where = NULL


cdef inline int fail(Step *step, const char *where) noexcept nogil:
    step.error = errno
    step.where = where
    return FAILED


cdef inline const char *name_of(const Step *step, const char *path) noexcept nogil:
    """`path` as seen from `step.at`."""
    return path + step.prefix_bytes


cdef inline int find(
    const Step *step, const char *path, posix.stat_result *status
) noexcept nogil:
    return posix.fstatat(step.at, name_of(step, path), status, posix.AT_SYMLINK_NOFOLLOW)


cdef inline bint is_named(
    const Step *step, const char *path, const posix.stat_result *status
) noexcept nogil:
    cdef posix.stat_result found
    return find(step, path, &found) == 0 and posix.same_inode(&found, status)


cdef inline int remove(const Step *step, const char *path) noexcept nogil:
    return posix.unlinkat(step.at, name_of(step, path), 0)


cdef inline int rename_over(
    const Step *step, const char *source, const char *target
) noexcept nogil:
    return posix.renameat(step.at, name_of(step, source), step.at, name_of(step, target))


cdef inline int exchange_names(
    const Step *step, const char *one, const char *other
) noexcept nogil:
    return posix.rename_with(
        step.at, name_of(step, one), name_of(step, other), posix.RENAME_EXCHANGE)


cdef inline int rename_new(const Step *step, const char *source, const char *target) noexcept nogil:
    """Rename, but EEXIST if `target` is there."""
    cdef posix.stat_result found
    if posix.rename_with(step.at, name_of(step, source), name_of(step, target),
                         posix.RENAME_NOREPLACE) == 0:
        return 0
    if not posix.unsupported():
        return -1
    # Without the flag, a look first: only two tasks whose claims share a name and are made in the
    # same microsecond could still meet here.
    if find(step, target, &found) == 0:
        posix.set_errno(posix.EEXIST)
        return -1
    return rename_over(step, source, target) if errno == posix.ENOENT else -1


cdef inline int sync_directory(Step *step, const char *directory) noexcept nogil:
    cdef int fd = posix.open_retried(posix.AT_FDCWD, directory, posix.O_RDONLY | posix.O_DIRECTORY)
    if fd < 0:
        return fail(step, directory)
    if posix.fsync(fd) != 0:
        fail(step, directory)
        posix.close(fd)
        return FAILED
    posix.close(fd)
    return DONE


cdef inline int sync_directories(Step *step, const Destination *to) noexcept nogil:
    if to.sync < SYNC_FULL:
        return DONE
    if sync_directory(step, to.first) != DONE:
        return FAILED
    return sync_directory(step, to.second)
