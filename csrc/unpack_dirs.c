/* Directories by name, with the last DIRS of them kept open.

   The cache knows a directory by its canonical path: real directories all the way from the root. A name that has a
   symlink in it is walked from its longest canonical beginning. Whoever takes a directory away calls dirs_drop.
   A parent that is missing is made (0755, owner 0) and remembered as implied. Where a name of this layer's own tree is
   a symlink it is followed inside the root; anything else in the way makes room for the directory
   (contract, images-and-build 5: replaced types, missing parents). */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef __clang__ /* the analyzer of GCC loses sight of what an array of directories owns */
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#endif

#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)

struct walk {
    char here[NAME_SIZE]; /* canonical path of `dir` */
    size_t length;
    char rest[2 * NAME_SIZE]; /* what is still to be walked, from `at` on */
    size_t at;
    char other[2 * NAME_SIZE];
    struct dir *dir;
    bool lost; /* `here` has gone up: `dir` is to be looked for */
    int symlinks;
    bool make;
};

static void forget(struct dir *d)
{
    if (d->path == NULL)
        return;
    close(d->fd);
    free(d->path);
    d->path = NULL;
}

void dirs_free(struct unpack *u)
{
    for (int i = 0; i < DIRS; i++)
        forget(&u->dirs[i]);
}

/* Forgets `name` and what is below it, or with "" all below the parent; the parent stays. */
void dirs_drop(struct unpack *u, const struct dir *parent, const char *name)
{
    size_t before = parent->length, length = strlen(name), begin = before + (before > 0);

    for (int i = 1; i < DIRS; i++) { /* the root is the first */
        struct dir *d = &u->dirs[i];

        if (d->path == NULL || d == parent || d->length < begin + length || memcmp(d->path, parent->path, before) != 0)
            continue;
        if (before && d->path[before] != '/')
            continue;
        if (length == 0 || (memcmp(d->path + begin, name, length) == 0 &&
                            (d->path[begin + length] == 0 || d->path[begin + length] == '/')))
            forget(d);
    }
}

static struct dir *cached(struct unpack *u, const char *path, size_t length)
{
    for (int i = 0; i < DIRS; i++) {
        struct dir *d = &u->dirs[i];

        if (d->path && d->length == length && memcmp(d->path, path, length) == 0) {
            d->used = ++u->tick;
            return d;
        }
    }
    return NULL;
}

static struct dir *free_slot(struct unpack *u)
{
    struct dir *oldest = &u->dirs[1] == u->pin ? &u->dirs[2] : &u->dirs[1];

    for (int i = 1; i < DIRS; i++) {
        struct dir *d = &u->dirs[i];

        if (d->path == NULL)
            return d;
        if (d != u->pin && d->used < oldest->used)
            oldest = d;
    }
    forget(oldest);
    return oldest;
}

static int fill(struct unpack *u, struct dir *d, int fd, const char *path, size_t length)
{
    struct stat st;
    char *copy;

    if (fstat(fd, &st) < 0)
        return system_error(u, path);
    copy = malloc(length + 1);
    if (copy == NULL)
        return E_MEMORY;
    memcpy(copy, path, length);
    copy[length] = 0;
    free(d->path);
    d->path = copy;
    d->length = length;
    d->fd = fd;
    d->used = ++u->tick;
    d->inode = st.st_ino;
    d->gid = st.st_gid;
    d->mode = st.st_mode;
    d->touched = false;
    d->has_default_acl = fgetxattr(fd, "system.posix_acl_default", NULL, 0) > 0;
    return OK;
}

/* Takes the descriptor, also when it fails. */
static int keep(struct unpack *u, int fd, const char *path, size_t length, struct dir **out)
{
    struct dir *d = free_slot(u);
    int code = fill(u, d, fd, path, length);

    if (code != OK) {
        close(fd);
        return code;
    }
    *out = d;
    return OK;
}

/* A directory that the archive has not named (yet): its times are kept as they are (flat), or settled later. */
static int imply(struct unpack *u, const char *path, int fd)
{
    struct stamp stamp = {.implied = true};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return system_error(u, path);
    stamp.inode = st.st_ino;
    stamp.mtime = st.st_mtim;
    stamp.atime = st.st_atim;
    return stamp_add(u, &stamp);
}

int dirs_init(struct unpack *u)
{
    int fd = fcntl(u->root, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return system_error(u, "");
    if (u->mode != FLAT) {
        fremovexattr(fd, "system.posix_acl_default"); /* of the store's own folder, nobody's wish */
        fremovexattr(fd, "system.posix_acl_access");
        if (fchmod(fd, 0755) < 0)
            return system_error(u, "");
    }
    int code = fill(u, &u->dirs[0], fd, "", 0);
    u->dirs[0].touched = true;
    return code == OK ? imply(u, "", fd) : code;
}

static int make_parent(struct unpack *u, struct walk *w, const char *name, bool hides)
{
    int fd, code = OK;

    if (++u->implied > IMPLIED_FREE + IMPLIED_EACH * u->entries)
        return E_IMPLIED;
    if (mkdirat(w->dir->fd, name, 0755) < 0)
        return system_error(u, w->here);
    fd = openat(w->dir->fd, name, OPEN_DIR);
    if (fd < 0)
        return system_error(u, w->here);
    if (w->dir->has_default_acl || w->dir->mode & S_ISGID || w->dir->gid) {
        fremovexattr(fd, "system.posix_acl_access");
        fremovexattr(fd, "system.posix_acl_default");
        if (fchown(fd, 0, 0) < 0 || fchmod(fd, 0755) < 0)
            code = system_error(u, w->here);
    }
    if (code == OK && hides)
        code = make_opaque(u, fd);
    if (code == OK)
        code = imply(u, w->here, fd);
    if (code != OK) {
        close(fd);
        return code;
    }
    return keep(u, fd, w->here, w->length, &w->dir);
}

/* The symlink's text takes the place of its name in what is to be walked. */
static int follow(struct unpack *u, struct walk *w, const char *name, size_t before)
{
    char text[NAME_SIZE];
    ssize_t size = readlinkat(w->dir->fd, name, text, sizeof text - 1);
    const char *after = w->rest + w->at;
    size_t rest = strlen(after);

    w->here[before] = 0; /* the link's own directory */
    w->length = before;
    if (size < 0)
        return system_error(u, w->here);
    text[size] = 0;
    if (++w->symlinks > SYMLINKS_MAX)
        return E_LOOP;
    if ((size_t)size + 1 + rest >= sizeof w->other)
        return E_NAME_LONG;
    memcpy(w->other, text, (size_t)size);
    w->other[size] = '/';
    memcpy(w->other + size + 1, after, rest + 1);
    memcpy(w->rest, w->other, (size_t)size + 1 + rest + 1);
    w->at = 0;
    if (text[0] == '/') {
        w->here[0] = 0;
        w->length = 0;
        w->dir = &u->dirs[0];
        w->lost = false;
    }
    return OK;
}

/* Names of entries have no `..` left: what comes through here is the text of a symlink. */
static void up(struct walk *w)
{
    while (w->length > 0 && w->here[--w->length] != '/')
        ;
    w->here[w->length] = 0;
    w->lost = true;
}

/* A layer cannot have links of links to deep directories walked for each of its entries. */
static int detour(struct unpack *u)
{
    return ++u->detour > DETOUR_FREE + DETOUR_EACH * u->entries ? E_DETOUR : OK;
}

/* After any number of `up`: finds where that has led. */
static int reopen(struct unpack *u, struct walk *w)
{
    struct dir *known = cached(u, w->here, w->length);
    int code = OK;

    w->lost = false;
    if (known) {
        w->dir = known;
        return OK;
    }
    int fd = openat(u->root, ".", OPEN_DIR);
    for (char *at = w->here; fd >= 0 && *at && code == OK;) { /* real directories only: it was walked before */
        size_t length = strcspn(at, "/");
        char name[COMPONENT_MAX + 1];
        int next;

        memcpy(name, at, length);
        name[length] = 0;
        next = openat(fd, name, OPEN_DIR);
        close(fd);
        fd = next;
        at += length + (at[length] == '/');
        code = detour(u);
    }
    if (fd < 0)
        return system_error(u, w->here);
    if (code != OK) {
        close(fd);
        return code;
    }
    return keep(u, fd, w->here, w->length, &w->dir);
}

/* Flat: what a child is put into is of this layer, and so stays when the layer hides what was below. */
static int touch(struct unpack *u, struct walk *w, uint64_t parent, const char *name)
{
    bool fresh = false;
    int code;

    if (u->mode != FLAT || !w->make || w->dir->touched)
        return OK;
    code = set_add(u, parent, name, &fresh);
    w->dir->touched = true;
    return code == OK && fresh ? imply(u, w->here, w->dir->fd) : code;
}

/* `name` in w->dir is no directory: a symlink is followed, else it makes room, or ends the walk. */
static int in_the_way(struct unpack *u, struct walk *w, const char *name, size_t before)
{
    bool own = u->mode != FLAT || set_has(u, w->dir->inode, name), hides = false, fresh;
    struct stat st;
    int code = OK;

    if (fstatat(w->dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT)
            return system_error(u, w->here);
        errno = ENOENT;
        if (!w->make)
            return system_error(u, w->here);
    } else if (S_ISLNK(st.st_mode) && (own || !w->make)) {
        return follow(u, w, name, before);
    } else if (!w->make) {
        errno = is_whiteout(u, &st) ? ENOENT : ENOTDIR;
        return system_error(u, w->here);
    } else {
        hides = is_whiteout(u, &st);
        if (!own)
            warn(u, W_HIDDEN, w->here);
        if (unlinkat(w->dir->fd, name, 0) < 0)
            return system_error(u, w->here);
    }
    if (u->mode == FLAT)
        code = set_add(u, w->dir->inode, name, &fresh);
    return code == OK ? make_parent(u, w, name, hides) : code;
}

static int step(struct unpack *u, struct walk *w, const char *name, size_t length)
{
    size_t before = w->length;
    uint64_t parent = w->dir->inode;
    struct dir *known;
    int fd;

    if (w->length + length + 2 > NAME_SIZE)
        return E_NAME_LONG;
    if (w->length)
        w->here[w->length++] = '/';
    memcpy(w->here + w->length, name, length + 1);
    w->length += length;
    known = cached(u, w->here, w->length);
    if (known) {
        w->dir = known;
        return touch(u, w, parent, name);
    }
    fd = openat(w->dir->fd, name, OPEN_DIR);
    if (fd >= 0) {
        int code = keep(u, fd, w->here, w->length, &w->dir);

        return code == OK ? touch(u, w, parent, name) : code;
    }
    if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
        return system_error(u, w->here);
    return in_the_way(u, w, name, before);
}

static int walk(struct unpack *u, struct walk *w)
{
    int code = OK;

    while (code == OK && w->rest[w->at]) {
        const char *from = w->rest + w->at;
        size_t length = strcspn(from, "/");
        char name[COMPONENT_MAX + 1];

        if (length > COMPONENT_MAX)
            return E_NAME_LONG;
        memcpy(name, from, length);
        name[length] = 0;
        w->at += length + (from[length] == '/');
        if (length == 0 || strcmp(name, ".") == 0)
            continue;
        if (strcmp(name, "..") == 0) {
            up(w);
            continue;
        }
        if (w->symlinks)
            code = detour(u);
        if (code == OK && w->lost)
            code = reopen(u, w);
        if (code == OK)
            code = step(u, w, name, length);
    }
    return code == OK && w->lost ? reopen(u, w) : code;
}

static struct dir *usable(struct unpack *u, const char *path, size_t length, bool make)
{
    struct dir *d = cached(u, path, length);

    return d && u->mode == FLAT && make && !d->touched ? NULL : d;
}

/* The directory of a cleaned name. With `make`, what is missing is made; else ENOENT or ENOTDIR, as E_SYSTEM. */
int dir_find(struct unpack *u, const char *path, size_t length, bool make, struct dir **out)
{
    struct walk w;
    size_t start = length;
    int code;

    *out = usable(u, path, length, make);
    if (*out)
        return OK;
    w.dir = NULL;
    while (start > 0 && w.dir == NULL) { /* the longest beginning that is open */
        while (start > 0 && path[--start] != '/')
            ;
        w.dir = usable(u, path, start, make);
    }
    if (w.dir == NULL)
        w.dir = &u->dirs[0];
    memcpy(w.here, path, start);
    w.here[start] = 0;
    w.length = start;
    start += start > 0;
    if (length < start)
        start = length;
    memcpy(w.rest, path + start, length - start);
    w.rest[length - start] = 0;
    w.at = 0;
    w.symlinks = 0;
    w.lost = false;
    w.make = make;
    code = walk(u, &w);
    *out = w.dir;
    return code;
}

/* The directory that an entry stands in, and its last name. */
int dir_parent(struct unpack *u, const char *path, bool make, struct dir **out, const char **base)
{
    *base = name_base(path);
    return dir_find(u, path, *base == path ? 0 : (size_t)(*base - path) - 1, make, out);
}

/* Opens a directory known to be there, below its open parent. */
int dir_child(struct unpack *u, struct dir *parent, const char *name, struct dir **out)
{
    char path[NAME_SIZE];
    size_t length = strlen(name);
    int fd;

    if (parent->length + length + 2 > NAME_SIZE)
        return E_NAME_LONG;
    memcpy(path, parent->path, parent->length);
    path[parent->length] = '/';
    memcpy(path + parent->length + (parent->length > 0), name, length + 1);
    length += parent->length + (parent->length > 0);
    *out = cached(u, path, length);
    if (*out)
        return OK;
    fd = openat(parent->fd, name, OPEN_DIR);
    if (fd < 0)
        return system_error(u, NULL);
    return keep(u, fd, path, length, out);
}
