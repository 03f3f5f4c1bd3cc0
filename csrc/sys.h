/* Kernel interfaces that the headers of musl 1.2.3 and glibc 2.36 lack or guard differently.
   Numbers are those of the kernel's uapi headers; calls from 424 on have one number on every architecture. */
#ifndef SYS_H
#define SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_PIDFD_OPEN 434
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_FACCESSAT2 439
#define NR_MOUNT_SETATTR 442
#define NR_FCHMODAT2 452

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* openat2(2) */
struct how {
    uint64_t flags, mode, resolve;
};
#define RES_NO_XDEV 0x01
#define RES_NO_MAGICLINKS 0x02
#define RES_NO_SYMLINKS 0x04
#define RES_BENEATH 0x08
#define RES_IN_ROOT 0x10

/* mount_setattr(2) */
struct attr {
    uint64_t set, clr, propagation, userns_fd;
};
#define ATTR_RDONLY 0x01
#define ATTR_NOSUID 0x02
#define ATTR_NODEV 0x04
#define ATTR_NOEXEC 0x08

/* fsopen(2) and its relatives */
#define FSCONFIG_FLAG 0
#define FSCONFIG_STRING 1
#define FSCONFIG_CREATE 6
#define FS_CLOEXEC 1
#define TREE_CLONE 1
#define MOVE_FROM_FD 0x04
#define MOVE_TO_FD 0x40

/* mount(2) */
#define MOUNT_REMOUNT 0x20
#define MOUNT_MOVE 0x2000
#define MOUNT_REC 0x4000
#define MOUNT_SLAVE 0x80000
#define UMOUNT_DETACH 2

/* statfs(2) f_type */
#define MAGIC_PROC 0x9fa0
#define MAGIC_SYSFS 0x62656572
#define MAGIC_TMPFS 0x01021994
#define MAGIC_DEVPTS 0x1cd1
#define MAGIC_PIPEFS 0x50495045

#define RANGE_CLOEXEC 4
#define NEW_PARENT 0x8000 /* CLONE_PARENT */

/* prctl(2), keyctl(2), seccomp(2) */
#define PRCTL_SET_DUMPABLE 4
#define PRCTL_SET_KEEPCAPS 8
#define PRCTL_SET_NAME 15
#define PRCTL_CAPBSET_READ 23
#define PRCTL_CAPBSET_DROP 24
#define PRCTL_SET_NO_NEW_PRIVS 38
#define PRCTL_CAP_AMBIENT 47
#define AMBIENT_RAISE 2
#define AMBIENT_CLEAR_ALL 4
#define KEYCTL_JOIN 1
#define KEYCTL_SETPERM 5
#define KEYCTL_DESCRIBE 6
#define SECCOMP_FILTER 1
#define SECCOMP_NEW_LISTENER 8
#define CAPABILITY_V3 0x20080522

#define IOPRIO_PROCESS_GROUP 2 /* ioprio_set(2), IOPRIO_WHO_PGRP */

/* The result of a libc call or syscall(2): itself, or -errno. */
static inline int res(long result)
{
    return result < 0 ? -errno : (int)result;
}

#endif
