/* The times of directories, which entries below would change: kept by inode until the archive has ended, then set on
   one walk over what the layer has made. So a directory costs the same wherever it lies, however long its path is.

   On the way those that the archive did not list are reported, each by what its path adds to the one before: the walk
   says no name twice. A directory of this layer's is below others of its own, or of a lower layer that it touched: all
   of them have a stamp, and what has none is not entered. An inode number that is used again has been stamped again. */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LISTING 4096
#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)

struct walk {
    char path[NAME_SIZE];
    size_t length, depth;
    size_t told, told_depth; /* so much of it begins the path reported last, in bytes and names */
};

static size_t slot_of(const struct unpack *u, uint64_t inode)
{
    const struct stamps *s = &u->stamps;
    size_t at = mark_of(&u->own, inode, "") & (s->slot_room - 1);

    while (s->slots[at] && s->items[s->slots[at] - 1].inode != inode)
        at = (at + 1) & (s->slot_room - 1);
    return at;
}

/* NULL: not a directory of this layer's. */
struct stamp *stamp_of(const struct unpack *u, uint64_t inode)
{
    size_t at = u->stamps.slot_room ? slot_of(u, inode) : 0;

    return u->stamps.slot_room && u->stamps.slots[at] ? &u->stamps.items[u->stamps.slots[at] - 1] : NULL;
}

static int grow(struct unpack *u)
{
    struct stamps *s = &u->stamps;
    size_t room = s->slot_room ? 2 * s->slot_room : 1024, added = (room - s->slot_room) * sizeof *s->slots;
    uint32_t *slots;

    if (u->memory + added > MEMORY_MAX)
        return E_STATE;
    slots = calloc(room, sizeof *slots);
    if (slots == NULL)
        return E_MEMORY;
    free(s->slots);
    s->slots = slots;
    s->slot_room = room;
    u->memory += added;
    for (size_t i = 0; i < s->count; i++)
        slots[slot_of(u, s->items[i].inode)] = (uint32_t)i + 1;
    return OK;
}

/* Takes the place of an earlier one of that inode. */
int stamp_add(struct unpack *u, const struct stamp *stamp)
{
    struct stamps *s = &u->stamps;
    struct stamp *known = stamp_of(u, stamp->inode);
    void *items = s->items;
    int code;

    if (known) {
        *known = *stamp;
        return OK;
    }
    code = reserve(u, &items, sizeof *stamp, s->count + 1, &s->room);
    s->items = items;
    if (code == OK && 2 * s->count >= s->slot_room)
        code = grow(u);
    if (code != OK)
        return code;
    s->slots[slot_of(u, stamp->inode)] = (uint32_t)s->count + 1;
    s->items[s->count++] = *stamp;
    return OK;
}

static int report_implied(struct unpack *u, struct walk *w)
{
    char number[24];
    int size = snprintf(number, sizeof number, "%zu", w->told_depth), code = report(u, 'i', number, (size_t)size);

    if (code != OK)
        return code;
    u->report.size--; /* its NUL gives way to the blank: it is one text */
    if (w->path[w->told] == '/')
        w->told++;
    code = report(u, ' ', w->path + w->told, w->length - w->told);
    w->told = w->length;
    w->told_depth = w->depth;
    return code;
}

static int visit(struct unpack *u, struct walk *w, int fd);

/* One name of the directory behind `fd`: entered when it is a directory. */
static int child(struct unpack *u, struct walk *w, int fd, const char *name)
{
    size_t before = w->length, length = strlen(name), slash = before > 0;
    int below, code;

    if (before + slash + length >= NAME_SIZE)
        return E_NAME_LONG;
    below = openat(fd, name, OPEN_DIR);
    if (below < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? OK : system_error(u, name);
    w->path[before] = '/';
    memcpy(w->path + before + slash, name, length + 1);
    w->length = before + slash + length;
    w->depth++;
    code = visit(u, w, below);
    close(below);
    w->depth--;
    w->length = before;
    w->path[before] = 0;
    if (w->told > before) {
        w->told = before;
        w->told_depth = w->depth;
    }
    return code;
}

static int children(struct unpack *u, struct walk *w, int fd)
{
    char *listing = malloc(LISTING);
    long size = 0;
    int code = listing ? OK : E_MEMORY;

    while (code == OK && (size = syscall(SYS_getdents64, fd, listing, LISTING)) > 0) {
        for (long at = 0; at < size && code == OK;) {
            const struct linux_dirent64 *item = (const void *)(listing + at);
            const char *name = item->d_name;

            at += item->d_reclen;
            if ((item->d_type == DT_DIR || item->d_type == DT_UNKNOWN) && strcmp(name, ".") != 0 &&
                strcmp(name, "..") != 0)
                code = child(u, w, fd, name);
        }
    }
    if (code == OK && size < 0)
        code = system_error(u, w->path);
    free(listing);
    return code;
}

/* Depth is bounded by the length of canonical paths, so by NAME_SIZE / 2. */
static int visit(struct unpack *u, struct walk *w, int fd)
{
    const struct stamp *stamp;
    struct timespec times[2];
    struct stat st;
    bool implied;
    int code = OK;

    if (fstat(fd, &st) < 0)
        return system_error(u, w->path);
    stamp = stamp_of(u, st.st_ino);
    if (stamp == NULL)
        return OK;
    times[0] = stamp->atime;
    times[1] = stamp->mtime;
    implied = stamp->implied && u->mode != FLAT;
    if (implied)
        code = report_implied(u, w);
    if (code == OK)
        code = children(u, w, fd);
    if (code == OK && !implied && futimens(fd, times) < 0)
        code = system_error(u, w->path);
    return code;
}

/* Sets the times of directories, now that nothing is put into them any more, and reports those that the archive
 * implied.
 */
int stamps_apply(struct unpack *u)
{
    struct walk w = {.length = 0};
    int code, fd = openat(u->root, ".", OPEN_DIR);

    if (fd < 0)
        return system_error(u, "");
    code = visit(u, &w, fd);
    close(fd);
    return code;
}
