/* The floor: the system calls that the protocol makes on a document of fastclaim's own, in the
 * order of _transition_py.py, and nothing else: no JSON, no proof, no undo, no choice. What an
 * implementation takes beyond this is its own doing.
 *
 * Each function does one operation on each of `count` tasks, whose paths are made beforehand, and
 * returns how long that took, ns, or -1 with errno at the first failure (and leaves it at that).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR_BYTES 512
#define DOCUMENT_BYTES 65536 /* no longer ones are measured */

char floor_document[DOCUMENT_BYTES]; /* the last that was read or written */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What names are looked up from, how much of a whole path it stands for, the owner file, and what is
 * linked to the names of lock files. */
static int tasks_fd = AT_FDCWD, owner_fd = -1;
static const char *ready = "";
static size_t prefix_bytes = 0;

static const char *name_of(const char *path)
{
    return path + prefix_bytes;
}

static int find(const char *path, struct stat *status)
{
    return fstatat(tasks_fd, name_of(path), status, AT_SYMLINK_NOFOLLOW);
}

static int open_file(const char *path, int flags)
{
    return openat(tasks_fd, name_of(path), flags | O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                  0666);
}

static int let_go(int fd)
{
    return flock(fd, LOCK_UN) != 0 || close(fd) != 0 ? -1 : 0;
}

static int give_up(int fd, const char *lock)
{
    int error = errno;
    if (lock != NULL)
        unlinkat(tasks_fd, name_of(lock), 0);
    let_go(fd);
    errno = error;
    return -1;
}

static int hold(const char *path, struct stat *status)
{
    int fd = open_file(path, 0);
    if (fd >= 0 && (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, status) != 0))
        return give_up(fd, NULL);
    return fd;
}

static int put_mtime_back(int fd, const struct stat *status)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, status->st_mtim};
    return futimens(fd, times);
}

static int stamp(int fd, const struct stat *status, int durable)
{
    /* The sector that is there, once more: the kernel does not compare. */
    if (pwrite(fd, floor_document, SECTOR_BYTES, 0) != SECTOR_BYTES)
        return -1;
    if (durable && fdatasync(fd) != 0)
        return -1;
    return put_mtime_back(fd, status);
}

static int claim_one(const char *available, const char *lock, const char *claimed, int durable)
{
    struct stat status, lock_status;
    int fd = hold(available, &status);

    if (fd < 0)
        return -1;
    if (lock != NULL && linkat(tasks_fd, ready, tasks_fd, name_of(lock), 0) != 0)
        return give_up(fd, NULL);
    if (fstat(tasks_fd, &lock_status) != 0 || fstat(owner_fd, &lock_status) != 0
        || pread(fd, floor_document, (size_t)status.st_size, 0) != status.st_size
        || renameat2(tasks_fd, name_of(available), tasks_fd, name_of(claimed), RENAME_NOREPLACE)
        || lstat(claimed, &status) != 0 || stamp(fd, &status, durable) != 0)
        return give_up(fd, lock);
    if (lock != NULL
        && (find(lock, &lock_status) != 0 || unlinkat(tasks_fd, name_of(lock), 0) != 0
            || fstat(owner_fd, &lock_status) != 0)) /* of the linked inode, in the core */
        return -1;
    return let_go(fd);
}

/* Look names up from tasks/, whose path is `bytes` long with its slash; -1: by whole paths. */
void floor_from(int tasks, int owner, size_t bytes, const char *linked)
{
    ready = linked;
    tasks_fd = tasks < 0 ? AT_FDCWD : tasks;
    owner_fd = owner;
    prefix_bytes = bytes;
}

int64_t floor_claim(int count, const char *const *available, const char *const *locks,
                    const char *const *claimed, int durable)
{
    int64_t started_ns = now_ns();
    for (int i = 0; i < count; i++)
        if (claim_one(available[i], locks ? locks[i] : NULL, claimed[i], durable) != 0)
            return -1;
    return now_ns() - started_ns;
}

static int complete_one(const char *claimed, const char *completed, int durable)
{
    struct stat status;
    int fd = hold(claimed, &status);

    if (fd < 0 || lstat(claimed, &status) != 0
        || pread(fd, floor_document, SECTOR_BYTES, 0) != SECTOR_BYTES
        || stamp(fd, &status, durable) != 0
        || renameat(tasks_fd, name_of(claimed), tasks_fd, name_of(completed)) != 0)
        return -1;
    return let_go(fd);
}

int64_t floor_complete(int count, const char *const *claimed, const char *const *completed,
                       int durable)
{
    int64_t started_ns = now_ns();
    for (int i = 0; i < count; i++)
        if (complete_one(claimed[i], completed[i], durable) != 0)
            return -1;
    return now_ns() - started_ns;
}

/* After a task was not there: is the directory still the pool's, and has nobody died? */
static int look_around(const char *tasks, int inotify)
{
    struct stat status;
    int bytes;
    return stat(tasks, &status) != 0 || fstat(tasks_fd, &status) != 0
           || fstat(inotify, &status) != 0 || ioctl(inotify, FIONREAD, &bytes) != 0 || bytes > 0
        ? -1 : 0;
}

int64_t floor_miss(int count, const char *const *available, const char *tasks, int inotify)
{
    int64_t started_ns = now_ns();
    for (int i = 0; i < count; i++)
        if (open_file(available[i], 0) >= 0 || errno != ENOENT || look_around(tasks, inotify) != 0)
            return -1;
    return now_ns() - started_ns;
}

/* 1: this task was claimed; 0: somebody else has it; -1: neither. */
int floor_race(const char *available, const char *lock, const char *claimed, const char *tasks,
               int inotify)
{
    while (claim_one(available, lock, claimed, 1) != 0) {
        if (errno == ENOENT)
            return look_around(tasks, inotify);
        if (errno != EWOULDBLOCK || sched_yield() != 0)
            return -1;
    }
    return 1;
}

static int publish_one(const char *temporary, const char *available, size_t size_bytes, int durable)
{
    struct stat status = {.st_mtim = {.tv_sec = 1}};
    int fd = open_file(temporary, O_CREAT | O_EXCL);

    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0
        || pwrite(fd, floor_document, size_bytes, 0) != (ssize_t)size_bytes
        || put_mtime_back(fd, &status) != 0 || (durable && fsync(fd) != 0)
        || rename(temporary, available) != 0)
        return -1;
    return let_go(fd);
}

int64_t floor_publish(int count, const char *const *temporary, const char *const *available,
                      int size_bytes, int durable)
{
    int64_t started_ns = now_ns();
    for (int i = 0; i < count; i++)
        if (publish_one(temporary[i], available[i], (size_t)size_bytes, durable) != 0)
            return -1;
    return now_ns() - started_ns;
}
