/* Names below the root (S1, S20, S23, S24): resolved by the kernel from the root's descriptor, created one component
   at a time relative to the descriptor just opened. Whatever other processes do to the tree meanwhile, a name leads
   inside the root or to an error, after a bounded number of tries. */
#include "init.h"

#define MAX_TRIES 64
#define MAX_LINKS 40 /* as the kernel follows at most */
#define MAX_PARTS 4096

/* openat2 from `dir`; -errno on failure. EAGAIN means that a rename disturbed the lookup of "..": tried again. */
int open_below(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
    struct how how = {flags | O_CLOEXEC, 0, resolve | RES_NO_MAGICLINKS};
    int tries, fd = -EAGAIN;

    for (tries = 0; fd == -EAGAIN && tries < MAX_TRIES; tries++)
        fd = res(syscall(NR_OPENAT2, dir, path, &how, sizeof how));
    return fd;
}

/* Open `path` inside the root for use as a target; `flags` are further open flags. An owned descriptor or -errno. */
int open_target(struct ctx *c, const char *path, int64_t op_flags, uint64_t flags)
{
    uint64_t resolve = RES_IN_ROOT;
    int root = slot_fd(c, SLOT_ROOT);
    int fd;

    set_detail(c, path);
    if (root < 0)
        return root;
    if ((op_flags & F_TARGET_NO_SYMLINK) != 0)
        resolve |= RES_NO_SYMLINKS;
    if ((op_flags & F_TARGET_NO_FOLLOW) != 0)
        flags |= O_NOFOLLOW;
    fd = open_below(root, path, O_PATH | flags, resolve);
    if (fd >= 0 && (op_flags & (F_TARGET_NO_FOLLOW | F_COVER_LINK)) == F_TARGET_NO_FOLLOW) {
        struct stat st;
        int ret = fstat(fd, &st) < 0 ? -errno : S_ISLNK(st.st_mode) ? -ELOOP : 0;

        if (ret < 0) {
            close_fd(&fd);
            return ret;
        }
    }
    return fd;
}

/* A target to mount on (S5, S22). Symlinks of the image may lead to it, but not to the root, where the mount would hide
   nothing, and not into a procfs; what is below /proc by name the plan has allowed. An owned descriptor or -errno. */
int open_mount_point(struct ctx *c, const char *path, int64_t op_flags)
{
    int fd = open_target(c, path, op_flags, 0), ret;

    if (fd < 0)
        return fd;
    ret = same_place(fd, slot_fd(c, SLOT_ROOT));
    if (ret > 0)
        ret = -ELOOP;
    if (ret == 0 && strncmp(path, "/proc/", 6) != 0 && check_magic(fd, MAGIC_PROC) == 0) {
        close_fd(&fd);
        fd = ret = open_target(c, path, op_flags | F_TARGET_NO_SYMLINK, 0);
    }
    if (ret < 0)
        close_fd(&fd);
    return ret < 0 ? ret : fd;
}

/* S20: where a symlink of the image leads, nodes and links are made in the image's own files or on a file system that
   was made here, not in a folder that the host shares. */
static int check_led(struct ctx *c, int fd)
{
    uint64_t here[2] = {0}, root[2] = {0};
    uint32_t i;
    int ret = place_of(fd, here);

    if (ret == 0)
        ret = place_of(slot_fd(c, SLOT_ROOT), root);
    if (ret < 0 || here[0] == root[0])
        return ret;
    for (i = 0; i < c->fresh_count; i++)
        if (c->fresh[i] == here[0])
            return 0;
    return -ELOOP;
}

/* The directory that holds the last component of `path`, and that component. An owned descriptor or -errno. */
int open_parent(struct ctx *c, const char *path, char name[NAME_MAX + 1])
{
    char parent[PATH_MAX];
    size_t end = strlen(path), start;
    int fd, ret;

    set_detail(c, path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    if (end - start > NAME_MAX || start >= sizeof parent)
        return -ENAMETOOLONG;
    memcpy(name, path + start, end - start);
    name[end - start] = 0;
    if (name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    memcpy(parent, path, start);
    memcpy(parent + start, ".", 2);
    if (slot_fd(c, SLOT_ROOT) < 0)
        return -EBADF;
    fd = open_below(slot_fd(c, SLOT_ROOT), parent, O_PATH | O_DIRECTORY, RES_IN_ROOT | RES_NO_SYMLINKS);
    if (fd != -ELOOP)
        return fd;
    fd = open_below(slot_fd(c, SLOT_ROOT), parent, O_PATH | O_DIRECTORY, RES_IN_ROOT);
    ret = fd < 0 ? fd : check_led(c, fd);
    if (ret < 0)
        close_fd(&fd);
    return ret < 0 ? ret : fd;
}

/* The walk of make_path. `rest` is still to be walked, `done` leads from the root to `dir` without any symlink. */
struct walk {
    struct ctx *c;
    int root, dir; /* root is borrowed, dir owned */
    int links, parts;
    int64_t mode, op_flags;
    char *rest;
    char rests[2][2 * PATH_MAX];
    char done[PATH_MAX];
};

/* Go back to the directory that `done` names. */
static int walk_reopen(struct walk *w)
{
    close_fd(&w->dir);
    w->dir = open_below(w->root, w->done[0] == 0 ? "." : w->done, O_PATH | O_DIRECTORY, RES_IN_ROOT | RES_NO_SYMLINKS);
    return w->dir < 0 ? w->dir : 0;
}

static int walk_up(struct walk *w)
{
    char *slash = strrchr(w->done, '/');

    *(slash != NULL ? slash : w->done) = 0;
    return walk_reopen(w);
}

/* Put the text of the symlink `fd` in front of what is left. An absolute one starts from the root again. */
static int walk_link(struct walk *w, int fd)
{
    char *other = w->rest >= w->rests[0] && w->rest < w->rests[1] ? w->rests[1] : w->rests[0];
    ssize_t size;

    if ((w->op_flags & F_TARGET_NO_SYMLINK) != 0 || ++w->links > MAX_LINKS)
        return -ELOOP;
    if (*w->rest == 0 && (w->op_flags & F_TARGET_NO_FOLLOW) != 0)
        return -ELOOP;
    size = readlinkat(fd, "", other, PATH_MAX);
    if (size < 0)
        return -errno;
    if (size == 0)
        return -ENOENT;
    if ((size_t)size + 1 + strlen(w->rest) >= sizeof w->rests[0] || size == PATH_MAX)
        return -ENAMETOOLONG;
    other[size] = '/';
    strcpy(other + size + 1, w->rest);
    w->rest = other;
    if (other[0] != '/')
        return 0;
    w->done[0] = 0;
    return walk_reopen(w);
}

/* Go on into `fd`, the directory `name`, which is owned from here on. */
static int walk_enter(struct walk *w, int fd, const char *name)
{
    size_t used = strlen(w->done), size = strlen(name);

    close_fd(&w->dir);
    w->dir = fd;
    if (used + size + 2 > sizeof w->done)
        return -ENAMETOOLONG;
    if (used > 0)
        w->done[used++] = '/';
    memcpy(w->done + used, name, size + 1);
    return 0;
}

/* Create `name`: 1, or 0 when somebody else was quicker; the caller looks again. A file is not executable. */
static int walk_create(const struct walk *w, const char *name)
{
    int last = *w->rest == 0, ret;

    if (last && (w->op_flags & F_MAKE_FILE) != 0)
        ret = res(mknodat(w->dir, name, S_IFREG | (mode_t)(w->mode & 0666), 0));
    else
        ret = res(mkdirat(w->dir, name, last ? (mode_t)(w->mode & 07777) : 0755));
    return ret == -EEXIST ? 0 : ret < 0 ? ret : 1;
}

/* Look at `name` in dir: enter it, follow it, create it. 1 when it is there and the walk is at its end. */
static int walk_name(struct walk *w, const char *name)
{
    int tries, fd = -ENOENT, ret = 0, created = 0;
    struct stat st;

    for (tries = 0; fd == -ENOENT && tries < MAX_TRIES; tries++) {
        fd = open_below(w->dir, name, O_PATH | O_NOFOLLOW, RES_BENEATH);
        if (fd == -ENOENT)
            created = ret = walk_create(w, name);
        if (ret < 0)
            return ret;
    }
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        ret = -errno;
    else if (S_ISLNK(st.st_mode))
        ret = walk_link(w, fd);
    else if (*w->rest == 0)
        ret = S_ISDIR(st.st_mode) == ((w->op_flags & F_MAKE_FILE) == 0) ? 1 : S_ISDIR(st.st_mode) ? -EISDIR : -ENOTDIR;
    else if (S_ISDIR(st.st_mode))
        return walk_enter(w, fd, name);
    else
        ret = -ENOTDIR;
    if (ret == 1 && created && place_of(fd, w->c->made) < 0)
        w->c->made[1] = 0;
    close_fd(&fd);
    return ret;
}

/* One component of `rest`. 1 when there is none left. */
static int walk_step(struct walk *w)
{
    char name[NAME_MAX + 1];
    size_t size;

    while (*w->rest == '/')
        w->rest++;
    size = strcspn(w->rest, "/");
    if (size == 0)
        return (w->op_flags & F_MAKE_FILE) != 0 ? -EISDIR : 1;
    if (size > NAME_MAX)
        return -ENAMETOOLONG;
    if (++w->parts > MAX_PARTS)
        return -ELOOP;
    memcpy(name, w->rest, size);
    name[size] = 0;
    w->rest += size;
    while (*w->rest == '/')
        w->rest++;
    if (strcmp(name, ".") == 0)
        return 0;
    return strcmp(name, "..") == 0 ? walk_up(w) : walk_name(w, name);
}

/* Make sure that `path` is a directory, or with MAKE_FILE something else, creating what is missing: parents 0755, the
   last component `mode`. Symlinks are followed inside the root, dangling ones too: what they name is created. */
int make_path(struct ctx *c, const char *path, int64_t mode, int64_t op_flags)
{
    static struct walk w;
    int ret;

    set_detail(c, path);
    if (strlen(path) >= PATH_MAX)
        return -ENAMETOOLONG;
    w.c = c;
    w.root = slot_fd(c, SLOT_ROOT);
    w.dir = -1;
    w.links = w.parts = 0;
    w.mode = mode;
    w.op_flags = op_flags;
    w.rest = strcpy(w.rests[0], path);
    w.done[0] = 0;
    if (w.root < 0)
        return w.root;
    ret = walk_reopen(&w);
    while (ret == 0)
        ret = walk_step(&w);
    close_fd(&w.dir);
    return ret < 0 ? ret : 0;
}

/* OP_MAKE_PATH: the quick way is one lookup; only what is missing is walked to. */
int op_make_path(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);
    int64_t op_flags = s->arg[2];
    struct stat st;
    int fd, ret;

    if ((op_flags & F_LIKE_SLOT) != 0) {
        if (slot_fd(c, s->arg[3]) < 0)
            return -EBADF;
        if (fstat(slot_fd(c, s->arg[3]), &st) < 0)
            return -errno;
        op_flags = S_ISDIR(st.st_mode) ? op_flags & ~F_MAKE_FILE : op_flags | F_MAKE_FILE;
    }
    fd = open_target(c, path, op_flags, 0);
    if (fd == -ENOENT)
        return make_path(c, path, s->arg[1], op_flags);
    if (fd < 0)
        return fd;
    ret = fstat(fd, &st) < 0 ? -errno : 0;
    close_fd(&fd);
    if (ret == 0 && S_ISDIR(st.st_mode) != ((op_flags & F_MAKE_FILE) == 0))
        ret = S_ISDIR(st.st_mode) ? -EISDIR : -ENOTDIR;
    return ret;
}
