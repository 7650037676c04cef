"""Hold: open the task, flock its inode, take the lock file, verify the name; and give it all up."""

from libc.errno cimport errno

from . cimport posix
from .lock_file cimport release_lock, take_lock
from .outcome cimport ABSENT, BUSY, CHANGED, DONE, NOT_REGULAR, STALE
from .step cimport VERIFY_TRIES, Step, fail, name_of, remove


cdef inline void close_all(Step *step) noexcept nogil:
    """Give up a temporary file that is left, the lock file, and the hold; never fails."""
    if step.temporary != NULL:
        remove(step, step.temporary)
        step.temporary = NULL
    if step.replacement >= 0:
        posix.unlock_and_close(step.replacement)
        step.replacement = -1
    release_lock(step)
    if step.task >= 0:
        posix.unlock_and_close(step.task)
        step.task = -1


cdef inline int absence(Step *step) noexcept nogil:
    """ABSENT, STALE or FAILED: a name that is not there from here may be there from the root."""
    cdef posix.stat_result here, named
    if step.tasks == NULL:
        return ABSENT
    # Not the file, but the directory: to find that a name is not there takes a file system longer.
    if posix.fstatat(posix.AT_FDCWD, step.tasks, &named, 0) != 0:
        if errno == posix.ENOENT or errno == posix.ENOTDIR:
            return STALE
        return fail(step, step.tasks)
    if posix.fstat(step.at, &here) != 0:
        return STALE
    return ABSENT if posix.same_inode(&here, &named) else STALE


cdef inline int hold_once(Step *step) noexcept nogil:
    """CHANGED means that the name was another inode when we had flocked the one we opened."""
    cdef int taken
    step.task = posix.open_for_flock(step.at, name_of(step, step.path), 0, &step.writable)
    if step.task < 0:
        if errno == posix.ENOENT or errno == posix.ENOTDIR:
            return absence(step)
        if errno == posix.EBADF and step.at != posix.AT_FDCWD:
            return STALE
        # What open(2) says of a symlink, a directory, and a socket.
        if errno == posix.ELOOP or errno == posix.EISDIR or errno == posix.ENXIO:
            return NOT_REGULAR
        return fail(step, step.path)
    taken = posix.try_flock(step.task)
    if taken != DONE:
        return taken if taken == BUSY else fail(step, step.path)
    if posix.fstat(step.task, &step.task_status) != 0:
        return fail(step, step.path)
    if not posix.S_ISREG(step.task_status.st_mode):
        return NOT_REGULAR
    if step.task_status.st_nlink == 0:
        return CHANGED
    if step.lock_path != NULL and step.lock < 0 and not step.ready.is_linked:
        # Only now: a claim of a task that is not there creates nothing.
        return take_lock(step)
    return DONE


cdef inline int hold_unverified(Step *step) noexcept nogil:
    """DONE, ABSENT, LOST, BUSY, NOT_REGULAR, STALE or FAILED; all but DONE hold nothing."""
    cdef int outcome = CHANGED, attempt
    for attempt in range(VERIFY_TRIES):
        outcome = hold_once(step)
        if outcome != CHANGED:
            break
        posix.unlock_and_close(step.task)
        step.task = -1
    if outcome != DONE:
        close_all(step)
    return BUSY if outcome == CHANGED else outcome


cdef inline int verify(Step *step) noexcept nogil:
    """DONE if the whole path still names what we hold; all but DONE hold nothing."""
    cdef posix.stat_result named
    cdef int outcome
    if posix.lstat(step.path, &named) == 0:
        outcome = DONE if posix.same_inode(&named, &step.task_status) else BUSY
    else:
        outcome = absence(step) if errno == posix.ENOENT else fail(step, step.path)
    if outcome != DONE:
        close_all(step)
    return outcome


cdef inline int hold_task(Step *step) noexcept nogil:
    cdef int outcome = hold_unverified(step)
    return verify(step) if outcome == DONE else outcome
