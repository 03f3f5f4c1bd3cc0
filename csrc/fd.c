/* Descriptors: who owns them, and that none lies where the plan will place one of the caller's. */
#include "init.h"

#include <sys/statfs.h>

/* Close an owned descriptor; -1 afterwards. errno stays. */
void close_fd(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved;
}

/* The default for whoever runs next, unless a step has set another. */
void settle_umask(struct ctx *c)
{
    if (!c->umask_done)
        umask(DEFAULT_UMASK);
    c->umask_done = 1;
}

/* Move an owned descriptor to fd_base or above, so that place_fd never meets it. The descriptor, or -errno. */
int keep_high(const struct ctx *c, int fd)
{
    int high;

    if (fd < 0 || fd >= (int)c->plan.fd_base)
        return fd;
    high = res(fcntl(fd, F_DUPFD_CLOEXEC, (int)c->plan.fd_base));
    close_fd(&fd);
    return high;
}

/* "self/fd/7", to be looked up in a verified procfs. */
void fd_name(char out[32], int fd)
{
    char *at = out + 31;

    *at = 0;
    do {
        *--at = (char)('0' + fd % 10);
        fd /= 10;
    } while (fd > 0);
    memmove(out + 8, at, (size_t)(out + 32 - at));
    memcpy(out, "self/fd/", 8);
}

/* Put an owned descriptor (or -errno, which is passed on) into a slot; what was there is closed. */
int set_slot(struct ctx *c, int64_t slot, int fd)
{
    if (fd < 0)
        return fd;
    fd = keep_high(c, fd);
    if (fd < 0)
        return fd;
    if (slot < 0) {
        close_fd(&fd);
        return -EBADF;
    }
    close_fd(&c->slots[slot]);
    c->slots[slot] = fd;
    return 0;
}

/* The borrowed descriptor of a slot, or -EBADF. */
int slot_fd(const struct ctx *c, int64_t slot)
{
    return slot >= 0 && c->slots[slot] >= 0 ? c->slots[slot] : -EBADF;
}

/* 0 when the file system of `fd` is of that type, else -EXDEV (S2). */
int check_magic(int fd, unsigned long magic)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return -errno;
    return (unsigned long)fs.f_type == magic ? 0 : -EXDEV;
}

/* The number of the mount and of the file. struct statx, which older headers lack, as words of 8 bytes (linux/stat.h).
 */
int place_of(int fd, uint64_t place[2])
{
    enum { INODE = 4, MOUNT = 18, ASKED = 0x100 | 0x1000 }; /* STATX_INO, STATX_MNT_ID */
    uint64_t words[32];

    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, ASKED, words) < 0)
        return -errno;
    place[0] = words[MOUNT];
    place[1] = words[INODE];
    return 0;
}

/* 1 when both are the same file by the same mount, 0 when not, or -errno. */
int same_place(int one, int other)
{
    uint64_t a[2] = {0}, b[2] = {0};
    int ret = place_of(one, a);

    if (ret == 0)
        ret = place_of(other, b);
    return ret < 0 ? ret : a[0] == b[0] && a[1] == b[1];
}

/* Exactly `size` bytes from the start of the file, else -errno (-EIO when it is shorter). */
int read_all(int fd, void *buffer, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = pread(fd, (char *)buffer + done, size - done, (off_t)done);

        if (got < 0)
            return -errno;
        if (got == 0)
            return -EIO;
        done += (size_t)got;
    }
    return 0;
}

int op_close_slot(struct ctx *c, const struct step *s)
{
    if (s->arg[0] >= 0)
        close_fd(&c->slots[s->arg[0]]);
    return 0;
}

/* OP_PLACE_FD: the descriptor in the slot becomes `number` and is inherited; the slot is empty afterwards. */
int op_place_fd(struct ctx *c, const struct step *s)
{
    int fd = slot_fd(c, s->arg[0]);
    int ret;

    if (fd < 0)
        return fd;
    ret = res(syscall(SYS_dup3, fd, (int)s->arg[1], 0));
    if (ret < 0)
        return ret;
    close_fd(&c->slots[s->arg[0]]);
    return 0;
}

/* OP_CLOSE_FROM: nothing at or above `first` survives execve (S13). Kernel 5.10 has close_range without CLOEXEC. */
int op_close_from(struct ctx *c, const struct step *s)
{
    int ret = res(syscall(NR_CLOSE_RANGE, (unsigned)s->arg[0], ~0u, RANGE_CLOEXEC));
    int fd;

    (void)c;
    if (ret != -EINVAL)
        return ret;
    for (fd = (int)s->arg[0]; fd < 1024; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 && errno != EBADF)
            return -errno;
    return 0;
}
