/* Steps of namespaces and identity, in the order in which a process enters a container. */
#include "init.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* OP_SETNS: the kernel checks that the descriptor is a namespace of that type (S36). */
int op_setns(struct ctx *c, const struct step *s)
{
    int fd = slot_fd(c, s->arg[0]);

    return fd < 0 ? fd : res(syscall(SYS_setns, fd, (int)s->arg[1]));
}

int op_set_dumpable(struct ctx *c, const struct step *s)
{
    (void)c;
    return res(prctl(PRCTL_SET_DUMPABLE, (unsigned long)s->arg[0], 0, 0, 0));
}

int op_unshare(struct ctx *c, const struct step *s)
{
    (void)c;
    return res(syscall(SYS_unshare, (unsigned long)s->arg[0]));
}

int op_set_ids(struct ctx *c, const struct step *s)
{
    unsigned uid = (unsigned)s->arg[0], gid = (unsigned)s->arg[1];
    int ret = res(syscall(SYS_setresgid, gid, gid, gid));

    (void)c;
    return ret < 0 ? ret : res(syscall(SYS_setresuid, uid, uid, uid));
}

/* The parent's half of clone: tell the host first, then let the child speak, then go. */
static _Noreturn void end_stage0(struct ctx *c, int pid, int go)
{
    int ret = wire_send(c->socket, MSG_PID, (int32_t)c->step, 0, pid, NULL, 0);

    if (ret == 0 && write(go, "", 1) < 0)
        ret = -errno;
    leave(c, ret < 0);
}

/* OP_CLONE: the child goes on as init, a sibling of stage 0 because of CLONE_PARENT; stage 0 reports its pid and
   ends. The child waits for that report, so that PID comes before anything the child says; when stage 0 dies
   without it, the child ends too. */
int op_clone(struct ctx *c, const struct step *s)
{
    unsigned long flags = (unsigned long)s->arg[0] | NEW_PARENT | SIGCHLD;
    int go[2], ret;
    char byte;
    ssize_t got;

    if (c->socket < 0)
        return -EBADF;
    if (syscall(SYS_pipe2, go, O_CLOEXEC) < 0)
        return -errno;
    ret = res(syscall(SYS_clone, flags, NULL, NULL, NULL, NULL));
    if (ret > 0)
        end_stage0(c, ret, go[1]);
    close_fd(&go[1]);
    if (ret == 0) {
        got = read(go[0], &byte, 1);
        if (got != 1)
            leave(c, 1);
    }
    close_fd(&go[0]);
    return ret;
}

static int hex_value(int digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The permissions in "type;uid;gid;perm;description", or -EPROTO. */
static int64_t parse_permissions(const char *text)
{
    int64_t value = 0;
    int field;

    for (field = 0; field < 3; field++) {
        text = strchr(text, ';');
        if (text == NULL)
            return -EPROTO;
        text++;
    }
    for (; hex_value(*text) >= 0 && value <= UINT32_MAX; text++)
        value = value * 16 + hex_value(*text);
    return *text == ';' && value <= UINT32_MAX ? value : -EPROTO;
}

/* OP_KEYRING: a session keyring of that name, joined if it exists, made if not (S35). */
int op_keyring(struct ctx *c, const struct step *s)
{
    const char *name = plan_str(&c->plan, s->arg[0]);
    char text[512];
    int64_t permissions;
    int id, size;

    set_detail(c, name);
    id = res(syscall(SYS_keyctl, KEYCTL_JOIN, name, 0, 0, 0));
    if (id < 0)
        return id;
    size = res(syscall(SYS_keyctl, KEYCTL_DESCRIBE, id, text, sizeof text - 1, 0));
    if (size < 0)
        return size;
    text[(size_t)size < sizeof text ? (size_t)size : sizeof text - 1] = 0;
    permissions = parse_permissions(text);
    if (permissions < 0)
        return (int)permissions;
    permissions = (permissions & s->arg[1]) | s->arg[2];
    return res(syscall(SYS_keyctl, KEYCTL_SETPERM, id, (unsigned)permissions, 0, 0));
}

/* OP_LINK_UP. A unix socket answers interface requests too, and exists where IP is missing. */
/* Set a network device up, through any socket. */
int set_up(int fd, const char *name)
{
    struct ifreq request;
    int ret;

    memset(&request, 0, sizeof request);
    if (strlen(name) >= sizeof request.ifr_name)
        return -ENAMETOOLONG;
    strcpy(request.ifr_name, name);
    ret = res(ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags |= IFF_UP;
    return ret < 0 ? ret : res(ioctl(fd, SIOCSIFFLAGS, &request));
}

int op_link_up(struct ctx *c, const struct step *s)
{
    const char *name = plan_str(&c->plan, s->arg[0]);
    int fd, ret;

    set_detail(c, name);
    fd = ret = res(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (fd >= 0)
        ret = set_up(fd, name);
    close_fd(&fd);
    return ret;
}

int op_sethostname(struct ctx *c, const struct step *s)
{
    const char *name = plan_str(&c->plan, s->arg[0]);

    set_detail(c, name);
    return res(sethostname(name, strlen(name)));
}

int op_setdomainname(struct ctx *c, const struct step *s)
{
    const char *name = plan_str(&c->plan, s->arg[0]);

    set_detail(c, name);
    return res(syscall(SYS_setdomainname, name, strlen(name)));
}
