/* Steps of the mount namespace: root, mounts, attributes, the change of root. */
#include "init.h"

#include <sys/mount.h>

#define MAX_DATA 256

int op_propagation(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);

    set_detail(c, path);
    return res(mount(NULL, path, NULL, (unsigned long)s->arg[1], NULL));
}

/* OP_ATTACH_ROOT: the detached tree appears at a host path in our mount namespace; its descriptor becomes slot 0.
   move_mount does not follow a symlink at the end of the path. */
int op_attach_root(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[1]);
    int tree = slot_fd(c, s->arg[0]), ret;

    set_detail(c, path);
    if (tree < 0)
        return tree;
    ret = res(syscall(NR_MOVE_MOUNT, tree, "", AT_FDCWD, path, MOVE_FROM_FD));
    if (ret < 0)
        return ret;
    c->root_on_top = strcmp(path, "/") == 0;
    if (s->arg[0] == SLOT_ROOT)
        return 0;
    c->slots[s->arg[0]] = -1;
    return set_slot(c, SLOT_ROOT, tree);
}

int op_use_root(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);

    set_detail(c, path);
    return set_slot(c, SLOT_ROOT, res(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)));
}

/* "mode=755" of the directory that is covered, which is put into `out`: 1; the plan's own mode= comes later and wins.
   0 for a directory that was made for this mount: the kernel's own default then (1777 for tmpfs). */
static int inherited_mode(const struct ctx *c, int fd, char out[16])
{
    uint64_t here[2];
    struct stat st;
    char *at = out + 5;
    int shift, ret = place_of(fd, here);

    if (ret < 0 || (here[0] == c->made[0] && here[1] == c->made[1]))
        return ret;
    if (fstat(fd, &st) < 0)
        return -errno;
    memcpy(out, "mode=", 5);
    for (shift = 9; shift >= 0; shift -= 3)
        *at++ = (char)('0' + ((st.st_mode >> shift) & 7));
    *at = 0;
    return 1;
}

/* S2, S23: the name now leads to the file system that was asked for, and still through no symlink. */
static int verify_special(struct ctx *c, const char *fstype, const char *target, int64_t op_flags)
{
    unsigned long magic = strcmp(fstype, "proc") == 0 ? MAGIC_PROC : strcmp(fstype, "sysfs") == 0 ? MAGIC_SYSFS : 0;
    int fd, ret;

    if (magic == 0)
        return 0;
    fd = open_target(c, target, op_flags, O_DIRECTORY);
    ret = fd < 0 ? fd : check_magic(fd, magic);
    close_fd(&fd);
    return ret;
}

static int mount_data(struct ctx *c, const struct step *s, int target, const char **data, char mode[16])
{
    uint32_t i, used = 0, count = plan_strv_count(&c->plan, s->arg[3]);
    int ret = 0;

    if (count > MAX_DATA - 2)
        return -E2BIG;
    if ((s->arg[5] & F_INHERIT_MODE) != 0) {
        ret = inherited_mode(c, target, mode);
        if (ret > 0)
            data[used++] = mode;
    }
    for (i = 0; i < count; i++)
        data[used++] = plan_strv_at(&c->plan, s->arg[3], i);
    data[used] = NULL;
    return ret < 0 ? ret : 0;
}

/* OP_MOUNT: a new file system on the target, with its attributes from the first moment. Nothing is left attached on
   failure, except when what appeared at the target is not what was mounted there. */
int op_mount(struct ctx *c, const struct step *s)
{
    const char *fstype = plan_str(&c->plan, s->arg[0]), *target = plan_str(&c->plan, s->arg[2]);
    const char *data[MAX_DATA];
    char mode[16];
    uint64_t place[2];
    int tree = -1, fd, ret;

    fd = ret = open_mount_point(c, target, s->arg[5]);
    if (fd >= 0)
        ret = mount_data(c, s, fd, data, mode);
    if (ret >= 0)
        tree = ret = tree_make(c, fstype, plan_str(&c->plan, s->arg[1]), data, (uint64_t)s->arg[4]);
    if (tree >= 0)
        ret = tree_attach(tree, fd);
    if (ret >= 0 && c->fresh_count < MAX_FRESH && place_of(tree, place) == 0)
        c->fresh[c->fresh_count++] = place[0];
    if (ret >= 0)
        ret = verify_special(c, fstype, target, s->arg[5]);
    close_fd(&tree);
    if (ret >= 0 && c->step + 1 < c->plan.count && s[1].op == OP_COPY_UP)
        ret = c->covered = keep_high(c, fd);
    else
        close_fd(&fd);
    return ret < 0 ? ret : 0;
}

/* OP_MOVE_MOUNT: the detached tree in the slot appears at the target. The host side opened it and made it a slave. */
int op_move_mount(struct ctx *c, const struct step *s)
{
    int tree = slot_fd(c, s->arg[0]);
    int fd = open_mount_point(c, plan_str(&c->plan, s->arg[1]), s->arg[2]);
    int ret = tree < 0 ? tree : fd < 0 ? fd : 0;

    if (ret == 0 && (s->arg[2] & F_PROCFS_ONLY) != 0 && check_magic(tree, MAGIC_PROC) < 0)
        ret = -EINVAL;
    if (ret == 0)
        ret = tree_attach(tree, fd);
    close_fd(&fd);
    return ret;
}

/* OP_MOUNT_SETATTR: the target must be the root of a mount, else the kernel answers EINVAL. */
int op_mount_setattr(struct ctx *c, const struct step *s)
{
    struct attr attr = {(uint64_t)s->arg[1], (uint64_t)s->arg[2], (uint64_t)s->arg[3], 0};
    unsigned at = AT_EMPTY_PATH | ((s->arg[4] & F_RECURSIVE) != 0 ? AT_RECURSIVE : 0);
    int fd = open_target(c, plan_str(&c->plan, s->arg[0]), s->arg[4], 0);
    int ret = fd < 0 ? fd : res(syscall(NR_MOUNT_SETATTR, fd, "", at, &attr, sizeof attr));

    close_fd(&fd);
    return ret;
}

/* mount(2) takes only paths, so the target is named by its descriptor in the procfs of slot 1. */
static int mount_below(struct ctx *c, const char *target, const char *source, const char *fstype, unsigned long flags,
                       const char *data)
{
    char name[32];
    int proc = proc_fd(c);
    int fd = fstype == NULL || *fstype == 0 ? open_target(c, target, 0, 0) : open_mount_point(c, target, 0);
    int ret = proc < 0 ? proc : fd < 0 ? fd : res(fchdir(proc));

    if (ret == 0) {
        fd_name(name, fd);
        ret = res(mount(source, name, fstype, flags, data));
        if (chdir("/") < 0 && ret == 0)
            ret = -errno;
    }
    close_fd(&fd);
    return ret;
}

int op_remount(struct ctx *c, const struct step *s)
{
    return mount_below(c, plan_str(&c->plan, s->arg[0]), NULL, NULL, MOUNT_REMOUNT | (unsigned long)s->arg[1],
                       plan_str(&c->plan, s->arg[2]));
}

/* OP_CLASSIC_MOUNT: one call of mount(2); its data may be a page, where fsconfig(2) takes 255 bytes of a value. */
int op_classic_mount(struct ctx *c, const struct step *s)
{
    const char *data = plan_str(&c->plan, s->arg[4]);

    return mount_below(c, plan_str(&c->plan, s->arg[2]), plan_str(&c->plan, s->arg[1]), plan_str(&c->plan, s->arg[0]),
                       (unsigned long)s->arg[3], *data != 0 ? data : NULL);
}

/* OP_COVER: what is at a host path cannot be reached any more, for mounts that a user namespace may not take away. */
int op_cover(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);
    int tree = make_empty_dir(c), ret = tree;

    set_detail(c, path);
    if (tree >= 0)
        ret = res(syscall(NR_MOVE_MOUNT, tree, "", AT_FDCWD, path, MOVE_FROM_FD));
    close_fd(&tree);
    return ret;
}

/* OP_UMOUNT: a host path, before the root is changed. */
int op_umount(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);

    set_detail(c, path);
    return res(umount2(path, (int)s->arg[1]));
}

/* Hold what later steps need of the host, then stand in the new root. */
static int enter_root(struct ctx *c)
{
    int root = slot_fd(c, SLOT_ROOT);

    prepare_masks(c);
    c->root_changed = 1;
    return root < 0 ? root : res(fchdir(root));
}

/* OP_PIVOT_ROOT: pivot_root(2), "pivot_root(".", ".")". The old root ends up over the new one; it is made a slave
   before it goes, so that its unmounting reaches nobody else. Slot 0 stays: it names the mount that is "/" now. */
int op_pivot_root(struct ctx *c, const struct step *s)
{
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int ret = old < 0 ? -errno : enter_root(c);

    (void)s;
    if (ret == 0)
        ret = res(syscall(SYS_pivot_root, ".", "."));
    if (ret == 0)
        ret = res(fchdir(old));
    if (ret == 0)
        ret = res(mount(NULL, ".", NULL, MOUNT_SLAVE | MOUNT_REC, NULL));
    if (ret == 0)
        ret = res(umount2(".", UMOUNT_DETACH));
    if (ret == 0)
        ret = res(chdir("/"));
    close_fd(&old);
    return ret;
}

/* OP_MOVE_ROOT: for --no-pivot. The old root stays below the new one; the plan has hidden what must not be reached. */
int op_move_root(struct ctx *c, const struct step *s)
{
    int ret = enter_root(c);

    (void)s;
    if (ret == 0 && !c->root_on_top)
        ret = res(mount(".", "/", NULL, MOUNT_MOVE, NULL));
    if (ret == 0)
        ret = res(chroot("."));
    return ret == 0 ? res(chdir("/")) : ret;
}

int op_chroot(struct ctx *c, const struct step *s)
{
    int ret = enter_root(c);

    (void)s;
    if (ret == 0)
        ret = res(chroot("."));
    return ret == 0 ? res(chdir("/")) : ret;
}
