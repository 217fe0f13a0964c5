/* Makes a file system call of a process, or of its children, fail: one call once, or one call and all later ones. Use it
   with LD_PRELOAD.

   FAILING_DIRECTORY  only calls for this directory, and for paths in it, are counted
   FAILING_STATE      a file that contains a struct state; all processes share it
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct state {
    int count;       /* calls so far */
    int number;      /* the call that fails; 0 for none, -N for all from number N on */
    int error;       /* its errno */
    char failed[32]; /* its name, once it has failed */
};

static struct state *state;
static const char *directory;
static size_t length;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAILING_STATE");
    directory = getenv("FAILING_DIRECTORY");
    if (!path || !directory) return;
    int fd = open(path, O_RDWR);
    if (fd < 0) abort();
    void *shared = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) abort();
    close(fd);
    length = strlen(directory);
    state = shared;
}

static int is_below(const char *path) {
    return !strncmp(path, directory, length) && (path[length] == '/' || !path[length]);
}

/* Return whether a descriptor is one of the directory's. */
static int is_fd_below(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

/* Count a call; return whether it fails, with errno set. */
static int fails(const char *name, int fd, const char *path) {
    if (!state) return 0;
    int saved = errno;
    int counts = path && *path == '/' ? is_below(path) : is_fd_below(fd);
    errno = saved;
    if (!counts) return 0;
    int count = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST), number = state->number;
    if (number < 0 ? count < -number : count != number) return 0;
    strncpy(state->failed, name, sizeof state->failed - 1);
    errno = state->error;
    return 1;
}

/* Define a function that fails, or calls the C library's of the same name. */
#define CALL(type, failure, name, parameters, arguments, fd, path)    \
    type name parameters {                                           \
        static type(*real) parameters;                               \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);        \
        return fails(#name, fd, path) ? failure : real arguments;    \
    }

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        static int (*real)(const char *, int, ...);                                      \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                            \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;          \
        va_end(rest);                                                                    \
        return fails("open", AT_FDCWD, path) ? -1 : real(path, flags, mode);             \
    }

#define OPENAT(name)                                                                     \
    int name(int fd, const char *path, int flags, ...) {                                 \
        static int (*real)(int, const char *, int, ...);                                 \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                            \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;          \
        va_end(rest);                                                                    \
        return fails("openat", fd, path) ? -1 : real(fd, path, flags, mode);             \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* As the kernel does, close the descriptor also if it reports an error. */
int close(int fd) {
    static int (*real)(int);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "close");
    int failed = fails("close", fd, NULL), error = errno, result = real(fd);
    if (!failed) return result;
    errno = error;
    return -1;
}

CALL(ssize_t, -1, read, (int fd, void *data, size_t size), (fd, data, size), fd, NULL)
CALL(ssize_t, -1, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), fd, NULL)
CALL(ssize_t, -1, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), fd, NULL)
CALL(ssize_t, -1, write, (int fd, const void *data, size_t size), (fd, data, size), fd, NULL)
CALL(ssize_t, -1, sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), to, NULL)
CALL(ssize_t, -1, sendfile64, (int to, int from, off64_t *at, size_t size), (to, from, at, size), to, NULL)
CALL(off_t, -1, lseek, (int fd, off_t at, int whence), (fd, at, whence), fd, NULL)
CALL(off64_t, -1, lseek64, (int fd, off64_t at, int whence), (fd, at, whence), fd, NULL)
CALL(int, -1, fsync, (int fd), (fd), fd, NULL)
CALL(int, -1, fdatasync, (int fd), (fd), fd, NULL)
CALL(int, -1, ftruncate, (int fd, off_t size), (fd, size), fd, NULL)
CALL(int, -1, ftruncate64, (int fd, off64_t size), (fd, size), fd, NULL)
CALL(int, -1, fchmod, (int fd, mode_t mode), (fd, mode), fd, NULL)
CALL(int, -1, futimens, (int fd, const struct timespec times[2]), (fd, times), fd, NULL)
CALL(int, -1, fstat, (int fd, struct stat *found), (fd, found), fd, NULL)
CALL(int, -1, fstat64, (int fd, struct stat64 *found), (fd, found), fd, NULL)
CALL(int, -1, stat, (const char *path, struct stat *found), (path, found), AT_FDCWD, path)
CALL(int, -1, stat64, (const char *path, struct stat64 *found), (path, found), AT_FDCWD, path)
CALL(int, -1, lstat, (const char *path, struct stat *found), (path, found), AT_FDCWD, path)
CALL(int, -1, lstat64, (const char *path, struct stat64 *found), (path, found), AT_FDCWD, path)
CALL(int, -1, fstatat, (int fd, const char *path, struct stat *found, int flags), (fd, path, found, flags), fd, path)
CALL(int, -1, fstatat64, (int fd, const char *path, struct stat64 *found, int flags), (fd, path, found, flags), fd, path)
CALL(int, -1, access, (const char *path, int mode), (path, mode), AT_FDCWD, path)
CALL(int, -1, chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, -1, utimensat, (int fd, const char *path, const struct timespec times[2], int flags), (fd, path, times, flags), fd, path)
CALL(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, -1, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), fd, path)
CALL(int, -1, rmdir, (const char *path), (path), AT_FDCWD, path)
CALL(int, -1, link, (const char *from, const char *to), (from, to), AT_FDCWD, to)
CALL(int, -1, linkat, (int fd, const char *from, int into, const char *to, int flags), (fd, from, into, to, flags), into, to)
CALL(int, -1, symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to)
CALL(int, -1, rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
CALL(int, -1, renameat, (int fd, const char *from, int into, const char *to), (fd, from, into, to), into, to)
CALL(int, -1, unlink, (const char *path), (path), AT_FDCWD, path)
CALL(int, -1, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fd, path)
CALL(ssize_t, -1, readlink, (const char *path, char *into, size_t size), (path, into, size), AT_FDCWD, path)
CALL(DIR *, NULL, opendir, (const char *path), (path), AT_FDCWD, path)
CALL(DIR *, NULL, fdopendir, (int fd), (fd), fd, NULL)
CALL(struct dirent *, NULL, readdir, (DIR * open), (open), dirfd(open), NULL)
CALL(struct dirent64 *, NULL, readdir64, (DIR * open), (open), dirfd(open), NULL)
