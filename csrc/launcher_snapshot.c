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
     three zones     all memory that libpython gets while the snapshot is being made (launcher_zones.c)
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
#include "launcher_zones.h"

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

/* The file: this head on pages of its own, then pydata, pybss and the zones, each from a page boundary. */
struct head {
    char magic[8], exe[PATH_MAX];
    uint64_t exe_dev, exe_ino, exe_size, exe_ctime_ns, image_ino, image_ctime_ns;
    uint64_t page, data_at, bss_at, end; /* end 0: this cannot be done here */
    struct zone_file zones;
    uint64_t state, resume; /* PyThreadState *, PyObject * */
    uint64_t source_count;
    char site[PATH_MAX];
    struct source sources[MAX_SOURCES];
    char names[MAX_NAMES];
};

/* Bytes from exe_dev to image_ctime_ns. */
#define IDENTITY (offsetof(struct head, page) - offsetof(struct head, exe_dev))

static struct head head; /* of the file being made or used */
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

/* Maps the snapshot of FD and runs its resume(words). Returns only when an address is taken. */
static void start_from(const struct place *place, int fd, int argc, char **argv)
{
    PyObject *words, *result;

    if (zones_map(&head.zones, fd) < 0)
        return;
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

/* Where the parts lie in the file. */
static void lay_out(void)
{
    uint64_t mask = head.page - 1;

    head.data_at = ((sizeof(head) + mask) & ~mask) + ((uintptr_t)__start_pydata & mask);
    head.bss_at = ((head.data_at + (uint64_t)(__stop_pydata - __start_pydata) + mask) & ~mask) +
                  ((uintptr_t)__start_pybss & mask);
    head.end =
        zones_lay_out(&head.zones, (head.bss_at + (uint64_t)(__stop_pybss - __start_pybss) + mask) & ~mask, mask);
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
    PyObjectArenaAllocator arenas = {NULL, zones_arena, zones_arena_free};
    PyObject *globals;
    int null = open("/dev/null", O_RDWR);

    for (int i = 0; i < 3; i++) /* what is said here is for nobody */
        if (null < 0 || dup2(null, i) < 0)
            _exit(1);
    if (zones_begin() < 0)
        _exit(1);
    PyObject_SetArenaAllocator(&arenas);
    if (!map_image(place) || initialise(place) < 0 || !(globals = run_boot_code(0, NULL, 1)))
        _exit(1);
    head.state = (uint64_t)PyThreadState_Get();
    head.resume = (uint64_t)PyDict_GetItemString(globals, "resume");
    if (!head.resume || describe_sources(PyDict_GetItemString(globals, "sources")) < 0)
        _exit(1);
    zones_end();
    lay_out();
    if (zones_write_all(fd, __start_pydata, (size_t)(__stop_pydata - __start_pydata), head.data_at) < 0 ||
        zones_write_all(fd, __start_pybss, (size_t)(__stop_pybss - __start_pybss), head.bss_at) < 0 ||
        zones_write(&head.zones, fd, head.end) < 0 || zones_write_all(fd, &head, sizeof(head), 0) < 0)
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
        if (done && (ftruncate(fd, 0) < 0 || zones_write_all(fd, &head, sizeof(head), 0) < 0))
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
