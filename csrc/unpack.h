/* What the parts of the unpacker share: the context of one layer, its cache of directories, what it remembers.

   Everything is done by descriptor below `root`. A name is walked component by component and no component is ever
   followed by the kernel: a symlink is read and its text walked in turn, inside the root. So a path swapped by someone
   else between two calls leads nowhere new. */
#ifndef UNPACK_H
#define UNPACK_H

#include "unpack_tar.h"
#include "unpack_cdef.h"

#include <dirent.h>
#include <sys/stat.h>

#define DIRS 64                        /* open directories kept */
#define SYMLINKS_MAX 40                /* as the kernel's limit in one look-up */
#define MEMORY_MAX ((size_t)256 << 20) /* of lists and sets of one layer */
#define REPORT_MAX ((size_t)64 << 20)  /* of what the caller is told */
#define IMPLIED_FREE 100000            /* directories that a layer may make without an entry of their own, */
#define IMPLIED_EACH 8                 /* and so many more for each of its entries */
#define DETOUR_FREE 200000             /* steps by way of symlinks that a layer may take, */
#define DETOUR_EACH 64                 /* and so many more for each of its entries */

/* What getdents64 gives. */
struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
};

enum mode { OVERLAY, OVERLAY_USER, FLAT };
enum flag { ROOTLESS = 1, ONE_ID = 2 }; /* of unpack_new: in a user namespace; with a single id in it */

/* One warning of a kind is told per layer, with the first entry it was about. */
enum warning { W_DEVICE, W_XATTR, W_XATTR_DENIED, W_OVERLAY_XATTR, W_VENDOR, W_LONE_ZERO, W_HIDDEN, W_OWNER, WARNINGS };

struct dir {
    char *path; /* canonical: real directories only, "" is the root; NULL: free */
    size_t length;
    int fd;
    uint64_t used; /* for the choice of who goes */
    uint64_t inode;
    uint32_t gid, mode;
    bool has_default_acl;
    bool touched; /* flat: it and its parents are marked as of this layer */
};

struct buffer {
    char *data;
    size_t size, room;
};

/* A directory whose times are set at the end. */
struct stamp {
    uint64_t inode;
    struct timespec mtime, atime;
    bool implied; /* not in the archive: made for a child (overlay) or a lower layer's (flat) */
};

struct stamps {
    struct stamp *items;
    size_t count, room;
    uint32_t *slots; /* by inode: 1 + place among the items, 0 is free */
    size_t slot_room;
};

struct set {
    uint64_t *slots; /* 0 is free */
    size_t count, room;
    uint64_t key[2];
};

struct unpack {
    struct tar tar;
    int root;
    enum mode mode;
    int flags;
    uint64_t max_entries, entries, bytes;
    int64_t max_size;
    int error;              /* errno of E_SYSTEM */
    char path[NAME_SIZE];   /* the entry at hand, cleaned */
    char target[NAME_SIZE]; /* and its link */
    char failed[NAME_SIZE]; /* a path that the error is about, when it is not the entry's */
    struct dir dirs[DIRS];
    const struct dir *pin; /* the entry's parent stays open */
    uint64_t tick;
    const struct entry *entry; /* the file being written: to whom it belongs */
    struct dir *parent;
    int fd;      /* and its descriptor, or -1: the data are not wanted */
    int64_t end; /* of what was written */
    size_t memory;
    struct buffer report;
    uint64_t implied; /* directories made without an entry */
    uint64_t detour;  /* steps taken by way of symlinks */
    struct stamps stamps;
    char listed[NAME_SIZE]; /* the directory of the last whiteout in the report */
    bool any_listed;
    struct set own;
    uint64_t warned[WARNINGS];
    char first[WARNINGS][256], detail[WARNINGS][256];
};

/* unpack_names.c: texts and memory */
enum name_kind { NAME_PLAIN, NAME_WHITEOUT, NAME_OPAQUE, NAME_SKIPPED };
int name_clean(const char *raw, char *clean);
int name_kind(const char *clean, enum name_kind *kind);
const char *name_base(const char *path);
int reserve(struct unpack *u, void **memory, size_t item, size_t count, size_t *room);
int report_last(struct unpack *u, char letter, const char *text, size_t size);
int report(struct unpack *u, char letter, const char *text, size_t size);
uint64_t mark_of(const struct set *set, uint64_t inode, const char *name);
int set_add(struct unpack *u, uint64_t inode, const char *name, bool *fresh);
bool set_has(const struct unpack *u, uint64_t inode, const char *name);
void warn(struct unpack *u, enum warning kind, const char *detail);
int system_error(struct unpack *u, const char *path);

/* unpack_dirs.c: directories by name. A struct dir * is good until the next look-up
   that opens others; the one pinned stays. */
int dirs_init(struct unpack *u);
int dir_find(struct unpack *u, const char *path, size_t length, bool make, struct dir **out);
int dir_parent(struct unpack *u, const char *path, bool make, struct dir **out, const char **base);
int dir_child(struct unpack *u, struct dir *parent, const char *name, struct dir **out);
void dirs_drop(struct unpack *u, const struct dir *parent, const char *name);
void dirs_free(struct unpack *u);

/* unpack_remove.c: what goes */
int remove_at(struct unpack *u, struct dir *parent, const char *name, bool keep_own);
int make_room(struct unpack *u, struct dir *parent, const char *name, bool *hides);
int make_opaque(struct unpack *u, int fd);
int whiteout(struct unpack *u, struct dir *parent, const char *name);
int opaque(struct unpack *u, struct dir *parent);
bool is_whiteout(const struct unpack *u, const struct stat *st);

/* unpack_attrs.c: owner, mode, xattrs, times */
int attrs_file(struct unpack *u, const struct entry *e, int fd, const struct dir *parent);
int attrs_dir(struct unpack *u, const struct entry *e, int fd, const struct dir *parent, bool existed);
int attrs_node(struct unpack *u, const struct entry *e, struct dir *parent, const char *name);

/* unpack_stamps.c: directories' times */
int stamp_add(struct unpack *u, const struct stamp *stamp);
struct stamp *stamp_of(const struct unpack *u, uint64_t inode);
int stamps_apply(struct unpack *u);

#endif
