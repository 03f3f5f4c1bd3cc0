/* The installed `pyruntime` program. It finds package and interpreter from its own place and starts the command line.

   pip rewrites the first line of a Python script and drops its options, and under -S a virtual environment's packages
   are not on the path; hence a compiled program (DESIGN, runtime 2). No environment variable is read.

   Two ways to start, the second always there:
   1. embedded (launcher_embed.c, when libpython was at hand at build time and the package is of the same version), with
      or without an image of the modules;
   2. execve of python3 -I -S with a one-line program that adds the folders found and calls pyruntime.cli.main.

   Places looked at, EXE being this program's file and P the folder above EXE's:
     P/setup.cfg and P/pyruntime            a source tree; packages in P/.venv
     P/lib*, pythonX.Y/{site,dist}-packages a virtual environment, a --prefix, /usr/local
     P/lib/python3/dist-packages            Debian's layout
   As root, the package folder and all above it must belong to root or to the owner of EXE and be writable by nobody
   else: who may write there could run anything as root. */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef BUILD_PYTHON
#define BUILD_PYTHON "/usr/bin/python3"
#endif
#ifndef BUILD_VERSION
#define BUILD_VERSION ""
#endif

/* What `python3 -I -S -c` runs: argv is [-c, count, folder..., program, word...]. */
static const char program_text[] = "import sys\n"
                                   "n = int(sys.argv[1]) + 2\n"
                                   "sys.path += sys.argv[2:n]\n"
                                   "del sys.argv[:n]\n" START_TEXT;

static _Noreturn void fail(const char *what, const char *path, const char *hint)
{
    fprintf(stderr, "pyruntime: %s: %s\n", path, what);
    if (hint)
        fprintf(stderr, "  hint: %s\n", hint);
    exit(1);
}

/* Formats into a buffer of PATH_MAX bytes. Returns 0, or -1 when it does not fit. */
__attribute__((format(printf, 2, 3))) static int put(char *buffer, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(buffer, PATH_MAX, format, args);
    va_end(args);
    return length < 0 || length >= PATH_MAX ? -1 : 0;
}

static int is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void parent_of(char *path)
{
    char *slash = strrchr(path, '/');

    if (slash == path)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
}

/* This program's file and the folder above its own; /proc first, then what the kernel was asked to execute. */
static void find_self(struct place *place)
{
    ssize_t length = readlink("/proc/self/exe", place->exe, sizeof(place->exe) - 1);

    if (length > 0)
        place->exe[length] = '\0';
    else if (!realpath((const char *)getauxval(AT_EXECFN), place->exe))
        fail("cannot find this program's own file", "/proc/self/exe", "mount /proc");
    memcpy(place->prefix, place->exe, sizeof(place->prefix));
    parent_of(place->prefix);
    parent_of(place->prefix);
}

static int add_dir(struct place *place, const char *path)
{
    if (place->dir_count == MAX_DIRS || !is_dir(path))
        return 0;
    memcpy(place->dirs[place->dir_count++], path, strlen(path) + 1);
    return 1;
}

/* Takes LIB/NAME/{site,dist}-packages as the site if pyruntime/ is there. NAME is "python3.11" or "python3". */
static int try_site(struct place *place, const char *lib, const char *name)
{
    static const char *const kinds[] = {"site-packages", "dist-packages"};
    char path[PATH_MAX];

    for (size_t i = 0; i < 2; i++) {
        if (put(path, "%s/%s/%s/pyruntime", lib, name, kinds[i]) < 0 || !is_dir(path))
            continue;
        parent_of(path);
        memcpy(place->site, path, sizeof(path));
        snprintf(place->version, sizeof(place->version), "%s", strncmp(name, "python3.", 8) == 0 ? name + 6 : "");
        return 1;
    }
    return 0;
}

/* Looks through the python3* folders of LIB, the build's own version first. */
static int search_lib(struct place *place, const char *lib)
{
    struct dirent *entry;
    int found = BUILD_VERSION[0] && try_site(place, lib, "python" BUILD_VERSION);
    DIR *dir = found ? NULL : opendir(lib);

    while (dir && !found && (entry = readdir(dir)))
        if (strncmp(entry->d_name, "python3", 7) == 0)
            found = try_site(place, lib, entry->d_name);
    if (dir)
        closedir(dir);
    return found;
}

/* Packages of a source tree's .venv, whatever its Python. */
static void add_venv(struct place *place)
{
    char lib[PATH_MAX], path[PATH_MAX];
    struct dirent *entry;
    DIR *dir;

    if (put(path, "%s/.venv/lib/python" BUILD_VERSION "/site-packages", place->prefix) == 0 && add_dir(place, path)) {
        snprintf(place->version, sizeof(place->version), "%s", BUILD_VERSION);
        return;
    }
    if (put(lib, "%s/.venv/lib", place->prefix) < 0 || !(dir = opendir(lib)))
        return;
    while ((entry = readdir(dir))) {
        if (strncmp(entry->d_name, "python3.", 8) != 0 || put(path, "%s/%s/site-packages", lib, entry->d_name) < 0 ||
            !add_dir(place, path))
            continue;
        snprintf(place->version, sizeof(place->version), "%s", entry->d_name + 6);
        break;
    }
    closedir(dir);
}

/* A package's dependencies may be the system's own: those folders follow, except in a virtual environment. */
static void add_system(struct place *place)
{
    char path[PATH_MAX];
    const char *version = place->version[0] ? place->version : BUILD_VERSION;

    if (put(path, "%s/pyvenv.cfg", place->prefix) == 0 && access(path, F_OK) == 0)
        return;
    if (put(path, "/usr/local/lib/python%s/dist-packages", version) == 0 && strcmp(path, place->site) != 0)
        add_dir(place, path);
    if (strcmp("/usr/lib/python3/dist-packages", place->site) != 0)
        add_dir(place, "/usr/lib/python3/dist-packages");
    if (put(path, "/usr/lib/python%s/site-packages", version) == 0 && strcmp(path, place->site) != 0)
        add_dir(place, path);
}

static void find_site(struct place *place)
{
    char path[PATH_MAX], marker[PATH_MAX];

    if (put(path, "%s/pyruntime", place->prefix) == 0 && put(marker, "%s/setup.cfg", place->prefix) == 0 &&
        is_dir(path) && access(marker, F_OK) == 0) {
        memcpy(place->site, place->prefix, sizeof(place->site));
        place->in_checkout = 1;
        add_dir(place, place->site);
        add_venv(place);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (put(path, "%s/%s", place->prefix, i ? "lib64" : "lib") == 0 && search_lib(place, path)) {
            add_dir(place, place->site);
            add_system(place);
            return;
        }
    fail("no package pyruntime belongs to this program", place->exe, "install it again with pip");
}

/* As root: nobody but root and the owner of this program may write to PATH or to a folder above it. */
static void check_owner(const struct place *place, const char *start)
{
    char path[PATH_MAX];
    struct stat st, self;
    int below_sticky;

    if (stat(place->exe, &self) < 0)
        fail(strerror(errno), place->exe, NULL);
    memcpy(path, start, strlen(start) + 1);
    for (;;) {
        if (stat(path, &st) < 0)
            fail(strerror(errno), path, NULL);
        below_sticky = (st.st_mode & S_ISVTX) && st.st_uid == 0;
        if (st.st_uid != 0 && st.st_uid != self.st_uid)
            fail("refused as root: it belongs to another user", path, "install pyruntime as root");
        if (!below_sticky && ((st.st_mode & S_IWOTH) || ((st.st_mode & S_IWGRP) && st.st_gid != 0)))
            fail("refused as root: others may write there", path, "chmod go-w it");
        if (strcmp(path, "/") == 0)
            return;
        parent_of(path);
    }
}

/* An executable python for the site, by version where it is known. */
static int find_python(const struct place *place, char *path)
{
    static const char *const bins[] = {"/usr/bin", "/usr/local/bin"};
    const char *version = place->version;

    if (put(path, "%s%s/bin/python%s", place->prefix, place->in_checkout ? "/.venv" : "", version[0] ? version : "3") ==
            0 &&
        access(path, X_OK) == 0)
        return 0;
    if ((!version[0] || strcmp(version, BUILD_VERSION) == 0) && put(path, "%s", BUILD_PYTHON) == 0 &&
        access(path, X_OK) == 0)
        return 0;
    for (size_t i = 0; i < 2; i++)
        if (put(path, "%s/python%s", bins[i], version[0] ? version : "3") == 0 && access(path, X_OK) == 0)
            return 0;
    return -1;
}

/* The plain way: python3 -I -S. Does not return. */
_Noreturn void run_python(const struct place *place, int argc, char **argv)
{
    char python[PATH_MAX], count[16];
    char **words = calloc((size_t)argc + MAX_DIRS + 16, sizeof(*words));
    int n = 0;

    if (!words)
        fail(strerror(errno), place->exe, NULL);
    if (find_python(place, python) < 0)
        fail("found no interpreter for this package", place->site,
             "install python3, or install pyruntime again with pip");
    snprintf(count, sizeof(count), "%d", place->dir_count);
    words[n++] = python;
    words[n++] = (char *)"-I";
    words[n++] = (char *)"-S";
    words[n++] = (char *)"-c";
    words[n++] = (char *)program_text;
    words[n++] = count;
    for (int i = 0; i < place->dir_count; i++)
        words[n++] = (char *)place->dirs[i];
    words[n++] = argc > 0 ? argv[0] : (char *)"pyruntime";
    for (int i = 1; i < argc; i++)
        words[n++] = argv[i];
    execv(python, words);
    fail(strerror(errno), python, NULL);
}

/* A caller may have closed its stdio: nothing of ours may get these numbers, which a container inherits. */
static void fill_stdio(void)
{
    for (int number = 0; number < 3; number++)
        if (fcntl(number, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            _exit(1);
}

int main(int argc, char **argv)
{
    static struct place place; /* some 50 KB; zero to begin with */
    char package[PATH_MAX];

    fill_stdio();
    find_self(&place);
    find_site(&place);
    if (geteuid() == 0) {
        if (put(package, "%s/pyruntime", place.site) < 0)
            fail(strerror(ENAMETOOLONG), place.site, NULL);
        check_owner(&place, package);
        for (int i = 1; i < place.dir_count; i++)
            check_owner(&place, place.dirs[i]);
    }
    run_embedded(&place, argc, argv);
    run_python(&place, argc, argv);
}
