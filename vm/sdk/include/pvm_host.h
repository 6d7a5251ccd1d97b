/* SPDX-License-Identifier: MIT */
/* The host functions that the SDK's libc stands on, which vm.Stdio serves; docs/guests.md is their specification.
   A program imports those that it reaches, no more.

   Errors are negative errno values (Linux numbers, as in <errno.h>). Descriptors 0, 1 and 2 are the standard streams;
   pvm_open gives out others. A path begins with the name of a directory that the host grants: "data/file" or
   "/data/file". Reads and writes may be short. */
#ifndef PVM_HOST_H
#define PVM_HOST_H

#include "pvm.h"

/* pvm_open */
#define PVM_OPEN_READ 1u
#define PVM_OPEN_WRITE 2u
#define PVM_OPEN_CREATE 4u
#define PVM_OPEN_EXCLUSIVE 8u
#define PVM_OPEN_TRUNCATE 16u
#define PVM_OPEN_APPEND 32u

/* pvm_seek */
#define PVM_SEEK_START 0u
#define PVM_SEEK_CURRENT 1u
#define PVM_SEEK_END 2u

/* pvm_clock_ns */
#define PVM_CLOCK_REALTIME 0u
#define PVM_CLOCK_MONOTONIC 1u

/* pvm_stat.kind */
#define PVM_KIND_FILE 1u
#define PVM_KIND_DIRECTORY 2u
#define PVM_KIND_STREAM 3u
#define PVM_KIND_OTHER 4u

struct pvm_stat {
    uint64_t size;       /* bytes */
    int64_t modified_ns; /* since 1970 */
    uint32_t kind;
    uint32_t reserved;   /* 0 */
};

/* Bytes written or read, 0 at the end of the input. */
PVM_IMPORT(int32_t, pvm_write, int32_t, const void *, uint32_t);
PVM_IMPORT(int32_t, pvm_read, int32_t, void *, uint32_t);
/* path, its length in bytes, flags: a descriptor. */
PVM_IMPORT(int32_t, pvm_open, const char *, uint32_t, uint32_t);
PVM_IMPORT(int32_t, pvm_close, int32_t);
/* descriptor, offset, whence: the new position. */
PVM_IMPORT(int64_t, pvm_seek, int32_t, int64_t, uint32_t);
/* path and length, or descriptor: 0. */
PVM_IMPORT(int32_t, pvm_stat, const char *, uint32_t, struct pvm_stat *);
PVM_IMPORT(int32_t, pvm_fstat, int32_t, struct pvm_stat *);
/* Removes a file or an empty directory; renames; makes a directory: 0. */
PVM_IMPORT(int32_t, pvm_remove, const char *, uint32_t);
PVM_IMPORT(int32_t, pvm_rename, const char *, uint32_t, const char *, uint32_t);
PVM_IMPORT(int32_t, pvm_mkdir, const char *, uint32_t);
/* Nanoseconds. */
PVM_IMPORT(int64_t, pvm_clock_ns, uint32_t);
/* Fills memory with random bytes: how many. */
PVM_IMPORT(int32_t, pvm_random, void *, uint32_t);
/* The arguments (the environment, as NAME=value), each with a NUL behind it: the size of all, in bytes. They are
   written only if `size` bytes hold them. */
PVM_IMPORT(int32_t, pvm_args, char *, uint32_t);
PVM_IMPORT(int32_t, pvm_env, char *, uint32_t);

#endif
