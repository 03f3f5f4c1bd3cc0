/* The decoded plan: a checked view of bytes that nobody else can change. The drawing is in plan/opcodes.py. */
#ifndef PLAN_H
#define PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "opcodes.h"

#define PLAN_MAX_SIZE (32u << 20)
#define PLAN_MAX_SLOTS 4096u
#define PLAN_MAX_FD_BASE 65536u
#define OP_LIMIT 96

struct step {
    uint16_t op;
    uint8_t alternatives, on_errno;
    uint8_t tolerate[4];
    int64_t arg[PLAN_MAX_ARGS];
};

struct plan {
    const unsigned char *bytes;
    const struct step *steps;
    uint32_t count, slots, fd_base;
    uint32_t vector; /* the most strings that one step's strv arguments hold together */
};

struct blob {
    const unsigned char *bytes;
    uint32_t size;
};

/* Check everything that the accessors below rely on. `bytes` is aligned to 8 and outlives `out`.
   NULL, or one word naming what is wrong. Reads nothing outside bytes[0..size). */
const char *plan_decode(const unsigned char *bytes, size_t size, struct plan *out);

/* Accessors; valid for arguments of that kind in a decoded plan. Not given: "", an empty blob, 0 strings. */
const char *plan_str(const struct plan *p, int64_t offset);
struct blob plan_blob(const struct plan *p, int64_t offset);
uint32_t plan_strv_count(const struct plan *p, int64_t offset);
const char *plan_strv_at(const struct plan *p, int64_t offset, uint32_t index);

#endif
