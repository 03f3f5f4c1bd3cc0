/* A snapshot of the interpreter after it has loaded our modules, from which the fast verbs start.

   Initialising the core, reading code and running module bodies take 6 ms of a `run`; all of it ends in the same memory
   every time. So the first call as root writes that memory to a file, and later calls map it. Best of 60, ms of wall
   time on the machine of launcher_embed.c, minimal bundle (runc 1.1.5 beside it: run 14.6, state 2.6):
                                            run     state of a missing id
     one set of modules from the image      12.8    4.1
     from a snapshot                         8.4    2.2
   Peak memory of a run is 10.2 MB, runc's the same; most of it are file pages that calls share.

   What is in the file. CPython's state lives in three places of this program, and nowhere else:
     pydata, pybss   .data and .bss of libpython's objects, renamed at build time (setup.py) so that they are apart from
                     those of libc and of the launcher; the program is not position-independent, so they never move
     three zones     all memory that libpython gets while the snapshot is being made, at fixed addresses: arenas, blocks
                     of malloc (its calls are renamed to pr_malloc), and large tables that are nearly all zeros
   Nothing in them points out of the program: functions of libc are reached through its own PLT, no shared object of
   Python's is loaded before the snapshot (embed.py leaves a placeholder for _json), there is no open file and no second
   thread. What belongs to a process is put right after mapping: thread ids, the thread's own slot, the environment.

   When it is used. Only a file owned by us, mode 0600, in a folder of ours of mode 0700, made by this very program file
   for this very package folder, and only while every source has the size and time it had. Otherwise a child process
   makes a new one; if that fails, a file without memory says so for a minute, and calls start the usual way. Files of
   programs that are gone are removed when one is made.

   The hash secret is part of the memory: it is drawn when the snapshot is made, and nobody else can read it. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_runtime.h>

#include "launcher.h"
#include "launcher_embed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REGION ((char *)0x2000000000) /* below the mmap area also where addresses have 39 bits */
#define REGION_SIZE (64UL << 20)
#define HUGE_PAGE (2UL << 20)
#define SPARSE_SIZE 65536 /* a block of zeros from this size on is a table for sparse use */
#define MAGIC "PYRSNAP2"
#define FAMILY 7 /* of its characters stay what they are in every version, and so does where `exe` is */
#define MAX_SOURCES 256
#define MAX_NAMES 32768
#define FAILURE_LASTS_S 60
#define FOLDER "/run/pyruntime-cache"

extern char __start_pydata[], __stop_pydata[], __start_pybss[], __stop_pybss[];

struct source {
    uint64_t size, mtime_ns, ctime_ns;
    uint64_t name; /* offset in the head's names */
};

enum { ARENAS, BLOCKS, SPARSE, ZONES };

/* The file: this head on pages of its own, then pydata, pybss and the zones, each from a page boundary. */
struct head {
    char magic[8], exe[PATH_MAX];
    uint64_t exe_dev, exe_ino, exe_size, exe_ctime_ns, image_ino, image_ctime_ns;
    uint64_t page, data_at, bss_at, end; /* end 0: this cannot be done here */
    uint64_t zone_at[ZONES], zone_used[ZONES];
    uint64_t state, resume; /* PyThreadState *, PyObject * */
    uint64_t source_count;
    char site[PATH_MAX];
    struct source sources[MAX_SOURCES];
    char names[MAX_NAMES];
};

/* Bytes from exe_dev to image_ctime_ns. */
#define IDENTITY (offsetof(struct head, page) - offsetof(struct head, exe_dev))

static struct head head; /* of the file being made or used */
static int making;
static struct zone {
    char *start;
    size_t size, used; /* used: while a snapshot is being made */
} zones[ZONES] = {[ARENAS] = {REGION, 16UL << 20, 0},
                  [BLOCKS] = {REGION + (16UL << 20), 32UL << 20, 0},
                  [SPARSE] = {REGION + (48UL << 20), 16UL << 20, 0}};

/* ---- memory ---------------------------------------------------------------------------------------------------- */

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
    const struct block *const *end = (void *)(freed + sizeof(freed) / sizeof(freed[0]));

    for (struct block **list = list_for(whole); (const void *)list < (const void *)end; list++)
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

static void *arena_take(void *unused, size_t size)
{
    void *p;

    (void)unused;
    if (making)
        return zone_take(&zones[ARENAS], size);
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void arena_give(void *unused, void *p, size_t size)
{
    (void)unused;
    if (!in_region(p))
        munmap(p, size);
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

static uint64_t nanoseconds(const struct timespec *t)
{
    return (uint64_t)t->tv_sec * 1000000000U + (uint64_t)t->tv_nsec;
}

/* FNV-1a of the program's path: installations side by side have a file each. */
static void file_name(const struct place *place, char *name, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325ULL;

    for (const char *p = place->exe; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 0x100000001b3ULL;
    snprintf(name, size, "start-%016llx.snapshot", (unsigned long long)hash);
}

/* Our folder, -1 without one that nobody else can enter. Only for root: others have no place that lives long enough. */
static int open_folder(void)
{
    struct stat st;
    int fd;

    if (geteuid() != 0 || getuid() != 0)
        return -1;
    if (mkdir(FOLDER, 0700) < 0 && errno != EEXIST)
        return -1;
    fd = open(FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_uid != 0 || (st.st_mode & 077))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The identity of this program's file and of the image. */
static int describe_files(const struct place *place, struct head *h)
{
    char path[PATH_MAX];
    struct stat st;

    if (snprintf(path, sizeof(path), "%s/" IMAGE, place->site) >= (int)sizeof(path) || stat(path, &st) < 0)
        return -1;
    h->image_ino = st.st_ino;
    h->image_ctime_ns = nanoseconds(&st.st_ctim);
    if (stat(place->exe, &st) < 0)
        return -1;
    h->exe_dev = st.st_dev;
    h->exe_ino = st.st_ino;
    h->exe_size = (uint64_t)st.st_size;
    h->exe_ctime_ns = nanoseconds(&st.st_ctim);
    return 0;
}

/* The head of the file, checked; the open file, or -1 when it is not ours, of another program, or not there. */
static int open_snapshot(const struct place *place, int folder)
{
    char name[64];
    struct head own;
    struct stat st;
    int fd;

    file_name(place, name, sizeof(name));
    fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    memset(&own, 0, sizeof(own));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == 0 && !(st.st_mode & 077) &&
        pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) && memcmp(head.magic, MAGIC, 8) == 0 &&
        describe_files(place, &own) == 0 && memcmp(&own.exe_dev, &head.exe_dev, IDENTITY) == 0 &&
        head.page == (uint64_t)sysconf(_SC_PAGESIZE) && strcmp(head.site, place->site) == 0 &&
        head.source_count <= MAX_SOURCES && (uint64_t)st.st_size == (head.end ? head.end : sizeof(head)) &&
        (head.end || time(NULL) - st.st_mtime < FAILURE_LASTS_S))
        return fd;
    close(fd);
    return -1;
}

/* Whether no source has changed. */
static int sources_are_fresh(void)
{
    struct stat st;

    for (uint64_t i = 0; i < head.source_count; i++) {
        const struct source *source = &head.sources[i];

        if (source->name >= MAX_NAMES || stat(head.names + source->name, &st) < 0 ||
            (uint64_t)st.st_size != source->size || nanoseconds(&st.st_mtim) != source->mtime_ns ||
            nanoseconds(&st.st_ctim) != source->ctime_ns)
            return 0;
    }
    return 1;
}

/* Puts SIZE bytes at OFFSET of the file where START is: whole pages are mapped, the edges, shared with others, read. */
static int put_back(int fd, char *start, size_t size, uint64_t offset)
{
    size_t page = head.page, before = (page - ((uintptr_t)start & (page - 1))) & (page - 1);
    size_t whole = size > before ? (size - before) & ~(page - 1) : 0;
    size_t after = size - before - whole;

    /* In the file the bytes lie as far behind a page boundary as in memory. */
    if (before && pread(fd, start, before, (off_t)offset) != (ssize_t)before)
        return -1;
    if (whole && mmap(start + before, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
                      (off_t)(offset + before)) == MAP_FAILED)
        return -1;
    if (after && pread(fd, start + before + whole, after, (off_t)(offset + before + whole)) != (ssize_t)after)
        return -1;
    return 0;
}

/* ---- starting from it ------------------------------------------------------------------------------------------ */

/* What is a process's own: the thread's ids and slot, and posix.environ, in place because modules hold the same dict.
 */
static int adopt(PyThreadState *state)
{
    PyObject *posix, *environment;

    _PyRuntime.main_thread = PyThread_get_thread_ident();
    state->thread_id = PyThread_get_thread_ident();
    state->native_thread_id = PyThread_get_thread_native_id();
    _PyRuntime.gilstate.autoTSSkey._is_initialized = 0;
    if (PyThread_tss_create(&_PyRuntime.gilstate.autoTSSkey) != 0 ||
        PyThread_tss_set(&_PyRuntime.gilstate.autoTSSkey, state) != 0)
        return -1;
    posix = PyImport_ImportModule("posix");
    environment = posix ? PyObject_GetAttrString(posix, "environ") : NULL;
    if (!environment)
        return -1;
    PyDict_Clear(environment);
    for (char **p = environ; *p; p++) {
        const char *equals = strchr(*p, '=');
        PyObject *key, *value;

        if (!equals)
            continue;
        key = PyBytes_FromStringAndSize(*p, equals - *p);
        value = PyBytes_FromString(equals + 1);
        if (!key || !value || (!PyDict_Contains(environment, key) && PyDict_SetItem(environment, key, value) < 0))
            return -1;
        Py_DECREF(key);
        Py_DECREF(value);
    }
    return 0;
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
static int map_zones(int fd)
{
    size_t huge = head.zone_used[ARENAS] & ~(HUGE_PAGE - 1);

    if (map_at(REGION, huge, -1, 0) < 0)
        return -1;
    madvise(REGION, huge, MADV_HUGEPAGE);
    if (pread(fd, REGION, huge, (off_t)head.zone_at[ARENAS]) != (ssize_t)huge)
        return -1;
    for (int i = 0; i < ZONES; i++) {
        size_t done = i == ARENAS ? huge : 0;

        if (map_at(zones[i].start + done, head.zone_used[i] - done, fd, head.zone_at[i] + done) < 0)
            return -1;
    }
    return 0;
}

/* Maps the snapshot of FD and runs its resume(words). Returns only when an address is taken. */
static void start_from(const struct place *place, int fd, int argc, char **argv)
{
    PyObject *words, *result;

    if (map_zones(fd) < 0)
        return;
    warm_up(argc, argv);
    if (put_back(fd, __start_pydata, (size_t)(__stop_pydata - __start_pydata), head.data_at) < 0 ||
        put_back(fd, __start_pybss, (size_t)(__stop_pybss - __start_pybss), head.bss_at) < 0 ||
        adopt((PyThreadState *)head.state) < 0)
        run_python(place, argc, argv); /* half of one state and half of another: only execve leads out of it */
    close(fd);
    words = list_of(argc, argv, NULL);
    result = words ? PyObject_CallOneArg((PyObject *)head.resume, words) : NULL;
    if (!result)
        PyErr_Print();
    _exit(1); /* resume() leaves by _exit itself */
}

/* ---- making one ------------------------------------------------------------------------------------------------ */

static int write_all(int fd, const void *data, size_t size, uint64_t offset)
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
static int write_zones(int fd)
{
    static const char zeros[65536];

    for (size_t i = 0; i < sizeof(freed) / sizeof(freed[0]); i++)
        for (struct block *block = freed[i]; block; block = block->next)
            memset(block + 1, 0, block->size);
    for (int i = 0; i < ZONES; i++)
        for (uint64_t at = 0; at < head.zone_used[i]; at += head.page)
            if (memcmp(zones[i].start + at, zeros, head.page) != 0 &&
                write_all(fd, zones[i].start + at, head.page, head.zone_at[i] + at) < 0)
                return -1;
    return ftruncate(fd, (off_t)head.end);
}

/* Where the parts lie in the file. */
static void lay_out(void)
{
    uint64_t mask = head.page - 1;

    head.data_at = ((sizeof(head) + mask) & ~mask) + ((uintptr_t)__start_pydata & mask);
    head.bss_at = ((head.data_at + (uint64_t)(__stop_pydata - __start_pydata) + mask) & ~mask) +
                  ((uintptr_t)__start_pybss & mask);
    head.end = (head.bss_at + (uint64_t)(__stop_pybss - __start_pybss) + mask) & ~mask;
    for (int i = 0; i < ZONES; i++) {
        head.zone_at[i] = head.end;
        head.zone_used[i] = (zones[i].used + mask) & ~mask;
        head.end += head.zone_used[i];
    }
}

/* Fills the table of sources from `sources`, a list of paths that embed.py left. */
static int describe_sources(PyObject *paths)
{
    struct stat st;
    size_t at = 0;

    if (!paths || !PyList_Check(paths) || PyList_GET_SIZE(paths) > MAX_SOURCES)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(paths); i++) {
        const char *path = PyUnicode_AsUTF8(PyList_GET_ITEM(paths, i));
        size_t size = path ? strlen(path) + 1 : MAX_NAMES + 1;

        if (size > MAX_NAMES - at || stat(path, &st) < 0)
            return -1;
        memcpy(head.names + at, path, size);
        head.sources[i] = (struct source){(uint64_t)st.st_size, nanoseconds(&st.st_mtim), nanoseconds(&st.st_ctim), at};
        at += size;
    }
    head.source_count = (uint64_t)PyList_GET_SIZE(paths);
    return 0;
}

/* Runs in a child: initialises, loads all modules of the fast verbs, and writes the memory to FD. Does not return. */
static _Noreturn void make_memory(const struct place *place, int fd)
{
    PyObjectArenaAllocator arenas = {NULL, arena_take, arena_give};
    PyObject *globals;
    int null = open("/dev/null", O_RDWR);

    for (int i = 0; i < 3; i++) /* what is said here is for nobody */
        if (null < 0 || dup2(null, i) < 0)
            _exit(1);
    if (mmap(REGION, REGION_SIZE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != (void *)REGION)
        _exit(1);
    making = 1;
    PyObject_SetArenaAllocator(&arenas);
    if (!map_image(place) || initialise(place) < 0 || !(globals = run_boot_code(0, NULL, 1)))
        _exit(1);
    head.state = (uint64_t)PyThreadState_Get();
    head.resume = (uint64_t)PyDict_GetItemString(globals, "resume");
    if (!head.resume || describe_sources(PyDict_GetItemString(globals, "sources")) < 0)
        _exit(1);
    making = 0;
    lay_out();
    if (write_all(fd, __start_pydata, (size_t)(__stop_pydata - __start_pydata), head.data_at) < 0 ||
        write_all(fd, __start_pybss, (size_t)(__stop_pybss - __start_pybss), head.bss_at) < 0 || write_zones(fd) < 0 ||
        write_all(fd, &head, sizeof(head), 0) < 0)
        _exit(1);
    _exit(0);
}

/* Removes the snapshots of programs that are gone; those of other versions of ours that are still there stay. */
static void prune(int folder)
{
    struct {
        char magic[8], exe[PATH_MAX]; /* the beginning of struct head */
    } other;
    struct dirent *entry;
    int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again < 0 ? NULL : fdopendir(again);

    while (dir && (entry = readdir(dir))) {
        int fd =
            strncmp(entry->d_name, "start-", 6) ? -1 : openat(folder, entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0)
            continue;
        if (pread(fd, &other, sizeof(other), 0) != (ssize_t)sizeof(other) || memcmp(other.magic, MAGIC, FAMILY) != 0 ||
            !memchr(other.exe, 0, sizeof(other.exe)) || access(other.exe, F_OK) < 0)
            unlinkat(folder, entry->d_name, 0);
        close(fd);
    }
    if (dir)
        closedir(dir);
}

/* Makes the file in a child and waits for it. One maker at a time; who finds another at work starts the usual way. */
static int make_snapshot(const struct place *place, int folder)
{
    char name[64], fresh[80];
    static struct head made;
    int fd, done = -1;
    pid_t child;

    if (flock(folder, LOCK_EX | LOCK_NB) < 0)
        return -1;
    prune(folder);
    file_name(place, name, sizeof(name));
    snprintf(fresh, sizeof(fresh), ".%s.new", name);
    unlinkat(folder, fresh, 0);
    fd = openat(folder, fresh, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    memset(&head, 0, sizeof(head));
    memcpy(head.magic, MAGIC, 8);
    head.page = (uint64_t)sysconf(_SC_PAGESIZE);
    memcpy(head.exe, place->exe, sizeof(head.exe));
    memcpy(head.site, place->site, sizeof(head.site));
    if (describe_files(place, &head) == 0 && (child = fork()) >= 0) {
        if (child == 0)
            make_memory(place, fd);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        /* The child writes the head last. Without it the file says that this was tried. */
        done = pread(fd, &made, sizeof(made), 0) == (ssize_t)sizeof(made) && made.end ? 0 : 1;
        if (done && (ftruncate(fd, 0) < 0 || write_all(fd, &head, sizeof(head), 0) < 0))
            done = -1;
    }
    if (done >= 0 && renameat(folder, fresh, folder, name) < 0)
        done = -1;
    if (done < 0)
        unlinkat(folder, fresh, 0);
    close(fd);
    flock(folder, LOCK_UN);
    return done;
}

void run_snapshot(const struct place *place, int argc, char **argv)
{
    int folder = open_folder(), fd, made = 0;

    while (folder >= 0) {
        fd = open_snapshot(place, folder);
        if (fd >= 0 && (head.end == 0 || sources_are_fresh())) {
            close(folder); /* descriptors from 3 on are the caller's to give (--preserve-fds) */
            if (head.end)
                start_from(place, fd, argc, argv);
            close(fd); /* it cannot be done here */
            return;
        }
        if (fd >= 0)
            close(fd);
        if (made || make_snapshot(place, folder) != 0)
            break;
        made = 1;
    }
    if (folder >= 0)
        close(folder);
}
