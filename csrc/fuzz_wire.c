/* libFuzzer: whatever arrives on the socket, descriptors end in the slots that were meant, out of the caller's range,
   or the message is refused. Input: descriptors of the first message, a barrier and a flag, the plan's size (2 bytes),
   the plan, then messages: descriptors, size (2 bytes), content. */
#include "sys.h"

#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>

/* The end of the process is the end of a run; memory is counted, so that a run can give it back. */
#define leave fuzz_leave
#define mmap fuzz_mmap
static void *fuzz_mmap(void *at, size_t size, int prot, int flags, int fd, long offset);
#include "wire.c"
#undef mmap

#define MOST_FDS 24
#define MOST_MAPS 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static jmp_buf over;
static struct {
    void *at;
    size_t size;
} maps[MOST_MAPS];
static int map_count;

static void *fuzz_mmap(void *at, size_t size, int prot, int flags, int fd, long offset)
{
    void *got = mmap(at, size, prot, flags, fd, offset);

    if (map_count == MOST_MAPS)
        abort();
    maps[map_count].at = got;
    maps[map_count++].size = size;
    return got;
}

_Noreturn void fuzz_leave(const struct ctx *c, int code)
{
    (void)c;
    longjmp(over, code);
}

void set_detail(struct ctx *c, const char *text)
{
    (void)c;
    if (strlen(text) == 0)
        abort();
}

static void post(int sock, const uint8_t *content, size_t size, const int *fds, size_t count)
{
    union {
        char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec io = {(void *)(uintptr_t)content, size};
    struct msghdr head = {.msg_iov = &io, .msg_iovlen = 1};

    memset(&control, 0, sizeof control);
    if (count > 0) {
        head.msg_control = &control;
        head.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.align), fds, count * sizeof(int));
    }
    sendmsg(sock, &head, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Everything that the host sends, ahead of being read; afterwards the host is gone. */
static void post_all(int sock, const uint8_t *at, const uint8_t *end, const int *fds, size_t first)
{
    size_t count = first;

    while (end - at >= 3) {
        size_t size = at[1] | (size_t)at[2] << 8;

        if (count == 0)
            count = at[0] % MOST_FDS;
        at += 3;
        if (size > (size_t)(end - at))
            size = (size_t)(end - at);
        post(sock, at, size, fds, count);
        at += size;
        count = 0;
    }
    shutdown(sock, SHUT_WR);
}

static void check(const struct ctx *c)
{
    uint32_t i;

    if (c->socket < (int)c->plan.fd_base)
        abort();
    for (i = 0; i < c->plan.slots; i++)
        if (c->slots[i] != -1 && (c->slots[i] < (int)c->plan.fd_base || fcntl(c->slots[i], F_GETFD) != FD_CLOEXEC))
            abort();
}

static int plan_file(const uint8_t *plan, size_t size)
{
    int fd = memfd_create("plan", 0);

    if (fd < 0 || write(fd, plan, size) != (ssize_t)size)
        abort();
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ctx c;
    int sock[2], fds[MOST_FDS], i;
    size_t plan;

    if (size < 4 || (plan = data[2] | (size_t)data[3] << 8) > size - 4)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock) < 0)
        abort();
    fds[0] = plan_file(data + 4, plan);
    for (i = 1; i < MOST_FDS; i++)
        fds[i] = sock[1];
    memset(&c, 0, sizeof c);
    c.socket = sock[0];
    post_all(sock[1], data + 4 + plan, data + size, fds, data[0] % MOST_FDS);
    close(sock[1]);
    if (setjmp(over) == 0 && wire_start(&c) == 0) {
        check(&c);
        c.filtered = data[1] >> 7;
        if (wire_wait(&c, data[1] & 7) == 0)
            check(&c);
    }
    while (map_count > 0) {
        map_count--;
        munmap(maps[map_count].at, maps[map_count].size);
    }
    syscall(NR_CLOSE_RANGE, 3U, ~0U, 0U);
    return 0;
}
