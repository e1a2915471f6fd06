/* Faults at a chosen system call: loaded before libc (LD_PRELOAD), it counts the calls on files below a folder and at
 * one of them kills the process, or lets the call fail; or those that send to a port. It also shifts the clock. What it is to do stands in a file that
 * is mapped by all (tests/faults/shim.py writes it), so that it can be told while a server runs.
 *
 * Built and loaded by the tests only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, UNLINK = 8, CREATE = 16, READ = 32, SEND = 64 };
enum { COUNT = 0, KILL = -1, KILL_GROUP = -2 }; /* else an errno */

struct control {
    int64_t clock_offset_ns; /* added to the time of day */
    int32_t active;
    int32_t action;
    int32_t calls; /* which kinds */
    int32_t at;    /* the first call that it happens to, from 1 */
    int32_t times; /* so many calls fail */
    int32_t torn;  /* half of what is written gets there */
    int32_t count; /* calls so far, of all processes */
    int32_t fired;
    char path[512]; /* only what lies below; of connections "tcp:" and the port of the other side */
    char what[512]; /* the call that it happened to first */
};

static struct control *control;

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int faults_attach(const char *path) {
    static int (*real_open)(const char *, int, ...);
    if (!real_open) real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return -1;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return -1;
    control = map;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    if (path) faults_attach(path);
}

/* What is to happen to this call: 0 nothing, else an errno; does not come back when the process is killed. */
static int happens(const char *name, int kind, const char *path) {
    struct control *c = control;
    if (!c || !c->active || !(c->calls & kind) || !path) return 0;
    size_t length = strlen(c->path);
    if (strncmp(path, c->path, length)) return 0;
    int number = __sync_add_and_fetch(&c->count, 1);
    if (c->action == COUNT || number < c->at || number >= c->at + c->times) return 0;
    if (__sync_bool_compare_and_swap(&c->fired, 0, 1))
        snprintf(c->what, sizeof c->what, "%s %s", name, path + length);
    return c->action;
}

static int of_descriptor(const char *name, int kind, int fd) {
    if (!control || !control->active || !(control->calls & kind)) return 0;
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return happens(name, kind, path);
}

static void die(int action) {
    if (action == KILL_GROUP) kill(0, SIGKILL);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Refuse a call that changes nothing before it. */
#define REFUSE(found) \
    if ((found) < 0) die(found); \
    if ((found) > 0) { errno = (found); return -1; }

/* Of what is written the first half may get there: the process dies then, or is told that no more fits. */
#define TORN(found, half) \
    if (found) { \
        ssize_t got = control->torn && length > 1 ? (half) : 0; \
        if ((found) < 0) die(found); \
        if (got > 0) return got; \
        errno = (found); \
        return -1; \
    }

ssize_t write(int fd, const void *data, size_t length) {
    NEXT(write);
    int found = of_descriptor("write", WRITE, fd);
    TORN(found, next(fd, data, length / 2));
    return next(fd, data, length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    NEXT(pwrite64);
    int found = of_descriptor("write", WRITE, fd);
    TORN(found, next(fd, data, length / 2, offset));
    return next(fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int ftruncate64(int fd, off64_t length) {
    NEXT(ftruncate64);
    int found = of_descriptor("truncate", WRITE, fd);
    REFUSE(found);
    return next(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fsync(int fd) {
    NEXT(fsync);
    int found = of_descriptor("sync", SYNC, fd);
    REFUSE(found);
    return next(fd);
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    int found = of_descriptor("sync", SYNC, fd);
    REFUSE(found);
    return next(fd);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    int found = happens("rename to", RENAME, to);
    REFUSE(found);
    return next(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    NEXT(renameat);
    int found = happens("rename to", RENAME, to);
    REFUSE(found);
    return next(from_fd, from, to_fd, to);
}

int unlink(const char *path) {
    NEXT(unlink);
    int found = happens("unlink", UNLINK, path);
    REFUSE(found);
    return next(path);
}

int unlinkat(int fd, const char *path, int flags) {
    NEXT(unlinkat);
    int found = happens("unlink", UNLINK, path);
    REFUSE(found);
    return next(fd, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    int found = happens("mkdir", CREATE, path);
    REFUSE(found);
    return next(path, mode);
}

static int opened(const char *path, int flags) { return flags & O_CREAT ? happens("create", CREATE, path) : 0; }

/* The mode is there only where a file may be made. */
#define MODE_BEHIND(flags) \
    va_list more; \
    va_start(more, flags); \
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0; \
    va_end(more);

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        MODE_BEHIND(flags) \
        int found = opened(path, flags); \
        REFUSE(found); \
        return next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        NEXT(name); \
        MODE_BEHIND(flags) \
        int found = opened(path, flags); \
        REFUSE(found); \
        return next(fd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *data, size_t length) {
    NEXT(read);
    int found = of_descriptor("read", READ, fd);
    REFUSE(found);
    return next(fd, data, length);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    NEXT(pread64);
    int found = of_descriptor("read", READ, fd);
    REFUSE(found);
    return next(fd, data, length, offset);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) { return pread64(fd, data, length, offset); }

ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    NEXT(sendfile64);
    int found = of_descriptor("read", READ, from);
    REFUSE(found);
    return next(to, from, offset, length);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t length) { return sendfile64(to, from, offset, length); }

static int of_socket(const char *name, int fd) {
    if (!control || !control->active || !(control->calls & SEND)) return 0;
    struct sockaddr_in other;
    socklen_t size = sizeof other;
    if (getpeername(fd, (struct sockaddr *)&other, &size) || other.sin_family != AF_INET) return 0;
    char path[32];
    snprintf(path, sizeof path, "tcp:%d", ntohs(other.sin_port));
    return happens(name, SEND, path);
}

/* Whoever waits for an answer on it learns that it is cut, too. */
#define CUT(found) \
    if ((found) > 0) shutdown(fd, SHUT_RDWR)

ssize_t send(int fd, const void *data, size_t length, int flags) {
    NEXT(send);
    int found = of_socket("send", fd);
    CUT(found);
    TORN(found, next(fd, data, length / 2, flags));
    return next(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    NEXT(sendmsg);
    int found = of_socket("send", fd);
    CUT(found);
    REFUSE(found);
    return next(fd, message, flags);
}

/* Whether a place may be written is asked before it is tried. */
int access(const char *path, int mode) {
    NEXT(access);
    struct control *c = control;
    if (mode & W_OK && c && c->active && c->action > 0 && c->calls & WRITE && !strncmp(path, c->path, strlen(c->path))) {
        errno = c->action;
        return -1;
    }
    return next(path, mode);
}

static void shift(struct timespec *now) {
    if (!control || !control->clock_offset_ns) return;
    int64_t moved = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + control->clock_offset_ns;
    now->tv_sec = moved / 1000000000;
    now->tv_nsec = moved % 1000000000;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    NEXT(clock_gettime);
    int status = next(which, now);
    if (!status && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) shift(now);
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec moved;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &moved)) return -1;
    now->tv_sec = moved.tv_sec;
    now->tv_usec = moved.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec moved;
    clock_gettime(CLOCK_REALTIME, &moved);
    if (where) *where = moved.tv_sec;
    return moved.tv_sec;
}
