/* The interface of seccomp.c: what cffi is told, for C callers (tests with sanitizers). */
#ifndef PR_SECCOMP_H
#define PR_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

#include "seccomp_cdef.h"

#endif
