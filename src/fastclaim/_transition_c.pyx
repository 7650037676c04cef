"""Hold, move, stamp, with the GIL released from the first open to the last close.

The protocol is written at the head of `_transition_py`, which does the same, step by step and name
by name. Functions here return an outcome; FAILED means that `step.error` and `step.where` say which
system call's file failed how, and that everything was put back.
"""

import os

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_AsStringAndSize,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from . cimport _posix as posix

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)

NAME = "c"

cdef enum:
    DONE = 0
    ABSENT = 1
    LOST = 2
    BUSY = 3
    COLLISION = 4
    CHANGED = 5
    NOT_REGULAR = 6
    UNPROVEN = 7
    STALE = 8
    UNJUDGED = 9
    FAILED = -1

OUTCOMES = {
    "DONE": DONE, "ABSENT": ABSENT, "LOST": LOST, "BUSY": BUSY, "COLLISION": COLLISION,
    "CHANGED": CHANGED, "NOT_REGULAR": NOT_REGULAR, "UNPROVEN": UNPROVEN,
    "STALE": STALE, "UNJUDGED": UNJUDGED,
}

cdef enum:
    SYNC_NONE = 0
    SYNC_DATA = 1
    SYNC_FULL = 2

cdef enum:
    SECTOR_BYTES = 512
    TEXT_BYTES = 510  # of a sector, before its end
    VERIFY_TRIES = 8  # how often a name may turn out to be another inode before we call it busy
    SMALL_BYTES = 4096  # documents up to here are read without an allocation

# A change that comes so soon after another may leave a directory with the same time.
cdef int64_t TICK_NS = 3000000000
cdef int OPEN_FLAGS = posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC

cdef const char *MARK_START = b'{"fastclaim":"1 '
cdef const char *STATE_AVAILABLE = b',"status":"available"'
cdef const char *STATE_CLAIMED = b',"status":"claimed"'
# JSON strings have their quotes escaped: in a state these are members and nothing else.
cdef const char *CLAIM_FIELDS_START = b',"claimed_by":'
cdef const char *NOT_BEFORE_MEMBER = b',"not_before":'
cdef enum:
    MARK_START_BYTES = 16
    STATE_AVAILABLE_BYTES = 21
    STATE_CLAIMED_BYTES = 19
    CLAIM_FIELDS_START_BYTES = 14
    NOT_BEFORE_MEMBER_BYTES = 14

# Flags of the mark.
cdef enum:
    ENFORCED = 1
    GUARDED = 2
    UNCONSTRAINED = 4
    FOR_ANYBODY = 8


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


cdef struct Text:
    const char *at
    Py_ssize_t size_bytes


cdef struct Sector:
    int64_t size_bytes
    uint64_t mtime_ns
    int flags
    int terms_at  # where the mark goes on with its flags
    int rank_at  # with the rank,
    int requirements_at  # and with the requirements, each with a space before; may be empty
    int mark_end
    int head_end
    int state_end


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


# System calls -------------------------------------------------------------------------------------


cdef inline bint unsupported() noexcept nogil:
    """A file system without the flag says EINVAL, a kernel without the call ENOSYS, ..."""
    return (errno == posix.EINVAL or errno == posix.ENOSYS
            or errno == posix.EOPNOTSUPP or errno == posix.EPERM)


cdef int open_retried(int at, const char *path, int flags) noexcept nogil:
    cdef int fd
    while True:
        fd = posix.openat(at, path, flags | OPEN_FLAGS, 0o666)
        if fd >= 0 or errno != posix.EINTR:
            return fd


cdef inline const char *name_of(const Step *step, const char *path) noexcept nogil:
    """`path` as seen from `step.at`."""
    return path + step.prefix_bytes


cdef inline int find(
    const Step *step, const char *path, posix.stat_result *status
) noexcept nogil:
    return posix.fstatat(step.at, name_of(step, path), status, posix.AT_SYMLINK_NOFOLLOW)


cdef int open_for_flock(
    const Step *step, const char *path, int flags, bint *writable
) noexcept nogil:
    """flock needs no more than reading."""
    cdef int fd = open_retried(step.at, name_of(step, path), flags | posix.O_RDWR)
    writable[0] = fd >= 0
    if fd < 0 and (errno == posix.EACCES or errno == posix.EPERM
                   or errno == posix.EROFS or errno == posix.ETXTBSY):
        fd = open_retried(step.at, name_of(step, path), flags | posix.O_RDONLY)
    return fd


cdef int flock_now(int fd) noexcept nogil:
    """DONE, BUSY or FAILED."""
    while posix.flock(fd, posix.LOCK_EX | posix.LOCK_NB) != 0:
        if errno == posix.EAGAIN:
            return BUSY
        if errno != posix.EINTR:
            return FAILED
    return DONE


cdef void let_go(int fd) noexcept nogil:
    """Unlock, then close: a child forked meanwhile has a copy, and the lock with it."""
    posix.flock(fd, posix.LOCK_UN)
    posix.close(fd)  # also with EINTR the descriptor is closed


cdef inline bint same_inode(
    const posix.stat_result *one, const posix.stat_result *other
) noexcept nogil:
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


cdef bint names(
    const Step *step, const char *path, const posix.stat_result *status
) noexcept nogil:
    cdef posix.stat_result found
    return find(step, path, &found) == 0 and same_inode(&found, status)


cdef Py_ssize_t read_all(int fd, char *content, Py_ssize_t size_bytes) noexcept nogil:
    """How much there was, or -1."""
    cdef Py_ssize_t count = 0, piece
    while count < size_bytes:
        piece = posix.pread(fd, content + count, size_bytes - count, count)
        if piece == 0:
            break
        if piece > 0:
            count += piece
        elif errno != posix.EINTR:
            return -1
    return count


cdef int write_all(int fd, const char *content, Py_ssize_t size_bytes) noexcept nogil:
    cdef Py_ssize_t count = 0, piece
    while count < size_bytes:
        piece = posix.pwrite(fd, content + count, size_bytes - count, count)
        if piece > 0:
            count += piece
        elif piece == 0:
            posix.set_errno(posix.EIO)
            return -1
        elif errno != posix.EINTR:
            return -1
    return 0


cdef int rename_over(const Step *step, const char *source, const char *target) noexcept nogil:
    return posix.renameat(step.at, name_of(step, source), step.at, name_of(step, target))


cdef int exchange_names(const Step *step, const char *one, const char *other) noexcept nogil:
    return posix.rename_with(
        step.at, name_of(step, one), name_of(step, other), posix.RENAME_EXCHANGE)


cdef int rename_new(const Step *step, const char *source, const char *target) noexcept nogil:
    """Rename, but EEXIST if `target` is there."""
    cdef posix.stat_result found
    if posix.rename_with(step.at, name_of(step, source), name_of(step, target),
                         posix.RENAME_NOREPLACE) == 0:
        return 0
    if not unsupported():
        return -1
    # Without the flag, a look first: only two tasks whose claims share a name and are made in the
    # same microsecond could still meet here.
    if find(step, target, &found) == 0:
        posix.set_errno(posix.EEXIST)
        return -1
    return rename_over(step, source, target) if errno == posix.ENOENT else -1


cdef int rename_to(Step *step, const char *source, const char *target, bint replace) noexcept nogil:
    cdef int failed = (rename_over(step, source, target) if replace
                       else rename_new(step, source, target))
    if failed == 0:
        return DONE
    if errno == posix.ENOENT:
        return LOST
    if errno == posix.EEXIST:
        return COLLISION
    return fail(step, source)


cdef int check_vacant(Step *step, const char *target) noexcept nogil:
    """DONE, COLLISION or FAILED."""
    cdef posix.stat_result found
    if find(step, target, &found) == 0:
        return COLLISION
    return DONE if errno == posix.ENOENT else fail(step, target)


cdef int sync_directory(Step *step, const char *directory) noexcept nogil:
    cdef int fd = open_retried(posix.AT_FDCWD, directory, posix.O_RDONLY | posix.O_DIRECTORY)
    if fd < 0:
        return fail(step, directory)
    if posix.fsync(fd) != 0:
        fail(step, directory)
        posix.close(fd)
        return FAILED
    posix.close(fd)
    return DONE


cdef int sync_directories(
    Step *step, const char *first, const char *second, int sync
) noexcept nogil:
    if sync < SYNC_FULL:
        return DONE
    if sync_directory(step, first) != DONE:
        return FAILED
    return sync_directory(step, second)


# Hold ---------------------------------------------------------------------------------------------


cdef bint link_lock(Step *step) noexcept nogil:
    """Let our locked inode be the lock file, if there is one and no lock file yet."""
    if step.ready.inode < 0:
        return False
    step.ready.is_linked = posix.linkat(
        step.at, step.ready.name, step.at, name_of(step, step.lock_path), 0) == 0
    step.ready.is_useless = not step.ready.is_linked and errno != posix.EEXIST
    return step.ready.is_linked


cdef void release_link(Step *step) noexcept nogil:
    """Unlink it; left to others, with its flock, if that fails or an original has opened it."""
    cdef posix.stat_result status
    cdef int failed = find(step, step.lock_path, &status)
    if failed == 0:
        if status.st_ino == step.ready.number and status.st_dev == step.ready.device:
            failed = posix.unlinkat(step.at, name_of(step, step.lock_path), 0)
    elif errno == posix.ENOENT:
        failed = 0
    step.ready.is_linked = False
    step.ready.is_left = (
        failed != 0 or posix.fstat(step.ready.inode, &status) != 0 or status.st_size == 0)


cdef int take_lock(Step *step) noexcept nogil:
    """DONE, LOST (no directory for it), BUSY or FAILED."""
    cdef int fd, taken, attempt
    cdef bint writable
    if link_lock(step):
        return DONE
    for attempt in range(VERIFY_TRIES):
        # No O_TRUNC: a loser must not touch the holder's file.
        fd = open_for_flock(step, step.lock_path, posix.O_CREAT, &writable)
        if fd < 0:
            return LOST if errno == posix.ENOENT else fail(step, step.lock_path)
        step.lock, step.lock_is_held = fd, False
        taken = flock_now(fd)
        if taken == FAILED or posix.fstat(fd, &step.lock_status) != 0:
            return fail(step, step.lock_path)
        if not posix.S_ISREG(step.lock_status.st_mode):
            posix.set_errno(posix.EINVAL)
            return fail(step, step.lock_path)
        # Who had it may have unlinked it between our open and our flock.
        step.lock_is_held = taken == DONE and names(step, step.lock_path, &step.lock_status)
        if step.lock_is_held:
            return DONE
        let_go(fd)
        step.lock = -1
        if taken == BUSY:
            return BUSY
    return BUSY


cdef void release_lock(Step *step) noexcept nogil:
    """Unlink it while we hold it, and only if the path still is what we hold."""
    if step.ready.is_linked:
        release_link(step)
    if step.lock < 0:
        return
    # After an error it is asked again whether we hold it.
    if ((step.lock_is_held
            or (posix.fstat(step.lock, &step.lock_status) == 0
                and posix.S_ISREG(step.lock_status.st_mode)
                and flock_now(step.lock) == DONE))
            and names(step, step.lock_path, &step.lock_status)):
        posix.unlinkat(step.at, name_of(step, step.lock_path), 0)
    let_go(step.lock)
    step.lock = -1


cdef void close_all(Step *step) noexcept nogil:
    """Give up a temporary file that is left, the lock file, and the hold; never fails."""
    if step.temporary != NULL:
        posix.unlinkat(step.at, name_of(step, step.temporary), 0)
        step.temporary = NULL
    if step.replacement >= 0:
        let_go(step.replacement)
        step.replacement = -1
    release_lock(step)
    if step.task >= 0:
        let_go(step.task)
        step.task = -1


cdef int hold_once(Step *step) noexcept nogil:
    """CHANGED means that the name was another inode when we had flocked the one we opened."""
    cdef int taken
    step.task = open_for_flock(step, step.path, 0, &step.writable)
    if step.task < 0:
        if errno == posix.ENOENT or errno == posix.ENOTDIR:
            return confirm_absence(step)
        if errno == posix.EBADF and step.at != posix.AT_FDCWD:
            return STALE
        # What open(2) says of a symlink, a directory, and a socket.
        if errno == posix.ELOOP or errno == posix.EISDIR or errno == posix.ENXIO:
            return NOT_REGULAR
        return fail(step, step.path)
    taken = flock_now(step.task)
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


cdef int confirm_absence(Step *step) noexcept nogil:
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
    return ABSENT if same_inode(&here, &named) else STALE


cdef int hold_unverified(Step *step) noexcept nogil:
    """DONE, ABSENT, LOST, BUSY, NOT_REGULAR, STALE or FAILED; all but DONE hold nothing."""
    cdef int outcome = CHANGED, attempt
    for attempt in range(VERIFY_TRIES):
        outcome = hold_once(step)
        if outcome != CHANGED:
            break
        let_go(step.task)
        step.task = -1
    if outcome != DONE:
        close_all(step)
    return BUSY if outcome == CHANGED else outcome


cdef int verify(Step *step) noexcept nogil:
    """DONE if the whole path still names what we hold; all but DONE hold nothing."""
    cdef posix.stat_result named
    cdef int outcome
    if posix.lstat(step.path, &named) == 0:
        outcome = DONE if same_inode(&named, &step.task_status) else BUSY
    else:
        outcome = confirm_absence(step) if errno == posix.ENOENT else fail(step, step.path)
    if outcome != DONE:
        close_all(step)
    return outcome


cdef int hold_task(Step *step) noexcept nogil:
    cdef int outcome = hold_unverified(step)
    return verify(step) if outcome == DONE else outcome


# Move ---------------------------------------------------------------------------------------------


cdef int move(Step *step, const char *target, bint replace) noexcept nogil:
    """The arbiter: one claimer gets DONE, the others LOST."""
    cdef posix.stat_result moved
    cdef bint found
    cdef int outcome = rename_to(step, step.path, target, replace)
    if outcome != DONE:
        return outcome
    found = posix.lstat(target, &moved) == 0
    if not found and errno != posix.ENOENT:
        return fail(step, target)
    if found and same_inode(&moved, &step.task_status):
        if (moved.st_size == step.task_status.st_size
                and posix.mtime_ns_of(&moved) == posix.mtime_ns_of(&step.task_status)):
            return DONE
        return CHANGED
    if names(step, target, &step.task_status):
        move_back(step, target)
        return STALE
    return CHANGED if found else BUSY


cdef void move_back(Step *step, const char *claimed) noexcept nogil:
    """Undo the move without writing a byte; what stands in our place by now, stays."""
    if names(step, claimed, &step.task_status):
        rename_new(step, claimed, step.path)


# Stamp --------------------------------------------------------------------------------------------


cdef inline uint64_t number_in(const char *text, int *at, int longest) noexcept nogil:
    """The digits from `at` on, which then is where they end."""
    cdef uint64_t number = 0
    cdef int end = at[0] + longest
    while at[0] < end and c'0' <= text[at[0]] <= c'9':
        number = number * 10 + <uint64_t>(text[at[0]] - c'0')
        at[0] += 1
    return number


cdef inline bint in_decimal(char character) noexcept nogil:
    return (c'0' <= character <= c'9' or character == c'.' or character == c'-'
            or character == c'+' or character == c'e')


cdef int rank_end(const char *text, int at) noexcept nogil:
    """Where a rank, if there is one at `at`, ends; -1 if what is there is none."""
    cdef int start
    if text[at] != c' ' or text[at + 1] == c'=':
        return at
    start = at = at + 1
    while at < start + 24 and in_decimal(text[at]):
        at += 1
    if at == start or text[at] != c' ':
        return -1
    at += 1
    if text[at] == c'-':
        at += 1
    start = at
    number_in(text, &at, 19)
    return at if at > start else -1


cdef int requirements_end(const char *text, int at) noexcept nogil:
    """The same of requirements."""
    cdef int start
    if text[at] != c' ':
        return at
    if text[at + 1] != c'=':
        return -1
    start = at = at + 2
    while at < start + 48 and c' ' < text[at] <= c'~' and text[at] != c'"' and text[at] != c'\\':
        at += 1
    return at if at > start else -1


cdef bint read_mark(const char *text, Sector *sector) noexcept nogil:
    """Whether `text` begins with a sector's mark; what it says."""
    cdef int at = MARK_START_BYTES, start = at
    if memcmp(text, MARK_START, MARK_START_BYTES) != 0:
        return False
    sector.size_bytes = <int64_t>number_in(text, &at, 18)
    if at == start or text[at] != c' ':
        return False
    start = at = at + 1
    sector.mtime_ns = number_in(text, &at, 19)
    if at == start or text[at] != c' ':
        return False
    start = at = at + 1
    sector.head_end = <int>number_in(text, &at, 3)
    if at != start + 3 or text[at] != c' ':
        return False
    sector.terms_at = at
    at += 1
    if c'0' <= text[at] <= c'9':
        sector.flags = text[at] - c'0'
    elif c'a' <= text[at] <= c'f':
        sector.flags = text[at] - c'a' + 10
    else:
        return False
    sector.rank_at = at + 1
    sector.requirements_at = at = rank_end(text, at + 1)
    if at >= 0:
        at = requirements_end(text, at)
    if at < 0 or text[at] != c'"':
        return False
    sector.mark_end = at + 1
    return True


cdef bint as_left(
    const posix.stat_result *status, const char *raw, Py_ssize_t count, Sector *sector
) noexcept nogil:
    """Whether the file proves to be as its last writer of ours left it."""
    if count < SECTOR_BYTES or memcmp(raw + TEXT_BYTES, b",\n", 2) != 0:
        return False
    if (not read_mark(raw, sector)
            or not sector.mark_end <= sector.head_end <= TEXT_BYTES):
        return False
    sector.state_end = TEXT_BYTES
    while (sector.state_end - 8 > sector.head_end
            and memcmp(raw + sector.state_end - 8, b"        ", 8) == 0):
        sector.state_end -= 8
    while sector.state_end > sector.head_end and raw[sector.state_end - 1] == c' ':
        sector.state_end -= 1
    return (sector.size_bytes == status.st_size
            and <int64_t>sector.mtime_ns == posix.mtime_ns_of(status)
            and status.st_nlink == 1)


cdef inline bint proven_sector(
    const Step *step, const char *raw, Py_ssize_t count, Sector *sector
) noexcept nogil:
    """Whether that can be proven, and the file is ours to write."""
    return step.writable and as_left(&step.task_status, raw, count, sector)


cdef bint admits(const char *raw, const Sector *sector, Text capabilities) noexcept nogil:
    """Whether the mark says that these are enough: see `document.admits`."""
    cdef char name[52]
    cdef int at = sector.requirements_at + 2, length
    if not sector.flags & UNCONSTRAINED:
        return False
    if sector.flags & FOR_ANYBODY or capabilities.size_bytes == 0:
        return True
    name[0] = c','
    while at < sector.mark_end:  # up to the quote, and with it
        length = 1
        while raw[at] != c',' and at < sector.mark_end - 1:
            name[length] = raw[at]
            length += 1
            at += 1
        name[length] = c','
        if posix.memmem(capabilities.at, capabilities.size_bytes, name, length + 1) != NULL:
            return True
        at += 1
    return False


cdef int waiting_state(const char *raw, const Sector *sector) noexcept nogil:
    """Where its state goes on after `status`, if the task waits, and may be claimed at any time."""
    cdef int at = sector.head_end
    if sector.flags & ENFORCED:
        if raw[at] != c'}':
            return -1
        at += 1
    if (sector.state_end - at < STATE_AVAILABLE_BYTES
            or memcmp(raw + at, STATE_AVAILABLE, STATE_AVAILABLE_BYTES) != 0):
        return -1
    at += STATE_AVAILABLE_BYTES
    if posix.memmem(raw + at, sector.state_end - at,
                    NOT_BEFORE_MEMBER, NOT_BEFORE_MEMBER_BYTES) != NULL:
        return -1
    return at


cdef int append(char *stamp, int at, const char *text, Py_ssize_t size_bytes) noexcept nogil:
    """Where the next text goes, or -1 if this one, or an earlier one, does not fit."""
    if at < 0 or size_bytes > TEXT_BYTES - at:
        return -1
    memcpy(stamp + at, text, size_bytes)
    return at + <int>size_bytes


cdef int append_timed(char *stamp, int at, Text text, Text now) noexcept nogil:
    """The same, with `now` for each byte TIME (see `document`)."""
    cdef const char *end = text.at + text.size_bytes
    cdef const char *piece = text.at
    cdef const char *time = <const char *>memchr(piece, 1, end - piece)
    while time != NULL:
        at = append(stamp, at, piece, time - piece)
        at = append(stamp, at, now.at, now.size_bytes)
        piece = time + 1
        time = <const char *>memchr(piece, 1, end - piece)
    return append(stamp, at, piece, end - piece)


cdef int append_mark(
    char *stamp, const char *raw, const Sector *sector, int64_t size_bytes
) noexcept nogil:
    """A sector's mark and head, for a document of another size."""
    cdef char mark[64]
    cdef int mark_bytes, kept_bytes = sector.head_end - sector.terms_at
    if size_bytes == sector.size_bytes:
        return append(stamp, 0, raw, sector.head_end)
    mark_bytes = snprintf(mark, sizeof(mark), b"%s%lld %llu ", MARK_START,
                          <long long>size_bytes, <unsigned long long>sector.mtime_ns)
    mark_bytes += snprintf(mark + mark_bytes, sizeof(mark) - mark_bytes, b"%03d",
                           mark_bytes + 3 + kept_bytes)
    return append(stamp, append(stamp, 0, mark, mark_bytes), raw + sector.terms_at, kept_bytes)


cdef bint pad(char *stamp, int at) noexcept nogil:
    """End the sector; False if something did not fit."""
    if at < 0:
        return False
    memset(stamp + at, c' ', TEXT_BYTES - at)
    memcpy(stamp + TEXT_BYTES, b",\n", 2)
    return True


cdef int put_stamp(Step *step, const char *stamp, uint64_t mtime_ns, int sync) noexcept nogil:
    if write_all(step.task, stamp, SECTOR_BYTES) != 0:
        return fail(step, step.path)
    if sync >= SYNC_DATA and posix.sync_content(step.task) != 0:
        return fail(step, step.path)
    # After the sync, which then has no inode to write. Unproven is all that can come of a failure.
    posix.set_mtime(step.task, <int64_t>mtime_ns)
    return DONE


cdef void undo_stamp(Step *step, const char *sector, uint64_t mtime_ns) noexcept nogil:
    if write_all(step.task, sector, SECTOR_BYTES) != 0:
        write_all(step.task, sector, SECTOR_BYTES)  # half a sector would be worse than none
    posix.set_mtime(step.task, <int64_t>mtime_ns)


cdef int write_temporary(
    Step *step, const char *temporary, Text content, int64_t mtime_ns, int sync
) noexcept nogil:
    """DONE or FAILED."""
    cdef int fd = open_retried(step.at, name_of(step, temporary),
                               posix.O_CREAT | posix.O_EXCL | posix.O_RDWR)
    if fd < 0:
        return fail(step, temporary)
    cdef int taken = flock_now(fd)
    step.replacement, step.temporary = fd, temporary
    # Taken for a dead process's: it must not be there to change places with a task.
    if (taken == BUSY and posix.unlinkat(step.at, name_of(step, temporary), 0) != 0
            and errno != posix.ENOENT):
        return fail(step, temporary)
    if (taken == FAILED
            or write_all(fd, content.at, content.size_bytes) != 0
            or posix.set_mtime(fd, mtime_ns) != 0
            or (sync >= SYNC_DATA and posix.fsync(fd) != 0)):
        return fail(step, temporary)
    return DONE


cdef int exchange(Step *step, const char *path) noexcept nogil:
    """The prepared document and the one at `path` change places; BUSY if it has gone."""
    if exchange_names(step, step.temporary, path) == 0:
        return DONE
    # Only a directory that cannot be synced could still make us want the old one back.
    if unsupported() and rename_over(step, step.temporary, path) == 0:
        return DONE
    return BUSY if errno == posix.ENOENT else fail(step, path)


cdef void undo_exchange(Step *step, const char *path) noexcept nogil:
    if names(step, step.temporary, &step.task_status):
        exchange_names(step, step.temporary, path)


cdef void undo_finish(Step *step, const char *target, int finished) noexcept nogil:
    cdef posix.stat_result status
    if posix.fstat(finished, &status) == 0 and names(step, target, &status):
        rename_new(step, target, step.path)


# The transitions ----------------------------------------------------------------------------------


cdef int claim_proven(
    Step *step, char *raw, Py_ssize_t count, const char *claimed, const char *first,
    const char *second, Text enforcement, Text fields, int sync, Text capabilities
) noexcept nogil:
    """Move and stamp what is held and proven; the stamp stands in `raw` afterwards."""
    cdef char stamp[SECTOR_BYTES]
    cdef char now_text[40]
    cdef Sector sector
    cdef Text now, kept
    cdef int at, outcome
    if not proven_sector(step, raw, count, &sector) or sector.flags & GUARDED:
        return UNPROVEN
    if capabilities.at != NULL and not admits(raw, &sector, capabilities):
        return UNPROVEN
    at = waiting_state(raw, &sector)
    if at < 0:
        return UNPROVEN
    kept.at, kept.size_bytes = raw + at, sector.state_end - at
    now.at, now.size_bytes = now_text, posix.timestamp(now_text, sizeof(now_text))
    at = append_mark(stamp, raw, &sector, sector.size_bytes)
    if sector.flags & ENFORCED:
        at = append_timed(stamp, at, enforcement, now)
        at = append(stamp, at, b"}", 1)
    at = append(stamp, at, STATE_CLAIMED, STATE_CLAIMED_BYTES)
    at = append(stamp, at, kept.at, kept.size_bytes)
    if not pad(stamp, append_timed(stamp, at, fields, now)):
        return UNPROVEN
    outcome = move(step, claimed, False)
    if outcome == DONE:
        outcome = put_stamp(step, stamp, sector.mtime_ns, sync)
        if outcome == DONE:
            outcome = sync_directories(step, first, second, sync)
        if outcome != DONE:
            undo_stamp(step, raw, sector.mtime_ns)
    if outcome == FAILED:
        move_back(step, claimed)
    if outcome == DONE:
        memcpy(raw, stamp, SECTOR_BYTES)
    return outcome


cdef int claim_prepared(
    Step *step, const char *claimed, const char *first, const char *second, int sync, bint replace
) noexcept nogil:
    """Move the task, then replace it by what was prepared."""
    cdef int outcome = move(step, claimed, replace)
    if outcome == DONE:
        outcome = exchange(step, claimed)
        if outcome == DONE:
            outcome = sync_directories(step, first, second, sync)
        if outcome != DONE:
            undo_exchange(step, claimed)
            move_back(step, claimed)
    elif outcome == FAILED:
        move_back(step, claimed)
    return outcome


cdef int finish_move(
    Step *step, const char *target, const char *first, const char *second, int sync, bint replace,
    int finished
) noexcept nogil:
    """Move what is stamped; all but DONE have moved it back."""
    cdef int outcome = rename_to(step, step.path, target, replace)
    if outcome == DONE:
        outcome = sync_directories(step, first, second, sync)
    if outcome == FAILED:
        # Also if it was the rename that failed: not every failure means that nothing was done.
        undo_finish(step, target, finished)
    return outcome


cdef int finish_prepared(
    Step *step, const char *target, const char *first, const char *second, int sync, bint replace
) noexcept nogil:
    """Replace the claim by what was prepared, then move it."""
    cdef int outcome = DONE if replace else check_vacant(step, target)
    if outcome != DONE:
        return outcome
    outcome = exchange(step, step.path)
    if outcome == DONE:
        outcome = finish_move(step, target, first, second, sync, replace, step.replacement)
    if outcome != DONE:
        undo_exchange(step, step.path)
    return outcome


cdef int finish_in_place(
    Step *step, const char *raw, const char *stamp, uint64_t mtime_ns, const char *target,
    const char *first, const char *second, int sync, bint replace
) noexcept nogil:
    cdef int outcome = DONE if replace else check_vacant(step, target)
    if outcome != DONE:
        return outcome
    outcome = put_stamp(step, stamp, mtime_ns, sync)
    if outcome == DONE:
        outcome = finish_move(step, target, first, second, sync, replace, step.task)
    if outcome != DONE:
        undo_stamp(step, raw, mtime_ns)
    return outcome


cdef int finish_with_result(
    Step *step, const char *stamp, Text result, int64_t mtime_ns, const char *target,
    const char *first, const char *second, const char *temporary, int sync, bint replace
) noexcept nogil:
    """Replace the claim by one with another sector and, at its end, the result; then move it."""
    cdef Py_ssize_t old_bytes = step.task_status.st_size, end_bytes = 2
    cdef Py_ssize_t kept_bytes = old_bytes - end_bytes
    cdef Text content
    cdef int outcome
    cdef char *text = <char *>malloc(old_bytes + result.size_bytes)
    if text == NULL:
        posix.set_errno(posix.ENOMEM)
        return fail(step, step.path)
    if read_all(step.task, text, old_bytes) != old_bytes:
        outcome = fail(step, step.path)
    else:
        memcpy(text, stamp, SECTOR_BYTES)
        memcpy(text + kept_bytes, result.at, result.size_bytes)
        memcpy(text + kept_bytes + result.size_bytes, b"}\n", end_bytes)
        content.at, content.size_bytes = text, old_bytes + result.size_bytes
        outcome = write_temporary(step, temporary, content, mtime_ns, sync)
    free(text)
    if outcome == DONE:
        outcome = finish_prepared(step, target, first, second, sync, replace)
    return outcome


cdef int finish_proven(
    Step *step, const char *raw, Py_ssize_t count, const char *target, const char *first,
    const char *second, Text expected, Text status, Text fields, bint keep, Text result,
    const char *temporary, int sync, bint replace
) noexcept nogil:
    """Stamp and move what is held and proven, if the stamp contains `expected`."""
    cdef char stamp[SECTOR_BYTES]
    cdef char now_text[40]
    cdef Sector sector
    cdef Text now
    cdef const char *claimed
    cdef const char *claim_fields
    cdef const char *state_end
    cdef const char *kept_end
    cdef int at, whole
    if not proven_sector(step, raw, count, &sector):
        return UNPROVEN
    state_end = raw + sector.state_end
    claimed = <const char *>posix.memmem(
        raw + sector.head_end, sector.state_end - sector.head_end,
        STATE_CLAIMED, STATE_CLAIMED_BYTES)
    if claimed == NULL:
        return UNPROVEN
    claim_fields = claimed + STATE_CLAIMED_BYTES
    if posix.memmem(claim_fields, state_end - claim_fields,
                    expected.at, expected.size_bytes) == NULL:
        return UNPROVEN
    kept_end = <const char *>posix.memmem(
        claim_fields, state_end - claim_fields, CLAIM_FIELDS_START, CLAIM_FIELDS_START_BYTES)
    if kept_end == NULL:
        return UNPROVEN
    now.at, now.size_bytes = now_text, posix.timestamp(now_text, sizeof(now_text))
    for whole in range(2):  # first with the result in the sector, then with it at the end
        at = append_mark(stamp, raw, &sector, sector.size_bytes + whole * result.size_bytes)
        if keep:
            at = append(stamp, at, raw + sector.head_end, claimed - (raw + sector.head_end))
        elif sector.flags & ENFORCED:
            at = append(stamp, at, b"}", 1)
        at = append(stamp, at, status.at, status.size_bytes)
        if keep:
            at = append(stamp, at, claim_fields, state_end - claim_fields)
            at = append_timed(stamp, at, fields, now)
        else:
            at = append(stamp, at, claim_fields, kept_end - claim_fields)
        if not whole:
            at = append(stamp, at, result.at, result.size_bytes)
        if pad(stamp, at):
            break
    else:
        return UNPROVEN
    if not whole:
        return finish_in_place(step, raw, stamp, sector.mtime_ns, target, first, second, sync,
                               replace)
    return finish_with_result(step, stamp, result, <int64_t>sector.mtime_ns, target, first, second,
                              temporary, sync, replace)


cdef int publish_prepared(
    Step *step, const char *target, const char *first, const char *second, int sync, bint replace
) noexcept nogil:
    cdef bint exchanged = False
    cdef int outcome
    # Only where something can fail after the rename does the old one have to be kept for it.
    if replace and sync >= SYNC_FULL:
        outcome = check_vacant(step, target)
        if outcome == FAILED:
            return FAILED
        exchanged = outcome == COLLISION
    if exchanged:
        outcome = exchange(step, target)
    else:
        outcome = rename_to(step, step.temporary, target, replace and sync < SYNC_FULL)
        if outcome == COLLISION and replace:
            outcome = LOST  # somebody published it meanwhile
        if outcome == DONE:
            step.temporary = NULL
    if outcome == DONE:
        outcome = sync_directories(step, first, second, sync)
    if outcome == FAILED and (exchanged or not replace or sync >= SYNC_FULL):
        undo_publish(step, target, exchanged)
    return LOST if outcome == BUSY else outcome


cdef void undo_publish(Step *step, const char *target, bint exchanged) noexcept nogil:
    cdef posix.stat_result status
    # Nobody of ours can have claimed it: we hold it.
    if posix.fstat(step.replacement, &status) == 0 and names(step, target, &status):
        if exchanged:
            exchange_names(step, step.temporary, target)
        else:
            posix.unlinkat(step.at, name_of(step, target), 0)


# What Python sees ---------------------------------------------------------------------------------


cdef inline Text text_of(bytes content):
    cdef Text text
    text.at = PyBytes_AS_STRING(content) if content is not None else NULL
    text.size_bytes = PyBytes_GET_SIZE(content) if content is not None else 0
    return text


cdef inline const char *path_of(bytes path):
    return PyBytes_AS_STRING(path) if path is not None else NULL


cdef object start_in(Step *step, object tasks, bytes path, bytes lock):
    """Begin a transition of a file in `tasks`, a TasksDirectory; returns its LockedInode or None."""
    cdef object locked = None
    start(step, tasks.descriptor, tasks.prefix_bytes, path_of(path), path_of(lock))
    step.tasks = path_of(tasks.path)
    if lock is not None:
        locked = tasks.locked_inode
        if locked is not None:
            step.ready.inode = locked.descriptor
            step.ready.device, step.ready.number = locked.device, locked.number
            step.ready.name = path_of(locked.name)
    return locked


cdef int see_to_locked_inode(Step *step, object tasks, object locked) except -1:
    """Replace it if it must not, or cannot, be linked again."""
    if step.ready.is_left or step.ready.is_useless:
        tasks.replace_locked_inode(locked, step.ready.is_left)
        step.ready.is_left = step.ready.is_useless = False
    return 0


cdef int raise_failure(const Step *step) except -1:
    raise OSError(step.error, os.strerror(step.error), os.fsdecode(step.where))


cdef class Held:
    """A task whose inode we hold. Close it whatever comes, or use it as a context manager."""

    cdef Step step
    cdef readonly bytes path
    cdef bytes lock
    cdef bytes temporary
    cdef object tasks  # keeps the descriptor that names are looked up from open
    cdef object locked

    def __cinit__(self):
        start(&self.step, posix.AT_FDCWD, 0, NULL, NULL)

    def __dealloc__(self):
        close_all(&self.step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Give up a temporary file that is left, the lock file, and the hold; never fails."""
        with nogil:
            close_all(&self.step)
        see_to_locked_inode(&self.step, self.tasks, self.locked)
        self.step.ready.inode = -1
        self.locked = None  # whoever waits for it, waits until nobody uses it any more

    def read(self, at_most_bytes=None):
        """The document, or its start, as long as it was when we got hold of it."""
        cdef Py_ssize_t count, size_bytes = self.step.task_status.st_size
        if at_most_bytes is not None:
            size_bytes = min(size_bytes, <Py_ssize_t>at_most_bytes)
        cdef bytes content = PyBytes_FromStringAndSize(NULL, size_bytes)
        cdef char *text = PyBytes_AS_STRING(content)
        with nogil:
            count = read_all(self.step.task, text, size_bytes)
            if count < 0:
                fail(&self.step, self.step.path)
        if count < 0:
            raise_failure(&self.step)
        return content[:count]

    def move(self, bytes target not None, bint replace=False):
        """Rename the task to `target`: see `_transition_py`."""
        cdef const char *target_path = path_of(target)
        cdef int outcome
        with nogil:
            outcome = move(&self.step, target_path, replace)
        if outcome == FAILED:
            raise_failure(&self.step)
        return outcome

    def prepare(self, bytes temporary not None, bytes content not None, int64_t mtime_ns, int sync):
        """Write what is to replace this document into a temporary file, flocked and synced."""
        cdef Text text = text_of(content)
        cdef const char *temporary_path = path_of(temporary)
        cdef int outcome
        self.temporary = temporary
        with nogil:
            outcome = write_temporary(&self.step, temporary_path, text, mtime_ns, sync)
        if outcome == FAILED:
            raise_failure(&self.step)

    def claim(self, bytes claimed not None, tuple directories not None, int sync,
              bint replace=False):
        """Move the task to `claimed`, then replace it by what was prepared."""
        cdef const char *claimed_path = path_of(claimed)
        cdef const char *first = path_of(directories[0])
        cdef const char *second = path_of(directories[1])
        cdef int outcome
        with nogil:
            outcome = claim_prepared(&self.step, claimed_path, first, second, sync, replace)
        if outcome == FAILED:
            raise_failure(&self.step)
        return outcome

    def finish(self, bytes target not None, tuple directories not None, int sync, bint replace):
        """Replace the task by what was prepared, then move it to `target`."""
        cdef const char *target_path = path_of(target)
        cdef const char *first = path_of(directories[0])
        cdef const char *second = path_of(directories[1])
        cdef int outcome
        with nogil:
            outcome = finish_prepared(&self.step, target_path, first, second, sync, replace)
        if outcome == FAILED:
            raise_failure(&self.step)
        return outcome

    def fileno(self):
        """The descriptor of what was prepared."""
        return self.step.replacement

    def publish(self, tuple directories not None, int sync, bint replace):
        """Let what `prepare_new` has prepared be the task: see `_transition_py`."""
        cdef const char *first = path_of(directories[0])
        cdef const char *second = path_of(directories[1])
        cdef int outcome
        with nogil:
            outcome = publish_prepared(&self.step, self.step.path, first, second, sync, replace)
        if outcome == FAILED:
            raise_failure(&self.step)
        return outcome


cdef Held keep_held(const Step *step, object tasks, object locked, bytes path, bytes lock):
    """What a transition holds, handed over to Python with the paths that it points into."""
    cdef Held held = Held.__new__(Held)
    held.step = step[0]
    held.tasks, held.locked, held.path, held.lock = tasks, locked, path, lock
    return held


def hold(object tasks not None, bytes path not None, bytes lock):
    """Hold the file at `path`, verified; with `lock`, take that lock file too."""
    cdef Step step
    cdef int outcome
    cdef object locked = start_in(&step, tasks, path, lock)
    with nogil:
        outcome = hold_task(&step)
    see_to_locked_inode(&step, tasks, locked)
    if outcome == FAILED:
        raise_failure(&step)
    return outcome, keep_held(&step, tasks, locked, path, lock) if outcome == DONE else None


cdef bint is_paused(const Step *step, int64_t *unpaused_mtime_ns) noexcept nogil:
    """Whether there is a file `paused`; looked for only if `tasks/` has changed since last time."""
    cdef posix.stat_result status, found
    if posix.fstat(step.at, &status) != 0:
        return True
    if posix.mtime_ns_of(&status) == unpaused_mtime_ns[0]:
        return False
    if (posix.fstatat(step.at, b"paused", &found, posix.AT_SYMLINK_NOFOLLOW) == 0
            or errno != posix.ENOENT):
        return True
    if posix.now_ns() - posix.mtime_ns_of(&status) > TICK_NS:
        unpaused_mtime_ns[0] = posix.mtime_ns_of(&status)
    return False


cdef int look(
    const Step *step, bint heed_pause, int64_t *unpaused_mtime_ns, int owner
) noexcept nogil:
    """DONE or STALE: whether nothing has to be seen to before the claim."""
    cdef posix.stat_result status
    if heed_pause and is_paused(step, unpaused_mtime_ns):
        return STALE
    if owner >= 0 and (posix.fstat(owner, &status) != 0 or status.st_nlink == 0):
        return STALE
    return DONE


cdef int read_held(
    Step *step, bint whole, char *small, char **raw, Py_ssize_t *count
) noexcept nogil:
    """DONE or FAILED; `raw` is `small`, or to be freed."""
    cdef Py_ssize_t wanted = SECTOR_BYTES
    if whole and step.task_status.st_size > SECTOR_BYTES:
        wanted = step.task_status.st_size
    if wanted > SMALL_BYTES:
        # What lies there may be a hole of a terabyte: only a document of ours is read whole.
        count[0] = read_all(step.task, small, SECTOR_BYTES)
        if count[0] < 0:
            return fail(step, step.path)
        if count[0] < SECTOR_BYTES or memcmp(small, MARK_START, MARK_START_BYTES) != 0:
            return DONE
        raw[0] = <char *>malloc(wanted)
        if raw[0] == NULL:
            raw[0] = small
            posix.set_errno(posix.ENOMEM)
            return fail(step, step.path)
    count[0] = read_all(step.task, raw[0], wanted)
    return DONE if count[0] >= 0 else fail(step, step.path)


def claim(object tasks not None, bint heed_pause, int owner,
          bytes path not None, bytes lock, bytes claimed not None, tuple directories not None,
          bytes enforcement not None, bytes fields not None, int sync, bint want_document,
          bytes capabilities=None):
    """One try to claim the task at `path`: see `_transition_py.claim`."""
    cdef Step step
    cdef char small[SMALL_BYTES]
    cdef char *raw = small
    cdef Py_ssize_t count = 0
    cdef Text enforcement_text = text_of(enforcement), fields_text = text_of(fields)
    cdef Text capabilities_text = text_of(capabilities)
    cdef const char *claimed_path = path_of(claimed)
    cdef const char *first = path_of(directories[0])
    cdef const char *second = path_of(directories[1])
    cdef int outcome
    cdef object found = None
    cdef object locked = start_in(&step, tasks, path, lock)
    cdef int64_t known_ns = tasks.unpaused_mtime_ns, unpaused_mtime_ns = known_ns
    with nogil:
        outcome = hold_unverified(&step)
        if outcome == DONE:
            outcome = look(&step, heed_pause, &unpaused_mtime_ns, owner)
            if outcome == DONE:
                outcome = read_held(&step, want_document, small, &raw, &count)
            if outcome == DONE:
                outcome = claim_proven(&step, raw, count, claimed_path, first, second,
                                       enforcement_text, fields_text, sync, capabilities_text)
            if outcome == UNPROVEN and capabilities_text.at != NULL:
                outcome = UNJUDGED
            if outcome == UNPROVEN:
                outcome = verify(&step)
                if outcome == DONE:
                    outcome = UNPROVEN
            else:
                close_all(&step)
    see_to_locked_inode(&step, tasks, locked)
    if unpaused_mtime_ns != known_ns:
        tasks.unpaused_mtime_ns = unpaused_mtime_ns
    try:
        if outcome == FAILED:
            raise_failure(&step)
        if outcome == UNPROVEN:
            found = keep_held(&step, tasks, locked, path, lock)
        elif outcome == DONE and want_document:
            found = PyBytes_FromStringAndSize(raw, count)
    finally:
        if raw != small:
            free(raw)
    return outcome, found


def finish(object tasks not None, bytes path not None, bytes lock, bytes target not None,
           tuple directories not None, bytes expected not None, bytes status not None,
           bytes fields, bytes result not None, bytes temporary not None, int sync, bint replace):
    """One try to complete or release the claim at `path`: see `_transition_py.finish`."""
    cdef Step step
    cdef char raw[SECTOR_BYTES]
    cdef Py_ssize_t count
    cdef Text expected_text = text_of(expected), status_text = text_of(status)
    cdef Text fields_text = text_of(fields), result_text = text_of(result)
    cdef bint keep = fields is not None
    cdef const char *target_path = path_of(target)
    cdef const char *temporary_path = path_of(temporary)
    cdef const char *first = path_of(directories[0])
    cdef const char *second = path_of(directories[1])
    cdef int outcome
    cdef object locked = start_in(&step, tasks, path, lock)
    with nogil:
        outcome = hold_task(&step)
        if outcome == DONE:
            count = read_all(step.task, raw, SECTOR_BYTES)
            if count < 0:
                outcome = fail(&step, step.path)
            else:
                outcome = finish_proven(
                    &step, raw, count, target_path, first, second, expected_text, status_text,
                    fields_text, keep, result_text, temporary_path, sync, replace)
            if outcome != UNPROVEN:
                close_all(&step)
    see_to_locked_inode(&step, tasks, locked)
    if outcome == FAILED:
        raise_failure(&step)
    return outcome, keep_held(&step, tasks, locked, path, lock) if outcome == UNPROVEN else None


def publish(bytes temporary not None, bytes target not None, tuple directories not None,
            bytes content not None, int64_t mtime_ns, int sync):
    """Make `content` the task at `target`: see `_transition_py.publish`."""
    cdef Step step
    cdef Text text = text_of(content)
    cdef const char *temporary_path = path_of(temporary)
    cdef const char *target_path = path_of(target)
    cdef const char *first = path_of(directories[0])
    cdef const char *second = path_of(directories[1])
    cdef int outcome
    # By whole paths: a descriptor could be that of a directory that is no longer the pool's.
    start(&step, posix.AT_FDCWD, 0, target_path, NULL)
    with nogil:
        outcome = write_temporary(&step, temporary_path, text, mtime_ns, sync)
        if outcome == DONE:
            outcome = publish_prepared(&step, target_path, first, second, sync, True)
        elif step.error == posix.ENOENT:
            outcome = LOST
        close_all(&step)
    if outcome == FAILED:
        raise_failure(&step)
    return outcome


def prepare_new(bytes temporary not None, bytes target not None, bytes content not None,
                int64_t mtime_ns, int sync):
    """Write a task into a temporary file: see `_transition_py.prepare_new`."""
    cdef Held new = Held.__new__(Held)
    cdef Text text = text_of(content)
    cdef const char *temporary_path = path_of(temporary)
    cdef int outcome
    new.path, new.temporary = target, temporary
    start(&new.step, posix.AT_FDCWD, 0, path_of(target), NULL)
    with nogil:
        outcome = write_temporary(&new.step, temporary_path, text, mtime_ns, sync)
    if outcome == DONE:
        return DONE, new
    if new.step.error == posix.ENOENT:
        return LOST, None
    raise_failure(&new.step)


cdef int read_file(const Step *step, char *content, Py_ssize_t *count) noexcept nogil:
    """0 or an errno; `count` is how much is wanted, then how much there was."""
    cdef int fd = open_retried(step.at, name_of(step, step.path), posix.O_RDONLY), error = 0
    cdef Py_ssize_t wanted = count[0]
    if fd < 0 and step.at != posix.AT_FDCWD:
        fd = open_retried(posix.AT_FDCWD, step.path, posix.O_RDONLY)
    if fd < 0:
        return errno
    while True:
        count[0] = posix.pread(fd, content, wanted, 0)
        error = errno if count[0] < 0 else 0
        if error != posix.EINTR:
            break
    posix.close(fd)
    return error


def read(path not None, Py_ssize_t at_most_bytes, tasks=None):
    """The start of the file at `path`: see `_transition_py.read`."""
    cdef Step step
    cdef char small[SMALL_BYTES]
    cdef char *text = small
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path) if isinstance(path, str) else path
    cdef bytes content = None
    cdef char *name
    cdef Py_ssize_t count = at_most_bytes
    cdef int error
    PyBytes_AsStringAndSize(encoded, &name, NULL)  # refuses NUL
    if tasks is None:
        start(&step, posix.AT_FDCWD, 0, name, NULL)
    else:
        start(&step, tasks.descriptor, tasks.prefix_bytes, name, NULL)
    if at_most_bytes > SMALL_BYTES:
        content = PyBytes_FromStringAndSize(NULL, at_most_bytes)
        text = PyBytes_AS_STRING(content)
    with nogil:
        error = read_file(&step, text, &count)
    if error == 0:
        return PyBytes_FromStringAndSize(text, count) if content is None else content[:count]
    if (error == posix.ELOOP or error == posix.ENXIO or error == posix.EISDIR
            or error == posix.ESPIPE):
        return None
    raise OSError(error, os.strerror(error), os.fsdecode(path))


def is_there(str path not None):
    """Whether something has that name: see `_transition_py.is_there`."""
    cdef posix.stat_result found
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = path_of(encoded)
    cdef bint has_gone
    with nogil:
        has_gone = posix.lstat(name, &found) != 0 and errno == posix.ENOENT
    return not has_gone


cdef bint peek_at(
    const Step *step, Text capabilities, char *raw, Sector *sector
) noexcept nogil:
    """Whether the task proves to wait, these are enough for it, and it has a rank."""
    cdef posix.stat_result status
    cdef Py_ssize_t count = -1
    cdef int fd = open_retried(step.at, name_of(step, step.path), posix.O_RDONLY)
    if fd < 0:
        return False
    if posix.fstat(fd, &status) == 0:
        count = posix.pread(fd, raw, SECTOR_BYTES, 0)
    posix.close(fd)
    return (as_left(&status, raw, count, sector)
            and sector.rank_at < sector.requirements_at
            and admits(raw, sector, capabilities)
            and waiting_state(raw, sector) >= 0)


def peek(str path not None, bytes capabilities not None, object tasks not None):
    """The rank of a task that proves to wait: see `_transition_py.peek`."""
    cdef Step step
    cdef Sector sector
    cdef char raw[SECTOR_BYTES]
    cdef Text capabilities_text = text_of(capabilities)
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef bint found
    start(&step, tasks.descriptor, tasks.prefix_bytes, path_of(encoded), NULL)
    with nogil:
        found = peek_at(&step, capabilities_text, raw, &sector)
    if not found:
        return None
    return <int64_t>sector.mtime_ns, raw[sector.rank_at:sector.requirements_at]
