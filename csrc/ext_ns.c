/* Namespaces that the host side needs to name without being in them. The caller's own never change: a short-lived
   child, or a thread of ours, is the one that enters. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child's whole life, in the parent's memory: it holds the namespace until it is killed, or its parent dies. */
static int park(void *arg)
{
    (void)arg;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (;;)
        pause();
    return 0;
}

/* One write of a whole map (user_namespaces(7)). */
static int write_map(int pid, const char *name, const char *map, size_t size)
{
    char path[64];
    ssize_t wrote;
    int fd, saved;

    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    wrote = write(fd, map, size);
    saved = errno;
    close(fd);
    return wrote < 0 ? -saved : 0;
}

/* A descriptor of a new user namespace with these maps, in which no process is left. The child has no exit signal, so
   that no handler and no wait of the caller's sees it. */
int pr_user_ns(const char *uid_map, size_t uid_size, const char *gid_map, size_t gid_size)
{
    char stack[16384] __attribute__((aligned(16)));
    sigset_t all, old;
    char path[64];
    int pid, ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid = clone(park, stack + sizeof stack, CLONE_NEWUSER | CLONE_VM, NULL);
    ret = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret < 0)
        return ret;
    ret = write_map(pid, "uid_map", uid_map, uid_size);
    if (ret == 0)
        ret = write_map(pid, "gid_map", gid_map, gid_size);
    if (ret == 0) {
        snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
        ret = open(path, O_RDONLY | O_CLOEXEC);
        ret = ret < 0 ? -errno : ret;
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    return ret;
}
