/* OP_COPY_UP: fill a fresh tmpfs with what it covers (tmpcopyup): directories, files, symlinks, nodes and FIFOs with
   owner, mode, times and extended attributes. Sockets are left out; hard links become files of their own.

   Only descriptors are used: a name in the covered directory is opened without following anything and without leaving
   its file system, and is looked at again after it was opened, since a shared volume may change under us. */
#include "init.h"

#include <sys/sendfile.h>
#include <sys/xattr.h>

#define MAX_DEPTH 128
#define INSIDE (RES_BENEATH | RES_NO_XDEV | RES_NO_SYMLINKS)

struct entry {
    uint64_t inode;
    int64_t next;
    uint16_t size;
    uint8_t type;
    char name[];
};

static int copy_dir(int from, int to, int depth);

/* Attributes that the tmpfs does not know or we may not set are left out. */
static int copy_xattrs(int from, int to)
{
    static char names[4096], value[65536];
    ssize_t size = flistxattr(from, names, sizeof names);
    const char *name;

    for (name = names; size > 0 && name < names + size; name += strlen(name) + 1) {
        ssize_t got = fgetxattr(from, name, value, sizeof value);

        if (got >= 0 && fsetxattr(to, name, value, (size_t)got, 0) < 0 && errno != EOPNOTSUPP && errno != EPERM)
            return -errno;
    }
    return 0;
}

/* Owner first: chown clears set-id bits. */
static int copy_meta(int from, int to, const struct stat *st)
{
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    int ret = res(fchown(to, st->st_uid, st->st_gid));

    if (ret == 0)
        ret = copy_xattrs(from, to);
    if (ret == 0)
        ret = res(fchmod(to, st->st_mode & 07777));
    return ret == 0 ? res(futimens(to, times)) : ret;
}

static int copy_bytes(int from, int to)
{
    ssize_t got;

    do
        got = sendfile(to, from, NULL, 1 << 20);
    while (got > 0);
    return res(got);
}

/* The empty twin of a file or directory in the fresh tmpfs. An owned descriptor or -errno. */
static int make_twin(int to_dir, const char *name, int directory)
{
    if (!directory)
        return res(openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (mkdirat(to_dir, name, 0700) < 0)
        return -errno;
    return open_below(to_dir, name, O_RDONLY | O_DIRECTORY, INSIDE);
}

/* A regular file or a directory with all it holds. `seen` is what it was before it was opened. */
static int copy_content(int from_dir, int to_dir, const char *name, const struct stat *seen, int depth)
{
    int directory = S_ISDIR(seen->st_mode), to = -1, ret;
    int from = open_below(from_dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | (directory ? O_DIRECTORY : 0), INSIDE);
    struct stat st;

    if (from < 0)
        return from;
    ret = res(fstat(from, &st));
    if (ret == 0 && ((st.st_mode ^ seen->st_mode) & S_IFMT) != 0)
        ret = -ESTALE;
    if (ret == 0)
        to = ret = make_twin(to_dir, name, directory);
    if (to >= 0)
        ret = directory ? copy_dir(from, to, depth + 1) : copy_bytes(from, to);
    if (ret == 0)
        ret = copy_meta(from, to, &st);
    close_fd(&to);
    close_fd(&from);
    return ret;
}

static int copy_link(int from, int to_dir, const char *name, const struct stat *st)
{
    char text[PATH_MAX];
    ssize_t size = readlinkat(from, "", text, sizeof text - 1);

    if (size < 0)
        return -errno;
    text[size] = 0;
    if (symlinkat(text, to_dir, name) < 0)
        return -errno;
    return res(fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW));
}

static int copy_entry(int from_dir, int to_dir, const char *name, int depth)
{
    int from = open_below(from_dir, name, O_PATH | O_NOFOLLOW, RES_BENEATH | RES_NO_XDEV);
    struct stat st;
    int ret;

    if (from < 0)
        return from == -ENOENT || from == -EXDEV ? 0 : from; /* gone meanwhile, or another mount */
    ret = res(fstat(from, &st));
    if (ret < 0 || S_ISSOCK(st.st_mode))
        ;
    else if (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode))
        ret = copy_content(from_dir, to_dir, name, &st, depth);
    else if (S_ISLNK(st.st_mode))
        ret = copy_link(from, to_dir, name, &st);
    else {
        ret = res(mknodat(to_dir, name, st.st_mode, st.st_rdev));
        if (ret == 0)
            ret = res(fchownat(to_dir, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW));
    }
    close_fd(&from);
    return ret;
}

/* Everything in `from` (opened for reading) into `to`; both are borrowed. */
static int copy_dir(int from, int to, int depth)
{
    _Alignas(struct entry) char room[2048];
    long size = 0;

    if (depth > MAX_DEPTH)
        return -ENAMETOOLONG;
    while ((size = syscall(SYS_getdents64, from, room, sizeof room)) > 0) {
        long at;

        for (at = 0; at < size;) {
            const struct entry *e = (const struct entry *)(void *)(room + at);
            int ret = 0;

            at += e->size;
            if (strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0)
                ret = copy_entry(from, to, e->name, depth);
            if (ret < 0)
                return ret;
        }
    }
    return res(size);
}

/* The source is the directory in the slot, or with none the one that the mount step just before has covered. */
int op_copy_up(struct ctx *c, const struct step *s)
{
    int covered = s->arg[1] >= 0 ? slot_fd(c, s->arg[1]) : c->covered;
    int from = -1, to = open_target(c, plan_str(&c->plan, s->arg[0]), 0, O_DIRECTORY);
    int ret = to < 0 ? to : check_magic(to, MAGIC_TMPFS);

    if (ret == 0 && covered < 0)
        ret = -EBADF;
    if (ret == 0)
        from = ret = open_below(covered, ".", O_RDONLY | O_DIRECTORY, INSIDE);
    if (ret >= 0)
        ret = copy_dir(from, to, 0);
    close_fd(&from);
    close_fd(&to);
    close_fd(&c->covered);
    return ret;
}
