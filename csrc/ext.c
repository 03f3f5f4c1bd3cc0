/* The system calls that the host side needs and Python lacks, for cffi. One call each, -errno on failure;
   no policy, no allocation, no words. See pyruntime/native/kernel.py for what they mean. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#define NR_OPEN_TREE 428
#define NR_PIDFD_GETFD 438
#define NR_MOUNT_SETATTR 442
#define MAX_FDS 250

int pr_sealed_memfd(const char *name, const char *data, size_t size, int executable)
{
    unsigned int kind = executable ? MFD_EXEC : MFD_NOEXEC_SEAL;
    int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kind);
    int saved;

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, data + done, size - done);
        if (n < 0 && errno != EINTR)
            goto fail;
        done += n > 0 ? (size_t)n : 0;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        goto fail;
    return fd;
fail:
    saved = errno;
    close(fd);
    return -saved;
}

int pr_socketpair(int *fds)
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

int pr_send(int sock, const char *data, size_t size, const int *fds, int count)
{
    union {
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {(void *)(uintptr_t)data, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (count > MAX_FDS)
        return -E2BIG;
    if (count > 0) {
        struct cmsghdr *head = &control.align;
        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(head), fds, (size_t)count * sizeof(int));
    }
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

static void take_fds(struct msghdr *msg, int *fds, int max_fds, int *count)
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(msg); head; head = CMSG_NXTHDR(msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        int n = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + (size_t)i * sizeof fd, sizeof fd);
            if (*count < max_fds)
                fds[(*count)++] = fd;
            else
                close(fd);
        }
    }
}

/* One message, or 0 at EOF. With pidfd >= 0 the death of that process counts as EOF once nothing is left to read.
   A peer that closes with something of ours unread shows as ECONNRESET first, before what it had sent (unix(7)). */
int pr_recv(int sock, char *buffer, size_t size, int *fds, int max_fds, int *count, int timeout_ms, int pidfd)
{
    union {
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {buffer, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n;

    *count = 0;
    if (timeout_ms >= 0 || pidfd >= 0) {
        struct pollfd polled[2] = {{sock, POLLIN, 0}, {pidfd, POLLIN, 0}};
        int ready = poll(polled, 2, timeout_ms);
        if (ready < 0)
            return -errno; /* EINTR too: Python runs its signal handlers and calls again */
        if (ready == 0)
            return -ETIMEDOUT;
    }
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | (pidfd >= 0 ? MSG_DONTWAIT : 0));
    while (n < 0 && errno == ECONNRESET);
    if (n < 0 && errno == EAGAIN && pidfd >= 0)
        return 0;
    if (n < 0)
        return -errno;
    take_fds(&msg, fds, max_fds, count);
    return (int)n;
}

/* A connected stream socket. A path over 107 bytes is reached through a descriptor of its folder. */
int pr_connect_unix(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *name = path;
    int sock, saved, dir = -1;

    if (strlen(path) >= sizeof addr.sun_path) {
        dir = open(path, O_PATH | O_CLOEXEC);
        if (dir < 0)
            return -errno;
        snprintf(addr.sun_path, sizeof addr.sun_path, "/proc/self/fd/%d", dir);
    } else {
        memcpy(addr.sun_path, name, strlen(name) + 1);
    }
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&addr, sizeof addr) < 0) {
        saved = errno;
        close(sock);
        errno = saved;
        sock = -1;
    }
    saved = errno;
    if (dir >= 0)
        close(dir);
    return sock < 0 ? -saved : sock;
}

int pr_open_tree(int dirfd, const char *path, unsigned int flags)
{
    int fd = (int)syscall(NR_OPEN_TREE, dirfd, path, flags);
    return fd < 0 ? -errno : fd;
}

int pr_mount_setattr(int fd, const char *path, unsigned int flags, uint64_t set, uint64_t clr, uint64_t propagation,
                     int userns_fd)
{
    uint64_t attr[4] = {set, clr, propagation, userns_fd < 0 ? 0 : (uint64_t)userns_fd};
    return syscall(NR_MOUNT_SETATTR, fd, path, flags, attr, sizeof attr) < 0 ? -errno : 0;
}

/* mount(2) on a detached tree, for kernels without mount_setattr (before 5.12). */
int pr_mount_propagation(int fd, uint64_t flags)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return mount(NULL, path, NULL, (unsigned long)flags, NULL) < 0 ? -errno : 0;
}

int pr_prlimit(int pid, int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit64 limit = {soft, hard};
    return prlimit64(pid, (enum __rlimit_resource)resource, &limit, NULL) < 0 ? -errno : 0;
}

int pr_umount(const char *path, int flags)
{
    return umount2(path, flags) < 0 ? -errno : 0;
}

int pr_pidfd_getfd(int pidfd, int fd)
{
    int got = (int)syscall(NR_PIDFD_GETFD, pidfd, fd, 0);
    return got < 0 ? -errno : got;
}

/* Blocks signals in this thread and returns a descriptor that reports them (128 bytes each, signalfd(2)). Bit n - 1 of
   `mask` stands for signal n, as in /proc/PID/status; 0 for all. Those of a mask that are ignored stay so: asked of the
   kernel, since the interpreter's own list may be of the process that made its snapshot. */
int pr_signalfd(unsigned int mask)
{
    struct sigaction now;
    sigset_t set;
    int fd;

    sigemptyset(&set);
    for (int number = 1; number <= 32; number++)
        if (mask & 1U << (number - 1) && sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaddset(&set, number);
    if (!mask)
        sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* One write to an existing file, as cgroupfs and procfs want it. */
int pr_write_string(const char *path, const char *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int saved;

    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, data, size);
    saved = errno;
    close(fd);
    return n < 0 ? -saved : (int)n;
}

int pr_streampair(int *fds)
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

/* Puts all that was written to fd's file system on stable storage. */
int pr_syncfs(int fd)
{
    return syncfs(fd) < 0 ? -errno : 0;
}
