/* What launcher_zones.c is to launcher_snapshot.c. */
#ifndef PYRUNTIME_LAUNCHER_ZONES_H
#define PYRUNTIME_LAUNCHER_ZONES_H

#include <stddef.h>
#include <stdint.h>

#define ZONES 3

/* Where the zones are in the file, and how long; whole pages. */
struct zone_file {
    uint64_t at[ZONES], used[ZONES];
};

/* From now on the interpreter's memory comes from the zones. -1 when the addresses are taken. */
int zones_begin(void);

/* No longer. */
void zones_end(void);

/* The interpreter's arenas, in its allocator's terms. */
void *zones_arena(void *unused, size_t size);
void zones_arena_free(void *unused, void *p, size_t size);

/* Places the zones in a file from OFFSET on; where they end. MASK is the size of a page less one. */
uint64_t zones_lay_out(struct zone_file *file, uint64_t offset, uint64_t mask);

/* Writes the zones and makes the file END bytes long. */
int zones_write(const struct zone_file *file, int fd, uint64_t end);

/* Writes all of DATA at OFFSET. */
int zones_write_all(int fd, const void *data, size_t size, uint64_t offset);

/* Maps the zones of a file. -1 when an address is taken. */
int zones_map(const struct zone_file *file, int fd);

#endif
