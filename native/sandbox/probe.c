/* SPDX-License-Identifier: MIT
 *
 * probe: what this machine can do, for `pvm doctor`. Each tries the real thing once and leaves no trace.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pvm/recompiler.h"
#include "sandbox/memfd.h"
#include "sandbox/paging.h"
#include "sandbox/sandbox_api.h"

int sandbox_probe_userfaultfd(void)
{
    const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return -errno;
    struct uffdio_api api = {.api = UFFD_API, .features = PAGING_FEATURES};
    const int error = ioctl(fd, UFFDIO_API, &api) == 0 ? 0 : -errno;
    close(fd);
    return error;
}

int sandbox_probe_seccomp(void)
{
    const uint32_t action = SECCOMP_RET_KILL_PROCESS;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0 ? 0 : -errno;
}

int sandbox_probe_memfd_seal(void)
{
    const int fd = memfd_make("pvm-probe", MFD_ALLOW_SEALING);
    if (fd < 0)
        return fd;
    const int error = fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 ? 0 : -errno;
    close(fd);
    return error;
}

uint32_t sandbox_probe_cpu(void)
{
    return PVM_CPU_REQUIRED & ~pvm_cpu_features();
}

uint32_t sandbox_cpu_required(void)
{
    return PVM_CPU_REQUIRED;
}

const char *sandbox_cpu_feature_name(uint32_t feature)
{
    switch (feature) {
    case PVM_CPU_POPCNT:
        return "popcnt";
    case PVM_CPU_LZCNT:
        return "lzcnt";
    case PVM_CPU_BMI1:
        return "bmi1";
    case PVM_CPU_BMI2:
        return "bmi2";
    default:
        return NULL;
    }
}
