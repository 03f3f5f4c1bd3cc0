/* The memory that the interpreter gets while a snapshot is being made, at fixed addresses: arenas, blocks of malloc
   (libpython's calls are renamed to pr_malloc), and large tables that are nearly all zeros.

   A page costs a run whether or not anything of use is in it: to be mapped, to be copied at the first write, to be let
   go. So the zones are kept dense, and the arenas, to which a run writes nearly everywhere, are read into huge pages.
   That took 0.9 ms of the 15.1 ms of the fastest of 150 runs, and 0.55 of 9.5 MiB. */
#define _GNU_SOURCE
#include "launcher_zones.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REGION ((char *)0x2000000000) /* below the mmap area also where addresses have 39 bits */
#define REGION_SIZE (64UL << 20)
#define HUGE_PAGE (2UL << 20)
#define PAGE 4096
#define SPARSE_SIZE 65536 /* a block of zeros from this size on is a table for sparse use */

enum { ARENAS, BLOCKS, SPARSE };

static int making;
static struct zone {
    char *start;
    size_t size, used; /* used: while a snapshot is being made */
} zones[ZONES] = {[ARENAS] = {REGION, 16UL << 20, 0},
                  [BLOCKS] = {REGION + (16UL << 20), 32UL << 20, 0},
                  [SPARSE] = {REGION + (48UL << 20), 16UL << 20, 0}};

static int in_region(const void *p)
{
    return (const char *)p >= REGION && (const char *)p < REGION + REGION_SIZE;
}

/* Takes SIZE fresh bytes of a zone. */
static void *zone_take(struct zone *zone, size_t size)
{
    if (size > zone->size - zone->used)
        return NULL;
    zone->used += size;
    return zone->start + zone->used - size;
}

/* A block has its size in front. While a snapshot is made, freed blocks wait in lists by size, and one that is larger
   than what is asked for is split: a page that holds nothing costs a run as much as any other. What a command frees of
   the snapshot's own is left alone. */
struct block {
    size_t size;        /* of what follows this head, a multiple of 16 */
    struct block *next; /* in its list; not used while the block is in use */
};
#define SMALL 2048
static struct block *freed[SMALL / 16 + 64 * 4];

/* SIZE made one of the sizes that there are lists for: by 16 to 2 KiB, then four to each power of two. */
static size_t rounded(size_t size)
{
    size_t step = 16;

    while (size > SMALL && (size - 1) >> 2 >= step << 1)
        step <<= 1;
    return (size + step - 1) & ~(step - 1);
}

static struct block **list_for(size_t size)
{
    size_t log = 11;

    if (size <= SMALL)
        return &freed[size / 16];
    while (size >> (log + 1))
        log++;
    return &freed[SMALL / 16 + (log - 11) * 4 + ((size >> (log - 2)) & 3)];
}

static void block_give(struct block *block)
{
    struct block **list = list_for(block->size);

    block->next = *list;
    *list = block;
}

/* A freed block of WHOLE bytes, the rest of a larger one given back; NULL without one. */
static struct block *block_again(size_t whole)
{
    struct block **end = freed + sizeof(freed) / sizeof(freed[0]);

    for (struct block **list = list_for(whole); list < end; list++)
        for (struct block **at = list; *at; at = &(*at)->next) {
            struct block *block = *at, *rest = (void *)((char *)(block + 1) + whole);

            if (block->size != whole && block->size < whole + sizeof(*rest) + 16)
                continue;
            *at = block->next;
            if (block->size != whole) {
                rest->size = block->size - whole - sizeof(*rest);
                block->size = whole;
                block_give(rest);
            }
            return block;
        }
    return NULL;
}

static void *block_take(struct zone *zone, size_t size)
{
    size_t whole = rounded(size ? size : 1);
    struct block *block = zone == &zones[BLOCKS] ? block_again(whole) : NULL;

    if (!block && (block = zone_take(zone, sizeof(*block) + whole)))
        block->size = whole;
    return block ? block + 1 : NULL;
}

void *pr_malloc(size_t size)
{
    return making ? block_take(&zones[BLOCKS], size) : malloc(size);
}

void *pr_calloc(size_t count, size_t size)
{
    void *p;

    if (!making)
        return calloc(count, size);
    if (size && count > REGION_SIZE / size)
        return NULL;
    p = block_take(&zones[count * size < SPARSE_SIZE ? BLOCKS : SPARSE], count * size);
    return p ? memset(p, 0, count * size) : NULL;
}

void pr_free(void *p)
{
    if (!in_region(p))
        free(p);
    else if (making)
        block_give((struct block *)p - 1);
}

void *pr_realloc(void *p, size_t size)
{
    size_t before = p && in_region(p) ? ((struct block *)p - 1)->size : 0;
    void *fresh;

    if (!making && !before)
        return realloc(p, size);
    if (size <= before && size > before / 2)
        return p;
    fresh = pr_malloc(size);
    if (fresh && p) {
        memcpy(fresh, p, before < size ? before : size);
        pr_free(p);
    }
    return fresh;
}

void *zones_arena(void *unused, size_t size)
{
    void *p;

    (void)unused;
    if (making)
        return zone_take(&zones[ARENAS], size);
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void zones_arena_free(void *unused, void *p, size_t size)
{
    (void)unused;
    if (!in_region(p))
        munmap(p, size);
}

int zones_begin(void)
{
    void *p = mmap(REGION, REGION_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    making = p == (void *)REGION;
    return making ? 0 : -1;
}

void zones_end(void)
{
    making = 0;
}

uint64_t zones_lay_out(struct zone_file *file, uint64_t offset, uint64_t mask)
{
    for (int i = 0; i < ZONES; i++) {
        file->at[i] = offset;
        file->used[i] = (zones[i].used + mask) & ~mask;
        offset += file->used[i];
    }
    return offset;
}

int zones_write_all(int fd, const void *data, size_t size, uint64_t offset)
{
    const char *p = data;

    while (size) {
        ssize_t done = pwrite(fd, p, size, (off_t)offset);

        if (done <= 0)
            return -1;
        p += done;
        offset += (uint64_t)done;
        size -= (size_t)done;
    }
    return 0;
}

/* Writes the zones, except for pages of zeros: they stay holes. */
int zones_write(const struct zone_file *file, int fd, uint64_t end)
{
    static const char zeros[65536];

    for (size_t i = 0; i < sizeof(freed) / sizeof(freed[0]); i++)
        for (struct block *block = freed[i]; block; block = block->next)
            memset(block + 1, 0, block->size);
    for (int i = 0; i < ZONES; i++)
        for (uint64_t at = 0; at < file->used[i]; at += PAGE)
            if (memcmp(zones[i].start + at, zeros, PAGE) != 0 &&
                zones_write_all(fd, zones[i].start + at, PAGE, file->at[i] + at) < 0)
                return -1;
    return ftruncate(fd, (off_t)end);
}

/* Maps SIZE bytes at an address that must be free: of FD, or fresh ones. */
static int map_at(char *at, size_t size, int fd, uint64_t offset)
{
    int flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_ANONYMOUS : 0);
    void *p = size ? mmap(at, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset) : at;

    if (p != at && p != MAP_FAILED) /* a kernel before 4.17 takes the address for a wish */
        munmap(p, size);
    return p == at ? 0 : -1;
}

/* Maps the zones of FD. A command writes to two of three pages of the arenas (reference counts), and a fault for each
   takes longer than to read whole huge pages; where there are none, it is about the same. */
int zones_map(const struct zone_file *file, int fd)
{
    size_t huge = file->used[ARENAS] & ~(HUGE_PAGE - 1);

    if (map_at(REGION, huge, -1, 0) < 0)
        return -1;
    madvise(REGION, huge, MADV_HUGEPAGE);
    if (pread(fd, REGION, huge, (off_t)file->at[ARENAS]) != (ssize_t)huge)
        return -1;
    for (int i = 0; i < ZONES; i++) {
        size_t done = i == ARENAS ? huge : 0;

        if (map_at(zones[i].start + done, file->used[i] - done, fd, file->at[i] + done) < 0)
            return -1;
    }
    return 0;
}
