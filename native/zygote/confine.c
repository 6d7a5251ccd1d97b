/* SPDX-License-Identifier: MIT
 *
 * confine: capabilities and resource limits, given up for good.
 */
#include "zygote/confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

#include "linux/linux.h"

int confine_drop_capabilities(void)
{
    /* Every bit and its lock: no capability comes back through uid 0, set-uid changes or ambient raising. */
    const unsigned long securebits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                     SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    int error = linux_prctl(PR_SET_SECUREBITS, securebits);
    if (error < 0)
        return error;
    /* The kernel may know capabilities that these headers do not: go on until it says there is none. */
    for (unsigned long capability = 0;; capability++) {
        error = linux_prctl(PR_CAPBSET_DROP, capability);
        if (error == -EINVAL && capability > CAP_SYS_PTRACE)
            break;
        if (error < 0)
            return error;
    }
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    const struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    return linux_capset(&header, none);
}

int confine_limits(const struct confine_limit *limits, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const uint64_t both[2] = {limits[i].value, limits[i].value}; /* soft and hard */
        const int error = linux_prlimit(limits[i].resource, both);
        if (error < 0)
            return error;
    }
    return 0;
}
