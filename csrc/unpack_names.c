/* Names of entries made canonical and told apart, and the little memory of a layer: lists of texts, directories whose
   times are set last, the set of what the layer itself has made. All of it is counted against MEMORY_MAX. */
#include "unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *name_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Slashes in front, `.` and repeated slashes go, `..` takes its parent along; the root is "".
   A name that leaves the root, or is too long in whole or in part, is an error. */
int name_clean(const char *raw, char *clean)
{
    size_t done = 0;

    for (const char *at = raw; *at;) {
        size_t length = strcspn(at, "/");

        if (length == 2 && at[0] == '.' && at[1] == '.') {
            if (done == 0)
                return E_ESCAPES;
            while (done > 0 && clean[--done] != '/')
                ;
        } else if (length > COMPONENT_MAX) {
            return E_NAME_LONG;
        } else if (length > 0 && !(length == 1 && at[0] == '.')) {
            if (done + length + 2 > NAME_SIZE)
                return E_NAME_LONG;
            if (done)
                clean[done++] = '/';
            memcpy(clean + done, at, length);
            done += length;
        }
        at += length;
        at += *at == '/';
    }
    clean[done] = 0;
    return OK;
}

/* What a cleaned name asks for by its `.wh.` parts (image-spec layer.md, Whiteouts; AUFS). */
int name_kind(const char *clean, enum name_kind *kind)
{
    *kind = NAME_PLAIN;
    for (const char *at = clean; *at;) {
        size_t length = strcspn(at, "/");
        bool last = at[length] == 0;

        if (length >= 4 && memcmp(at, ".wh.", 4) == 0) {
            if (length >= 8 && memcmp(at + 4, ".wh.", 4) == 0) {
                *kind = last && strcmp(at, ".wh..wh..opq") == 0 ? NAME_OPAQUE : NAME_SKIPPED;
                return OK;
            }
            if (!last || length == 4 || strcmp(at, ".wh..") == 0 || strcmp(at, ".wh...") == 0)
                return E_WHITEOUT;
            *kind = NAME_WHITEOUT;
        }
        at += length;
        at += *at == '/';
    }
    return OK;
}

/* Room for `count` items. */
int reserve(struct unpack *u, void **memory, size_t item, size_t count, size_t *room)
{
    size_t wanted = *room ? *room * 2 : 256;
    void *grown;

    if (count <= *room)
        return OK;
    while (wanted < count)
        wanted *= 2;
    if (u->memory + (wanted - *room) * item > MEMORY_MAX)
        return E_STATE;
    grown = realloc(*memory, wanted * item);
    if (grown == NULL)
        return E_MEMORY;
    u->memory += (wanted - *room) * item;
    *memory = grown;
    *room = wanted;
    return OK;
}

/* Appends the letter, the text and a NUL to what unpack_report tells. */
int report_last(struct unpack *u, char letter, const char *text, size_t size)
{
    struct buffer *to = &u->report;
    void *data = to->data;
    int code = reserve(u, &data, 1, to->size + size + 2, &to->room);

    to->data = data;
    if (code != OK)
        return code;
    to->data[to->size] = letter;
    memcpy(to->data + to->size + 1, text, size);
    to->data[to->size + 1 + size] = 0;
    to->size += size + 2;
    return OK;
}

/* The same for what there may be any number of. */
int report(struct unpack *u, char letter, const char *text, size_t size)
{
    return u->report.size + size > REPORT_MAX ? E_STATE : report_last(u, letter, text, size);
}

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = ROTATE(v[1], 13) ^ v[0];
    v[0] = ROTATE(v[0], 32);
    v[2] += v[3];
    v[3] = ROTATE(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = ROTATE(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = ROTATE(v[1], 17) ^ v[2];
    v[2] = ROTATE(v[2], 32);
}

/* SipHash-2-4 of (inode, name) under a random key, so that an archive cannot choose names that meet. */
uint64_t mark_of(const struct set *set, uint64_t inode, const char *name)
{
    uint64_t v[4] = {0x736f6d6570736575ULL ^ set->key[0], 0x646f72616e646f6dULL ^ set->key[1],
                     0x6c7967656e657261ULL ^ set->key[0], 0x7465646279746573ULL ^ set->key[1]};
    size_t length = strlen(name), at = 0;
    uint64_t word = inode;

    for (;;) {
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
        if (at > length)
            break;
        word = 0;
        memcpy(&word, name + at, length - at < 8 ? length - at : 8);
        at += 8;
        if (at > length)
            word |= (uint64_t)length << 56;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    word = v[0] ^ v[1] ^ v[2] ^ v[3];
    return word ? word : 1;
}

static size_t slot_of(const uint64_t *slots, size_t room, uint64_t mark)
{
    size_t at = mark & (room - 1);

    while (slots[at] && slots[at] != mark)
        at = (at + 1) & (room - 1);
    return at;
}

static int set_grow(struct unpack *u)
{
    struct set *set = &u->own;
    size_t room = set->room ? set->room * 2 : 1024;
    uint64_t *slots;

    if (u->memory + room * sizeof *slots > MEMORY_MAX)
        return E_STATE;
    slots = calloc(room, sizeof *slots);
    if (slots == NULL)
        return E_MEMORY;
    for (size_t i = 0; i < set->room; i++)
        if (set->slots[i])
            slots[slot_of(slots, room, set->slots[i])] = set->slots[i];
    free(set->slots);
    u->memory += (room - set->room) * sizeof *slots;
    set->slots = slots;
    set->room = room;
    return OK;
}

/* The name in the directory with this inode is of this layer. A mark outlives a removed directory without harm: another
   one that gets its inode number is made by this layer too, and so is all in it. */
int set_add(struct unpack *u, uint64_t inode, const char *name, bool *fresh)
{
    uint64_t mark = mark_of(&u->own, inode, name);
    size_t at;

    if (2 * u->own.count >= u->own.room) {
        int code = set_grow(u);

        if (code != OK)
            return code;
    }
    at = slot_of(u->own.slots, u->own.room, mark);
    *fresh = u->own.slots[at] == 0;
    u->own.count += *fresh;
    u->own.slots[at] = mark;
    return OK;
}

bool set_has(const struct unpack *u, uint64_t inode, const char *name)
{
    uint64_t mark = mark_of(&u->own, inode, name);

    return u->own.room && u->own.slots[slot_of(u->own.slots, u->own.room, mark)] == mark;
}

static void cut(char *target, size_t room, const char *text)
{
    size_t length = strnlen(text, room - 1);

    memcpy(target, text, length);
    target[length] = 0;
}

void warn(struct unpack *u, enum warning kind, const char *detail)
{
    if (u->warned[kind]++ == 0) {
        cut(u->first[kind], sizeof u->first[kind], u->path);
        cut(u->detail[kind], sizeof u->detail[kind], detail);
    }
}

/* E_SYSTEM of errno; `path` is told instead of the entry's name when given. */
int system_error(struct unpack *u, const char *path)
{
    u->error = errno;
    if (path)
        cut(u->failed, sizeof u->failed, path);
    return E_SYSTEM;
}
