"""System calls as `_posix.h` declares them; all may be called without the GIL."""

from libc.stdint cimport int64_t

cdef extern from "_posix.h" nogil:
    struct stat_result "stat":
        unsigned long st_dev
        unsigned long st_ino
        unsigned int st_mode
        unsigned long st_nlink
        long long st_size

    int openat(int at, const char *path, int flags, ...)
    int close(int fd)
    int fstat(int fd, stat_result *status)
    int lstat(const char *path, stat_result *status)
    int fstatat(int at, const char *path, stat_result *status, int flags)
    int flock(int fd, int operation)
    ssize_t pread(int fd, void *content, size_t size_bytes, long long offset)
    ssize_t pwrite(int fd, const void *content, size_t size_bytes, long long offset)
    int fsync(int fd)
    int renameat(int source_at, const char *source, int target_at, const char *target)
    int linkat(int from_at, const char *source, int to_at, const char *target, int flags)
    int unlinkat(int at, const char *path, int flags)
    int S_ISREG(unsigned int mode)
    void *memmem(const void *text, size_t text_bytes, const void *wanted, size_t wanted_bytes)

    int AT_FDCWD, AT_SYMLINK_NOFOLLOW
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_CLOEXEC, O_DIRECTORY
    int LOCK_EX, LOCK_NB, LOCK_UN
    int EACCES, EAGAIN, EBADF, EEXIST, EINTR, EINVAL, EISDIR, ELOOP, ENOENT, ENOMEM, ENOSYS, ENOTDIR
    int ENXIO, EOPNOTSUPP, EPERM, EROFS, ESPIPE, ETXTBSY, EIO

    unsigned int RENAME_NOREPLACE "FASTCLAIM_RENAME_NOREPLACE"
    unsigned int RENAME_EXCHANGE "FASTCLAIM_RENAME_EXCHANGE"
    int rename_with "fastclaim_rename_with" (
        int at, const char *source, const char *target, unsigned int flags)
    int sync_content "fastclaim_sync_content" (int fd)
    int64_t mtime_ns_of "fastclaim_mtime_ns" (const stat_result *status)
    int set_mtime "fastclaim_set_mtime" (int fd, int64_t mtime_ns)
    void set_errno "fastclaim_set_errno" (int number)
    int64_t now_ns "fastclaim_now_ns" ()
    int timestamp "fastclaim_timestamp" (char *text, size_t size_bytes)
