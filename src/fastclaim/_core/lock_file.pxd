"""The lock file, which keeps originals out: a link to our locked inode, or a file of its own."""

from libc.errno cimport errno

from . cimport posix
from .outcome cimport BUSY, DONE, FAILED, LOST
from .step cimport VERIFY_TRIES, Step, fail, find, is_named, name_of, remove


cdef inline bint link_lock(Step *step) noexcept nogil:
    """Let our locked inode be the lock file, if there is one and no lock file yet."""
    if step.ready.inode < 0:
        return False
    step.ready.is_linked = posix.linkat(
        step.at, step.ready.name, step.at, name_of(step, step.lock_path), 0) == 0
    step.ready.is_useless = not step.ready.is_linked and errno != posix.EEXIST
    return step.ready.is_linked


cdef inline void release_link(Step *step) noexcept nogil:
    """Unlink it; left to others, with its flock, if that fails or an original has opened it."""
    cdef posix.stat_result status
    cdef int failed = find(step, step.lock_path, &status)
    if failed == 0:
        if status.st_ino == step.ready.number and status.st_dev == step.ready.device:
            failed = remove(step, step.lock_path)
    elif errno == posix.ENOENT:
        failed = 0
    step.ready.is_linked = False
    step.ready.is_left = (
        failed != 0 or posix.fstat(step.ready.inode, &status) != 0 or status.st_size == 0)


cdef inline int take_lock(Step *step) noexcept nogil:
    """DONE, LOST (no directory for it), BUSY or FAILED."""
    cdef int fd, taken, attempt
    cdef bint writable
    if link_lock(step):
        return DONE
    for attempt in range(VERIFY_TRIES):
        # No O_TRUNC: a loser must not touch the holder's file.
        fd = posix.open_for_flock(
            step.at, name_of(step, step.lock_path), posix.O_CREAT, &writable)
        if fd < 0:
            return LOST if errno == posix.ENOENT else fail(step, step.lock_path)
        step.lock, step.lock_is_held = fd, False
        taken = posix.try_flock(fd)
        if taken == FAILED or posix.fstat(fd, &step.lock_status) != 0:
            return fail(step, step.lock_path)
        if not posix.S_ISREG(step.lock_status.st_mode):
            posix.set_errno(posix.EINVAL)
            return fail(step, step.lock_path)
        # Who had it may have unlinked it between our open and our flock.
        step.lock_is_held = taken == DONE and is_named(step, step.lock_path, &step.lock_status)
        if step.lock_is_held:
            return DONE
        posix.unlock_and_close(fd)
        step.lock = -1
        if taken == BUSY:
            return BUSY
    return BUSY


cdef inline void release_lock(Step *step) noexcept nogil:
    """Unlink it while we hold it, and only if the path still is what we hold."""
    if step.ready.is_linked:
        release_link(step)
    if step.lock < 0:
        return
    # After an error it is asked again whether we hold it.
    if ((step.lock_is_held
            or (posix.fstat(step.lock, &step.lock_status) == 0
                and posix.S_ISREG(step.lock_status.st_mode)
                and posix.try_flock(step.lock) == DONE))
            and is_named(step, step.lock_path, &step.lock_status)):
        remove(step, step.lock_path)
    posix.unlock_and_close(step.lock)
    step.lock = -1
