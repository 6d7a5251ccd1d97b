/* SPDX-License-Identifier: MIT
 *
 * memfd: anonymous files that are not executable as programs, also on kernels that do not know how to say so.
 */
#ifndef SANDBOX_MEMFD_H
#define SANDBOX_MEMFD_H

#include <errno.h>
#include <sys/mman.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3 */
#endif

/* A close-on-exec memfd, or -errno. Without MFD_EXEC in `flags` the file cannot be given to execve(2); mapping
 * it executable is another matter and stays possible. */
static inline int memfd_make(const char *name, unsigned flags)
{
    const unsigned execution = (flags & MFD_EXEC) != 0 ? 0 : MFD_NOEXEC_SEAL;
    int fd = memfd_create(name, flags | execution | MFD_CLOEXEC);
    if (fd < 0 && errno == EINVAL) /* before 6.3 these flags are unknown, and every memfd is executable */
        fd = memfd_create(name, (flags & ~MFD_EXEC) | MFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

#endif
