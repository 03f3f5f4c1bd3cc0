/* The device filter of a cgroup v2 by bpf(2); pyruntime/cgroup/device_filter.py makes the program. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Loads a BPF_PROG_TYPE_CGROUP_DEVICE program and attaches it to the cgroup at `path`, beside those of others
   (BPF_F_ALLOW_MULTI: every one of them must allow). It lives as long as the cgroup. */
int pr_cgroup_devices(const char *path, const char *program, unsigned int instructions)
{
    union bpf_attr load, attach;
    int ret = 0, cgroup, fd;

    cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup < 0)
        return -errno;
    memset(&load, 0, sizeof load);
    load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    load.insn_cnt = instructions;
    load.insns = (uint64_t)(uintptr_t)program;
    load.license = (uint64_t)(uintptr_t) "Apache-2.0";
    fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (fd < 0) {
        ret = -errno;
        goto out;
    }
    memset(&attach, 0, sizeof attach);
    attach.target_fd = (uint32_t)cgroup;
    attach.attach_bpf_fd = (uint32_t)fd;
    attach.attach_type = BPF_CGROUP_DEVICE;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0)
        ret = -errno;
    close(fd);
out:
    close(cgroup);
    return ret;
}
