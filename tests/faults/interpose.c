/* Makes the n-th system call that concerns the pool fail, or die, or do half; for LD_PRELOAD.

   Only calls of the thread that called fault_arm(), and only those whose path, or whose descriptor's
   path, contains MARKER; without fault_arm() everything passes. Counting starts at 0.

       fault_only("pwrite,fsync")   see only these calls from now on; "" or NULL: all
       fault_skip_sync(1)           fsync and fdatasync of the pool say 0 and do not touch the disk
       fault_arm(nth, errno, action | PERSISTENT)
       fault_disarm()               the number of calls seen
       fault_log()                  one line a call: name, what was done to it, inode, path, by tabs

   Written for glibc: its 64-bit names and the __xstat family are what a binary may call there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MARKER "fault-pool"
#define EXPORT __attribute__((visibility("default")))

enum {
    PASS,
    FAIL,            /* instead of the call; a close() really closes all the same */
    KILL_BEFORE,     /* SIGKILL, as the first thing */
    KILL_AFTER,      /* the call, then SIGKILL */
    SHORT,           /* half of what was to be read or written; other calls pass */
    FAIL_AFTER,      /* the call, and then an error as if it had not been made */
    SHORT_THEN_FAIL, /* half, and the next call that is seen fails */
    PERSISTENT = 64  /* this call and every later one */
};

static struct {
    long nth;
    long seen;
    int number;
    int action;
    int persistent;
} fault;
static __thread int armed;
static int skip_sync;
static char only[256];
static char logged[1 << 17];
static size_t logged_bytes;
static char *last_action = logged; /* in the last line of `logged` */

static const char *const ACTIONS[] = {
    "pass", "fail", "kill-before", "kill-after", "short", "fail-after", "short-then-fail"};

EXPORT void fault_only(const char *names)
{
    snprintf(only, sizeof only, ",%s,", names && *names ? names : "");
    if (!names || !*names)
        only[0] = '\0';
}

EXPORT void fault_skip_sync(int yes)
{
    skip_sync = yes;
}

EXPORT void fault_arm(long nth, int number, int action)
{
    fault.nth = nth;
    fault.seen = 0;
    fault.number = number;
    fault.action = action & ~PERSISTENT;
    fault.persistent = (action & PERSISTENT) != 0;
    logged_bytes = 0;
    logged[0] = '\0';
    armed = 1;
}

EXPORT long fault_disarm(void)
{
    armed = 0;
    return fault.seen;
}

EXPORT const char *fault_log(void)
{
    return logged;
}

/* The path that a call is about: `path`, or what `fd` is open on. */
static int concerns_pool(int fd, const char *path, char *found, size_t found_bytes)
{
    char link[64];
    ssize_t length;

    if (path && (path[0] == '/' || fd < 0)) {
        snprintf(found, found_bytes, "%s", path);
    } else if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = syscall(SYS_readlinkat, AT_FDCWD, link, found, found_bytes - 1);
        if (length < 0)
            return 0;
        found[length] = '\0';
        if (path)
            snprintf(found + length, found_bytes - (size_t)length, "/%s", path);
    } else {
        return 0;
    }
    return strstr(found, MARKER) != NULL;
}

static unsigned long inode_of(int fd, const char *path)
{
    struct stat status;
    long failed = path ? syscall(SYS_newfstatat, AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW)
                       : syscall(SYS_newfstatat, fd, "", &status, AT_EMPTY_PATH);
    return failed ? 0 : (unsigned long)status.st_ino;
}

static int seen_by(const char *name)
{
    char wanted[64];
    if (!only[0])
        return 1;
    snprintf(wanted, sizeof wanted, ",%s,", name);
    return strstr(only, wanted) != NULL;
}

/* What is to be done to this call. Leaves errno as it was. */
static int meet(const char *name, int fd, const char *path)
{
    char found[4200];
    int before = errno, action = PASS;
    long at;

    if (!armed)
        return PASS;
    if (!seen_by(name) || !concerns_pool(fd, path, found, sizeof found)) {
        errno = before;
        return PASS;
    }
    at = fault.seen++;
    if (at == fault.nth || (fault.persistent && at > fault.nth && fault.nth >= 0))
        action = fault.action;
    else if (fault.action == SHORT_THEN_FAIL && at == fault.nth + 1)
        action = FAIL;
    last_action = logged + logged_bytes + strlen(name) + 1;
    if (logged_bytes + sizeof found + 256 < sizeof logged)
        logged_bytes += (size_t)snprintf(logged + logged_bytes, sizeof logged - logged_bytes,
                                         "%s\t%s\t%lu\t%s\n", name, ACTIONS[action],
                                         inode_of(fd, path), found);
    if (action == KILL_BEFORE)
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    errno = before;
    return action;
}

static long after(int action, long result)
{
    if (action == KILL_AFTER)
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    if (action == FAIL_AFTER && result < 0) {
        memcpy(last_action, "failed-too", sizeof "failed-too" - 1); /* as long as fail-after */
    } else if (action == FAIL_AFTER) {
        errno = fault.number;
        return -1;
    }
    return result;
}

static size_t part(int action, size_t size_bytes)
{
    return action == SHORT || action == SHORT_THEN_FAIL ? (size_bytes + 1) / 2 : size_bytes;
}

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    int before = errno;
    void *symbol = dlsym(RTLD_NEXT, name);
    errno = before;
    return symbol;
}

#define WRAPPED(type, declared, name, fd, path, made)                                             \
    EXPORT type declared                                                                          \
    {                                                                                             \
        int action = meet(name, fd, path);                                                        \
        if (action == FAIL) {                                                                     \
            errno = fault.number;                                                                 \
            return -1;                                                                            \
        }                                                                                         \
        return (type)after(action, made);                                                         \
    }

/* open: an error after the call would leave a descriptor that nobody knows of. */
#define OPEN(declared, name, fd, path, flags, made)                                               \
    EXPORT int declared                                                                           \
    {                                                                                             \
        mode_t mode = 0;                                                                          \
        int action;                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                      \
            va_list list;                                                                         \
            va_start(list, flags);                                                                \
            mode = va_arg(list, mode_t);                                                          \
            va_end(list);                                                                         \
        }                                                                                         \
        action = meet(name, fd, path);                                                            \
        if (action == FAIL || action == FAIL_AFTER) {                                             \
            errno = fault.number;                                                                 \
            return -1;                                                                            \
        }                                                                                         \
        return (int)after(action, made);                                                          \
    }

OPEN(open(const char *path, int flags, ...), "open", -1, path, flags,
     REAL(open)(path, flags, mode))
OPEN(open64(const char *path, int flags, ...), "open", -1, path, flags,
     REAL(open64)(path, flags, mode))
OPEN(openat(int at, const char *path, int flags, ...), "open", at, path, flags,
     REAL(openat)(at, path, flags, mode))
OPEN(openat64(int at, const char *path, int flags, ...), "open", at, path, flags,
     REAL(openat64)(at, path, flags, mode))

EXPORT int close(int fd)
{
    int action = meet("close", fd, NULL);
    int closed = REAL(close)(fd);
    if (action == FAIL) {
        errno = fault.number;
        return -1;
    }
    return (int)after(action, closed);
}

WRAPPED(int, fstat(int fd, struct stat *status), "fstat", fd, NULL, REAL(fstat)(fd, status))
WRAPPED(int, fstat64(int fd, struct stat64 *status), "fstat", fd, NULL, REAL(fstat64)(fd, status))
WRAPPED(int, lstat(const char *path, struct stat *status), "lstat", -1, path,
        REAL(lstat)(path, status))
WRAPPED(int, lstat64(const char *path, struct stat64 *status), "lstat", -1, path,
        REAL(lstat64)(path, status))
WRAPPED(int, stat(const char *path, struct stat *status), "stat", -1, path,
        REAL(stat)(path, status))
WRAPPED(int, stat64(const char *path, struct stat64 *status), "stat", -1, path,
        REAL(stat64)(path, status))
WRAPPED(int, fstatat(int at, const char *path, struct stat *status, int flags), "stat", at, path,
        REAL(fstatat)(at, path, status, flags))
WRAPPED(int, fstatat64(int at, const char *path, struct stat64 *status, int flags), "stat", at,
        path, REAL(fstatat64)(at, path, status, flags))
WRAPPED(int, statx(int at, const char *path, int flags, unsigned mask, struct statx *status),
        "stat", at, path, REAL(statx)(at, path, flags, mask, status))

/* What glibc before 2.33 made of the above; binaries built against it still call these. */
int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat64 *status);
int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat64 *status);
WRAPPED(int, __fxstat(int version, int fd, struct stat *status), "fstat", fd, NULL,
        REAL(__fxstat)(version, fd, status))
WRAPPED(int, __fxstat64(int version, int fd, struct stat64 *status), "fstat", fd, NULL,
        REAL(__fxstat64)(version, fd, status))
WRAPPED(int, __lxstat(int version, const char *path, struct stat *status), "lstat", -1, path,
        REAL(__lxstat)(version, path, status))
WRAPPED(int, __lxstat64(int version, const char *path, struct stat64 *status), "lstat", -1, path,
        REAL(__lxstat64)(version, path, status))
WRAPPED(int, __xstat(int version, const char *path, struct stat *status), "stat", -1, path,
        REAL(__xstat)(version, path, status))
WRAPPED(int, __xstat64(int version, const char *path, struct stat64 *status), "stat", -1, path,
        REAL(__xstat64)(version, path, status))

WRAPPED(int, flock(int fd, int operation), operation & LOCK_UN ? "unlock" : "flock", fd, NULL,
        REAL(flock)(fd, operation))
WRAPPED(ssize_t, pread(int fd, void *content, size_t size_bytes, off_t offset), "pread", fd, NULL,
        REAL(pread)(fd, content, part(action, size_bytes), offset))
WRAPPED(ssize_t, pread64(int fd, void *content, size_t size_bytes, off64_t offset), "pread", fd,
        NULL, REAL(pread64)(fd, content, part(action, size_bytes), offset))
WRAPPED(ssize_t, read(int fd, void *content, size_t size_bytes), "read", fd, NULL,
        REAL(read)(fd, content, part(action, size_bytes)))
WRAPPED(ssize_t, pwrite(int fd, const void *content, size_t size_bytes, off_t offset), "pwrite",
        fd, NULL, REAL(pwrite)(fd, content, part(action, size_bytes), offset))
WRAPPED(ssize_t, pwrite64(int fd, const void *content, size_t size_bytes, off64_t offset),
        "pwrite", fd, NULL, REAL(pwrite64)(fd, content, part(action, size_bytes), offset))
WRAPPED(ssize_t, write(int fd, const void *content, size_t size_bytes), "write", fd, NULL,
        REAL(write)(fd, content, part(action, size_bytes)))
WRAPPED(int, ftruncate(int fd, off_t size_bytes), "ftruncate", fd, NULL,
        REAL(ftruncate)(fd, size_bytes))
WRAPPED(int, ftruncate64(int fd, off64_t size_bytes), "ftruncate", fd, NULL,
        REAL(ftruncate64)(fd, size_bytes))
WRAPPED(int, fsync(int fd), "fsync", fd, NULL, skip_sync && armed ? 0 : REAL(fsync)(fd))
WRAPPED(int, fdatasync(int fd), "fdatasync", fd, NULL,
        skip_sync && armed ? 0 : REAL(fdatasync)(fd))
WRAPPED(int, rename(const char *from, const char *to), "rename", -1, from, REAL(rename)(from, to))
WRAPPED(int, renameat(int from_at, const char *from, int to_at, const char *to), "rename", from_at,
        from, REAL(renameat)(from_at, from, to_at, to))
WRAPPED(int,
        renameat2(int from_at, const char *from, int to_at, const char *to, unsigned int flags),
        "renameat2", from_at, from, REAL(renameat2)(from_at, from, to_at, to, flags))
WRAPPED(int, link(const char *from, const char *to), "link", -1, from, REAL(link)(from, to))
WRAPPED(int, linkat(int from_at, const char *from, int to_at, const char *to, int flags), "link",
        from_at, from, REAL(linkat)(from_at, from, to_at, to, flags))
WRAPPED(int, unlink(const char *path), "unlink", -1, path, REAL(unlink)(path))
WRAPPED(int, unlinkat(int at, const char *path, int flags), "unlink", at, path,
        REAL(unlinkat)(at, path, flags))
WRAPPED(int, futimens(int fd, const struct timespec times[2]), "futimens", fd, NULL,
        REAL(futimens)(fd, times))
WRAPPED(int, utimensat(int at, const char *path, const struct timespec times[2], int flags),
        "futimens", at, path, REAL(utimensat)(at, path, times, flags))
WRAPPED(int, mkdir(const char *path, mode_t mode), "mkdir", -1, path, REAL(mkdir)(path, mode))
WRAPPED(int, mkdirat(int at, const char *path, mode_t mode), "mkdir", at, path,
        REAL(mkdirat)(at, path, mode))
WRAPPED(int, access(const char *path, int mode), "access", -1, path, REAL(access)(path, mode))
WRAPPED(int, faccessat(int at, const char *path, int mode, int flags), "access", at, path,
        REAL(faccessat)(at, path, mode, flags))

EXPORT DIR *opendir(const char *path)
{
    int action = meet("opendir", -1, path);
    if (action == FAIL || action == FAIL_AFTER) {
        errno = fault.number;
        return NULL;
    }
    return REAL(opendir)(path);
}

EXPORT struct dirent *readdir(DIR *directory)
{
    int action = meet("readdir", dirfd(directory), NULL);
    if (action == FAIL || action == FAIL_AFTER) {
        errno = fault.number;
        return NULL;
    }
    return REAL(readdir)(directory);
}

EXPORT struct dirent64 *readdir64(DIR *directory)
{
    int action = meet("readdir", dirfd(directory), NULL);
    if (action == FAIL || action == FAIL_AFTER) {
        errno = fault.number;
        return NULL;
    }
    return REAL(readdir64)(directory);
}

EXPORT int closedir(DIR *directory)
{
    int action = meet("closedir", dirfd(directory), NULL);
    int closed = REAL(closedir)(directory);
    if (action == FAIL) {
        errno = fault.number;
        return -1;
    }
    return (int)after(action, closed);
}
