/* libFuzzer: whatever a layer holds, it is parsed and applied within memory and below its directory.

   The first byte chooses the mode and the sizes of the pieces. As root (or in a user namespace) all happens on a tmpfs
   of our own, where a file beside the target tells whether anything got out; else only the parser runs. */
#include "unpack.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#define PLACE "/mnt"
#define SENTINEL "untouched"

static int outside = -1; /* PLACE on the tmpfs, or -1: nothing may be written */
static int home = -1;    /* the working directory */

static void must(bool holds, const char *what)
{
    if (!holds) {
        perror(what);
        abort();
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    umask(0);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("fuzz", PLACE, "tmpfs", 0, "size=64m,mode=755") < 0)
        return 0;
    outside = open(PLACE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(outside >= 0 && home >= 0, "open " PLACE);
    return 0;
}

static void wipe(void)
{
    struct unpack u = {.mode = OVERLAY_USER};
    struct dir here = {.path = "", .fd = outside};

    must(remove_at(&u, &here, "target", false) == OK, "wipe");
}

static void prepare(void)
{
    int fd = openat(outside, SENTINEL, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    must(fd >= 0 && write(fd, SENTINEL, sizeof SENTINEL) == sizeof SENTINEL, SENTINEL);
    close(fd);
    must(mkdirat(outside, "target", 0700) == 0, "mkdir");
    /* something below, for the flat mode */
    must(mkdirat(outside, "target/d", 0755) == 0 && mkdirat(outside, "target/d/e", 0700) == 0, "mkdir");
    must(symlinkat("../" SENTINEL, outside, "target/s") == 0 && symlinkat("/d", outside, "target/l") == 0, "symlink");
    fd = openat(outside, "target/d/f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    must(fd >= 0, "d/f");
    close(fd);
}

static void check(void)
{
    char text[64];
    struct stat st;
    int fd = openat(outside, SENTINEL, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    must(fd >= 0 && read(fd, text, sizeof text) == sizeof SENTINEL && memcmp(text, SENTINEL, sizeof SENTINEL) == 0,
         "the file beside the target was changed");
    must(fstat(fd, &st) == 0 && st.st_nlink == 1 && (st.st_mode & 07777) == 0600, "its status was changed");
    close(fd);
    must(fstat(outside, &st) == 0 && st.st_nlink == 3, "a directory beside the target"); /* ., .., target */
}

static int ignore_begin(void *self, const struct entry *e)
{
    size_t *sum = self;

    *sum += strlen(e->name) + strlen(e->link);
    for (size_t i = 0; i < e->xattr_count; i++)
        for (size_t at = 0; at < e->xattrs[i].size; at++)
            *sum += (unsigned char)e->xattrs[i].value[at] + strlen(e->xattrs[i].name);
    return OK;
}

static int ignore_data(void *self, const void *bytes, size_t size, int64_t offset)
{
    size_t *sum = self;

    must(offset >= 0, "offset");
    for (size_t i = 0; i < size; i++)
        *sum += ((const uint8_t *)bytes)[i];
    return OK;
}

static int ignore_end(void *self)
{
    (void)self;
    return OK;
}

static void ignore_zero(void *self)
{
    (void)self;
}

static void parse(const uint8_t *data, size_t size, size_t piece)
{
    static const struct sink sink = {ignore_begin, ignore_data, ignore_end, ignore_zero};
    struct tar *t = malloc(sizeof *t);
    size_t sum = 0;

    must(t != NULL, "malloc");
    tar_init(t, &sink, &sum);
    for (size_t at = 0; at < size; at += piece)
        if (tar_feed(t, data + at, size - at < piece ? size - at : piece) != OK)
            break;
    tar_finish(t);
    tar_free(t);
    free(t);
    must(sum != (size_t)-1, "sum");
}

static void apply(const uint8_t *data, size_t size, size_t piece, int mode)
{
    int root;
    const char *text;
    struct unpack *u;

    prepare();
    root = openat(outside, "target", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(root >= 0, "target");
    if (mode != FLAT)
        mode = OVERLAY_USER;
    u = unpack_new(root, mode, 0, 1000, 1 << 24);
    must(u != NULL, "unpack_new");
    for (size_t at = 0; at < size; at += piece)
        if (unpack_feed(u, data + at, size - at < piece ? size - at : piece) != OK)
            break;
    unpack_finish(u);
    must(unpack_report(u, &text) > 0, "report");
    unpack_free(u);
    close(root);
    must(fchdir(home) == 0, "fchdir"); /* attributes of nodes are set from their directory */
    check();
    wipe();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;
    size_t piece;

    if (size < 1)
        return 0;
    copy = malloc(size); /* exactly sized: reading past it is caught */
    must(copy != NULL, "malloc");
    memcpy(copy, data + 1, --size);
    piece = data[0] & 2 ? (size_t)(data[0] >> 2) * 8 + 1 : size + 1;
    if (outside < 0)
        parse(copy, size, piece);
    else
        apply(copy, size, piece, data[0] & 1 ? FLAT : OVERLAY_USER);
    free(copy);
    return 0;
}

/* Right checksums, or hardly anything would come past the first header. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    (void)seed;
    size = LLVMFuzzerMutate(data, size, max_size);
    for (size_t at = 1; at + BLOCK <= size; at += BLOCK) {
        unsigned int sum = 8 * ' ';
        uint8_t *block = data + at;

        if (memcmp(block + 257, "ustar", 5) != 0)
            continue;
        for (int i = 0; i < BLOCK; i++)
            sum += i >= 148 && i < 156 ? 0 : block[i];
        for (int i = 0; i < 6; i++)
            block[148 + i] = (uint8_t)('0' + (sum >> (15 - 3 * i) & 7));
        block[154] = 0;
        block[155] = ' ';
    }
    return size;
}
