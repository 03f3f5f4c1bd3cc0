/* Steps on the process itself: session, modes, ids, capabilities, filter. Raw calls: the C library's own set*id
   functions signal threads that do not exist here. Every result is checked (S28). */
#include "init.h"

#include <sys/personality.h>
#include <sys/prctl.h>

/* OP_SETSID: fine when a session is ours already (console). */
int op_setsid(struct ctx *c, const struct step *s)
{
    (void)c;
    (void)s;
    return setsid() < 0 && getsid(0) != (pid_t)syscall(SYS_getpid) ? -EPERM : 0;
}

int op_umask(struct ctx *c, const struct step *s)
{
    umask((mode_t)(s->arg[0] & 0777));
    c->umask_done = 1;
    return 0;
}

int op_personality(struct ctx *c, const struct step *s)
{
    int ret = res(syscall(SYS_personality, (unsigned)s->arg[0]));

    (void)c;
    return ret < 0 ? ret : 0; /* else the former one */
}

/* OP_RLIMIT: both limits of this process; lowering needs no right. */
int op_rlimit(struct ctx *c, const struct step *s)
{
    const uint64_t limits[2] = {(uint64_t)s->arg[1], (uint64_t)s->arg[2]};

    (void)c;
    return res(syscall(SYS_prlimit64, 0, s->arg[0], limits, NULL));
}

int op_no_new_privs(struct ctx *c, const struct step *s)
{
    (void)c;
    (void)s;
    return res(prctl(PRCTL_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* OP_BOUNDING: a capability that is already gone needs no privilege to drop. */
int op_bounding(struct ctx *c, const struct step *s)
{
    uint64_t mask = (uint64_t)s->arg[0];
    int cap;

    (void)c;
    for (cap = 0; cap <= s->arg[1] && cap < 64; cap++) {
        int ret = (mask >> cap & 1) != 0 ? 0 : res(prctl(PRCTL_CAPBSET_DROP, (unsigned long)cap, 0, 0, 0));

        if (ret == -EPERM && prctl(PRCTL_CAPBSET_READ, (unsigned long)cap, 0, 0, 0) == 0)
            ret = 0;
        if (ret < 0)
            return ret;
    }
    return 0;
}

int op_keepcaps(struct ctx *c, const struct step *s)
{
    (void)c;
    return res(prctl(PRCTL_SET_KEEPCAPS, (unsigned long)s->arg[0], 0, 0, 0));
}

int op_setgroups(struct ctx *c, const struct step *s)
{
    struct blob groups = plan_blob(&c->plan, s->arg[0]);

    return res(syscall(SYS_setgroups, groups.size / 4, groups.bytes));
}

int op_setgid(struct ctx *c, const struct step *s)
{
    unsigned gid = (unsigned)s->arg[0];

    (void)c;
    return res(syscall(SYS_setresgid, gid, gid, gid));
}

int op_setuid(struct ctx *c, const struct step *s)
{
    unsigned uid = (unsigned)s->arg[0];

    (void)c;
    return res(syscall(SYS_setresuid, uid, uid, uid));
}

/* OP_CAPSET: exactly these three sets (S26). */
int op_capset(struct ctx *c, const struct step *s)
{
    struct {
        uint32_t version;
        int pid;
    } head = {CAPABILITY_V3, 0};
    struct {
        uint32_t effective, permitted, inheritable;
    } sets[2];
    int half;

    (void)c;
    for (half = 0; half < 2; half++) {
        sets[half].effective = (uint32_t)((uint64_t)s->arg[0] >> (32 * half));
        sets[half].permitted = (uint32_t)((uint64_t)s->arg[1] >> (32 * half));
        sets[half].inheritable = (uint32_t)((uint64_t)s->arg[2] >> (32 * half));
    }
    return res(syscall(SYS_capset, &head, sets));
}

/* OP_AMBIENT: a capability that cannot be raised is a warning, being a grant (S5). */
int op_ambient(struct ctx *c, const struct step *s)
{
    uint64_t mask = (uint64_t)s->arg[0];
    int ret = res(prctl(PRCTL_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0, 0, 0));
    int cap;

    for (cap = 0; ret == 0 && cap < 64; cap++) {
        if ((mask >> cap & 1) == 0 || prctl(PRCTL_CAP_AMBIENT, AMBIENT_RAISE, (unsigned long)cap, 0, 0) == 0)
            continue;
        if (c->socket >= 0)
            wire_send(c->socket, MSG_WARN, (int32_t)c->step, errno, cap, NULL, 0);
    }
    return ret;
}

/* OP_SECCOMP: from here on only read, write, close, close_range, execve and exit_group, hooks excepted. With a
   listener the host fetches it by its number with pidfd_getfd(2) before init goes on. */
int op_seccomp(struct ctx *c, const struct step *s)
{
    struct blob filter = plan_blob(&c->plan, s->arg[0]);
    struct {
        unsigned short size;
        const void *filter;
    } program = {(unsigned short)(filter.size / 8), filter.bytes};
    unsigned flags = (unsigned)s->arg[1];
    int ret;

    if (filter.size / 8 > 0xffff)
        return -E2BIG;
    settle_umask(c);
    ret = res(syscall(SYS_seccomp, SECCOMP_FILTER, flags, &program));
    if (ret < 0)
        return ret;
    c->filtered = 1;
    if ((flags & SECCOMP_NEW_LISTENER) == 0)
        return 0;
    if (s->arg[2] >= 0)
        c->slots[s->arg[2]] = ret;
    if (c->socket < 0 || wire_send(c->socket, MSG_LISTENER, (int32_t)c->step, 0, ret, NULL, 0) < 0)
        return -EPIPE;
    return wire_wait(c, BARRIER_LISTENER);
}

int op_affinity(struct ctx *c, const struct step *s)
{
    struct blob mask = plan_blob(&c->plan, s->arg[0]);
    int ret = res(syscall(SYS_sched_setaffinity, 0, (unsigned long)mask.size, mask.bytes));

    return ret < 0 ? ret : 0;
}

/* OP_SCHEDULER: sched_setattr(2); the structure holds its own size. */
int op_scheduler(struct ctx *c, const struct step *s)
{
    return res(syscall(SYS_sched_setattr, 0, plan_blob(&c->plan, s->arg[0]).bytes, 0u));
}

/* OP_IO_PRIORITY: of our process group, which is ours alone after setsid. */
int op_io_priority(struct ctx *c, const struct step *s)
{
    (void)c;
    return res(syscall(SYS_ioprio_set, IOPRIO_PROCESS_GROUP, 0, (int)s->arg[0]));
}

/* OP_MEMORY_POLICY: set_mempolicy(2), whose count of bits is one more than those it reads. */
int op_memory_policy(struct ctx *c, const struct step *s)
{
    struct blob nodes = plan_blob(&c->plan, s->arg[1]);

    return res(syscall(SYS_set_mempolicy, (int)s->arg[0], nodes.size > 0 ? nodes.bytes : NULL,
                       nodes.size > 0 ? (unsigned long)nodes.size * 8 + 1 : 0ul));
}
