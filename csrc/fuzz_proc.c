/* libFuzzer: whatever path a plan gives, a write meant for procfs goes to a file of procfs, once and unchanged, or
   nowhere; "self" is whom it says. Writes are looked at and not done. Input: the kind of call, then a number or a path.
 */
#include "sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define write fuzz_write
static ssize_t fuzz_write(int fd, const void *data, size_t size);
#include "proc.c"
#undef write

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *wanted; /* the path of the call */
static char score[16];     /* what op_oom_score_adj wrote */
static int writes;

static ssize_t fuzz_write(int fd, const void *data, size_t size)
{
    char link[64], name[PATH_MAX], own[32];
    ssize_t got;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    got = readlink(link, name, sizeof name - 1);
    if (got < 0)
        abort();
    name[got] = 0;
    snprintf(own, sizeof own, "/proc/%d/", (int)getpid());
    if (strncmp(name, "/proc/", 6) != 0 || check_magic(fd, MAGIC_PROC) < 0)
        abort();
    if ((strncmp(wanted, "self/", 5) == 0 || strncmp(wanted, "thread-self/", 12) == 0) &&
        strstr(wanted, "..") == NULL && strncmp(name, own, strlen(own)) != 0)
        abort();
    if (size < sizeof score) {
        memcpy(score, data, size);
        score[size] = 0;
    }
    writes++;
    return (ssize_t)size;
}

/* The text of the number that was asked for, or a refusal. */
static void score_of(struct ctx *c, int64_t value)
{
    const struct step s = {.arg = {value}};
    int ret = op_oom_score_adj(c, &s), allowed = value >= -1000 && value <= 1000;

    if ((ret == 0) != allowed || (ret == 0 && strtol(score, NULL, 10) != value) || writes != allowed)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ctx c;
    int slots[2] = {-1, -1}, ret;
    char *path = malloc(size + 1);
    int64_t value = 0;

    if (path == NULL || size == 0)
        goto out;
    memcpy(path, data + 1, size - 1);
    path[size - 1] = 0;
    c.slots = slots;
    c.plan.slots = 2;
    writes = 0;
    wanted = data[0] % 4 == 0 ? "self/" : path;
    if (data[0] % 4 == 0) {
        memcpy(&value, data + 1, size - 1 < sizeof value ? size - 1 : sizeof value);
        score_of(&c, data[0] % 8 == 0 ? value : value % 1100);
    } else {
        ret = proc_write(&c, path, "x", 1);
        if (ret > 0 || writes != (ret == 0))
            abort();
    }
    close_fd(&slots[1]);
out:
    free(path);
    return 0;
}
