/* OP_HOOK: run a program of the configuration to its end, with the state on its stdin and its output kept for the
   error report. Nothing it or its children do keeps us longer than the timeout; without a timeout, longer than
   the hook itself lives: a grandchild that holds the pipe open is not waited for. */
#include "init.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

/* The last of what it said. */
struct said {
    int pipe[2]; /* [0] read end, [1] write end */
    size_t size;
    char tail[DETAIL_MAX / 2 - 16];
};

struct hook {
    const char *path, *cwd;
    char **argv, **env;
    int root; /* borrowed, for the cwd "." */
    int umask_done;
    int in[2];
    struct said said[2]; /* by stdout and by stderr */
    int to[2];           /* its stdout and stderr: the pipe, or a file; borrowed */
    int pid, pidfd;
    volatile int *err; /* shared with the child, which sets it when it ends without execve */
    char own_pid[24];
    const char *part[3]; /* what is left to write to its stdin */
    int parts_done;
};

/* The child's half. With a true vfork it runs in the parent's memory, while the parent sleeps. */
static _Noreturn void hook_child(struct hook *h)
{
    static const unsigned long zero[8];
    int ok;

    setpgid(0, 0);
    if (!h->umask_done)
        umask(DEFAULT_UMASK);
    syscall(SYS_rt_sigaction, SIGPIPE, zero, NULL, 8);
    ok = strcmp(h->cwd, ".") == 0 ? fchdir(h->root) == 0 : *h->cwd == 0 || chdir(h->cwd) == 0;
    ok = ok && dup2(h->in[0], 0) >= 0 && dup2(h->to[0], 1) >= 0 && dup2(h->to[1], 2) >= 0;
    if (ok) {
        syscall(NR_CLOSE_RANGE, 3u, ~0u, 0u);
        execve(h->path, h->argv, h->env);
    }
    *h->err = errno;
    _exit(127);
}

/* vfork lives in a function of its own: no variable of it is needed after the child has run in this frame. */
static __attribute__((noinline)) int hook_spawn(struct hook *h)
{
    h->pid = vfork();
    if (h->pid == 0)
        hook_child(h);
    return h->pid < 0 ? -errno : 0;
}

/* Pipes that cannot hold us up: our ends do not block. */
static int hook_pipes(struct hook *h, const int files[2])
{
    int i;

    if (pipe2(h->in, O_CLOEXEC) < 0 || fcntl(h->in[1], F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    for (i = 0; i < 2; i++) {
        int *ends = h->said[i].pipe;

        if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0)
            return -errno;
        h->to[i] = files[i] >= 0 ? files[i] : ends[1];
    }
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Write what the pipe takes; close it after the last byte, or when the hook does not read. */
static void feed(struct hook *h)
{
    while (h->parts_done < 3) {
        const char **part = &h->part[h->parts_done];
        size_t size = strlen(*part);
        ssize_t wrote = size > 0 ? write(h->in[1], *part, size) : 0;

        if (wrote < 0 && errno == EAGAIN)
            return;
        if (wrote < 0)
            h->parts_done = 3;
        else if ((size_t)wrote == size)
            h->parts_done++;
        else
            *part += wrote;
    }
    close_fd(&h->in[1]);
}

/* Read what is there, keeping the end of it. At most a pipe's worth: a flood cannot hold us here. */
static void collect(struct said *s)
{
    char piece[1024];
    int rounds;

    for (rounds = 0; rounds < 128 && s->pipe[0] >= 0; rounds++) {
        ssize_t got = read(s->pipe[0], piece, sizeof piece);
        size_t keep;

        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            close_fd(&s->pipe[0]);
            return;
        }
        keep = sizeof s->tail - (size_t)got;
        if (s->size > keep) {
            memmove(s->tail, s->tail + s->size - keep, keep);
            s->size = keep;
        }
        memcpy(s->tail + s->size, piece, (size_t)got);
        s->size += (size_t)got;
    }
}

static void collect_both(struct hook *h)
{
    collect(&h->said[0]);
    collect(&h->said[1]);
}

/* Serve the pipes until the hook has ended. 0, -ETIMEDOUT, -EPIPE when the host is gone, or -errno. */
static int hook_serve(struct hook *h, int host, int64_t timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;

    for (;;) {
        struct pollfd fds[5] = {{h->pidfd, POLLIN, 0},
                                {h->said[0].pipe[0], POLLIN, 0},
                                {h->said[1].pipe[0], POLLIN, 0},
                                {h->in[1], POLLOUT, 0},
                                {host, POLLRDHUP, 0}};
        int64_t left = timeout_ms > 0 ? end - now_ms() : -1;
        int over = timeout_ms > 0 && left <= 0; /* a hook that ended while we were kept from looking was in time */

        if (poll(fds, 5, over ? 0 : left > 1000000 ? 1000000 : (int)left) < 0 && errno != EINTR)
            return -errno;
        if (fds[3].revents != 0)
            feed(h);
        if (fds[1].revents != 0 || fds[2].revents != 0)
            collect_both(h);
        if (fds[0].revents != 0) {
            collect_both(h);
            return 0;
        }
        if (fds[4].revents != 0)
            return -EPIPE;
        if (over)
            return -ETIMEDOUT;
    }
}

/* End the hook if it has not ended, with its process group, and reap it. Its wait status. */
static int hook_reap(struct hook *h, int killed)
{
    int status = 0;

    if (killed) {
        kill(-h->pid, SIGKILL);
        kill(h->pid, SIGKILL);
    }
    while (waitpid(h->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (killed)
        collect_both(h);
    return status;
}

static void put_pid(char text[24])
{
    long rest = syscall(SYS_getpid);
    char *at = text + 23;

    *at = 0;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    memmove(text, at, (size_t)(text + 24 - at));
}

static void hook_prepare(struct ctx *c, const struct step *s, struct hook *h)
{
    static char *default_argv[2];
    int64_t argv = s->arg[1], state = s->arg[4];

    memset(h, 0, sizeof *h);
    h->in[0] = h->in[1] = h->said[0].pipe[0] = h->said[0].pipe[1] = h->said[1].pipe[0] = h->said[1].pipe[1] = -1;
    h->pidfd = -1;
    h->path = plan_str(&c->plan, s->arg[0]);
    h->cwd = plan_str(&c->plan, s->arg[5]);
    h->root = slot_fd(c, SLOT_ROOT);
    h->umask_done = c->umask_done;
    h->argv = c->vectors;
    h->env = make_argv(c, h->argv, argv);
    make_env(c, h->env, s->arg[2]);
    if (plan_strv_count(&c->plan, argv) == 0) {
        default_argv[0] = (char *)(uintptr_t)h->path;
        h->argv = default_argv;
    }
    put_pid(h->own_pid);
    h->part[0] = state != 0 ? plan_strv_at(&c->plan, state, 0) : "";
    /* One string is the whole state, for a hook that is told the pid of another process. */
    h->part[1] = plan_strv_count(&c->plan, state) == 2 ? h->own_pid : "";
    h->part[2] = plan_strv_count(&c->plan, state) == 2 ? plan_strv_at(&c->plan, state, 1) : "";
}

/* Start the hook and see it to its end. The wait status in *status when it ran. */
static int hook_run(struct hook *h, const struct ctx *c, int64_t timeout_ms, int *status)
{
    int ret = hook_pipes(h, c->hook_output);

    if (ret == 0)
        ret = hook_spawn(h);
    close_fd(&h->in[0]);
    close_fd(&h->said[0].pipe[1]);
    close_fd(&h->said[1].pipe[1]);
    if (ret == 0)
        h->pidfd = ret = res(syscall(NR_PIDFD_OPEN, h->pid, 0));
    if (h->pidfd >= 0)
        ret = hook_serve(h, c->socket, timeout_ms);
    if (h->pid > 0)
        *status = hook_reap(h, ret < 0);
    return *h->err != 0 ? -*h->err : ret;
}

/* What the hook said, as the detail: stdout, NUL, stderr. */
static void tell_output(struct ctx *c, const struct hook *h)
{
    char both[sizeof h->said[0].tail + 1 + sizeof h->said[1].tail];
    size_t first = h->said[0].size;

    memcpy(both, h->said[0].tail, first);
    both[first] = 0;
    memcpy(both + first + 1, h->said[1].tail, h->said[1].size);
    set_detail_bytes(c, both, first + 1 + h->said[1].size);
}

/* Ends the process, the hook reaped, when the host is gone: nobody is left to be told.
   -ECHILD with the wait status as value when the hook failed; -ETIMEDOUT when it was killed for the time it took;
   the errno of chdir or execve when it did not start. The detail is the last of its output,
   or where it did not start, its path. */
int op_hook(struct ctx *c, const struct step *s)
{
    static const unsigned long zero[8];
    static unsigned long ignore[8];
    static struct hook h;
    int status = 0, ret;

    hook_prepare(c, s, &h);
    h.err = mmap(NULL, sizeof *h.err, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (h.err == MAP_FAILED)
        return -errno;
    ignore[0] = (unsigned long)(uintptr_t)SIG_IGN;
    syscall(SYS_rt_sigaction, SIGPIPE, ignore, NULL, 8);
    ret = hook_run(&h, c, s->arg[3], &status);
    if (ret == -EPIPE)
        leave(c, 1);
    syscall(SYS_rt_sigaction, SIGPIPE, zero, NULL, 8);
    if (ret == 0 && status != 0)
        ret = -ECHILD;
    if (ret == -ECHILD || ret == -ETIMEDOUT) {
        c->value = status;
        tell_output(c, &h);
    } else {
        set_detail(c, h.path);
    }
    close_fd(&h.in[1]);
    close_fd(&h.said[0].pipe[0]);
    close_fd(&h.said[1].pipe[0]);
    close_fd(&h.pidfd);
    munmap((void *)(uintptr_t)h.err, sizeof *h.err);
    return ret;
}

/* OP_HOOK_OUTPUT: the hooks that follow write to the descriptors in these slots instead of to our pipe. Returns 0. */
int op_hook_output(struct ctx *c, const struct step *s)
{
    int i;

    for (i = 0; i < 2; i++) {
        c->hook_output[i] = slot_fd(c, s->arg[i]);
        if (s->arg[i] >= 0 && c->hook_output[i] < 0)
            return c->hook_output[i];
    }
    return 0;
}
