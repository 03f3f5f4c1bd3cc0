/* The installed `pyruntime` program: what launcher.c (finding) and launcher_embed.c (the interpreter inside) share. */
#ifndef PYRUNTIME_LAUNCHER_H
#define PYRUNTIME_LAUNCHER_H

#include <limits.h>
#include <stddef.h>

#define MAX_DIRS 8

/* Statics that the interpreter changes: they go with its own memory (launcher_snapshot.c). */
#ifdef SNAPSHOT
#define IN_SNAPSHOT __attribute__((section("pydata")))
#else
#define IN_SNAPSHOT
#endif

/* What a full interpreter runs, with our words in sys.argv; sys is imported. */
#define START_TEXT                                                                                                     \
    "try:\n"                                                                                                           \
    "    from pyruntime.cli.main import entry\n"                                                                       \
    "except Exception as error:\n"                                                                                     \
    "    if '--debug' in sys.argv:\n"                                                                                  \
    "        raise\n"                                                                                                  \
    "    sys.exit(f'pyruntime: cannot load pyruntime.cli.main: {type(error).__name__}: {error}\\n'\n"                  \
    "             '  hint: the installation is damaged, or memory or descriptors ran out')\n"                          \
    "entry()\n"

struct place {
    char exe[PATH_MAX];            /* this program, absolute */
    char prefix[PATH_MAX];         /* the folder above its own */
    char site[PATH_MAX];           /* the folder that holds pyruntime/ */
    char version[16];              /* "3.11", "" when the place does not tell */
    char dirs[MAX_DIRS][PATH_MAX]; /* where packages are looked up: site first, then those of its dependencies */
    int dir_count;
    int in_checkout; /* site is a source tree, its environment in .venv */
};

/* Runs the program inside this process. Returns only if that is not possible, with nothing changed. */
void run_embedded(const struct place *place, int argc, char **argv);

/* The built-in module _pyruntime_native (launcher_native.c); an interpreter's init function. */
struct _object *init_native(void);

/* The plain way: execve of python3 -I -S. */
_Noreturn void run_python(const struct place *place, int argc, char **argv);

#endif
