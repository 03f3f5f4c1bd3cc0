/* What launcher_embed.c lends to launcher_snapshot.c. */
#ifndef PYRUNTIME_LAUNCHER_EMBED_H
#define PYRUNTIME_LAUNCHER_EMBED_H

#include <Python.h>

#include "launcher.h"

#define IMAGE "pyruntime/native/modules.image"

/* The core of the interpreter, isolated. Returns 0 or -1. */
int initialise(const struct place *place);

/* Maps the image of our modules. Returns 0 when there is none for this interpreter. */
int map_image(const struct place *place);

/* A list of str from words, or from at(0) to at(count - 1) when WORDS is NULL. */
PyObject *list_of(int count, char *const *words, const char *(*at)(int));

/* Runs cli/embed.py. When MAKING is not 0 it loads everything, starts nothing, and its globals are returned; else it
   runs the command and does not come back. NULL: it raised. */
PyObject *run_boot_code(int argc, char **argv, int making);

#ifdef SNAPSHOT
/* Starts from a snapshot of the interpreter, made first if need be. Returns when that is not possible. */
void run_snapshot(const struct place *place, int argc, char **argv);
#endif

#endif
