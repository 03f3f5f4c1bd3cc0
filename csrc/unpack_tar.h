/* A push parser of tar (v7, ustar, GNU, star, PAX): bytes in, entries out. It opens nothing. */
#ifndef UNPACK_TAR_H
#define UNPACK_TAR_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define BLOCK 512
#define NAME_SIZE 4096       /* PATH_MAX, the NUL included */
#define COMPONENT_MAX 255    /* NAME_MAX */
#define META_MAX (1 << 20)   /* a PAX header */
#define XATTRS_MAX 512       /* of one entry */
#define XATTR_SIZE 65536     /* XATTR_SIZE_MAX */
#define SPARSE_MAX (1 << 20) /* data pieces of one sparse file */

/* What a call can fail with; pyruntime/image/unpack_words.py has the words, in this order. */
enum code {
    OK,
    E_SYSTEM, /* a system call: `error` is its errno */
    E_MEMORY,
    E_SHORT,      /* the archive ends inside an entry */
    E_CHECKSUM,   /* not a tar header */
    E_NUMBER,     /* a number of a header is malformed, negative or too large */
    E_PAX,        /* a PAX record is malformed */
    E_SPARSE,     /* a sparse map is malformed */
    E_TYPE,       /* unknown entry type */
    E_NAME_LONG,  /* a name over 255 or a path over 4095 bytes */
    E_ESCAPES,    /* a name leaves the root */
    E_NUL,        /* a NUL byte inside a name */
    E_ROOT_TYPE,  /* the root is no directory */
    E_WHITEOUT,   /* a whiteout without a name, of `.` or `..`, or that is no file */
    E_DEVICE_00,  /* a device 0:0, which overlayfs reads as a whiteout */
    E_NO_TARGET,  /* a hard link to nothing */
    E_ENTRIES,    /* over the limit of entries */
    E_SIZE,       /* over the limit of a file's size */
    E_LOOP,       /* too many symlinks */
    E_EMPTY_LINK, /* a link without a target */
    E_LINK_DIR,   /* a hard link to a directory */
    E_STATE,      /* memory for what must be remembered is used up */
    E_DETOUR,     /* over the limit of steps by way of symlinks */
    E_IMPLIED,    /* over the limit of directories that have no entry */
};

struct xattr {
    const char *name; /* NUL-terminated */
    const char *value;
    size_t size;
};

struct piece {
    int64_t offset, size;
};

struct entry {
    char name[NAME_SIZE]; /* as in the archive */
    char link[NAME_SIZE];
    char type; /* '0' to '6', or another for one to be skipped */
    uint32_t mode, uid, gid, major, minor;
    int64_t size;                 /* of the file, holes included */
    int64_t stored;               /* bytes that follow in the archive */
    struct timespec mtime, atime; /* atime.tv_nsec is UTIME_OMIT when not given */
    const struct xattr *xattrs;
    size_t xattr_count;
};

/* What the parser calls. A result other than OK ends the parsing and is what tar_feed returns. */
struct sink {
    int (*begin)(void *self, const struct entry *entry);
    int (*data)(void *self, const void *bytes, size_t size, int64_t offset);
    int (*end)(void *self);
    void (*lone_zero_block)(void *self);
};

enum field {
    HAS_PATH = 1,
    HAS_LINK = 2,
    HAS_SIZE = 4,
    HAS_UID = 8,
    HAS_GID = 16,
    HAS_MTIME = 32,
    HAS_ATIME = 64,
    HAS_REAL_SIZE = 128,
    HAS_MAP = 256,
    HAS_MAJOR = 512,
    HAS_SPARSE_NAME = 1024
};

/* The records of one PAX header; texts point into `text`. */
struct pax {
    unsigned int has; /* enum field */
    char *text;
    const char *path, *link, *sparse_name;
    size_t path_size, link_size, sparse_name_size;
    int64_t size, real_size;
    uint64_t uid, gid, sparse_major;
    struct timespec mtime, atime;
    struct xattr xattrs[XATTRS_MAX];
    size_t xattr_count;
};

struct map {
    struct piece *pieces;
    size_t count, room;
};

enum phase { HEADER, META, MAP_OLD, MAP_TEXT, DATA, ENDED };

struct tar {
    const struct sink *sink;
    void *self;
    enum phase phase;
    int failed;           /* enum code, sticky */
    uint8_t block[BLOCK]; /* a block that came in parts */
    size_t fill;
    uint64_t skip; /* bytes to be thrown away first */
    bool saw_zero;
    char meta_type; /* 'x', 'g', 'L' or 'K' */
    char *meta;
    size_t meta_size, meta_fill;
    char *long_name, *long_link;
    struct pax local, global;
    struct map map;
    int64_t half; /* an offset whose size has not come yet; -1: none */
    uint64_t pieces_left, number;
    bool in_number, counted;
    size_t piece; /* where DATA is in the map */
    int64_t piece_done;
    bool sparse;
    int64_t left; /* bytes of the entry still to come */
    struct xattr merged[2 * XATTRS_MAX];
    struct entry entry;
};

void tar_init(struct tar *t, const struct sink *sink, void *self);
int tar_feed(struct tar *t, const uint8_t *bytes, size_t size);
int tar_finish(struct tar *t);
void tar_free(struct tar *t);

/* unpack_pax.c */
int pax_parse(struct pax *p, struct map *map, char *text, size_t size);
int map_add(struct map *map, int64_t offset, int64_t size);
int header_number(const uint8_t *field, size_t size, int64_t *out);
int decimal(const char *text, size_t size, uint64_t *out);

#endif
