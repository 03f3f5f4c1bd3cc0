/* Bind sources opened from inside, for a caller without rights over its own mount namespace: init owns a copy of that
   namespace, in which the kernel has made every mount a slave (mount_namespaces(7)), and clones from there. */
#include "init.h"

#include <sys/mount.h>

/* The device node that `path` names, looked at before it is cloned (S2). An owned tree or -errno. */
static int clone_device(const char *path, mode_t mode, dev_t dev)
{
    struct stat st;
    int fd = res(open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    int ret = fd < 0 ? fd : res(fstat(fd, &st));

    if (ret == 0 && (((st.st_mode ^ mode) & S_IFMT) != 0 || st.st_rdev != dev))
        ret = -ENODEV;
    if (ret == 0)
        ret = tree_clone(fd, 0);
    close_fd(&fd);
    return ret;
}

/* mount(2) knows trees by path only: kernels before mount_setattr, Linux 5.12. */
static int set_propagation_by_name(struct ctx *c, int tree, unsigned long flags)
{
    char name[32];
    int proc = proc_fd(c);
    int ret = proc < 0 ? proc : res(fchdir(proc));

    if (ret < 0)
        return ret;
    fd_name(name, tree);
    ret = res(mount(NULL, name, NULL, flags, NULL));
    if (chdir("/") < 0 && ret == 0)
        ret = -errno;
    return ret;
}

static int set_propagation(struct ctx *c, int tree, uint64_t flags)
{
    struct attr attr = {.propagation = flags & ~(uint64_t)MOUNT_REC};
    unsigned at = AT_EMPTY_PATH | ((flags & MOUNT_REC) != 0 ? AT_RECURSIVE : 0);
    int ret = res(syscall(NR_MOUNT_SETATTR, tree, "", at, &attr, sizeof attr));

    return ret == -ENOSYS ? set_propagation_by_name(c, tree, (unsigned long)flags) : ret;
}

/* OP_CLONE_TREE: a detached clone of a host path in the slot, with the propagation it will have in the container. With
   a mode only the device node of that type and number is taken. Nothing is left attached. */
int op_clone_tree(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[1]);
    unsigned flags = TREE_CLONE | O_CLOEXEC;
    int tree, ret;

    set_detail(c, path);
    if ((s->arg[2] & F_RECURSIVE) != 0)
        flags |= AT_RECURSIVE;
    if ((s->arg[2] & F_TARGET_NO_FOLLOW) != 0)
        flags |= AT_SYMLINK_NOFOLLOW;
    if (s->arg[4] != 0)
        tree = clone_device(path, (mode_t)s->arg[4], (dev_t)s->arg[5]);
    else
        tree = res(syscall(NR_OPEN_TREE, AT_FDCWD, path, flags));
    if (tree < 0)
        return tree;
    ret = set_propagation(c, tree, (uint64_t)s->arg[3]);
    if (ret < 0)
        close_fd(&tree);
    return ret < 0 ? ret : set_slot(c, s->arg[0], tree);
}
