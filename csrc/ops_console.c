/* OP_CONSOLE: a pty of the container's own devpts (S18). Every step is on a descriptor: a symlink at /dev/console,
   /dev/pts or /dev/ptmx is an error, and no file of the image is opened for reading or writing. */
#include "init.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#define PTMX_INODE 2
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

/* The master, from the root of the devpts mount and not from anything mounted below it. Owned, or -errno. */
static int open_master(struct ctx *c)
{
    int pts = open_target(c, "/dev/pts", 0, O_DIRECTORY), fd = -1, ret = pts;
    struct stat st;

    if (pts >= 0)
        ret = check_magic(pts, MAGIC_DEVPTS);
    if (ret >= 0)
        fd = ret = open_below(pts, "ptmx", O_RDWR | O_NOCTTY, RES_BENEATH | RES_NO_XDEV | RES_NO_SYMLINKS);
    set_detail(c, "/dev/pts/ptmx");
    if (fd >= 0 && fstat(fd, &st) < 0)
        ret = -errno;
    else if (fd >= 0 && (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2) || st.st_ino != PTMX_INODE))
        ret = -EXDEV;
    if (ret < 0)
        close_fd(&fd);
    close_fd(&pts);
    return ret < 0 ? ret : fd;
}

/* Unlock the pair, open the other end by the master alone, set the size. The slave, owned, or -errno. */
static int open_slave(int master, int64_t height, int64_t width)
{
    struct winsize size = {(unsigned short)height, (unsigned short)width, 0, 0};
    int unlock = 0;

    if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return -errno;
    if (height > 0 && width > 0 && ioctl(master, TIOCSWINSZ, &size) < 0)
        return -errno;
    return res(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
}

static int send_master(int socket, int master)
{
    char name[] = "/dev/pts/ptmx";
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec io = {name, sizeof name - 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};

    memset(&control, 0, sizeof control);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.head), &master, sizeof master);
    return sendmsg(socket, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Bind the slave on /dev/console, which is made as an empty file when it is missing. */
static int mount_console(struct ctx *c, int slave)
{
    const int64_t flags = F_TARGET_NO_FOLLOW | F_MAKE_FILE;
    int fd = open_target(c, "/dev/console", flags, 0), tree = -1, ret;

    if (fd == -ENOENT) {
        ret = make_path(c, "/dev/console", 0666, flags);
        fd = ret < 0 ? ret : open_target(c, "/dev/console", flags, 0);
    }
    if (fd < 0)
        return fd;
    tree = tree_clone(slave, 0);
    ret = tree < 0 ? tree : tree_attach(tree, fd);
    close_fd(&tree);
    close_fd(&fd);
    return ret;
}

/* The slave becomes stdio and the controlling terminal of a new session. */
static int use_slave(int slave)
{
    int number;

    for (number = 0; number < 3; number++)
        if (syscall(SYS_dup3, slave, number, 0) < 0)
            return -errno;
    if (setsid() < 0 && errno != EPERM) /* EPERM: a step `setsid` came first */
        return -errno;
    return res(ioctl(0, TIOCSCTTY, 0));
}

int op_console(struct ctx *c, const struct step *s)
{
    int master = open_master(c), slave = -1, ret;

    if (master < 0)
        return master;
    slave = ret = open_slave(master, s->arg[1], s->arg[2]);
    if (slave >= 0)
        ret = slot_fd(c, s->arg[0]);
    if (ret >= 0)
        ret = send_master(ret, master);
    if (ret == 0 && (s->arg[3] & F_MOUNT_CONSOLE) != 0)
        ret = mount_console(c, slave);
    if (ret == 0)
        ret = use_slave(slave);
    close_fd(&slave);
    close_fd(&master);
    return ret;
}
