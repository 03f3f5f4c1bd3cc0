/* Decode a plan. Every offset, kind and number is checked here, so that no operation has to; fuzzed by fuzz_decode.c.
   Offsets and counts are widened to 64 bits before they are added. */
#include "plan.h"

#include <string.h>

struct header {
    uint32_t magic, header_size;
    uint64_t layout_hash;
    uint32_t steps, steps_offset, pool_offset, pool_size, slots, fd_base, flags, reserved;
};

_Static_assert(sizeof(struct header) == PLAN_HEADER_SIZE, "header");
_Static_assert(sizeof(struct step) == PLAN_STEP_SIZE, "step");

struct pool {
    const unsigned char *bytes;
    uint64_t start, end;
};

struct kinds {
    uint8_t known, kind[PLAN_MAX_ARGS];
};

#define X(NAME, ...) [OP_##NAME] = {1, {__VA_ARGS__}},
static const struct kinds kinds_of[OP_LIMIT] = {FOR_EACH_OP(X)};
#undef X

/* Arguments that must point to something; an empty text is as good as a missing one nowhere in this list. */
static const struct {
    uint8_t op, arg;
} required[] = {
    {OP_WRITE_PROC, 0},    {OP_KEYRING, 0},   {OP_LINK_UP, 0},       {OP_PROPAGATION, 0}, {OP_ATTACH_ROOT, 1},
    {OP_USE_ROOT, 0},      {OP_MAKE_PATH, 0}, {OP_MOUNT, 0},         {OP_MOUNT, 2},       {OP_MOVE_MOUNT, 1},
    {OP_REMOUNT, 0},       {OP_MKNOD, 0},     {OP_MOUNT_SETATTR, 0}, {OP_SYMLINK, 0},     {OP_SYMLINK, 1},
    {OP_MASK, 0},          {OP_READONLY, 0},  {OP_HOOK, 0},          {OP_UMOUNT, 0},      {OP_SECCOMP, 0},
    {OP_CHDIR, 0},         {OP_EXECVE, 0},    {OP_AFFINITY, 0},      {OP_COPY_UP, 0},     {OP_CLONE_TREE, 1},
    {OP_CLASSIC_MOUNT, 2}, {OP_COVER, 0},     {OP_SCHEDULER, 0},
};

static uint32_t load32(const unsigned char *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

/* `length` bytes from `offset` lie in the pool. */
static int in_pool(const struct pool *pool, uint64_t offset, uint64_t length)
{
    return offset >= pool->start && offset <= pool->end && length <= pool->end - offset;
}

static int is_str(const struct pool *pool, uint64_t offset)
{
    return in_pool(pool, offset, 1) && memchr(pool->bytes + offset, 0, pool->end - offset) != NULL;
}

static int is_blob(const struct pool *pool, uint64_t offset)
{
    return in_pool(pool, offset, 4) && in_pool(pool, offset + 4, load32(pool->bytes + offset));
}

static int is_strv(const struct pool *pool, uint64_t offset, uint32_t *total)
{
    uint32_t count, i;

    if (!in_pool(pool, offset, 4))
        return 0;
    count = load32(pool->bytes + offset);
    if (!in_pool(pool, offset + 4, (uint64_t)count * 4))
        return 0;
    for (i = 0; i < count; i++)
        if (!is_str(pool, load32(pool->bytes + offset + 4 + (uint64_t)i * 4)))
            return 0;
    *total += count; /* at most six lists of pool_size / 4 strings: below 2^32 */
    return 1;
}

static int is_required(unsigned op, unsigned arg)
{
    size_t i;

    for (i = 0; i < sizeof required / sizeof required[0]; i++)
        if (required[i].op == op && required[i].arg == arg)
            return 1;
    return 0;
}

static int check_arg(const struct pool *pool, const struct plan *p, const struct step *s, unsigned n, uint32_t *strings)
{
    int64_t value = s->arg[n];
    int kind = kinds_of[s->op].kind[n];

    switch (kind) {
    case ARG_INT:
        return 1;
    case ARG_NONE:
        return value == 0;
    case ARG_SLOT:
        return value >= -1 && value < (int64_t)p->slots;
    }
    if (value == 0)
        return !is_required(s->op, n);
    if (value < 0)
        return 0;
    if (kind == ARG_STR)
        return is_str(pool, (uint64_t)value);
    if (kind == ARG_BLOB)
        return is_blob(pool, (uint64_t)value);
    return is_strv(pool, (uint64_t)value, strings);
}

/* Numbers that would be dangerous rather than merely refused by the kernel. */
static int check_numbers(const struct plan *p, const struct step *s)
{
    switch (s->op) {
    case OP_BARRIER:
        return s->arg[0] >= BARRIER_JOINED && s->arg[0] <= BARRIER_READY;
    case OP_PLACE_FD:
        return s->arg[0] >= 0 && s->arg[1] >= 0 && s->arg[1] < (int64_t)p->fd_base;
    case OP_CLOSE_FROM:
        return s->arg[0] >= 3 && s->arg[0] <= (int64_t)p->fd_base;
    case OP_EXECVE:
        return plan_strv_count(p, s->arg[0]) > 0;
    case OP_HOOK:
        return s->arg[4] == 0 || plan_strv_count(p, s->arg[4]) == 1 || plan_strv_count(p, s->arg[4]) == 2;
    case OP_SETGROUPS:
        return plan_blob(p, s->arg[0]).size % 4 == 0;
    case OP_SECCOMP:
        return plan_blob(p, s->arg[0]).size % 8 == 0;
    case OP_SCHEDULER: /* the kernel reads as much as its first four bytes say */
        return plan_blob(p, s->arg[0]).size >= 48 &&
               load32(plan_blob(p, s->arg[0]).bytes) == plan_blob(p, s->arg[0]).size;
    case OP_MEMORY_POLICY:
        return plan_blob(p, s->arg[1]).size % 8 == 0;
    }
    return 1;
}

/* A main step and the alternatives that follow it. */
static int check_alternatives(const struct plan *p, uint32_t index, uint32_t *alternatives_left)
{
    const struct step *s = &p->steps[index];

    if (*alternatives_left > 0) {
        --*alternatives_left;
        return (s->alternatives & ~PLAN_RETRY) == 0 && s->on_errno != 0;
    }
    if ((s->alternatives & PLAN_RETRY) != 0 || s->on_errno != 0 || s->alternatives >= p->count - index)
        return 0;
    *alternatives_left = s->alternatives;
    return 1;
}

static const char *check_steps(const struct pool *pool, struct plan *p)
{
    uint32_t i, n, left = 0;

    for (i = 0; i < p->count; i++) {
        const struct step *s = &p->steps[i];
        uint32_t strings = 0;

        if (s->op >= OP_LIMIT || !kinds_of[s->op].known)
            return "op";
        if (!check_alternatives(p, i, &left))
            return "alternatives";
        for (n = 0; n < PLAN_MAX_ARGS; n++)
            if (!check_arg(pool, p, s, n, &strings))
                return "argument";
        if (!check_numbers(p, s))
            return "number";
        if (strings > p->vector)
            p->vector = strings;
    }
    return NULL;
}

const char *plan_decode(const unsigned char *bytes, size_t size, struct plan *out)
{
    struct header h;
    struct pool pool;

    if (size < sizeof h || size > PLAN_MAX_SIZE)
        return "size";
    memcpy(&h, bytes, sizeof h);
    if (h.magic != PLAN_MAGIC || h.header_size != PLAN_HEADER_SIZE)
        return "magic";
    if (h.layout_hash != PLAN_LAYOUT_HASH)
        return "layout";
    if (h.flags != 0 || h.reserved != 0)
        return "flags";
    if (h.slots <= SLOT_PROC || h.slots > PLAN_MAX_SLOTS || h.fd_base < 3 || h.fd_base > PLAN_MAX_FD_BASE)
        return "slots";
    if (h.steps_offset < sizeof h || h.steps_offset % 8 != 0 ||
        (uint64_t)h.steps_offset + (uint64_t)h.steps * PLAN_STEP_SIZE > size)
        return "steps";
    if (h.pool_offset < sizeof h || (uint64_t)h.pool_offset + h.pool_size > size)
        return "pool";
    pool = (struct pool){bytes, h.pool_offset, (uint64_t)h.pool_offset + h.pool_size};
    *out = (struct plan){
        bytes, (const struct step *)(const void *)(bytes + h.steps_offset), h.steps, h.slots, h.fd_base, 0};
    return check_steps(&pool, out);
}

const char *plan_str(const struct plan *p, int64_t offset)
{
    return offset == 0 ? "" : (const char *)(p->bytes + offset);
}

struct blob plan_blob(const struct plan *p, int64_t offset)
{
    if (offset == 0)
        return (struct blob){p->bytes, 0};
    return (struct blob){p->bytes + offset + 4, load32(p->bytes + offset)};
}

uint32_t plan_strv_count(const struct plan *p, int64_t offset)
{
    return offset == 0 ? 0 : load32(p->bytes + offset);
}

const char *plan_strv_at(const struct plan *p, int64_t offset, uint32_t index)
{
    return (const char *)(p->bytes + load32(p->bytes + offset + 4 + (uint64_t)index * 4));
}
