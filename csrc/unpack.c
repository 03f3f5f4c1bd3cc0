/* Applies the entries of one layer below a directory, in the order they come (contract, images-and-build 5).

   overlay       whiteouts are devices 0:0 and opaque directories carry trusted.overlay.opaque
   overlay-user  the same with user.overlay.opaque, for mounts with `userxattr`
   flat          the target holds the layers below already; what a whiteout names is removed

   A whiteout never hides what its own layer adds, so in flat mode the layer's own names are marked. */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static int own(struct unpack *u, const struct dir *parent, const char *name)
{
    bool fresh;

    return u->mode == FLAT ? set_add(u, parent->inode, name, &fresh) : OK;
}

static int add_file(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    bool hides;

    if (e->size > u->max_size)
        return E_SIZE;
    u->fd = openat(parent->fd, name, flags, e->mode & 0777);
    if (u->fd < 0 && errno == EEXIST) {
        int code = make_room(u, parent, name, &hides);

        if (code != OK)
            return code;
        u->fd = openat(parent->fd, name, flags, e->mode & 0777);
    }
    if (u->fd < 0)
        return system_error(u, NULL);
    u->entry = e;
    u->parent = parent;
    u->bytes += (uint64_t)e->size;
    u->end = 0;
    return OK;
}

static int add_dir(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    struct stamp stamp = {.mtime = e->mtime, .atime = e->atime};
    bool existed = false, hides = false;
    struct dir *d = &u->dirs[0];
    struct stat st;
    int code = OK;

    if (*name == 0) {
        existed = true;
    } else if (mkdirat(parent->fd, name, e->mode & 01777) < 0) {
        if (errno != EEXIST || fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return system_error(u, NULL);
        existed = S_ISDIR(st.st_mode);
        if (!existed)
            code = make_room(u, parent, name, &hides);
        if (code == OK && !existed && mkdirat(parent->fd, name, e->mode & 01777) < 0)
            code = system_error(u, NULL);
    }
    if (code == OK && *name)
        code = dir_child(u, parent, name, &d);
    if (code == OK)
        code = attrs_dir(u, e, d->fd, parent, existed);
    if (code == OK && hides)
        code = make_opaque(u, d->fd);
    if (code != OK)
        return code;
    d->gid = e->gid;
    d->mode = S_IFDIR | e->mode;
    d->has_default_acl = e->xattr_count && fgetxattr(d->fd, "system.posix_acl_default", NULL, 0) > 0;
    d->touched = true;
    stamp.inode = d->inode;
    return stamp_add(u, &stamp);
}

static int add_symlink(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    bool hides;

    if (e->link[0] == 0)
        return E_EMPTY_LINK;
    if (symlinkat(e->link, parent->fd, name) < 0) {
        if (errno != EEXIST)
            return system_error(u, NULL);
        int code = make_room(u, parent, name, &hides);
        if (code != OK)
            return code;
        if (symlinkat(e->link, parent->fd, name) < 0)
            return system_error(u, NULL);
    }
    return attrs_node(u, e, parent, name);
}

static int add_node(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    mode_t type = e->type == '3' ? S_IFCHR : e->type == '4' ? S_IFBLK : S_IFIFO;
    dev_t device = type == S_IFIFO ? 0 : makedev(e->major, e->minor);
    bool hides;
    int result;

    if (type == S_IFCHR && device == makedev(0, 0))
        return E_DEVICE_00;
    result = mknodat(parent->fd, name, type | e->mode, device);
    if (result < 0 && errno == EEXIST) {
        int code = make_room(u, parent, name, &hides);

        if (code != OK)
            return code;
        result = mknodat(parent->fd, name, type | e->mode, device);
    }
    if (result < 0 && errno == EPERM && u->flags & ROOTLESS && type != S_IFIFO) {
        warn(u, W_DEVICE, "");
        return OK;
    }
    return result < 0 ? system_error(u, NULL) : attrs_node(u, e, parent, name);
}

/* A target that this layer does not hold is one of the layers below: remembered, settled when they are there. */
static int link_below(struct unpack *u, struct dir *parent, const char *name)
{
    char path[2 * NAME_SIZE];
    bool hides;
    int code;

    if (u->mode == FLAT)
        return E_NO_TARGET;
    code = make_room(u, parent, name, &hides);
    if (code != OK)
        return code;
    memcpy(path, parent->path, parent->length);
    path[parent->length] = '/';
    strcpy(path + parent->length + (parent->length > 0), name);
    code = report(u, 'l', path, strlen(path));
    return code == OK ? report(u, 't', u->target, strlen(u->target)) : code;
}

static int add_link(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    struct dir *from = NULL;
    struct stat st, old;
    const char *base;
    bool hides;
    int code;

    if (e->link[0] == 0)
        return E_EMPTY_LINK;
    code = name_clean(e->link, u->target);
    if (code != OK)
        return code;
    if (u->target[0] == 0)
        return E_LINK_DIR;
    code = dir_parent(u, u->target, false, &from, &base);
    if (code == E_SYSTEM && (u->error == ENOENT || u->error == ENOTDIR))
        return link_below(u, parent, name);
    if (code != OK)
        return code;
    if (fstatat(from->fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? link_below(u, parent, name) : system_error(u, NULL);
    if (is_whiteout(u, &st))
        return E_NO_TARGET;
    if (S_ISDIR(st.st_mode))
        return E_LINK_DIR;
    if (linkat(from->fd, base, parent->fd, name, 0) == 0)
        return OK;
    if (errno != EEXIST || fstatat(parent->fd, name, &old, AT_SYMLINK_NOFOLLOW) < 0)
        return system_error(u, NULL);
    if (old.st_ino == st.st_ino && old.st_dev == st.st_dev)
        return OK; /* it is that file already */
    code = make_room(u, parent, name, &hides);
    if (code == OK && from->path == NULL)
        return E_NO_TARGET; /* it went with the directory that makes room for it */
    if (code == OK && linkat(from->fd, base, parent->fd, name, 0) < 0)
        code = system_error(u, NULL);
    return code;
}

static int add(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    switch (e->type) {
    case '0':
        return add_file(u, e, parent, name);
    case '1':
        return add_link(u, e, parent, name);
    case '2':
        return add_symlink(u, e, parent, name);
    case '5':
        return add_dir(u, e, parent, name);
    default:
        return add_node(u, e, parent, name);
    }
}

static int take_away(struct unpack *u, const struct entry *e, enum name_kind kind)
{
    const char *base;
    struct dir *parent = NULL;
    int code;

    if (e->type != '0' && e->type != '1') /* AUFS wrote them as hard links */
        return E_WHITEOUT;
    code = dir_parent(u, u->path, true, &parent, &base);
    if (code != OK)
        return code;
    return kind == NAME_OPAQUE ? opaque(u, parent) : whiteout(u, parent, base + strlen(".wh."));
}

static int begin(void *self, const struct entry *e)
{
    struct unpack *u = self;
    enum name_kind kind;
    struct dir *parent = NULL;
    const char *base = "";
    int code;

    u->fd = -1;
    u->pin = NULL;
    u->failed[0] = 0;
    memcpy(u->path, e->name, strlen(e->name) + 1); /* for the error, should it not come clean */
    if (++u->entries > u->max_entries)
        return E_ENTRIES;
    code = name_clean(e->name, u->path);
    if (code == OK)
        code = name_kind(u->path, &kind);
    if (code != OK)
        return code;
    if (e->type < '0' || e->type > '6') {
        char type[2] = {e->type, 0};

        warn(u, W_VENDOR, type);
        return OK;
    }
    if (kind == NAME_SKIPPED)
        return OK;
    if (kind != NAME_PLAIN)
        return take_away(u, e, kind);
    if (u->path[0] == 0)
        return e->type == '5' ? add_dir(u, e, &u->dirs[0], "") : E_ROOT_TYPE;
    code = dir_parent(u, u->path, true, &parent, &base);
    if (code != OK)
        return code;
    u->pin = parent;
    code = add(u, e, parent, base);
    return code == OK ? own(u, parent, base) : code;
}

static int data(void *self, const void *bytes, size_t size, int64_t offset)
{
    struct unpack *u = self;
    const char *from = bytes;

    if (u->fd < 0)
        return OK;
    if (offset != u->end && lseek(u->fd, offset, SEEK_SET) < 0)
        return system_error(u, NULL);
    u->end = offset + (int64_t)size;
    while (size) {
        ssize_t done = write(u->fd, from, size);

        if (done == 0)
            errno = EIO; /* no file does that; not for ever, then */
        if (done == 0 || (done < 0 && errno != EINTR))
            return system_error(u, NULL);
        if (done > 0) {
            from += done;
            size -= (size_t)done;
        }
    }
    return OK;
}

static int end(void *self)
{
    struct unpack *u = self;
    int code = OK;

    if (u->fd < 0)
        return OK;
    if (u->end < u->entry->size && ftruncate(u->fd, u->entry->size) < 0)
        code = system_error(u, NULL);
    if (code == OK)
        code = attrs_file(u, u->entry, u->fd, u->parent);
    if (close(u->fd) < 0 && code == OK)
        code = system_error(u, NULL);
    u->fd = -1;
    return code;
}

static void lone_zero_block(void *self)
{
    warn(self, W_LONE_ZERO, "");
}

static const struct sink sink = {begin, data, end, lone_zero_block};

/* NULL without memory. `root_fd` is borrowed; what it is like is found out by the first unpack_feed.
   The umask must be 0, and the caller's effective id the one that files without a chown get. */
struct unpack *unpack_new(int root_fd, int mode, int flags, uint64_t max_entries, int64_t max_size)
{
    struct unpack *u = calloc(1, sizeof *u);

    if (u == NULL)
        return NULL;
    tar_init(&u->tar, &sink, u);
    u->root = root_fd;
    u->mode = (enum mode)mode;
    u->flags = flags;
    u->max_entries = max_entries;
    u->max_size = max_size;
    u->fd = -1;
    if (getrandom(u->own.key, sizeof u->own.key, 0) != (ssize_t)sizeof u->own.key)
        u->tar.failed = E_STATE;
    return u;
}

static int start(struct unpack *u)
{
    if (u->tar.failed == OK && u->dirs[0].path == NULL)
        u->tar.failed = dirs_init(u);
    return u->tar.failed;
}

/* Takes the next bytes of the tar; 0, or an enum code that every later call returns too. unpack_report has the rest. */
int unpack_feed(struct unpack *u, const void *bytes, size_t size)
{
    return start(u) == OK ? tar_feed(&u->tar, bytes, size) : u->tar.failed;
}

/* The tar is complete: sets the directories' times. 0 or an enum code. */
int unpack_finish(struct unpack *u)
{
    if (start(u) == OK && tar_finish(&u->tar) == OK) {
        u->path[0] = u->failed[0] = 0;
        u->tar.failed = stamps_apply(u);
    }
    return u->tar.failed;
}

static void tell(struct unpack *u, char letter, const char *text)
{
    u->memory = 0; /* what is told last always has room */
    report_last(u, letter, text, strlen(text));
}

/* What became of the layer, as texts that end in NUL, each with a letter before it; the size of all.
   e entries, b bytes of files, l t link and its target, w whiteout in the directory of the last d, i implied directory:
   how many names of the last one's path begin its own, a blank, the rest of its path; k f x warning with its count,
   first entry and detail, c p q error code and errno, entry, path. */
size_t unpack_report(struct unpack *u, const char **text)
{
    char numbers[64];

    if (u->tar.failed != OK)
        u->report.size = 0; /* nothing is settled of it */
    snprintf(numbers, sizeof numbers, "%llu", (unsigned long long)u->entries);
    tell(u, 'e', numbers);
    snprintf(numbers, sizeof numbers, "%llu", (unsigned long long)u->bytes);
    tell(u, 'b', numbers);
    for (int i = 0; i < WARNINGS; i++) {
        if (u->warned[i] == 0)
            continue;
        snprintf(numbers, sizeof numbers, "%d %llu", i, (unsigned long long)u->warned[i]);
        tell(u, 'k', numbers);
        tell(u, 'f', u->first[i]);
        tell(u, 'x', u->detail[i]);
    }
    if (u->tar.failed != OK) {
        snprintf(numbers, sizeof numbers, "%d %d", u->tar.failed, u->error);
        tell(u, 'c', numbers);
        tell(u, 'p', u->path);
        tell(u, 'q', u->failed);
    }
    *text = u->report.data;
    return u->report.size;
}

void unpack_free(struct unpack *u)
{
    if (u == NULL)
        return;
    if (u->fd >= 0)
        close(u->fd);
    dirs_free(u);
    tar_free(&u->tar);
    free(u->report.data);
    free(u->stamps.items);
    free(u->stamps.slots);
    free(u->own.slots);
    free(u);
}
