/* What each system call of a claim takes: the calls of floor.c's claim, one by one.
 *
 *     steps DIRECTORY LOCK_FILES RELATIVE
 *
 * claims TASKS tasks in the empty DIRECTORY, with lock files or without (1 or 0), by absolute paths
 * or relative to descriptors of the two directories (0 or 1), and prints each call's median, ns,
 * less what it takes to look at the clock.
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
#define PATH_BYTES 4096
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

static int claim(int task, int available, int claimed, const char *from, const char *to,
                 const char *lock)
{
    const int flags = O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    char sector[SECTOR_BYTES];
    struct stat status;
    int step = 0, fd, lock_fd = -1;

    STEP("clock", 0);
    STEP("open", fd = openat(available, from, flags));
    STEP("fstat", fstat(fd, &status));
    if (lock) {
        STEP("lock: open", lock_fd = openat(available, lock, flags | O_CREAT, 0666));
        STEP("lock: fstat", fstat(lock_fd, &status));
        STEP("lock: flock", flock(lock_fd, LOCK_EX | LOCK_NB));
        STEP("lock: lstat", fstatat(available, lock, &status, AT_SYMLINK_NOFOLLOW));
    }
    STEP("flock", flock(fd, LOCK_EX | LOCK_NB));
    STEP("lstat", fstatat(available, from, &status, AT_SYMLINK_NOFOLLOW));
    STEP("pread", pread(fd, sector, SECTOR_BYTES, 0));
    STEP("renameat2", renameat2(available, from, claimed, to, RENAME_NOREPLACE));
    STEP("lstat of the claim", fstatat(claimed, to, &status, AT_SYMLINK_NOFOLLOW));
    STEP("pwrite", pwrite(fd, sector, SECTOR_BYTES, 0));
    STEP("fdatasync", fdatasync(fd));
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, status.st_mtim};
    STEP("futimens", futimens(fd, times));
    if (lock) {
        STEP("lock: lstat again", fstatat(available, lock, &status, AT_SYMLINK_NOFOLLOW));
        STEP("lock: unlink", unlinkat(available, lock, 0));
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

static int make_directory(const char *base, const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", base, name);
    return mkdir(path, 0777) == 0 ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
}

static void publish(int available, const char *from)
{
    char text[TASK_BYTES];
    int fd = openat(available, from, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    memset(text, ' ', sizeof text);
    if (fd < 0 || write(fd, text, sizeof text) != TASK_BYTES || close(fd) != 0) {
        perror("publish");
        exit(1);
    }
}

int main(int count, char **arguments)
{
    char from[PATH_BYTES], to[PATH_BYTES], lock[PATH_BYTES];
    int steps = 0;

    if (count != 4)
        return 2;
    const char *base = arguments[1];
    int lock_files = atoi(arguments[2]), relative = atoi(arguments[3]);
    int available = make_directory(base, "available"), claimed = make_directory(base, "claimed");
    if (available < 0 || claimed < 0)
        return 1;
    const char *id = "7ceb5fb4-e8ac-4bff-9f55";
    for (int task = 0; task < TASKS; task++) {
        snprintf(from, sizeof from, "%s-%012d.json", id, task);
        publish(available, from);
    }
    sync();
    for (int task = 0; task < TASKS; task++) {
        const char *dir = relative ? "" : base;
        const char *a = relative ? "" : "/available/", *c = relative ? "" : "/claimed/";
        snprintf(from, sizeof from, "%s%s%s-%012d.json", dir, a, id, task);
        snprintf(lock, sizeof lock, "%s%s%s-%012d.lock", dir, a, id, task);
        snprintf(to, sizeof to, "%s%s%s-%012d_benchmark-agent-1.json", dir, c, id, task);
        steps = claim(task, available, claimed, from, to, lock_files ? lock : NULL);
    }
    print_medians(steps);
    return 0;
}
