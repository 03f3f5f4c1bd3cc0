/* Starts container-init, in its cgroups from the first instruction. See kernel.py, `spawn`.

   Writing a pid to cgroup.procs takes a lock of the whole machine and waits 4 to 10 ms for a grace period of the kernel
   (cgroup_threadgroup_rwsem). There are two ways around it: a thread that moves itself, by "0" in a v1 `tasks` file
   (since Linux 5.5), and CLONE_INTO_CGROUP for one v2 directory (since 5.7). What fails here is left to the caller, who
   writes the pid and has the kernel's reason then. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#define CLONE_INTO_CGROUP_FLAG 0x200000000ULL
#define NR_CLONE3 435
#define NR_CLOSE_RANGE 436
#define FIXED 5 /* stdio, the socket, the program */
#define MAX_TASKS 32

struct spawn {
    int fds[FIXED + MAX_TASKS];
    int count;   /* of v1 files, from fds[FIXED] on */
    int *places; /* places[1 + i] becomes -1 when fds[FIXED + i] was joined */
    const char *argv[3];
    int error;
};

/* Runs in the parent's memory until execveat (CLONE_VM | CLONE_VFORK), with all signals blocked. All descriptors but
   the child's own are closed before it moves: a cgroup of net_cls marks the sockets of who joins it. */
static int spawn_child(void *arg)
{
    static char *const no_env[] = {NULL};
    struct spawn *s = arg;
    int high[FIXED + MAX_TASKS], all = FIXED + s->count;

    for (int i = 0; i < all; i++) /* first out of the way of the numbers to come, so that none overwrites a source */
        if ((high[i] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, all)) < 0)
            goto fail;
    for (int i = 0; i < all; i++)
        if (i < FIXED - 1 ? dup2(high[i], i) < 0 : dup3(high[i], i, O_CLOEXEC) < 0)
            goto fail;
    if (syscall(NR_CLOSE_RANGE, (unsigned int)all, ~0U, 0) < 0)
        goto fail;
    for (int i = 0; i < s->count; i++)
        if (write(FIXED + i, "0", 1) == 1)
            s->places[1 + i] = -1;
    syscall(SYS_execveat, FIXED - 1, "", s->argv, no_env, AT_EMPTY_PATH);
fail:
    s->error = errno;
    _exit(127);
}

#ifdef __x86_64__
struct clone3_args { /* clone_args of linux/sched.h, with `cgroup` */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* clone3(2) has no wrapper in the C library, and a child on a stack of its own cannot return through syscall(). */
static int clone_into(int cgroup, char *stack, size_t size, struct spawn *s, int *pidfd)
{
    struct clone3_args args = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP_FLAG,
        .pidfd = (uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = size,
        .cgroup = (uint64_t)cgroup,
    };
    long result;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %[child], %%rax\n\t"
                     "mov %[arg], %%rdi\n\t"
                     "call *%%rax\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)NR_CLONE3), "D"(&args), "S"(sizeof args), [child] "r"(spawn_child), [arg] "r"(s)
                     : "rcx", "r11", "memory", "cc");
    return (int)result;
}
#else
static int clone_into(int cgroup, char *stack, size_t size, struct spawn *s, int *pidfd)
{
    (void)cgroup, (void)stack, (void)size, (void)s, (void)pidfd;
    return -ENOSYS;
}
#endif

int pr_spawn(int exec_fd, int sock_fd, const int *stdio, const char *argv0, const char *argv1, int *places, int count,
             int *pidfd)
{
    char stack[32768] __attribute__((aligned(16)));
    struct spawn s = {
        .fds = {stdio[0], stdio[1], stdio[2], sock_fd, exec_fd}, .places = places, .argv = {argv0, argv1, NULL}};
    sigset_t all, old;
    int pid = -1;

    s.count = count - 1 < MAX_TASKS ? count - 1 : MAX_TASKS;
    memcpy(s.fds + FIXED, places + 1, (size_t)s.count * sizeof(int));
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (places[0] >= 0 && (pid = clone_into(places[0], stack, sizeof stack, &s, pidfd)) >= 0)
        places[0] = -1;
    if (pid < 0) {
        pid = clone(spawn_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &s, pidfd);
        pid = pid < 0 ? -errno : pid;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid >= 0 && s.error) { /* the child has exited with 127: reap it here, the caller never saw it */
        siginfo_t info;
        while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
            ;
        close(*pidfd);
        return -s.error;
    }
    return pid;
}
