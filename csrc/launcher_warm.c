/* The first write to a cgroup.procs waits 4 to 10 ms for a grace period of the kernel (cgroup_threadgroup_rwsem), those
   that follow within some milliseconds do not. A verb that puts a process into cgroups would wait in its middle; here
   the wait begins with the first instruction and goes on beside the start of the interpreter: "0" is written to the
   cgroup.procs of the cgroup that we are in, which moves nothing. Whatever fails is of no interest. */
#define _GNU_SOURCE
#include "launcher.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char own_cgroup[PATH_MAX];

/* The path of one of our hierarchies: a v1 one that everybody mounts under its name, or the unified tree. */
static int find_procs(void)
{
    static const struct {
        const char *line, *mount;
    } known[] = {
        {":name=systemd:", "/sys/fs/cgroup/systemd"}, {":pids:", "/sys/fs/cgroup/pids"}, {"0::", "/sys/fs/cgroup"}};
    char text[8192];
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return -1;
    text[size] = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const char *path = strstr(text, known[i].line);
        int length;

        if (!path)
            continue;
        path += strlen(known[i].line);
        length = snprintf(own_cgroup, sizeof own_cgroup, "%s%.*s/cgroup.procs", known[i].mount,
                          (int)strcspn(path, "\n"), path);
        if (length > 0 && (size_t)length < sizeof own_cgroup && access(own_cgroup, W_OK) == 0)
            return 0;
    }
    return -1;
}

static void *write_zero(void *unused)
{
    int fd = open(own_cgroup, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t ignored = write(fd, "0", 1);
        (void)ignored;
        close(fd);
    }
    return unused;
}

void warm_up(int argc, char **argv)
{
    static const char *const joining[] = {"create", "run", "exec"};
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    int wanted = 0;

    for (int i = 1; i < argc && !wanted; i++)
        for (size_t k = 0; k < sizeof joining / sizeof joining[0]; k++)
            wanted |= strcmp(argv[i], joining[k]) == 0;
    if (!wanted || find_procs() < 0)
        return;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 65536);
    sigfillset(&all); /* signals stay with the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_create(&thread, &attr, write_zero, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
}
