/* The push parser of tar. A header block is looked at where it lies; names, PAX records and sparse maps are copied,
   file data never is. Whatever a length says, memory grows only with bytes that have come. */
#include "unpack_tar.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Offsets in a header (POSIX pax; GNU's and star's where they differ); ids and device numbers are 8 bytes, sizes and
   times 12, names 100. */
#define AT_NAME 0
#define AT_MODE 100
#define AT_UID 108
#define AT_GID 116
#define AT_SIZE 124
#define AT_MTIME 136
#define AT_LINK 157
#define AT_MAJOR 329
#define AT_MINOR 337
#define AT_REAL_SIZE 483
#define AT_CHECKSUM 148
#define AT_TYPE 156
#define AT_MAGIC 257
#define AT_PREFIX 345
#define AT_OLD_MAP 386 /* four pieces of 24 bytes, then `is extended` at 482 */
#define AT_OLD_MORE 482
#define AT_NEXT_MORE 504 /* of an extension block, after 21 pieces */

static const uint8_t zero_block[BLOCK];

static uint64_t padding(uint64_t size)
{
    return (BLOCK - size % BLOCK) % BLOCK;
}

void tar_init(struct tar *t, const struct sink *sink, void *self)
{
    memset(t, 0, sizeof *t);
    t->sink = sink;
    t->self = self;
    t->half = -1;
}

void tar_free(struct tar *t)
{
    free(t->meta);
    free(t->long_name);
    free(t->long_link);
    free(t->local.text);
    free(t->global.text);
    free(t->map.pieces);
}

/* What belonged to the entry that has begun, or been read, is gone. */
static void forget_meta(struct tar *t)
{
    free(t->long_name);
    free(t->long_link);
    free(t->local.text);
    t->long_name = t->long_link = NULL;
    memset(&t->local, 0, offsetof(struct pax, xattrs));
    t->local.xattr_count = 0;
    t->map.count = 0;
}

static bool checksum_matches(const uint8_t *block)
{
    int64_t told = 0;
    long sum = 8L * ' ', with_signs = 8L * ' ';

    if (header_number(block + AT_CHECKSUM, 8, &told) != OK)
        return false;
    for (int i = 0; i < BLOCK; i++) {
        if (i >= AT_CHECKSUM && i < AT_CHECKSUM + 8)
            continue;
        sum += block[i];
        with_signs += (signed char)block[i];
    }
    return told == sum || told == with_signs;
}

static int set_text(char *target, const char *text, size_t size)
{
    if (size >= NAME_SIZE)
        return E_NAME_LONG;
    if (memchr(text, 0, size))
        return E_NUL;
    memcpy(target, text, size);
    target[size] = 0;
    return OK;
}

static int field_text(char *target, const uint8_t *block, size_t offset, size_t size)
{
    return set_text(target, (const char *)block + offset, strnlen((const char *)block + offset, size));
}

/* ustar's prefix and name; star's prefix is shorter, GNU's header has none. */
static int header_name(char *target, const uint8_t *block)
{
    size_t room = memcmp(block + 508, "tar", 4) == 0 ? 131 : 155, size = 0;

    if (memcmp(block + AT_MAGIC, "ustar\0", 6) == 0)
        size = strnlen((const char *)block + AT_PREFIX, room);
    if (size) {
        memcpy(target, block + AT_PREFIX, size);
        target[size++] = '/';
    }
    return field_text(target + size, block, AT_NAME, 100);
}

static int take_names(struct tar *t, const uint8_t *block)
{
    const struct pax *from = t->local.has & HAS_PATH ? &t->local : &t->global;
    struct entry *e = &t->entry;
    int code;

    if (t->local.has & HAS_SPARSE_NAME)
        code = set_text(e->name, t->local.sparse_name, t->local.sparse_name_size);
    else if (from->has & HAS_PATH)
        code = set_text(e->name, from->path, from->path_size);
    else if (t->long_name)
        code = set_text(e->name, t->long_name, strlen(t->long_name));
    else
        code = header_name(e->name, block);
    if (code != OK)
        return code;
    from = t->local.has & HAS_LINK ? &t->local : &t->global;
    if (from->has & HAS_LINK)
        return set_text(e->link, from->link, from->link_size);
    if (t->long_link)
        return set_text(e->link, t->long_link, strlen(t->long_link));
    return field_text(e->link, block, AT_LINK, 100);
}

static int take_id(uint32_t *target, const uint8_t *block, size_t offset, bool given, uint64_t value)
{
    int64_t number = (int64_t)value;

    if (!given && header_number(block + offset, 8, &number) != OK)
        return E_NUMBER;
    if (number < 0 || number >= UINT32_MAX) /* the last one means "leave as it is" to chown(2) */
        return E_NUMBER;
    *target = (uint32_t)number;
    return OK;
}

static const struct pax *holder(const struct tar *t, enum field field)
{
    return t->local.has & field ? &t->local : &t->global;
}

static int take_numbers(struct tar *t, const uint8_t *block)
{
    struct entry *e = &t->entry;
    const struct pax *uid = holder(t, HAS_UID), *gid = holder(t, HAS_GID), *mtime = holder(t, HAS_MTIME),
                     *atime = holder(t, HAS_ATIME), *size = holder(t, HAS_SIZE);
    int64_t mode = 0, seconds = 0, major = 0, minor = 0;

    if (header_number(block + AT_MODE, 8, &mode) != OK || mode < 0)
        return E_NUMBER;
    if (take_id(&e->uid, block, AT_UID, uid->has & HAS_UID, uid->uid) != OK ||
        take_id(&e->gid, block, AT_GID, gid->has & HAS_GID, gid->gid) != OK)
        return E_NUMBER;
    if (header_number(block + AT_MTIME, 12, &seconds) != OK && !(mtime->has & HAS_MTIME))
        return E_NUMBER;
    if (header_number(block + AT_SIZE, 12, &e->stored) != OK && !(size->has & HAS_SIZE))
        return E_NUMBER;
    if (e->type == '3' || e->type == '4') /* elsewhere the fields hold whatever the writer left there */
        if (header_number(block + AT_MAJOR, 8, &major) != OK || header_number(block + AT_MINOR, 8, &minor) != OK ||
            major < 0 || minor < 0 || major > 0xfff || minor > 0xfffff)
            return E_NUMBER;
    if (size->has & HAS_SIZE)
        e->stored = size->size;
    e->mode = (uint32_t)mode & 07777;
    e->major = (uint32_t)major;
    e->minor = (uint32_t)minor;
    e->mtime = mtime->has & HAS_MTIME ? mtime->mtime : (struct timespec){.tv_sec = seconds};
    e->atime = atime->has & HAS_ATIME ? atime->atime : (struct timespec){.tv_nsec = UTIME_OMIT};
    return e->stored < 0 ? E_NUMBER : OK;
}

/* The global header's xattrs hold where the entry has none of that name. */
static void take_xattrs(struct tar *t)
{
    size_t count = t->local.xattr_count;

    t->entry.xattrs = t->local.xattrs;
    t->entry.xattr_count = count;
    if (t->global.xattr_count == 0)
        return;
    memcpy(t->merged, t->local.xattrs, count * sizeof *t->merged);
    for (size_t i = 0; i < t->global.xattr_count; i++) {
        size_t at = 0;

        while (at < t->local.xattr_count && strcmp(t->local.xattrs[at].name, t->global.xattrs[i].name) != 0)
            at++;
        if (at == t->local.xattr_count)
            t->merged[count++] = t->global.xattrs[i];
    }
    t->entry.xattrs = t->merged;
    t->entry.xattr_count = count;
}

/* NUL and 7 are files; an old name that ends in a slash is a directory; links, nodes and directories have no data. */
static int settle_type(struct entry *e)
{
    size_t length = strlen(e->name);

    if (e->type == 0 || e->type == '7')
        e->type = '0';
    if (e->type == '0' && length > 0 && e->name[length - 1] == '/')
        e->type = '5';
    if (e->type >= '1' && e->type <= '6') {
        if (e->type != '5')
            e->stored = 0;
        e->size = 0;
    } else if (e->type != '0' && e->type != 'S' && (e->type < 'A' || e->type > 'Z')) {
        return E_TYPE;
    }
    return OK;
}

static int end_entry(struct tar *t)
{
    t->skip += padding((uint64_t)t->entry.stored); /* a map's own padding may still be to come */
    t->phase = HEADER;
    int code = t->sink->end(t->self);
    forget_meta(t); /* the entry's xattrs lie in it */
    return code;
}

/* The map is known, `left` data bytes follow. */
static int begin_data(struct tar *t)
{
    int64_t sum = 0, end = 0;
    int code;

    if (t->sparse) {
        for (size_t i = 0; i < t->map.count; i++) {
            sum += t->map.pieces[i].size; /* no overflow: the pieces do not overlap */
            end = t->map.pieces[i].offset + t->map.pieces[i].size;
        }
        if (sum != t->left || end > t->entry.size)
            return E_SPARSE;
        t->entry.type = '0';
    }
    t->piece = 0;
    t->piece_done = 0;
    code = t->sink->begin(t->self, &t->entry);
    if (code != OK)
        return code;
    t->phase = DATA;
    return t->left == 0 ? end_entry(t) : OK;
}

static int old_pieces(struct tar *t, const uint8_t *from, size_t count)
{
    int64_t offset = 0, size = 0;

    for (size_t i = 0; i < count && from[24 * i + 12] != 0; i++) {
        if (header_number(from + 24 * i, 12, &offset) != OK || header_number(from + 24 * i + 12, 12, &size) != OK)
            return E_SPARSE;
        int code = map_add(&t->map, offset, size);
        if (code != OK)
            return code;
    }
    return OK;
}

static int begin_old_sparse(struct tar *t, const uint8_t *block)
{
    int code;

    t->sparse = true;
    t->map.count = 0;
    if (header_number(block + AT_REAL_SIZE, 12, &t->entry.size) != OK || t->entry.size < 0)
        return E_SPARSE;
    code = old_pieces(t, block + AT_OLD_MAP, 4);
    if (code != OK)
        return code;
    if (block[AT_OLD_MORE]) {
        t->phase = MAP_OLD;
        return OK;
    }
    return begin_data(t);
}

static int begin_pax_sparse(struct tar *t)
{
    t->sparse = true;
    if (!(t->local.has & HAS_REAL_SIZE))
        return E_SPARSE;
    t->entry.size = t->local.real_size;
    if (!(t->local.has & HAS_MAJOR) || t->local.sparse_major == 0)
        return begin_data(t);
    if (t->local.sparse_major != 1 || t->left == 0)
        return E_SPARSE;
    t->map.count = 0;
    t->half = -1;
    t->number = 0;
    t->in_number = t->counted = false;
    t->phase = MAP_TEXT;
    return OK;
}

static int begin_entry(struct tar *t, const uint8_t *block)
{
    struct entry *e = &t->entry;
    int code = take_names(t, block);

    if (code == OK)
        code = take_numbers(t, block);
    if (code == OK)
        code = settle_type(e);
    if (code != OK)
        return code;
    take_xattrs(t);
    t->left = e->stored;
    t->sparse = false;
    if (e->type == 'S')
        return begin_old_sparse(t, block);
    if (e->type == '0' && t->local.has & (HAS_MAP | HAS_MAJOR))
        return begin_pax_sparse(t);
    if (e->type == '0') {
        e->size = e->stored;
        return begin_data(t);
    }
    code = t->sink->begin(t->self, e);
    if (code != OK)
        return code;
    /* a directory's size is a quota on some systems and data on none; a vendor's entry may have data */
    t->left = e->type == '5' ? 0 : e->stored;
    if (e->type >= '1' && e->type <= '6') {
        e->stored = 0;
        return end_entry(t);
    }
    t->skip = (uint64_t)e->stored + padding((uint64_t)e->stored);
    forget_meta(t);
    return OK;
}

static int begin_meta(struct tar *t, const uint8_t *block, char type)
{
    int64_t size = 0;

    if (header_number(block + AT_SIZE, 12, &size) != OK || size < 0)
        return E_NUMBER;
    if (size > META_MAX || ((type == 'L' || type == 'K') && size > 2L * NAME_SIZE))
        return type == 'L' || type == 'K' ? E_NAME_LONG : E_PAX;
    free(t->meta);
    t->meta = malloc((size_t)size + 1);
    if (t->meta == NULL)
        return E_MEMORY;
    t->meta_type = type;
    t->meta_size = (size_t)size;
    t->meta_fill = 0;
    t->phase = META;
    return OK;
}

static int end_meta(struct tar *t)
{
    char *text = t->meta;
    size_t size = t->meta_size;
    int code = OK;

    if (text == NULL)
        return E_MEMORY;
    t->meta = NULL;
    text[size] = 0;
    t->skip = padding(size);
    t->phase = HEADER;
    if (t->meta_type == 'L') {
        free(t->long_name);
        t->long_name = text;
        return OK;
    }
    if (t->meta_type == 'K') {
        free(t->long_link);
        t->long_link = text;
        return OK;
    }
    t->map.count = 0;
    code = pax_parse(t->meta_type == 'g' ? &t->global : &t->local, &t->map, text, size);
    if (t->meta_type == 'g')
        t->map.count = 0;
    return code;
}

static int header(struct tar *t, const uint8_t *block)
{
    char type = (char)block[AT_TYPE];

    if (memcmp(block, zero_block, BLOCK) == 0) {
        t->phase = t->saw_zero ? ENDED : HEADER;
        t->saw_zero = true;
        return OK;
    }
    if (t->saw_zero) {
        t->phase = ENDED;
        t->sink->lone_zero_block(t->self);
        return OK;
    }
    if (!checksum_matches(block))
        return E_CHECKSUM;
    if (type == 'X') /* Solaris's name for x */
        type = 'x';
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K') {
        int code = begin_meta(t, block, type);

        return code == OK && t->meta_size == 0 ? end_meta(t) : code;
    }
    t->entry.type = type;
    return begin_entry(t, block);
}

static int old_map_block(struct tar *t, const uint8_t *block)
{
    int code = old_pieces(t, block, 21);

    if (code != OK || block[AT_NEXT_MORE])
        return code;
    return begin_data(t);
}

/* A number of the map that stands before the data (GNU's 1.0): how many pieces, then offset and size of each. */
static int map_number(struct tar *t)
{
    int64_t value = (int64_t)t->number;
    int code = OK;

    t->number = 0;
    t->in_number = false;
    if (!t->counted) {
        t->counted = true;
        t->pieces_left = (uint64_t)value;
    } else if (t->half < 0) {
        t->half = value;
    } else {
        code = map_add(&t->map, t->half, value);
        t->half = -1;
        t->pieces_left--;
    }
    if (code != OK || t->pieces_left)
        return code;
    t->skip = padding((uint64_t)(t->entry.stored - t->left));
    if ((uint64_t)t->left < t->skip)
        return E_SPARSE;
    t->left -= (int64_t)t->skip;
    return begin_data(t);
}

static int map_text(struct tar *t, const uint8_t **bytes, size_t *size)
{
    while (*size && t->phase == MAP_TEXT) {
        uint8_t c = *(*bytes)++;

        --*size;
        if (t->left-- == 0)
            return E_SPARSE;
        if (c == '\n' && t->in_number) {
            int code = map_number(t);

            if (code != OK)
                return code;
        } else if (c >= '0' && c <= '9' && t->number < INT64_MAX / 10 - 9) {
            t->number = t->number * 10 + (uint64_t)(c - '0');
            t->in_number = true;
        } else {
            return E_SPARSE;
        }
    }
    return OK;
}

static int data(struct tar *t, const uint8_t **bytes, size_t *size)
{
    size_t take = (uint64_t)t->left < *size ? (size_t)t->left : *size;
    int64_t offset = t->entry.stored - t->left;
    int code;

    if (t->sparse) {
        while (t->piece_done == t->map.pieces[t->piece].size) {
            t->piece++;
            t->piece_done = 0;
        }
        const struct piece *piece = &t->map.pieces[t->piece];
        if ((uint64_t)(piece->size - t->piece_done) < take)
            take = (size_t)(piece->size - t->piece_done);
        offset = piece->offset + t->piece_done;
        t->piece_done += (int64_t)take;
    }
    code = t->sink->data(t->self, *bytes, take, offset);
    *bytes += take;
    *size -= take;
    t->left -= (int64_t)take;
    if (code == OK && t->left == 0)
        code = end_entry(t);
    return code;
}

static int meta(struct tar *t, const uint8_t **bytes, size_t *size)
{
    size_t want = t->meta_size - t->meta_fill, take = want < *size ? want : *size;

    memcpy(t->meta + t->meta_fill, *bytes, take);
    t->meta_fill += take;
    *bytes += take;
    *size -= take;
    return t->meta_fill == t->meta_size ? end_meta(t) : OK;
}

static int block(struct tar *t, const uint8_t **bytes, size_t *size)
{
    const uint8_t *whole = *bytes;
    size_t take = BLOCK;

    if (t->fill || *size < BLOCK) {
        take = BLOCK - t->fill < *size ? BLOCK - t->fill : *size;
        memcpy(t->block + t->fill, *bytes, take);
        t->fill += take;
        whole = t->block;
    }
    *bytes += take;
    *size -= take;
    if (whole == t->block && t->fill < BLOCK)
        return OK;
    t->fill = 0;
    return t->phase == HEADER ? header(t, whole) : old_map_block(t, whole);
}

/* Takes the next bytes of the archive. OK, or what failed; after a failure every call returns it again. */
int tar_feed(struct tar *t, const uint8_t *bytes, size_t size)
{
    while (size && t->failed == OK && t->phase != ENDED) {
        if (t->skip) {
            size_t take = t->skip < size ? (size_t)t->skip : size;

            t->skip -= take;
            bytes += take;
            size -= take;
        } else if (t->phase == DATA) {
            t->failed = data(t, &bytes, &size);
        } else if (t->phase == META) {
            t->failed = meta(t, &bytes, &size);
        } else if (t->phase == MAP_TEXT) {
            t->failed = map_text(t, &bytes, &size);
        } else {
            t->failed = block(t, &bytes, &size);
        }
    }
    return t->failed;
}

/* The archive has ended: OK between entries, with or without the two blocks of zeros. The last content may stand
   without what pads it to a block: some writers leave that out (umoci insert 0.4). */
int tar_finish(struct tar *t)
{
    bool between =
        t->phase == HEADER && t->fill == 0 && t->skip < BLOCK && !t->local.text && !t->long_name && !t->long_link;

    if (t->failed == OK && t->phase != ENDED && !between)
        t->failed = E_SHORT;
    return t->failed;
}
