/* libFuzzer: whatever symlinks an image has and whatever name a plan gives, make_path and its relatives change nothing
   outside the root, and what they say they made is there. Input: flags, then texts that end in 0: the path to make,
   then pairs of a link's name and its text. Works in a folder of its own below the
   current one, which is best a tmpfs and is removed by the caller. */
#include "init.h"

#include <dirent.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_LINKS_MADE 12

static char base[PATH_MAX], top[PATH_MAX + 8], outside[PATH_MAX + 8];
static const char *const folders[] = {"", "d/", "d/e/"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Remove all that is below `path`. */
static void clear(char *path)
{
    char *const paths[] = {path, NULL};
    FTS *walk = fts_open(paths, FTS_PHYSICAL, NULL);
    FTSENT *at;

    if (walk == NULL)
        abort();
    while ((at = fts_read(walk)) != NULL)
        if (at->fts_level > 0 && at->fts_info == FTS_DP)
            rmdir(at->fts_accpath);
        else if (at->fts_level > 0 && at->fts_info != FTS_D)
            unlink(at->fts_accpath);
    fts_close(walk);
}

static void begin(void)
{
    char name[] = "./fuzz-path-XXXXXX";

    if (mkdtemp(name) == NULL || realpath(name, base) == NULL)
        abort();
    snprintf(top, sizeof top, "%s/root", base);
    snprintf(outside, sizeof outside, "%s/out", base);
    if (mkdir(top, 0755) < 0 || mkdir(outside, 0755) < 0)
        abort();
    umask(0);
}

static int entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;

    while (folder != NULL && readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count - 2;
}

/* The next text of the input, "" at its end. */
static const char *next(const char **at, const char *end_of_input)
{
    const char *text = *at;

    if (text >= end_of_input)
        return "";
    *at += strlen(text) + 1;
    return text;
}

/* What an image may hold: links by the input, and always two that lead to the folder outside. */
static int plant(const char **at, const char *end_of_input)
{
    int root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC), i;
    char name[NAME_MAX + 8];

    mkdirat(root, "d", 0755);
    mkdirat(root, "d/e", 0755);
    if (symlinkat(outside, root, "abs") < 0 || symlinkat("../out", root, "up") < 0)
        abort();
    for (i = 0; i < MAX_LINKS_MADE && *at < end_of_input; i++) {
        const char *link = next(at, end_of_input), *text = next(at, end_of_input);

        if (strchr(link, '/') != NULL || strlen(link) > NAME_MAX)
            continue;
        snprintf(name, sizeof name, "%s%.*s", folders[i % 3], NAME_MAX, link);
        symlinkat(text, root, name); /* a bad name or text is refused by the kernel */
    }
    return root;
}

static void attempt(struct ctx *c, const char *path, int64_t flags)
{
    char name[NAME_MAX + 1];
    int ret = make_path(c, path, 0755, flags), fd;

    if (ret > 0 || c->detail_size > DETAIL_MAX)
        abort();
    fd = open_target(c, path, flags & (F_TARGET_NO_SYMLINK | F_TARGET_NO_FOLLOW), 0);
    /* A file whose name or whose link's text ends in a slash is made and then no directory: an error, as it should be.
     */
    if (ret == 0 && fd < 0 && path[0] != 0 && (fd != -ENOTDIR || (flags & F_MAKE_FILE) == 0))
        abort();
    close_fd(&fd);
    fd = open_parent(c, path, name);
    if (fd >= 0 && (strlen(name) > NAME_MAX || strchr(name, '/') != NULL))
        abort();
    if (fd >= 0)
        mkdirat(fd, name, 0755);
    close_fd(&fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ctx c;
    char *copy = malloc(size + 1);
    const char *at = copy, *path;
    int root;

    if (base[0] == 0)
        begin();
    if (copy == NULL || size < 2)
        goto out;
    memcpy(copy, data, size);
    copy[size] = 0;
    at += 2;
    path = next(&at, copy + size);
    root = plant(&at, copy + size);
    c.slots = &root;
    c.plan.slots = 1;
    attempt(&c, path, (data[0] | (int64_t)data[1] << 8) & (F_MAKE_FILE | F_TARGET_NO_SYMLINK | F_TARGET_NO_FOLLOW));
    close(root);
    if (entries(outside) != 0 || entries(base) != 2)
        abort();
    clear(top);
out:
    free(copy);
    return 0;
}
