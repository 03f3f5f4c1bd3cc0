/* PAX records (POSIX pax, star's and libarchive's xattrs, GNU's sparse keys) and the numbers of tar headers. Pure. */
#include "unpack_tar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int decimal(const char *text, size_t size, uint64_t *out)
{
    uint64_t value = 0;

    if (size == 0 || size > 19)
        return E_NUMBER;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return E_NUMBER;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    if (value > INT64_MAX)
        return E_NUMBER;
    *out = value;
    return OK;
}

static int size_of(const char *text, size_t size, int64_t *out)
{
    uint64_t value = 0;
    int code = decimal(text, size, &value);

    *out = (int64_t)value;
    return code;
}

/* Base-256: the first bit is the mark, the rest a two's complement number. */
static int base256(const uint8_t *field, size_t size, int64_t *out)
{
    uint8_t fill = (field[0] & 0x40) ? 0xff : 0;
    uint64_t value = 0;

    for (size_t i = 0; i < size; i++) {
        uint8_t byte = i == 0 ? (uint8_t)((field[0] & 0x7f) | (fill & 0x80)) : field[i];

        if (i + 8 < size ? byte != fill : 0)
            return E_NUMBER;
        value = value << 8 | byte;
    }
    if (size >= 8 && ((value >> 63) != 0) != (fill != 0))
        return E_NUMBER;
    if (size < 8 && fill)
        value |= ~0ULL << (8 * size);
    *out = (int64_t)value;
    return OK;
}

/* A numeric field: octal, blanks before and blank or NUL behind, or base-256. An empty field is 0. */
int header_number(const uint8_t *field, size_t size, int64_t *out)
{
    size_t at = 0;
    uint64_t value = 0;

    if (field[0] & 0x80)
        return base256(field, size, out);
    while (at < size && (field[at] == ' ' || field[at] == 0))
        at++;
    for (; at < size && field[at] != ' ' && field[at] != 0; at++) {
        if (field[at] < '0' || field[at] > '7' || value >> 60)
            return E_NUMBER;
        value = value * 8 + (uint64_t)(field[at] - '0');
    }
    *out = (int64_t)value;
    return OK;
}

/* [-]SECONDS[.FRACTION], the fraction cut at nanoseconds; before 1970 the fraction counts backwards. */
static int time_of(const char *text, size_t size, struct timespec *out)
{
    bool negative = size > 0 && text[0] == '-';
    const char *dot = memchr(text, '.', size);
    size_t whole = dot ? (size_t)(dot - text) : size, at;
    uint64_t seconds = 0;
    long nanoseconds = 0, unit = 100000000;

    if (decimal(text + negative, whole - negative, &seconds) != OK)
        return E_NUMBER;
    for (at = whole + 1; at < size; at++, unit /= 10) {
        if (text[at] < '0' || text[at] > '9')
            return E_NUMBER;
        nanoseconds += (text[at] - '0') * unit;
    }
    out->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
    if (negative && nanoseconds) {
        out->tv_sec--;
        nanoseconds = 1000000000 - nanoseconds;
    }
    out->tv_nsec = nanoseconds;
    return OK;
}

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* In place; what it decodes is shorter than what it reads. */
static int base64(char *text, size_t *size)
{
    uint32_t bits = 0;
    int have = 0;
    size_t done = 0, end = *size;

    while (end > 0 && text[end - 1] == '=')
        end--;
    for (size_t i = 0; i < end; i++) {
        int digit = base64_digit(text[i]);

        if (digit < 0)
            return E_PAX;
        bits = bits << 6 | (uint32_t)digit;
        have += 6;
        if (have >= 8) {
            have -= 8;
            text[done++] = (char)(bits >> have & 0xff);
        }
    }
    *size = done;
    return OK;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* %41 -> A, in place, as libarchive writes names. */
static void unquote(char *name)
{
    char *out = name;

    for (char *in = name; *in; in++) {
        int high = *in == '%' ? hex(in[1]) : -1, low = high >= 0 ? hex(in[2]) : -1;

        if (low >= 0 && (high || low)) {
            *out++ = (char)(high << 4 | low);
            in += 2;
        } else {
            *out++ = *in;
        }
    }
    *out = 0;
}

/* The record's value for a name takes the place of an earlier one, except that libarchive's yields to star's. */
static int add_xattr(struct pax *p, const char *name, const char *value, size_t size, bool yields)
{
    size_t at = 0;

    if (*name == 0 || strlen(name) > COMPONENT_MAX || size > XATTR_SIZE)
        return E_PAX;
    while (at < p->xattr_count && strcmp(p->xattrs[at].name, name) != 0)
        at++;
    if (at == XATTRS_MAX)
        return E_PAX;
    if (at < p->xattr_count && yields)
        return OK;
    p->xattrs[at] = (struct xattr){name, value, size};
    if (at == p->xattr_count)
        p->xattr_count++;
    return OK;
}

int map_add(struct map *map, int64_t offset, int64_t size)
{
    const struct piece *last = map->count ? &map->pieces[map->count - 1] : NULL;

    if (offset < 0 || size < 0 || offset > INT64_MAX - size || map->count >= SPARSE_MAX)
        return E_SPARSE;
    if (last && offset < last->offset + last->size)
        return E_SPARSE;
    if (map->pieces == NULL || map->count == map->room) {
        size_t room = map->room ? map->room * 2 : 64;
        struct piece *grown = realloc(map->pieces, room * sizeof *grown);

        if (grown == NULL)
            return E_MEMORY;
        map->pieces = grown;
        map->room = room;
    }
    map->pieces[map->count++] = (struct piece){offset, size};
    return OK;
}

/* GNU.sparse.map: offset,size,offset,size,... */
static int sparse_list(struct map *map, const char *text, size_t size)
{
    int64_t numbers[2];
    int have = 0;

    map->count = 0;
    for (size_t at = 0; at < size;) {
        const char *comma = memchr(text + at, ',', size - at);
        size_t length = comma ? (size_t)(comma - text) - at : size - at;
        int code = size_of(text + at, length, &numbers[have]);

        if (code != OK)
            return E_SPARSE;
        if (++have == 2) {
            have = 0;
            code = map_add(map, numbers[0], numbers[1]);
            if (code != OK)
                return code;
        }
        at += length + 1;
    }
    return have ? E_SPARSE : OK;
}

static int sparse_key(struct pax *p, struct map *map, int64_t *half, const char *key, char *value, size_t size)
{
    uint64_t ignored;
    int64_t number = 0;
    int code = OK;

    if (strcmp(key, "major") == 0) {
        p->has |= HAS_MAJOR;
        return decimal(value, size, &p->sparse_major);
    }
    if (strcmp(key, "size") == 0 || strcmp(key, "realsize") == 0) {
        p->has |= HAS_REAL_SIZE;
        return size_of(value, size, &p->real_size);
    }
    if (strcmp(key, "name") == 0) {
        p->has |= HAS_SPARSE_NAME;
        p->sparse_name = value;
        p->sparse_name_size = size;
        return OK;
    }
    if (strcmp(key, "map") == 0) {
        p->has |= HAS_MAP;
        return sparse_list(map, value, size);
    }
    if (strcmp(key, "offset") == 0) {
        p->has |= HAS_MAP;
        if (*half >= 0)
            return E_SPARSE;
        return size_of(value, size, half);
    }
    if (strcmp(key, "numbytes") == 0) {
        if (*half < 0 || size_of(value, size, &number) != OK)
            return E_SPARSE;
        code = map_add(map, *half, number);
        *half = -1;
        return code;
    }
    if (strcmp(key, "minor") == 0 || strcmp(key, "numblocks") == 0)
        return decimal(value, size, &ignored);
    return OK;
}

static int plain_key(struct pax *p, const char *key, char *value, size_t size)
{
    if (strcmp(key, "path") == 0) {
        p->has |= HAS_PATH;
        p->path = value;
        p->path_size = size;
    } else if (strcmp(key, "linkpath") == 0) {
        p->has |= HAS_LINK;
        p->link = value;
        p->link_size = size;
    } else if (strcmp(key, "size") == 0) {
        p->has |= HAS_SIZE;
        return size_of(value, size, &p->size);
    } else if (strcmp(key, "uid") == 0) {
        p->has |= HAS_UID;
        return decimal(value, size, &p->uid);
    } else if (strcmp(key, "gid") == 0) {
        p->has |= HAS_GID;
        return decimal(value, size, &p->gid);
    } else if (strcmp(key, "mtime") == 0) {
        p->has |= HAS_MTIME;
        return time_of(value, size, &p->mtime);
    } else if (strcmp(key, "atime") == 0) {
        p->has |= HAS_ATIME;
        return time_of(value, size, &p->atime);
    }
    return OK;
}

static void forget(struct pax *p, const char *key)
{
    static const struct {
        const char *key;
        enum field field;
    } table[] = {{"path", HAS_PATH}, {"linkpath", HAS_LINK}, {"size", HAS_SIZE},  {"uid", HAS_UID},
                 {"gid", HAS_GID},   {"mtime", HAS_MTIME},   {"atime", HAS_ATIME}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(key, table[i].key) == 0)
            p->has &= ~(unsigned int)table[i].field;
}

static int record(struct pax *p, struct map *map, int64_t *half, char *key, char *value, size_t size)
{
    static const char star[] = "SCHILY.xattr.", archive[] = "LIBARCHIVE.xattr.", gnu[] = "GNU.sparse.";
    int code;

    if (strncmp(key, star, sizeof star - 1) == 0)
        return add_xattr(p, key + sizeof star - 1, value, size, false);
    if (strncmp(key, archive, sizeof archive - 1) == 0) {
        code = base64(value, &size);
        if (code != OK)
            return code;
        unquote(key + sizeof archive - 1);
        return add_xattr(p, key + sizeof archive - 1, value, size, true);
    }
    if (strncmp(key, gnu, sizeof gnu - 1) == 0)
        return sparse_key(p, map, half, key + sizeof gnu - 1, value, size);
    if (size == 0) { /* an empty value takes the record back */
        forget(p, key);
        return OK;
    }
    return plain_key(p, key, value, size);
}

/* Reads all records of `text`, which it owns from now on (also when it fails) and which has room for a NUL at `size`.
 */
int pax_parse(struct pax *p, struct map *map, char *text, size_t size)
{
    int64_t half = -1;
    int code;

    free(p->text);
    memset(p, 0, offsetof(struct pax, xattrs));
    p->xattr_count = 0;
    p->text = text;
    for (size_t at = 0; at < size;) {
        char *blank = memchr(text + at, ' ', size - at), *key, *equals, *end;
        uint64_t length = 0;

        if (blank == NULL || decimal(text + at, (size_t)(blank - (text + at)), &length) != OK)
            return E_PAX;
        if (length > size - at || length < (uint64_t)(blank - (text + at)) + 3)
            return E_PAX;
        end = text + at + length - 1;
        key = blank + 1;
        equals = memchr(key, '=', (size_t)(end - key));
        if (*end != '\n' || equals == NULL || equals == key || memchr(key, 0, (size_t)(equals - key)))
            return E_PAX;
        *equals = *end = 0;
        code = record(p, map, &half, key, equals + 1, (size_t)(end - equals - 1));
        if (code != OK)
            return code;
        at += length;
    }
    return half >= 0 ? E_SPARSE : OK;
}
