/* What Linux has and Cython's posix.* does not declare, or declares without GNU names. */
#ifndef FASTCLAIM_POSIX_H
#define FASTCLAIM_POSIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FASTCLAIM_OPEN_FLAGS (O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define FASTCLAIM_RENAME_NOREPLACE 1
#define FASTCLAIM_RENAME_EXCHANGE 2

static inline int fastclaim_rename_with(int at, const char *from, const char *to,
                                        unsigned int flags)
{
#if defined(__GLIBC__)
    return renameat2(at, from, at, to, flags);
#else
    return (int)syscall(SYS_renameat2, at, from, at, to, flags);
#endif
}

#ifdef __linux__
#include <sys/inotify.h>
#include <sys/vfs.h>
#define FASTCLAIM_TMPFS 0x01021994 /* linux/magic.h */
#define FASTCLAIM_RESOLVE_CACHED 0x20 /* linux/openat2.h, as the rest */
#ifndef SYS_openat2
#define SYS_openat2 437 /* on every architecture */
#endif

struct fastclaim_open_how {
    uint64_t flags, mode, resolve;
};
#endif

/* 0: it is there. EAGAIN: it seems to have gone, and only who waits for those who change its
 * directory can be sure: a tmpfs remembers no name that has gone. ENOSYS: this look does not tell. */
static inline int fastclaim_look_at_once(int at, const char *name)
{
#ifdef __linux__
    struct fastclaim_open_how how = {O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, FASTCLAIM_RESOLVE_CACHED};
    struct statfs system;
    int fd = (int)syscall(SYS_openat2, at, name, &how, sizeof how);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    if (errno == EAGAIN && fstatfs(at, &system) == 0 && system.f_type == FASTCLAIM_TMPFS)
        return EAGAIN;
#endif
    return ENOSYS;
}

/* Whether this kernel, and no other machine, says when a file there is changed. */
static inline int fastclaim_has_kernels_clock(int fd)
{
#ifdef __linux__
    struct statfs system;
    return fstatfs(fd, &system) == 0
           && (system.f_type == FASTCLAIM_TMPFS || system.f_type == 0xef53 /* ext4 */
               || system.f_type == 0x58465342 /* xfs */ || system.f_type == 0x9123683e /* btrfs */);
#else
    (void)fd;
    return 0;
#endif
}

/* As inotify(7) has it, without the name that follows: not every system has the header. */
typedef struct {
    int wd;
    uint32_t mask, cookie, len;
} fastclaim_inotify_event;

/* A new inotify instance, which never blocks and is closed by exec; -1: see errno. */
static inline int fastclaim_inotify_init(void)
{
#ifdef __linux__
    return inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
#else
    errno = ENOSYS;
    return -1;
#endif
}

/* The number of the watch; -1: see errno. */
static inline int fastclaim_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
#ifdef __linux__
    return inotify_add_watch(fd, path, mask);
#else
    (void)fd, (void)path, (void)mask;
    errno = ENOSYS;
    return -1;
#endif
}

/* How much can be read from an inotify instance; -1 if it is none. */
static inline int fastclaim_waiting_bytes(int fd)
{
    struct stat status;
    int count;
    /* All others of which this can be asked have a type. */
    if (fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != 0)
        return -1;
    return ioctl(fd, FIONREAD, &count) == 0 ? count : -1;
}

static inline void fastclaim_set_errno(int number)
{
    errno = number;
}

static inline int64_t fastclaim_ns(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline int64_t fastclaim_mtime_ns(const struct stat *status)
{
    return fastclaim_ns(status->st_mtim);
}

static inline int fastclaim_set_mtime(int fd, int64_t mtime_ns)
{
    struct timespec times[2];
    times[0].tv_sec = 0;
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_sec = (time_t)(mtime_ns / 1000000000);
    times[1].tv_nsec = (long)(mtime_ns % 1000000000);
    return futimens(fd, times);
}

/* What the kernel would say now of a file that is changed: on Linux that of its last tick. */
static inline int64_t fastclaim_file_clock_ns(void)
{
    struct timespec now;
#ifdef CLOCK_REALTIME_COARSE
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return fastclaim_ns(now);
#else
    clock_gettime(CLOCK_REALTIME, &now);
    return fastclaim_ns(now) - 100000000;
#endif
}

/* As much as the digits of any 64-bit number of seconds, a point and six more. */
#define FASTCLAIM_TIMESTAMP_BYTES 27

/* Seconds since the epoch to the microsecond, whatever the locale; the length. */
static inline int fastclaim_timestamp(char text[FASTCLAIM_TIMESTAMP_BYTES])
{
    /* By hand: snprintf() took a fifth of the instructions of a claim. */
    struct timespec now;
    char digits[FASTCLAIM_TIMESTAMP_BYTES];
    int at = sizeof digits, i, length;
    uint64_t seconds;
    long micros;

    clock_gettime(CLOCK_REALTIME, &now);
    seconds = (uint64_t)now.tv_sec;
    micros = now.tv_nsec / 1000;
    for (i = 0; i < 6; i++, micros /= 10)
        digits[--at] = (char)('0' + micros % 10);
    digits[--at] = '.';
    do
        digits[--at] = (char)('0' + seconds % 10);
    while ((seconds /= 10) != 0);
    length = (int)sizeof digits - at;
    memcpy(text, digits + at, (size_t)length);
    return length;
}

#endif
