"""System calls, and what is made of them: all without the GIL, with `errno` of what failed."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t

from .outcome cimport BUSY, DONE, FAILED

cdef extern from "posix.h" nogil:
    struct stat_result "stat":
        unsigned long st_dev
        unsigned long st_ino
        unsigned int st_mode
        unsigned long st_nlink
        long long st_size

    ctypedef struct inotify_event "fastclaim_inotify_event":
        int wd
        uint32_t mask, cookie, len

    int openat(int at, const char *path, int flags, ...)
    int close(int fd)
    int fstat(int fd, stat_result *status)
    int lstat(const char *path, stat_result *status)
    int fstatat(int at, const char *path, stat_result *status, int flags)
    int flock(int fd, int operation)
    ssize_t pread(int fd, void *content, size_t size_bytes, long long offset)
    ssize_t pwrite(int fd, const void *content, size_t size_bytes, long long offset)
    int fsync(int fd)
    int fdatasync(int fd)
    int sched_yield()
    int renameat(int source_at, const char *source, int target_at, const char *target)
    int linkat(int from_at, const char *source, int to_at, const char *target, int flags)
    int unlinkat(int at, const char *path, int flags)
    int S_ISREG(unsigned int mode)
    void *memmem(const void *text, size_t text_bytes, const void *wanted, size_t wanted_bytes)

    int AT_FDCWD, AT_SYMLINK_NOFOLLOW
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_DIRECTORY
    int LOCK_EX, LOCK_NB, LOCK_UN
    int EACCES, EAGAIN, EBADF, EEXIST, EINTR, EINVAL, EISDIR, ELOOP, ENOENT, ENOMEM, ENOSYS, ENOTDIR
    int ENXIO, EOPNOTSUPP, EPERM, EROFS, ESPIPE, ETXTBSY, EIO

    int OPEN_FLAGS "FASTCLAIM_OPEN_FLAGS"
    unsigned int RENAME_NOREPLACE "FASTCLAIM_RENAME_NOREPLACE"
    unsigned int RENAME_EXCHANGE "FASTCLAIM_RENAME_EXCHANGE"
    enum: TIMESTAMP_BYTES "FASTCLAIM_TIMESTAMP_BYTES"
    int rename_with "fastclaim_rename_with" (
        int at, const char *source, const char *target, unsigned int flags)
    int64_t mtime_ns_of "fastclaim_mtime_ns" (const stat_result *status)
    int set_mtime "fastclaim_set_mtime" (int fd, int64_t mtime_ns)
    int look_at_once "fastclaim_look_at_once" (int at, const char *name)
    int inotify_init "fastclaim_inotify_init" ()
    int inotify_add_watch "fastclaim_inotify_add_watch" (int fd, const char *path, uint32_t mask)
    int waiting_bytes "fastclaim_waiting_bytes" (int fd)
    void set_errno "fastclaim_set_errno" (int number)
    bint has_kernels_clock "fastclaim_has_kernels_clock" (int fd)
    int64_t file_clock_ns "fastclaim_file_clock_ns" ()
    int timestamp "fastclaim_timestamp" (char *text)


cdef inline bint unsupported() noexcept nogil:
    """A file system without the flag says EINVAL, a kernel without the call ENOSYS, ..."""
    return errno == EINVAL or errno == ENOSYS or errno == EOPNOTSUPP or errno == EPERM


cdef inline bint same_inode(const stat_result *one, const stat_result *other) noexcept nogil:
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


cdef inline int open_retried(int at, const char *path, int flags) noexcept nogil:
    cdef int fd
    while True:
        fd = openat(at, path, flags | OPEN_FLAGS, 0o666)
        if fd >= 0 or errno != EINTR:
            return fd


cdef inline int open_for_flock(int at, const char *path, int flags, bint *writable) noexcept nogil:
    """flock needs no more than reading."""
    cdef int fd = open_retried(at, path, flags | O_RDWR)
    writable[0] = fd >= 0
    if fd < 0 and (errno == EACCES or errno == EPERM or errno == EROFS or errno == ETXTBSY):
        fd = open_retried(at, path, flags | O_RDONLY)
    return fd


cdef inline int try_flock(int fd) noexcept nogil:
    """DONE, BUSY or FAILED."""
    while flock(fd, LOCK_EX | LOCK_NB) != 0:
        if errno == EAGAIN:
            return BUSY
        if errno != EINTR:
            return FAILED
    return DONE


cdef inline void unlock_and_close(int fd) noexcept nogil:
    """Unlock first: a child forked meanwhile has a copy, and the flock with it."""
    flock(fd, LOCK_UN)
    close(fd)  # also with EINTR the descriptor is closed


cdef inline Py_ssize_t read_all(int fd, char *content, Py_ssize_t size_bytes) noexcept nogil:
    """How much there was, or -1."""
    cdef Py_ssize_t count = 0, piece
    while count < size_bytes:
        piece = pread(fd, content + count, size_bytes - count, count)
        if piece == 0:
            break
        if piece > 0:
            count += piece
        elif errno != EINTR:
            return -1
    return count


cdef inline int write_all(int fd, const char *content, Py_ssize_t size_bytes) noexcept nogil:
    cdef Py_ssize_t count = 0, piece
    while count < size_bytes:
        piece = pwrite(fd, content + count, size_bytes - count, count)
        if piece > 0:
            count += piece
        elif piece == 0:
            set_errno(EIO)
            return -1
        elif errno != EINTR:
            return -1
    return 0
