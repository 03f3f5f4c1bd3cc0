/* Owner, mode, extended attributes and times, in the order the kernel wants: an owner takes setuid bits and
   capabilities away, so it comes first; an ACL is part of the mode, so it comes after; times come last. */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

/* Where an attribute goes: a descriptor, or a name in the working directory that is no link to be followed. */
struct place {
    int fd;
    const char *name;
};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool is_overlay(const char *name)
{
    return begins(name, "trusted.overlay.") || begins(name, "user.overlay.");
}

static bool is_skipped(const char *name)
{
    return strcmp(name, "security.selinux") == 0 || strcmp(name, "security.nfs4_acl") == 0 ||
           strcmp(name, "system.nfs4_acl") == 0;
}

static int set_xattr(struct unpack *u, struct place at, const struct xattr *x)
{
    int result =
        at.name ? lsetxattr(at.name, x->name, x->value, x->size, 0) : fsetxattr(at.fd, x->name, x->value, x->size, 0);

    if (result == 0)
        return OK;
    if (errno == EOPNOTSUPP) {
        warn(u, W_XATTR, x->name);
        return OK;
    }
    /* user.* of a symlink or node; a security module's, or what a user namespace may not set */
    if (errno == EPERM && (u->flags & ROOTLESS || at.name || strcmp(x->name, "security.capability") != 0)) {
        warn(u, W_XATTR_DENIED, x->name);
        return OK;
    }
    return system_error(u, NULL);
}

static int set_xattrs(struct unpack *u, const struct entry *e, struct place at)
{
    int code = OK;

    for (size_t i = 0; i < e->xattr_count && code == OK; i++) {
        const struct xattr *x = &e->xattrs[i];

        if (is_overlay(x->name))
            warn(u, W_OVERLAY_XATTR, x->name);
        else if (!is_skipped(x->name))
            code = set_xattr(u, at, x);
    }
    return code;
}

/* A new file's group is 0, or its directory's where that has the setgid bit or the mount says so. */
static bool needs_owner(const struct entry *e, const struct dir *parent)
{
    return e->uid || e->gid || (parent && parent->gid);
}

static int owner_error(struct unpack *u)
{
    if ((errno != EINVAL && errno != EPERM) || !(u->flags & ONE_ID))
        return system_error(u, NULL);
    warn(u, W_OWNER, "");
    return OK;
}

static void drop_acls(int fd)
{
    fremovexattr(fd, ACL_ACCESS);
    fremovexattr(fd, ACL_DEFAULT);
}

/* A file just made with the lower nine bits of its mode. */
int attrs_file(struct unpack *u, const struct entry *e, int fd, const struct dir *parent)
{
    struct timespec times[2] = {e->atime, e->mtime};
    int code = OK;

    if (needs_owner(e, parent) && fchown(fd, e->uid, e->gid) < 0)
        code = owner_error(u);
    if (code == OK && parent->has_default_acl)
        drop_acls(fd);
    if (code == OK && (e->mode & 07000 || parent->has_default_acl) && fchmod(fd, e->mode) < 0)
        code = system_error(u, NULL);
    if (code == OK && e->xattr_count)
        code = set_xattrs(u, e, (struct place){fd, NULL});
    if (code == OK && futimens(fd, times) < 0)
        code = system_error(u, NULL);
    return code;
}

/* Of a directory that was there before: the attributes are replaced, not added to. */
static void drop_xattrs(int fd)
{
    char *names;
    ssize_t size = flistxattr(fd, NULL, 0);

    if (size <= 0)
        return;
    names = malloc((size_t)size + 1);
    if (names == NULL)
        return;
    size = flistxattr(fd, names, (size_t)size);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1)
        if (!is_overlay(names + at) && !is_skipped(names + at))
            fremovexattr(fd, names + at);
    free(names);
}

/* All but the times, which the children would change. */
int attrs_dir(struct unpack *u, const struct entry *e, int fd, const struct dir *parent, bool existed)
{
    int code = OK;

    if (existed)
        drop_xattrs(fd);
    else if (parent->has_default_acl)
        drop_acls(fd);
    if ((existed || needs_owner(e, parent)) && fchown(fd, e->uid, e->gid) < 0)
        code = owner_error(u);
    if (code == OK && (existed || e->mode & 07000 || parent->has_default_acl || parent->mode & S_ISGID))
        if (fchmod(fd, e->mode) < 0)
            code = system_error(u, NULL);
    return code == OK ? set_xattrs(u, e, (struct place){fd, NULL}) : code;
}

/* A symlink, device or fifo just made. The helper has one thread that works on files, so its working directory is free.
 */
int attrs_node(struct unpack *u, const struct entry *e, struct dir *parent, const char *name)
{
    struct timespec times[2] = {e->atime, e->mtime};
    bool link = e->type == '2';
    int code = OK;

    if (needs_owner(e, parent) && fchownat(parent->fd, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
        code = owner_error(u);
    if (code == OK && (e->xattr_count || (!link && parent->has_default_acl))) {
        if (fchdir(parent->fd) < 0)
            return system_error(u, NULL);
        if (!link && parent->has_default_acl)
            lremovexattr(name, ACL_ACCESS);
    }
    if (code == OK && !link && (e->mode & 07000 || parent->has_default_acl))
        if (fchmodat(parent->fd, name, e->mode, 0) < 0)
            code = system_error(u, NULL);
    if (code == OK && e->xattr_count)
        code = set_xattrs(u, e, (struct place){-1, name});
    if (code == OK && utimensat(parent->fd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        code = system_error(u, NULL);
    return code;
}
