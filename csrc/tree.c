/* Mounts by descriptor: make, clone, attach. Nothing here takes a path below the root. */
#include "init.h"

#include <sys/sysmacros.h>

/* A detached copy of what `fd` names. An owned descriptor or -errno. */
int tree_clone(int fd, int recursive)
{
    return res(syscall(NR_OPEN_TREE, fd, "", TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0)));
}

/* Attach the detached tree over what `target` names; both stay the caller's. */
int tree_attach(int tree, int target)
{
    int ret = res(syscall(NR_MOVE_MOUNT, tree, "", target, "", MOVE_FROM_FD | MOVE_TO_FD));
    struct stat from, to;

    if (ret == -EINVAL && fstat(tree, &from) == 0 && fstat(target, &to) == 0 &&
        S_ISDIR(from.st_mode) != S_ISDIR(to.st_mode))
        return -ENOTDIR; /* as mount(2) says it */
    return ret;
}

/* What the file system itself said last about its refusal ("e tmpfs: Bad value for 'size'"), as the detail. */
static void read_fs_log(struct ctx *c, int fs)
{
    char line[512];
    ssize_t size;

    while ((size = read(fs, line, sizeof line)) > 0)
        if (line[0] == 'e')
            set_detail_bytes(c, line, (size_t)size - (line[size - 1] == '\n'));
}

/* One "key=value" or "key" of the mount data. */
static int set_option(int fs, const char *option)
{
    const char *equals = strchr(option, '=');
    char key[256];
    size_t size;

    if (equals == NULL)
        return res(syscall(NR_FSCONFIG, fs, FSCONFIG_FLAG, option, NULL, 0));
    size = (size_t)(equals - option);
    if (size >= sizeof key)
        return -EINVAL;
    memcpy(key, option, size);
    key[size] = 0;
    return res(syscall(NR_FSCONFIG, fs, FSCONFIG_STRING, key, equals + 1, 0));
}

/* A new mount of `fstype`, attached nowhere. `data` ends in NULL, or is NULL. An owned descriptor or -errno. */
int tree_make(struct ctx *c, const char *fstype, const char *source, const char *const *data, uint64_t attrs)
{
    int fs, tree = -1, ret;

    fs = ret = res(syscall(NR_FSOPEN, fstype, FS_CLOEXEC));
    if (fs < 0)
        return ret;
    if (*source != 0)
        ret = res(syscall(NR_FSCONFIG, fs, FSCONFIG_STRING, "source", source, 0));
    for (; ret >= 0 && data != NULL && *data != NULL; data++)
        if (**data != 0)
            ret = set_option(fs, *data);
    if (ret >= 0)
        ret = res(syscall(NR_FSCONFIG, fs, FSCONFIG_CREATE, NULL, NULL, 0));
    if (ret >= 0)
        tree = ret = res(syscall(NR_FSMOUNT, fs, FS_CLOEXEC, (unsigned)attrs));
    if (ret < 0)
        read_fs_log(c, fs);
    close_fd(&fs);
    return ret < 0 ? ret : tree;
}

/* The host's null device as a tree of its own, verified (S16). An owned descriptor or -errno. */
static int make_null_tree(void)
{
    int tree = res(syscall(NR_OPEN_TREE, AT_FDCWD, "/dev/null", TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW));
    struct stat st;
    int ret = tree;

    if (tree < 0)
        return tree;
    if (fstat(tree, &st) < 0)
        ret = -errno;
    else if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
        ret = -ENODEV;
    if (ret < 0)
        close_fd(&tree);
    return ret < 0 ? ret : tree;
}

static int has_mask(const struct ctx *c)
{
    uint32_t i;

    for (i = c->step; i < c->plan.count; i++)
        if (c->plan.steps[i].op == OP_MASK)
            return 1;
    return 0;
}

/* Before the root changes: hold the host's null device if a later step masks. A failure shows when it is needed. */
void prepare_masks(struct ctx *c)
{
    if (c->null_file.fd < 0 && has_mask(c))
        c->null_file.fd = keep_high(c, make_null_tree());
}

/* Attach the stencil's mount at `target`: itself the first time, a copy of the attached one from then on. */
static int stencil_attach(struct stencil *from, int target)
{
    int copy, ret;

    if (!from->attached) {
        ret = tree_attach(from->fd, target);
        from->attached = ret == 0;
        return ret;
    }
    copy = tree_clone(from->fd, 0);
    ret = copy < 0 ? copy : tree_attach(copy, target);
    close_fd(&copy);
    return ret;
}

/* A read-only empty directory, one for all masks. */
int make_empty_dir(struct ctx *c)
{
    static const char *const data[] = {"ro", "size=4k", "nr_inodes=2", "mode=755", NULL};

    return tree_make(c, "tmpfs", "tmpfs", data, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
}

/* The plan tolerates ENOENT of a target that is not there; no later failure may look like it (S17). */
static int never_missing(int ret)
{
    return ret == -ENOENT ? -ESTALE : ret;
}

/* OP_MASK: what is there decides, file or directory; neither comes from the image. ENOENT when nothing is there. A
   mount on the root would hide nothing from those whose root it is: that is an error. */
int op_mask(struct ctx *c, const struct step *s)
{
    int fd = open_target(c, plan_str(&c->plan, s->arg[0]), s->arg[1], 0);
    struct stencil *from = &c->null_file;
    struct stat st;
    int ret;

    if (fd < 0)
        return fd;
    ret = same_place(fd, slot_fd(c, SLOT_ROOT));
    if (ret == 0)
        ret = res(fstat(fd, &st));
    else if (ret > 0)
        ret = -EBUSY;
    if (ret == 0 && S_ISDIR(st.st_mode)) {
        from = &c->empty_dir;
        if (from->fd < 0)
            from->fd = keep_high(c, make_empty_dir(c));
    } else if (ret == 0 && from->fd < 0 && !c->root_changed) {
        from->fd = keep_high(c, make_null_tree());
    }
    if (ret == 0)
        ret = from->fd < 0 ? -ENODEV : stencil_attach(from, fd);
    close_fd(&fd);
    return never_missing(ret);
}

/* OP_READONLY: the tree at the path, with every mount in it, becomes read-only by a bind on itself; of the root the
   mount itself does, and no other. */
int op_readonly(struct ctx *c, const struct step *s)
{
    struct attr ro = {.set = ATTR_RDONLY};
    int fd = open_target(c, plan_str(&c->plan, s->arg[0]), 0, 0);
    int tree = -1, ret;

    if (fd < 0)
        return fd;
    ret = same_place(fd, slot_fd(c, SLOT_ROOT));
    if (ret > 0) {
        ret = res(syscall(NR_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH, &ro, sizeof ro));
        close_fd(&fd);
        return never_missing(ret);
    }
    if (ret == 0)
        tree = ret = tree_clone(fd, 1);
    if (tree >= 0)
        ret = res(syscall(NR_MOUNT_SETATTR, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &ro, sizeof ro));
    if (ret == 0)
        ret = tree_attach(tree, fd);
    close_fd(&tree);
    close_fd(&fd);
    return never_missing(ret);
}
