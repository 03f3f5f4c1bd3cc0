/* Steps that make names in the root, by descriptor (S20), and those on the stdio that was inherited. */
#include "init.h"

#include <sys/sysmacros.h>

#define PTY_FIRST 136
#define PTY_LAST 143

static int is_node(const struct stat *st, const struct step *s)
{
    mode_t mode = (mode_t)s->arg[1];

    return ((st->st_mode ^ mode) & S_IFMT) == 0 &&
           (!(S_ISCHR(mode) || S_ISBLK(mode)) || st->st_rdev == (dev_t)s->arg[2]);
}

/* chmod of what an O_PATH descriptor names: fchmodat2 from kernel 6.6, before that by its name in procfs. */
static int chmod_fd(struct ctx *c, int fd, mode_t mode)
{
    char name[32];
    int proc, ret = res(syscall(NR_FCHMODAT2, fd, "", mode, AT_EMPTY_PATH));

    if (ret != -ENOSYS)
        return ret;
    proc = proc_fd(c);
    fd_name(name, fd);
    return proc < 0 ? proc : res(fchmodat(proc, name, mode, 0));
}

/* Owner and mode as the plan has them; a default ACL or a setgid directory may have made others. By descriptor, and
   only on what still is the node that was made. */
static int fix_node(struct ctx *c, int parent, const char *name, const struct step *s)
{
    mode_t mode = (mode_t)s->arg[1];
    int fd = open_below(parent, name, O_PATH | O_NOFOLLOW, RES_BENEATH);
    struct stat st;
    int ret = fd < 0 ? fd : res(fstat(fd, &st));

    if (ret == 0 && !is_node(&st, s))
        ret = -EEXIST;
    if (ret == 0 && (st.st_uid != (uid_t)s->arg[3] || st.st_gid != (gid_t)s->arg[4]))
        ret = res(fchownat(fd, "", (uid_t)s->arg[3], (gid_t)s->arg[4], AT_EMPTY_PATH));
    if (ret == 0 && ((st.st_mode ^ mode) & 07777) != 0)
        ret = chmod_fd(c, fd, mode & 07777);
    close_fd(&fd);
    return ret;
}

/* OP_MKNOD: the node is there with that type and number. An existing one of the same kind is left as it is, another
   one is EEXIST (config-linux.md, Devices). */
int op_mknod(struct ctx *c, const struct step *s)
{
    mode_t mode = (mode_t)s->arg[1];
    char name[NAME_MAX + 1];
    struct stat st;
    int parent = open_parent(c, plan_str(&c->plan, s->arg[0]), name);
    int ret, made;

    if (parent < 0)
        return parent;
    ret = res(mknodat(parent, name, mode, (dev_t)s->arg[2]));
    made = ret == 0;
    if (made || ret == -EEXIST)
        ret = res(fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW));
    if (ret == 0 && !is_node(&st, s))
        ret = -EEXIST;
    if (ret == 0 && made &&
        (((st.st_mode ^ mode) & 07777) != 0 || st.st_uid != (uid_t)s->arg[3] || st.st_gid != (gid_t)s->arg[4]))
        ret = fix_node(c, parent, name, s);
    close_fd(&parent);
    return ret;
}

/* OP_SYMLINK; with REPLACE a file or link of that name goes first, a directory never does. */
/* A symlink that says the same is as good as a new one. */
static int same_link(int parent, const char *name, const char *text)
{
    char found[PATH_MAX];
    ssize_t size = readlinkat(parent, name, found, sizeof found);

    return size >= 0 && (size_t)size == strlen(text) && memcmp(found, text, (size_t)size) == 0 ? 0 : -EEXIST;
}

int op_symlink(struct ctx *c, const struct step *s)
{
    char name[NAME_MAX + 1];
    int parent = open_parent(c, plan_str(&c->plan, s->arg[1]), name);
    int ret = 0;

    if (parent < 0)
        return parent;
    if ((s->arg[2] & F_REPLACE) != 0)
        ret = res(unlinkat(parent, name, 0));
    if (ret == 0 || ret == -ENOENT)
        ret = res(symlinkat(plan_str(&c->plan, s->arg[0]), parent, name));
    if (ret == -EEXIST)
        ret = same_link(parent, name, plan_str(&c->plan, s->arg[0]));
    close_fd(&parent);
    return ret;
}

static int is_null(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

/* The container's own null device, looked at before it is opened. An owned descriptor or -errno. */
static int open_container_null(struct ctx *c)
{
    struct stat st;
    int fd = open_target(c, "/dev/null", F_TARGET_NO_FOLLOW, 0);
    int ret = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : is_null(&st) ? 0 : -ENODEV;

    close_fd(&fd);
    if (ret < 0)
        return ret;
    fd = open_below(slot_fd(c, SLOT_ROOT), "/dev/null", O_RDWR | O_NOCTTY | O_NOFOLLOW, RES_IN_ROOT);
    ret = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : is_null(&st) ? fd : -ENODEV;
    if (ret < 0)
        close_fd(&fd);
    return ret;
}

/* OP_REOPEN_NULL: stdio that is a null device becomes the container's, so that no host mount stays in use. */
int op_reopen_null(struct ctx *c, const struct step *s)
{
    struct stat st;
    int number, fd = -1, ret = 0;

    (void)s;
    for (number = 0; number < 3 && ret >= 0; number++) {
        if (fstat(number, &st) < 0 || !is_null(&st))
            continue;
        if (fd < 0)
            fd = ret = open_container_null(c);
        if (ret >= 0)
            ret = res(syscall(SYS_dup3, fd, number, 0));
    }
    close_fd(&fd);
    return ret < 0 ? ret : 0;
}

/* Only an anonymous pipe or the slave of a pty is ours to give away (S19). */
static int may_chown(int fd, const struct stat *st)
{
    if (S_ISFIFO(st->st_mode))
        return check_magic(fd, MAGIC_PIPEFS) == 0;
    return S_ISCHR(st->st_mode) && major(st->st_rdev) >= PTY_FIRST && major(st->st_rdev) <= PTY_LAST &&
           check_magic(fd, MAGIC_DEVPTS) == 0;
}

int op_chown_stdio(struct ctx *c, const struct step *s)
{
    struct stat st;
    int number;

    (void)c;
    for (number = 0; number < 3; number++) {
        if (fstat(number, &st) < 0 || st.st_uid == (uid_t)s->arg[0] || !may_chown(number, &st))
            continue;
        if (fchown(number, (uid_t)s->arg[0], (gid_t)-1) < 0 && errno != EPERM && errno != EROFS && errno != EINVAL)
            return -errno;
    }
    return 0;
}
