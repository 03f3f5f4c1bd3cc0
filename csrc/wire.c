/* The socket to the host side: messages, descriptors, barriers. Drawn in pyruntime/plan/opcodes.py. */
#include "init.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MAX_FDS 253 /* SCM_MAX_FD */

struct message {
    uint32_t type;
    int32_t step, err, value;
    unsigned char payload[MAX_MESSAGE - 16];
};

struct received {
    struct message m;
    size_t payload; /* bytes of it */
    int fds[MAX_FDS];
    size_t fd_count;
};

/* One record, with write(2) alone so that it also works behind a filter. A host that is gone is not an error here. */
int wire_send(int fd, uint32_t type, int32_t step, int32_t err, int32_t value, const char *payload, size_t size)
{
    static struct message m;

    if (size > DETAIL_MAX - 16)
        size = DETAIL_MAX - 16; /* PIPE_BUF: the record is whole on exec.err too */
    m.type = type;
    m.step = step;
    m.err = err;
    m.value = value;
    if (size > 0)
        memcpy(m.payload, payload, size);
    return write(fd, &m, 16 + size) < 0 ? -errno : 0;
}

static void take_fds(struct received *r, struct msghdr *head)
{
    struct cmsghdr *cm;

    r->fd_count = 0;
    for (cm = CMSG_FIRSTHDR(head); cm != NULL; cm = CMSG_NXTHDR(head, cm)) {
        if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
            continue;
        r->fd_count = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(r->fds, CMSG_DATA(cm), r->fd_count * sizeof(int));
    }
}

/* The next message. 0 at its end of file: the host is gone; else 1, or -errno. */
static int wire_receive(const struct ctx *c, struct received *r)
{
    static union {
        struct cmsghdr align;
        char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control;
    struct iovec io = {&r->m, sizeof r->m};
    struct msghdr head = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;

    r->fd_count = 0;
    if (c->filtered)
        got = read(c->socket, &r->m, sizeof r->m);
    else
        got = recvmsg(c->socket, &head, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == ECONNRESET ? 0 : -errno;
    if (got == 0)
        return 0;
    if (!c->filtered)
        take_fds(r, &head);
    if (!c->filtered && (head.msg_flags & MSG_CTRUNC) != 0)
        return -EMFILE;
    if (got < 16 || (!c->filtered && (head.msg_flags & MSG_TRUNC) != 0))
        return -EPROTO;
    r->payload = (size_t)got - 16;
    return 1;
}

/* Descriptors of a message from `skip` on go to the slots that the payload names. Takes all of them. */
static int store_fds(struct ctx *c, struct received *r, size_t skip)
{
    size_t i;
    int ret = 0;

    if (r->payload != (r->fd_count - skip) * 4)
        return -EPROTO;
    for (i = skip; i < r->fd_count; i++) {
        uint32_t slot;

        memcpy(&slot, r->m.payload + (i - skip) * 4, 4);
        if (slot >= c->plan.slots)
            return -EPROTO;
        ret = set_slot(c, slot, r->fds[i]);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Copy the plan into memory of our own, so that nobody changes it after the check, and decode it there. Behind it
   lies all the room that the steps will need: slots and pointer vectors. */
static int load_plan(struct ctx *c, int memfd)
{
    struct stat st;
    size_t size, room;
    unsigned char *at;
    const char *wrong;
    uint32_t i;

    if (fstat(memfd, &st) < 0)
        return -errno;
    if (st.st_size < PLAN_HEADER_SIZE || st.st_size > (off_t)PLAN_MAX_SIZE)
        return -EINVAL;
    size = ((size_t)st.st_size + 15) & ~(size_t)15;
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    if (read_all(memfd, at, (size_t)st.st_size) < 0)
        return -EIO;
    wrong = plan_decode(at, (size_t)st.st_size, &c->plan);
    if (wrong != NULL) {
        set_detail(c, wrong);
        return -EINVAL;
    }
    room = ((size_t)c->plan.vector + 6) * sizeof(char *) + c->plan.slots * sizeof(int);
    at = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    c->vectors = (char **)(void *)at;
    c->slots = (int *)(void *)(at + ((size_t)c->plan.vector + 6) * sizeof(char *));
    for (i = 0; i < c->plan.slots; i++)
        c->slots[i] = -1;
    return 0;
}

/* Receive the plan and every descriptor announced with it, and move all of them out of the caller's range. */
int wire_start(struct ctx *c)
{
    static struct received r;
    size_t expected;
    int ret = wire_receive(c, &r);

    if (ret == 0)
        leave(c, 1);
    if (ret < 0)
        return ret;
    if (r.m.type != MSG_PLAN || r.fd_count < 1 || r.m.value < 1)
        return -EPROTO;
    expected = (size_t)r.m.value;
    ret = load_plan(c, r.fds[0]);
    close_fd(&r.fds[0]);
    if (ret < 0)
        return ret;
    c->socket = ret = keep_high(c, c->socket);
    if (ret < 0 || fcntl(c->socket, F_SETFD, FD_CLOEXEC) < 0)
        return ret < 0 ? ret : -errno;
    ret = store_fds(c, &r, 1);
    expected -= r.fd_count < expected ? r.fd_count : expected;
    while (ret == 0 && expected > 0) {
        ret = wire_receive(c, &r);
        if (ret == 0)
            leave(c, 1);
        if (ret > 0)
            ret = r.m.type == MSG_FDS && r.fd_count > 0 ? store_fds(c, &r, 0) : -EPROTO;
        expected -= r.fd_count < expected ? r.fd_count : expected;
    }
    return ret;
}

/* Wait for the release of `barrier`; descriptors may come first. Ends the process when the host is gone. */
int wire_wait(struct ctx *c, int32_t barrier)
{
    static struct received r;

    for (;;) {
        int ret = wire_receive(c, &r);

        if (ret == 0)
            leave(c, 1);
        if (ret > 0 && r.m.type == MSG_FDS)
            ret = store_fds(c, &r, 0);
        else if (ret > 0)
            return r.m.type == MSG_RELEASE && r.m.value == barrier ? 0 : -EPROTO;
        if (ret < 0)
            return ret;
    }
}

/* Tell which alternatives ran since the last time, all in one message: each one alone would wake the host. */
void wire_taken(struct ctx *c)
{
    uint32_t count = c->taken_count;

    c->taken_count = 0;
    if (count > 0 && c->socket >= 0)
        wire_send(c->socket, MSG_ALT, (int32_t)c->taken[count - 1], 0, (int32_t)count, (const char *)c->taken,
                  count * sizeof c->taken[0]);
}

/* OP_BARRIER: the host does its part between BARRIER and RELEASE. A host that died is followed silently. */
int op_barrier(struct ctx *c, const struct step *s)
{
    int ret;

    if (c->socket < 0)
        return -EBADF;
    wire_taken(c);
    if (wire_send(c->socket, MSG_BARRIER, (int32_t)c->step, 0, (int32_t)s->arg[0], NULL, 0) < 0)
        leave(c, 1);
    ret = wire_wait(c, (int32_t)s->arg[0]);
    if (ret == 0 && s->arg[0] == BARRIER_READY)
        c->ready = 1;
    return ret;
}
