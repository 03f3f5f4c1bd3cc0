"""What Docker confines a container to when it is told nothing: facts, and the config.json objects made from them.

Sources: the tables of moby's default profile (github.com/moby/profiles, seccomp 0.2.3) and what `docker run` of Docker
Engine 28 was seen to write. The texts below list system calls and paths; the shape of the objects is our own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
        " AUDIT_WRITE"
    ).split()
)
MASKED_PATHS = (
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list"
    " /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
).split()
READONLY_PATHS = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()
NOSUID_NOEXEC_NODEV = ["nosuid", "noexec", "nodev"]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": NOSUID_NOEXEC_NODEV},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*NOSUID_NOEXEC_NODEV, "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", *NOSUID_NOEXEC_NODEV]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": NOSUID_NOEXEC_NODEV},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
     "options": [*NOSUID_NOEXEC_NODEV, "mode=1777", "size=67108864"]},
]  # fmt: skip
# (allowed access, type, major, minor), after "deny all"; None: any
DEVICES = (
    ("m", "c", None, None), ("m", "b", None, None), ("rwm", "c", 1, 3), ("rwm", "c", 1, 5), ("rwm", "c", 1, 7),
    ("rwm", "c", 1, 8), ("rwm", "c", 1, 9), ("rwm", "c", 5, 0), ("rwm", "c", 5, 1), ("rwm", "c", 5, 2),
    ("rwm", "c", 136, None),
)  # fmt: skip
SYSCTL = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

# What `docker run --memory 512m --cpus 1.5 --pids-limit 512` adds: limits that no benchmark program reaches.
LIMITS = {
    "memory": {"limit": 512 << 20, "swap": 1 << 30, "disableOOMKiller": False},
    "cpu": {"shares": 1024, "period": 100_000, "quota": 150_000},
    "pids": {"limit": 512},
}

# uname -m: architectures of the filter, calls allowed there alone
SECCOMP_MACHINES = {
    "x86_64": (("X86_64", "X86", "X32"), ("arch_prctl", "modify_ldt")),
    "aarch64": (
        ("AARCH64", "ARM"),
        ("arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"),
    ),
}
CLONE_NAMESPACE_FLAGS = 0x7E020000
SECCOMP_ALLOWED = """
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid
    setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
""".split()


def devices() -> list[dict[str, Any]]:
    """linux.resources.devices."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for access, kind, major, minor in DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        rule |= {} if major is None else {"major": major}
        rules.append(rule | ({} if minor is None else {"minor": minor}))
    return rules


def seccomp(machine: str) -> dict[str, Any]:
    """linux.seccomp for a container with the default capabilities on that `uname -m`."""
    architectures, own = SECCOMP_MACHINES[machine]

    def allow(names: list[str], *tests: tuple[int, str, int]) -> dict[str, Any]:
        rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
        if tests:
            rule["args"] = [{"index": i, "op": f"SCMP_CMP_{op}", "value": value} for i, op, value in tests]
        return rule

    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures],
        "syscalls": [
            allow(SECCOMP_ALLOWED),
            allow(["process_vm_readv", "process_vm_writev", "ptrace"]),
            # every address family but AF_VSOCK, 40, and the unused 38
            *(allow(["socket"], test) for test in ((0, "LT", 38), (0, "EQ", 39), (0, "GT", 40))),
            # PER_LINUX, PER_LINUX32, each with UNAME26, and the query
            *(allow(["personality"], (0, "EQ", value)) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)),
            allow(list(own)),
            allow(["clone"], (0, "MASKED_EQ", CLONE_NAMESPACE_FLAGS)),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            allow(["chroot"]),
        ],
    }
