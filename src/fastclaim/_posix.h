/* What POSIX and Linux have and Cython's posix.* does not declare, or declares without GNU names. */
#ifndef FASTCLAIM_POSIX_H
#define FASTCLAIM_POSIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FASTCLAIM_RENAME_NOREPLACE 1
#define FASTCLAIM_RENAME_EXCHANGE 2

static inline int fastclaim_rename_with(int at, const char *from, const char *to,
                                        unsigned int flags)
{
#if defined(__GLIBC__)
    return renameat2(at, from, at, to, flags);
#elif defined(SYS_renameat2)
    return (int)syscall(SYS_renameat2, at, from, at, to, flags);
#else
    (void)at, (void)from, (void)to, (void)flags;
    errno = ENOSYS;
    return -1;
#endif
}

static inline void fastclaim_set_errno(int number)
{
    errno = number;
}

static inline int fastclaim_sync_content(int fd)
{
#if defined(__APPLE__)
    return fcntl(fd, F_FULLFSYNC);
#else
    return fdatasync(fd);
#endif
}

#if defined(__APPLE__)
#define FASTCLAIM_MTIME(status) ((status)->st_mtimespec)
#else
#define FASTCLAIM_MTIME(status) ((status)->st_mtim)
#endif

static inline int64_t fastclaim_mtime_ns(const struct stat *status)
{
    return (int64_t)FASTCLAIM_MTIME(status).tv_sec * 1000000000 + FASTCLAIM_MTIME(status).tv_nsec;
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

static inline int64_t fastclaim_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Seconds since the epoch to the microsecond, whatever the locale; the length. */
static inline int fastclaim_timestamp(char *text, size_t size_bytes)
{
    /* By hand: snprintf() took a fifth of the instructions of a claim. */
    struct timespec now;
    char digits[24];
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
    while ((seconds /= 10) != 0 && at > 0);
    length = (int)sizeof digits - at;
    if ((size_t)length > size_bytes)
        return -1;
    memcpy(text, digits + at, (size_t)length);
    return length;
}

/* The text before a sector's head; its length. */
static inline int fastclaim_write_mark(char *text, size_t text_bytes, int64_t size_bytes,
                                       uint64_t mtime_ns, int head_bytes, int flags)
{
    return snprintf(text, text_bytes, "{\"fastclaim\": \"1 %lld %llu %03d %d\"",
                    (long long)size_bytes, (unsigned long long)mtime_ns, head_bytes, flags);
}

/* 1 if `text` begins with a sector's mark; its numbers, and where it ends. */
static inline int fastclaim_read_mark(const char *text, int64_t *size_bytes, uint64_t *mtime_ns,
                                      int *head_bytes, int *flags, int *end)
{
    static const char start[] = "{\"fastclaim\": \"1 ";
    static const int longest[4] = {18, 19, 3, 1};
    const char *at = text + sizeof start - 1;
    uint64_t numbers[4] = {0, 0, 0, 0};
    int digits, i;

    if (memcmp(text, start, sizeof start - 1) != 0)
        return 0;
    for (i = 0; i < 4; i++, at++) {
        for (digits = 0; *at >= '0' && *at <= '9' && digits < longest[i]; at++, digits++)
            numbers[i] = numbers[i] * 10 + (uint64_t)(*at - '0');
        if (digits == 0 || (i == 2 && digits != 3) || *at != (i < 3 ? ' ' : '"'))
            return 0;
    }
    *size_bytes = (int64_t)numbers[0];
    *mtime_ns = numbers[1];
    *head_bytes = (int)numbers[2];
    *flags = (int)numbers[3];
    *end = (int)(at - text);
    return numbers[3] <= 3;
}

#endif
