/* Cuts the helper off from the machine before it sees a byte of a layer: its root is the target, on a mount of its own
   without devices, setuid or programs; the capabilities are those that files need; system calls are those of files,
   memory and threads. What remains reachable is the target, the pipes it was given and the processor.

   CAP_SYS_ADMIN stays, for trusted.* attributes: the filter leaves it nothing else to do. */
#include "sys.h"
#include "unpack_cdef.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "no system call filter for this architecture"
#endif

static const int allowed[] = {
    /* first the many: files by descriptor */
    SYS_openat,
    SYS_write,
    SYS_close,
    SYS_utimensat,
    SYS_futex,
    SYS_read,
    SYS_newfstatat,
    SYS_fstat,
    SYS_fchown,
    SYS_fchmod,
    SYS_mkdirat,
    SYS_symlinkat,
    SYS_linkat,
    SYS_fgetxattr,
    SYS_fsetxattr,
    SYS_lsetxattr,
    SYS_fremovexattr,
    SYS_lremovexattr,
    SYS_flistxattr,
    SYS_lseek,
    SYS_ftruncate,
    SYS_fchownat,
    SYS_fchmodat,
    SYS_mknodat,
    SYS_unlinkat,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_fchdir,
    SYS_fcntl,
    SYS_statx,
    /* memory, threads, time */
    SYS_munmap,
    SYS_mremap,
    SYS_brk,
    SYS_madvise,
    SYS_sched_yield,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettid,
    SYS_getpid,
    SYS_set_robust_list,
    SYS_rt_sigprocmask,
    SYS_rt_sigaction,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_getrandom,
    SYS_getrusage,
    SYS_exit,
    SYS_exit_group,
#ifdef SYS_rseq
    SYS_rseq,
#endif
};

#define COUNT (sizeof allowed / sizeof *allowed)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ARGUMENT(n)                                                                                                    \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n])) /* low half: both little-endian */
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define IF_ANY(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), (yes), (no))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, (what))
#define REFUSED(error) (SECCOMP_RET_ERRNO | (error))

static int add_filter(void)
{
    struct sock_filter code[COUNT + 24];
    unsigned short n = 0;

    code[n++] = (struct sock_filter)LOAD(arch);
    code[n++] = (struct sock_filter)IF_EQUAL(ARCH, 1, 0);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS);
    code[n++] = (struct sock_filter)LOAD(nr);
    for (size_t i = 0; i < COUNT; i++) /* the jump goes to the second of the three that follow */
        code[n++] = (struct sock_filter)IF_EQUAL((uint32_t)allowed[i], (uint8_t)(COUNT - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 1);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    /* threads, not processes; clone3 hides its flags in memory, and the C library does without it */
    code[n++] = (struct sock_filter)IF_EQUAL(SYS_clone3, 0, 1);
    code[n++] = (struct sock_filter)RETURN(REFUSED(ENOSYS));
    code[n++] = (struct sock_filter)IF_EQUAL(SYS_clone, 0, 3);
    code[n++] = (struct sock_filter)ARGUMENT(0);
    code[n++] = (struct sock_filter)IF_ANY(CLONE_THREAD, 0, 5);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    /* no memory becomes a program */
    code[n++] = (struct sock_filter)IF_EQUAL(SYS_mmap, 1, 0);
    code[n++] = (struct sock_filter)IF_EQUAL(SYS_mprotect, 0, 2);
    code[n++] = (struct sock_filter)ARGUMENT(2);
    code[n++] = (struct sock_filter)IF_ANY(4 /* PROT_EXEC */, 0, 1);
    code[n++] = (struct sock_filter)RETURN(REFUSED(EPERM));
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, code};
    return res(syscall(SYS_seccomp, SECCOMP_FILTER, 0, &program));
}

static const int kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP, CAP_SYS_ADMIN};

static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {CAPABILITY_V3, 0};
    struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
    int ret;

    for (int cap = 0; prctl(PRCTL_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PRCTL_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return -errno;
    ret = res(prctl(PRCTL_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0, 0, 0));
    if (ret < 0)
        return ret;
    ret = res(syscall(SYS_capget, &head, data));
    if (ret < 0)
        return ret;
    for (int half = 0; half < 2; half++) {
        uint32_t wanted = 0;

        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            wanted |= kept[i] / 32 == half ? 1U << kept[i] % 32 : 0;
        data[half].permitted &= wanted;
        data[half].effective = data[half].permitted;
        data[half].inheritable = 0;
    }
    return res(syscall(SYS_capset, &head, data));
}

/* The working directory, a mount of its own, becomes the root and the rest is let go. */
static int enter(int tree)
{
    int ret = res(fchdir(tree));

    if (ret < 0)
        return ret;
    if (syscall(SYS_pivot_root, ".", ".") == 0)
        return res(umount2(".", UMOUNT_DETACH));
    /* on the kernel's first root file system, which cannot be put away */
    ret = res(mount(".", "/", NULL, MOUNT_MOVE, NULL));
    return ret < 0 ? ret : res(chroot("."));
}

static int change_root(int target_fd)
{
    struct attr attr = {.set = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC};
    int tree = -1, ret = res(fchdir(target_fd)); /* unshare carries the working directory over, not descriptors */

    if (ret == 0)
        ret = res(unshare(CLONE_NEWNS));
    if (ret == 0)
        ret = res(mount(NULL, "/", NULL, MOUNT_REC | MS_PRIVATE, NULL));
    if (ret < 0)
        return ret;
    tree = ret = res(syscall(NR_OPEN_TREE, AT_FDCWD, ".", TREE_CLONE | O_CLOEXEC));
    if (ret < 0)
        return ret;
    ret = res(syscall(NR_MOUNT_SETATTR, tree, "", AT_EMPTY_PATH, &attr, sizeof attr));
    if (ret == -ENOSYS) /* before Linux 5.12 */
        ret = 0;
    if (ret == 0)
        ret = res(syscall(NR_MOVE_MOUNT, tree, "", AT_FDCWD, ".", MOVE_FROM_FD));
    if (ret == 0)
        ret = enter(tree);
    if (ret == 0)
        ret = res(chdir("/"));
    close(tree);
    return ret;
}

/* Confines this process, which must have one thread, to the directory behind target_fd. 0, or -(1000 * step + errno):
   step 1 the root, 2 the capabilities, 3 the filter. No way back; after a failure the process must end. */
int unpack_confine(int target_fd)
{
    int ret = change_root(target_fd);

    if (ret < 0)
        return ret - 1000;
    ret = drop_capabilities();
    if (ret < 0)
        return ret - 2000;
    ret = res(prctl(PRCTL_SET_DUMPABLE, 0, 0, 0, 0));
    if (ret == 0)
        ret = res(prctl(PRCTL_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (ret == 0)
        ret = add_filter();
    return ret < 0 ? ret - 3000 : 0;
}

/* For a caller whose ids are mapped: a user namespace of our own. Asks for the maps with `U` on the status socket, goes
   on at the answer and becomes the namespace's root. 0, or -errno. */
int unpack_user_namespace(int status)
{
    char answer = 'U';
    int ret = res(unshare(CLONE_NEWUSER));

    if (ret < 0)
        return ret;
    if (write(status, &answer, 1) != 1 || read(status, &answer, 1) != 1 || answer != 'G')
        return -EPIPE;
    ret = res(syscall(SYS_setresgid, 0, 0, 0));
    return ret < 0 ? ret : res(syscall(SYS_setresuid, 0, 0, 0));
}
