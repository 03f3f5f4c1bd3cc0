/* container-init: carry out a plan, one kernel effect per step, inside the container that the steps make.

   It knows operations, not containers. What is to be done, in which order, which errnos are harmless and what to try
   instead is in the plan; pyruntime/plan/opcodes.py draws the plan and the protocol. A failure is reported as
   (step, errno, detail, value) and put into words by the host side. Started as stage 0 with the socket as
   descriptor 3; the step `clone` makes the process that goes on as init. */
#include "init.h"

#include <sys/prctl.h>

static op_fn *const ops[OP_LIMIT] = {
    [OP_BARRIER] = op_barrier,
    [OP_SETNS] = op_setns,
    [OP_SET_DUMPABLE] = op_set_dumpable,
    [OP_UNSHARE] = op_unshare,
    [OP_SET_IDS] = op_set_ids,
    [OP_WRITE_PROC] = op_write_proc,
    [OP_CLONE] = op_clone,
    [OP_OPEN_PROC] = op_open_proc,
    [OP_KEYRING] = op_keyring,
    [OP_LINK_UP] = op_link_up,
    [OP_NET_DEVICE] = op_net_device,
    [OP_PROPAGATION] = op_propagation,
    [OP_ATTACH_ROOT] = op_attach_root,
    [OP_USE_ROOT] = op_use_root,
    [OP_MAKE_PATH] = op_make_path,
    [OP_MOUNT] = op_mount,
    [OP_MOVE_MOUNT] = op_move_mount,
    [OP_MOUNT_SETATTR] = op_mount_setattr,
    [OP_REMOUNT] = op_remount,
    [OP_MKNOD] = op_mknod,
    [OP_SYMLINK] = op_symlink,
    [OP_MASK] = op_mask,
    [OP_READONLY] = op_readonly,
    [OP_HOOK] = op_hook,
    [OP_HOOK_OUTPUT] = op_hook_output,
    [OP_PIVOT_ROOT] = op_pivot_root,
    [OP_MOVE_ROOT] = op_move_root,
    [OP_CHROOT] = op_chroot,
    [OP_UMOUNT] = op_umount,
    [OP_SETHOSTNAME] = op_sethostname,
    [OP_SETDOMAINNAME] = op_setdomainname,
    [OP_CONSOLE] = op_console,
    [OP_SETSID] = op_setsid,
    [OP_REOPEN_NULL] = op_reopen_null,
    [OP_CHOWN_STDIO] = op_chown_stdio,
    [OP_UMASK] = op_umask,
    [OP_PERSONALITY] = op_personality,
    [OP_RLIMIT] = op_rlimit,
    [OP_NO_NEW_PRIVS] = op_no_new_privs,
    [OP_BOUNDING] = op_bounding,
    [OP_KEEPCAPS] = op_keepcaps,
    [OP_SETGROUPS] = op_setgroups,
    [OP_SETGID] = op_setgid,
    [OP_SETUID] = op_setuid,
    [OP_CAPSET] = op_capset,
    [OP_AMBIENT] = op_ambient,
    [OP_SECCOMP] = op_seccomp,
    [OP_CHDIR] = op_chdir,
    [OP_FIND_PROGRAM] = op_find_program,
    [OP_HOME] = op_home,
    [OP_WAIT_START] = op_wait_start,
    [OP_CLOSE_SLOT] = op_close_slot,
    [OP_PLACE_FD] = op_place_fd,
    [OP_CLOSE_FROM] = op_close_from,
    [OP_EXECVE] = op_execve,
    [OP_AFFINITY] = op_affinity,
    [OP_COPY_UP] = op_copy_up,
    [OP_OOM_SCORE_ADJ] = op_oom_score_adj,
    [OP_CLONE_TREE] = op_clone_tree,
    [OP_CLASSIC_MOUNT] = op_classic_mount,
    [OP_COVER] = op_cover,
    [OP_SCHEDULER] = op_scheduler,
    [OP_IO_PRIORITY] = op_io_priority,
    [OP_MEMORY_POLICY] = op_memory_policy,
};

void set_detail_bytes(struct ctx *c, const char *bytes, size_t size)
{
    if (size > DETAIL_MAX)
        size = DETAIL_MAX;
    memcpy(c->detail, bytes, size);
    c->detail_size = (uint32_t)size;
}

void set_detail(struct ctx *c, const char *text)
{
    set_detail_bytes(c, text, strlen(text));
}

_Noreturn void leave(const struct ctx *c, int code)
{
    (void)c;
    /* NOLINTBEGIN(bugprone-signal-handler,cert-sig30-c): a system call and an instruction, no library */
    syscall(SYS_exit_group, code);
    for (;;) /* the container's filter refuses even that: a fault that the kernel forces ends pid 1 too */
        __builtin_trap();
    /* NOLINTEND(bugprone-signal-handler,cert-sig30-c) */
}

/* Report the failure of `step` where somebody listens, and end. */
static _Noreturn void fail(struct ctx *c, int32_t step, int err)
{
    int fd = c->err_fd >= 0 ? c->err_fd : c->socket;

    wire_taken(c);
    if (fd >= 0)
        wire_send(fd, MSG_ERROR, step, err, c->value, c->detail, c->detail_size);
    leave(c, c->ready ? 255 : 1);
}

static int tolerated(const struct step *s, int err)
{
    size_t i;

    for (i = 0; i < sizeof s->tolerate; i++)
        if (s->tolerate[i] != 0 && s->tolerate[i] == err)
            return 1;
    return 0;
}

/* Run one step, nothing around it. 0 when it worked or its errno is tolerated, else -errno. */
static int run_step(struct ctx *c, uint32_t index)
{
    const struct step *s = &c->plan.steps[index];
    int ret;

    c->step = index;
    c->value = 0;
    c->detail_size = 0;
    ret = ops[s->op](c, s);
    return ret < 0 && !tolerated(s, -ret) ? ret : 0;
}

/* Run step `index`, and in their order those alternatives that answer its errno; each runs at most once, so a step
   that fails again after a RETRY finds only the later ones. Does not return when the step fails for good. */
static void run_with_alternatives(struct ctx *c, uint32_t index)
{
    const struct step *s = &c->plan.steps[index];
    int ret = run_step(c, index);
    uint32_t i;

    for (i = index + 1; ret < 0 && i <= index + s->alternatives; i++) {
        const struct step *other = &c->plan.steps[i];
        int other_ret;

        if (other->on_errno != -ret)
            continue;
        other_ret = run_step(c, i);
        if (other_ret < 0)
            fail(c, (int32_t)i, -other_ret);
        if (c->taken_count == MAX_TAKEN)
            wire_taken(c);
        c->taken[c->taken_count++] = i;
        ret = (other->alternatives & PLAN_RETRY) != 0 ? run_step(c, index) : 0;
    }
    if (ret < 0)
        fail(c, (int32_t)index, -ret);
}

static void end(int number)
{
    leave(NULL, 128 + number);
}

/* Nothing of the caller's signal set-up reaches the container (DESIGN.md, runtime 14); SIGKILL and SIGSTOP refuse.
   The first process of a pid namespace ignores what it does not handle: a container that is only created must end by
   the signals that ask a process to. execve makes them default again. */
static void reset_signals(void)
{
    static const int asking[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM};
    static const unsigned long zero[8];
    int number;

    for (number = 1; number < 65; number++)
        syscall(SYS_rt_sigaction, number, zero, NULL, 8);
    for (number = 0; number < (int)(sizeof asking / sizeof asking[0]); number++)
        signal(asking[number], end);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, zero, NULL, 8);
}

/* A caller may have closed its stdio: no pipe or file of ours may become the container's. */
static void fill_stdio(void)
{
    int number;

    for (number = 0; number < 3; number++)
        if (fcntl(number, F_GETFD) < 0)
            open("/dev/null", O_RDWR);
}

int main(void)
{
    static struct ctx c;
    uint32_t i;
    int ret;

    c.socket = 3;
    c.hook_output[0] = c.hook_output[1] = -1;
    c.err_fd = c.covered = c.null_file.fd = c.empty_dir.fd = -1;
    reset_signals();
    prctl(PRCTL_SET_NAME, "container-init");
    umask(0);
    fill_stdio();
    syscall(NR_CLOSE_RANGE, 4u, ~0u, 0u);
    ret = chdir("/") < 0 ? -errno : wire_start(&c);
    if (ret < 0)
        fail(&c, WAIT_STEP, -ret);
    for (i = 0; i < c.plan.count; i += 1u + c.plan.steps[i].alternatives)
        run_with_alternatives(&c, i);
    wire_taken(&c);
    leave(&c, 0);
}
