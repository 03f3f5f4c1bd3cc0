/* What a layer takes away: a name that another type replaces, whiteouts, opaque directories. */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LISTING 4096
#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Overlay: a device 0:0. None comes out of an archive, so it is one of ours. */
bool is_whiteout(const struct unpack *u, const struct stat *st)
{
    return u->mode != FLAT && S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

enum purge { PURGE_ALL, PURGE_LOWER, PURGE_WHITEOUTS };

static int purge(struct unpack *u, int fd, enum purge what);

/* One name of the directory behind `fd`; *gone grows when it is no longer there. */
static int purge_name(struct unpack *u, int fd, uint64_t inode, const char *name, enum purge what, unsigned int *gone)
{
    bool own = what == PURGE_LOWER && set_has(u, inode, name);
    struct stat st;
    int child, code;

    if (what == PURGE_WHITEOUTS) {
        if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_whiteout(u, &st) && unlinkat(fd, name, 0) == 0)
            ++*gone;
        return OK;
    }
    if (!own && unlinkat(fd, name, 0) == 0) {
        ++*gone;
        return OK;
    }
    if (!own && errno != EISDIR && errno != EPERM)
        return errno == ENOENT ? OK : system_error(u, name);
    child = openat(fd, name, OPEN_DIR);
    if (child < 0)
        return own && (errno == ENOTDIR || errno == ELOOP) ? OK : system_error(u, name);
    code = purge(u, child, what);
    close(child);
    if (code == OK && !own) {
        if (unlinkat(fd, name, AT_REMOVEDIR) == 0)
            ++*gone;
        else if (!(what == PURGE_LOWER && errno == ENOTEMPTY))
            return system_error(u, name);
    }
    return code;
}

/* One pass over a directory. Depth is bounded by the length of canonical paths, so by NAME_SIZE / 2. */
static int pass(struct unpack *u, int fd, enum purge what, unsigned int *gone)
{
    char *listing = malloc(LISTING);
    struct stat st;
    long size = 0;
    int code = listing ? OK : E_MEMORY;

    if (code == OK && (fstat(fd, &st) < 0 || lseek(fd, 0, SEEK_SET) < 0))
        code = system_error(u, NULL);
    while (code == OK && (size = syscall(SYS_getdents64, fd, listing, LISTING)) > 0) {
        for (long at = 0; at < size && code == OK;) {
            const struct linux_dirent64 *item = (const void *)(listing + at);

            at += item->d_reclen;
            if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
                code = purge_name(u, fd, st.st_ino, item->d_name, what, gone);
        }
    }
    if (code == OK && size < 0)
        code = system_error(u, NULL);
    free(listing);
    return code;
}

/* All passes over a directory: another one for as long as something goes, should the file system have passed over a
   name while others went. What is left after PURGE_LOWER is this layer's, and so is all that comes later: marked by a
   name that none has, it is not looked through again, however often the layer asks. */
static int purge(struct unpack *u, int fd, enum purge what)
{
    unsigned int gone = 1;
    int code = OK;
    struct stat st;
    bool fresh;

    if (what == PURGE_LOWER) {
        if (fstat(fd, &st) < 0)
            return system_error(u, NULL);
        if (set_has(u, st.st_ino, "/"))
            return OK;
    }
    while (code == OK && gone) {
        gone = 0;
        code = pass(u, fd, what, &gone);
    }
    return code == OK && what == PURGE_LOWER ? set_add(u, st.st_ino, "/", &fresh) : code;
}

/* Removes a name with all that is below it. With keep_own what this layer has made there stays, and so does the way to
 * it. */
int remove_at(struct unpack *u, struct dir *parent, const char *name, bool keep_own)
{
    unsigned int gone = 0;
    struct stat st;

    if (fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? OK : system_error(u, NULL);
    if (keep_own && set_has(u, parent->inode, name) && !S_ISDIR(st.st_mode))
        return OK;
    if (S_ISDIR(st.st_mode))
        dirs_drop(u, parent, name);
    return purge_name(u, parent->fd, parent->inode, name, keep_own ? PURGE_LOWER : PURGE_ALL, &gone);
}

/* The name is free afterwards; *hides says that it was a whiteout, so a directory in its place is opaque. */
int make_room(struct unpack *u, struct dir *parent, const char *name, bool *hides)
{
    struct stat st;

    *hides = false;
    if (fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? OK : system_error(u, NULL);
    *hides = is_whiteout(u, &st);
    return remove_at(u, parent, name, false);
}

static const char *opaque_name(const struct unpack *u)
{
    return u->mode == OVERLAY ? "trusted.overlay.opaque" : "user.overlay.opaque";
}

static bool is_opaque(const struct unpack *u, int fd)
{
    char mark[4];

    return fgetxattr(fd, opaque_name(u), mark, sizeof mark) > 0;
}

/* Nothing of the lower layers is seen through the directory. A whiteout in it would be seen instead: it goes, and none
   is made later. */
int make_opaque(struct unpack *u, int fd)
{
    if (u->mode == FLAT)
        return purge(u, fd, PURGE_LOWER);
    if (is_opaque(u, fd))
        return OK;
    if (fsetxattr(fd, opaque_name(u), "y", 1, 0) < 0)
        return system_error(u, NULL);
    return purge(u, fd, PURGE_WHITEOUTS);
}

int opaque(struct unpack *u, struct dir *parent)
{
    int code = make_opaque(u, parent->fd);

    if (u->mode == FLAT) /* what was open below may be gone: nothing below is worth keeping open */
        dirs_drop(u, parent, "");
    return code;
}

/* For the report, which names a directory once for all whiteouts that follow. */
static int list_whiteout(struct unpack *u, const struct dir *parent, const char *name)
{
    int code = OK;

    if (!u->any_listed || strcmp(u->listed, parent->path) != 0) {
        memcpy(u->listed, parent->path, parent->length + 1);
        u->any_listed = true;
        code = report(u, 'd', parent->path, parent->length);
    }
    return code == OK ? report(u, 'w', name, strlen(name)) : code;
}

/* Lower layers' `name` is gone; what this layer has put there, before or after, stays. */
int whiteout(struct unpack *u, struct dir *parent, const char *name)
{
    struct stat st;
    int fd, code;

    if (u->mode == FLAT)
        return remove_at(u, parent, name, true);
    if (fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISDIR(st.st_mode))
            return OK;
        fd = openat(parent->fd, name, OPEN_DIR);
        if (fd < 0)
            return system_error(u, NULL);
        code = make_opaque(u, fd);
        close(fd);
        return code;
    }
    if (is_opaque(u, parent->fd))
        return OK;
    if (mknodat(parent->fd, name, S_IFCHR, makedev(0, 0)) < 0)
        return system_error(u, NULL);
    return list_whiteout(u, parent, name);
}
