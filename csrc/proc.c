/* procfs that is really procfs and that nobody covered (S21): writes of labels, sysctls, offsets and scores. */
#include "init.h"

#define PROC_ROOT_INODE 1

static int is_proc_root(int fd)
{
    struct stat st;
    int ret = check_magic(fd, MAGIC_PROC);

    if (ret < 0)
        return ret;
    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_ino == PROC_ROOT_INODE ? 0 : -EXDEV;
}

/* /proc of the namespace we are in, verified, into slot 1. */
static int open_host_proc(struct ctx *c)
{
    int fd = open_below(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY, RES_NO_SYMLINKS);
    int ret = fd < 0 ? fd : is_proc_root(fd);

    if (ret < 0) {
        close_fd(&fd);
        return ret;
    }
    return set_slot(c, SLOT_PROC, fd);
}

/* The borrowed descriptor in slot 1, opened from /proc when no step did so. */
int proc_fd(struct ctx *c)
{
    int ret = 0;

    if (slot_fd(c, SLOT_PROC) < 0)
        ret = open_host_proc(c);
    return ret < 0 ? ret : slot_fd(c, SLOT_PROC);
}

/* OP_OPEN_PROC: slot 1. A private one (our own pid namespace) has no mounts on it that could mislead us. */
int op_open_proc(struct ctx *c, const struct step *s)
{
    int fd, ret;

    if (s->arg[0] == 0)
        return open_host_proc(c);
    fd = tree_make(c, "proc", "", NULL, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    ret = fd < 0 ? fd : is_proc_root(fd);
    if (ret < 0) {
        close_fd(&fd);
        return ret;
    }
    return set_slot(c, SLOT_PROC, fd);
}

/* "self/x" as "123/x": self is a symlink whose text names us in the pid namespace of that procfs, whichever it is. */
static int translate_self(int proc, const char *path, char out[PATH_MAX])
{
    static const char *const names[] = {"self", "thread-self"};
    size_t i, rest;
    ssize_t size;

    for (i = 0; i < 2; i++) {
        rest = strlen(names[i]);
        if (strncmp(path, names[i], rest) != 0 || path[rest] != '/')
            continue;
        size = readlinkat(proc, names[i], out, NAME_MAX);
        if (size < 0)
            return -errno;
        out[size] = 0;
        if (size == 0 || strspn(out, "0123456789/task") != (size_t)size)
            return -EXDEV;
        if ((size_t)size + strlen(path + rest) >= PATH_MAX)
            return -ENAMETOOLONG;
        strcpy(out + size, path + rest);
        return 0;
    }
    if (strlen(path) >= PATH_MAX)
        return -ENAMETOOLONG;
    strcpy(out, path);
    return 0;
}

/* One write to a file below slot 1: no symlink, no other mount on the way, procfs at the end. */
int proc_write(struct ctx *c, const char *path, const void *data, size_t size)
{
    char real[PATH_MAX];
    int proc = proc_fd(c), fd = -1, ret;
    ssize_t wrote;

    set_detail(c, path);
    if (proc < 0)
        return proc;
    ret = translate_self(proc, path, real);
    if (ret < 0)
        return ret;
    fd = ret = open_below(proc, real, O_WRONLY | O_NOCTTY, RES_BENEATH | RES_NO_XDEV | RES_NO_SYMLINKS);
    if (fd < 0)
        return ret;
    ret = check_magic(fd, MAGIC_PROC);
    if (ret == 0) {
        wrote = write(fd, data, size);
        ret = wrote < 0 ? -errno : (size_t)wrote == size ? 0 : -EIO;
    }
    close_fd(&fd);
    return ret;
}

int op_write_proc(struct ctx *c, const struct step *s)
{
    struct blob data = plan_blob(&c->plan, s->arg[1]);

    return proc_write(c, plan_str(&c->plan, s->arg[0]), data.bytes, data.size);
}

int op_oom_score_adj(struct ctx *c, const struct step *s)
{
    char text[8], *at = text + sizeof text;
    int64_t value = s->arg[0], rest;

    if (value < -1000 || value > 1000)
        return -EINVAL;
    rest = value < 0 ? -value : value;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0)
        *--at = '-';
    return proc_write(c, "self/oom_score_adj", at, (size_t)(text + sizeof text - at));
}
