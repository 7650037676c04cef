/* What each system call of a claim takes: the calls of floor.c's claim, one by one.
 *
 *     steps DIRECTORY LOCK
 *
 * claims TASKS tasks in the empty DIRECTORY, without lock files (LOCK is 0), with an inode that is
 * linked to their names (1), or with files that are made (2); names are relative to DIRECTORY, and
 * verified by whole paths, as in the core. Prints each call's median, ns, less what it takes to look
 * at the clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TASKS 2000
#define MAX_STEPS 32
#define NAME_BYTES 1024
#define TASK_BYTES 890
#define SECTOR_BYTES 512

static const char *names[MAX_STEPS];
static int took_ns[MAX_STEPS][TASKS];

static long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* A failure shows as a time that makes no sense; so it ends the program. */
#define STEP(name, call)                                                                           \
    do {                                                                                           \
        long before_ns = now_ns();                                                                 \
        if ((call) < 0) {                                                                          \
            perror(name);                                                                          \
            exit(1);                                                                               \
        }                                                                                          \
        took_ns[step][task] = (int)(now_ns() - before_ns);                                         \
        names[step++] = name;                                                                      \
    } while (0)

static int tasks, owner;

static int claim(int task, const char *from, const char *to, const char *whole_to,
                 const char *linked, const char *made)
{
    const int flags = O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    const char *lock = linked ? linked : made;
    char sector[SECTOR_BYTES];
    struct stat status, other;
    int step = 0, fd, lock_fd = -1;

    STEP("clock", 0);
    STEP("open", fd = openat(tasks, from, flags));
    STEP("flock", flock(fd, LOCK_EX | LOCK_NB));
    STEP("fstat", fstat(fd, &status));
    if (linked)
        STEP("lock: link", linkat(tasks, "owner", tasks, lock, 0));
    if (made) {
        STEP("lock: open", lock_fd = openat(tasks, lock, flags | O_CREAT, 0666));
        STEP("lock: flock", flock(lock_fd, LOCK_EX | LOCK_NB));
        STEP("lock: fstat", fstat(lock_fd, &other));
        STEP("lock: lstat", fstatat(tasks, lock, &other, AT_SYMLINK_NOFOLLOW));
    }
    STEP("fstat of tasks/: paused?", fstat(tasks, &other));
    STEP("fstat of the owner file", fstat(owner, &other));
    STEP("pread", pread(fd, sector, SECTOR_BYTES, 0));
    STEP("renameat2", renameat2(tasks, from, tasks, to, RENAME_NOREPLACE));
    STEP("lstat of the claim", lstat(whole_to, &other));
    STEP("pwrite", pwrite(fd, sector, SECTOR_BYTES, 0));
    STEP("fdatasync", fdatasync(fd));
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, status.st_mtim};
    STEP("futimens", futimens(fd, times));
    if (lock) {
        STEP("lock: lstat again", fstatat(tasks, lock, &other, AT_SYMLINK_NOFOLLOW));
        STEP("lock: unlink", unlinkat(tasks, lock, 0));
    }
    if (linked)
        STEP("lock: fstat", fstat(owner, &other));
    if (made) {
        STEP("lock: unlock", flock(lock_fd, LOCK_UN));
        STEP("lock: close", close(lock_fd));
    }
    STEP("unlock", flock(fd, LOCK_UN));
    STEP("close", close(fd));
    return step;
}

static int by_value(const void *one, const void *other)
{
    return *(const int *)one - *(const int *)other;
}

static void print_medians(int steps)
{
    for (int step = 0; step < steps; step++) {
        qsort(took_ns[step], TASKS, sizeof(int), by_value);
        if (step > 0)
            printf("%s\t%d\n", names[step], took_ns[step][TASKS / 2] - took_ns[0][TASKS / 2]);
    }
}

static void publish(const char *from)
{
    char text[TASK_BYTES];
    int fd = openat(tasks, from, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    memset(text, ' ', sizeof text);
    if (fd < 0 || write(fd, text, sizeof text) != TASK_BYTES || close(fd) != 0) {
        perror("publish");
        exit(1);
    }
}

int main(int count, char **arguments)
{
    char from[NAME_BYTES], to[NAME_BYTES], lock[NAME_BYTES], whole_to[2 * NAME_BYTES];
    int steps = 0;

    if (count != 3 || strlen(arguments[1]) >= NAME_BYTES)
        return 2;
    int how = atoi(arguments[2]);
    tasks = open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    owner = openat(tasks, "owner", O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    if (owner < 0 || write(owner, "\n", 1) != 1 || flock(owner, LOCK_EX | LOCK_NB) != 0
        || mkdirat(tasks, "available", 0777) != 0 || mkdirat(tasks, "claimed", 0777) != 0) {
        perror(arguments[1]);
        return 1;
    }
    const char *id = "7ceb5fb4-e8ac-4bff-9f55";
    for (int task = 0; task < TASKS; task++) {
        snprintf(from, sizeof from, "available/%s-%012d.json", id, task);
        publish(from);
    }
    sync();
    for (int task = 0; task < TASKS; task++) {
        snprintf(from, sizeof from, "available/%s-%012d.json", id, task);
        snprintf(lock, sizeof lock, "available/%s-%012d.lock", id, task);
        snprintf(to, sizeof to, "claimed/%s-%012d_benchmark-agent-1.json", id, task);
        snprintf(whole_to, sizeof whole_to, "%s/%s", arguments[1], to);
        steps = claim(task, from, to, whole_to, how == 1 ? lock : NULL, how == 2 ? lock : NULL);
    }
    print_medians(steps);
    return 0;
}
