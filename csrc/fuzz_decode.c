/* libFuzzer: whatever the decoder accepts, the accessors stay inside it. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t kind_of[OP_LIMIT][PLAN_MAX_ARGS] = {
#define X(NAME, ...) [OP_##NAME] = {__VA_ARGS__},
    FOR_EACH_OP(X)
#undef X
};

static size_t touch(const struct plan *p, int kind, int64_t value)
{
    size_t sum = 0, i;

    if (kind == ARG_STR)
        return strlen(plan_str(p, value));
    if (kind == ARG_BLOB) {
        struct blob blob = plan_blob(p, value);

        for (i = 0; i < blob.size; i++)
            sum += blob.bytes[i];
    }
    if (kind == ARG_STRV)
        for (i = 0; i < plan_strv_count(p, value); i++)
            sum += strlen(plan_strv_at(p, value, (uint32_t)i));
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *copy = malloc(size + 1); /* exactly sized, aligned to 16: reading past it is caught */
    struct plan p;
    size_t sum = 0;
    uint32_t i;
    int n;

    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    if (plan_decode(copy, size, &p) == NULL) {
        for (i = 0; i < p.count; i++)
            for (n = 0; n < PLAN_MAX_ARGS; n++)
                sum += touch(&p, kind_of[p.steps[i].op][n], p.steps[i].arg[n]);
        if (sum == (size_t)-1)
            abort();
    }
    free(copy);
    return 0;
}
