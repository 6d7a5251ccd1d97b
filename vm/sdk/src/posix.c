/* SPDX-License-Identifier: MIT */
/* The system calls that the libc makes, as calls of the host (pvm_host.h). They return what Linux would: -errno for an
   error. Beside them a few functions of POSIX that musl makes of system calls which have no counterpart here. */
#include "pvm_host.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000

/* Brings in pvm_panic where this file is needed, to which give_up.h refers weakly. Nothing uses the variable. */
void (*const __pvm_can_say_why)(const char *) = pvm_panic;

/* Sizes are 32 bits wide on the other side; more than the address space has is not there to be written. */
static uint32_t clip(size_t size) { return size > INT32_MAX ? INT32_MAX : (uint32_t)size; }

long __pvm_sys_close(long fd) { return pvm_close((int32_t)fd); }

long __pvm_sys_read(long fd, long data, long size) {
    return pvm_read((int32_t)fd, (void *)data, clip((size_t)size));
}

long __pvm_sys_write(long fd, long data, long size) {
    return pvm_write((int32_t)fd, (const void *)data, clip((size_t)size));
}

long __pvm_sys_readv(long fd, long vector, long count) {
    const struct iovec *part = (const struct iovec *)vector;
    long done = 0;
    for (; count > 0; part++, count--) {
        if (!part->iov_len)
            continue;
        long got = __pvm_sys_read(fd, (long)part->iov_base, (long)part->iov_len);
        if (got < 0)
            return done ? done : got;
        done += got;
        if ((size_t)got < part->iov_len)
            break;
    }
    return done;
}

long __pvm_sys_writev(long fd, long vector, long count) {
    const struct iovec *part = (const struct iovec *)vector;
    long done = 0;
    char line[256];
    /* musl's streams write what they hold and what is new; a line that is short goes out in one call. */
    if (count == 2 && part[0].iov_len <= sizeof line && part[1].iov_len <= sizeof line - part[0].iov_len) {
        memcpy(line, part[0].iov_base, part[0].iov_len);
        memcpy(line + part[0].iov_len, part[1].iov_base, part[1].iov_len);
        return __pvm_sys_write(fd, (long)line, (long)(part[0].iov_len + part[1].iov_len));
    }
    for (; count > 0; part++, count--) {
        if (!part->iov_len)
            continue;
        long put = __pvm_sys_write(fd, (long)part->iov_base, (long)part->iov_len);
        if (put < 0)
            return done ? done : put;
        done += put;
        if ((size_t)put < part->iov_len)
            break;
    }
    return done;
}

long __pvm_sys_lseek(long fd, long offset, long whence) {
    return (long)pvm_seek((int32_t)fd, offset, (uint32_t)whence);
}

long __pvm_sys_llseek(long fd, long high, long low, long result, long whence) {
    int64_t position = pvm_seek((int32_t)fd, (int64_t)high << 32 | (uint32_t)low, (uint32_t)whence);
    if (position < 0)
        return (long)position;
    *(off_t *)result = position;
    return 0;
}

long __pvm_sys_openat(long directory, long path, long flags) {
    (void)directory; /* musl passes AT_FDCWD, which is where paths begin */
    static const uint32_t access[] = {
        [O_RDONLY] = PVM_OPEN_READ, [O_WRONLY] = PVM_OPEN_WRITE, [O_RDWR] = PVM_OPEN_READ | PVM_OPEN_WRITE, [3] = 0};
    uint32_t wanted = access[flags & O_ACCMODE & 3];
    wanted |= flags & O_CREAT ? PVM_OPEN_CREATE : 0;
    wanted |= flags & O_EXCL ? PVM_OPEN_EXCLUSIVE : 0;
    wanted |= flags & O_TRUNC ? PVM_OPEN_TRUNCATE : 0;
    wanted |= flags & O_APPEND ? PVM_OPEN_APPEND : 0;
    const char *name = (const char *)path;
    return pvm_open(name, clip(strlen(name)), wanted);
}

/* The standard streams are terminals as far as buffering goes: a line is written when it ends. */
long __pvm_sys_ioctl(long fd, long request, long argument) {
    if (request != TIOCGWINSZ || fd < 0 || fd > 2)
        return -ENOTTY;
    *(struct winsize *)argument = (struct winsize){0};
    return 0;
}

long __pvm_sys_unlinkat(long directory, long path, long flags) {
    (void)directory;
    (void)flags; /* pvm_remove looks for itself */
    const char *name = (const char *)path;
    return pvm_remove(name, clip(strlen(name)));
}

long __pvm_sys_renameat(long from_directory, long from, long to_directory, long to) {
    (void)from_directory;
    (void)to_directory;
    const char *old = (const char *)from, *new = (const char *)to;
    return pvm_rename(old, clip(strlen(old)), new, clip(strlen(new)));
}

/* No file is a symbolic link; tmpnam asks whether there is one at all. */
long __pvm_sys_readlinkat(long directory, long path) {
    (void)directory;
    const char *name = (const char *)path;
    struct pvm_stat status;
    int32_t error = pvm_stat(name, clip(strlen(name)), &status);
    return error ? error : -EINVAL;
}

long __pvm_sys_clock_gettime(long clock, long result) {
    int64_t now = pvm_clock_ns(clock == CLOCK_REALTIME ? PVM_CLOCK_REALTIME : PVM_CLOCK_MONOTONIC);
    if (now < 0)
        return (long)now;
    *(struct timespec *)result = (struct timespec){.tv_sec = now / BILLION, .tv_nsec = (long)(now % BILLION)};
    return 0;
}

long __pvm_sys_getrandom(long data, long size, long flags) {
    (void)flags;
    return pvm_random((void *)data, clip((size_t)size));
}

static int result(long value) {
    if (value >= 0)
        return (int)value;
    errno = (int)-value;
    return -1;
}

int close(int fd) { return result(pvm_close(fd)); }

int unlink(const char *path) { return result(pvm_remove(path, clip(strlen(path)))); }

int rmdir(const char *path) { return unlink(path); }

int mkdir(const char *path, mode_t mode) {
    (void)mode;
    return result(pvm_mkdir(path, clip(strlen(path))));
}

static int fill(long error, const struct pvm_stat *from, struct stat *to) {
    static const mode_t kinds[] = {[PVM_KIND_FILE] = S_IFREG | 0644,
                                   [PVM_KIND_DIRECTORY] = S_IFDIR | 0755,
                                   [PVM_KIND_STREAM] = S_IFCHR | 0600};
    if (error)
        return result(error);
    struct timespec modified = {.tv_sec = from->modified_ns / BILLION, .tv_nsec = (long)(from->modified_ns % BILLION)};
    *to = (struct stat){
        .st_mode = from->kind < sizeof kinds / sizeof *kinds ? kinds[from->kind] : 0,
        .st_nlink = 1,
        .st_size = (off_t)from->size,
        .st_blksize = 4096,
        .st_blocks = (blkcnt_t)((from->size + 511) / 512),
        .st_atim = modified,
        .st_mtim = modified,
        .st_ctim = modified,
    };
    return 0;
}

int stat(const char *restrict path, struct stat *restrict status) {
    struct pvm_stat found;
    return fill(pvm_stat(path, clip(strlen(path)), &found), &found, status);
}

int lstat(const char *restrict path, struct stat *restrict status) { return stat(path, status); }

int fstat(int fd, struct stat *status) {
    struct pvm_stat found;
    return fill(pvm_fstat(fd, &found), &found, status);
}

int access(const char *path, int mode) {
    (void)mode; /* whether it can be written shows when it is opened */
    struct stat status;
    return stat(path, &status);
}

int getentropy(void *memory, size_t size) {
    if (size > 256)
        return result(-EIO);
    int32_t got = pvm_random(memory, (uint32_t)size);
    return got < 0 ? result(got) : (size_t)got == size ? 0 : result(-EIO);
}
