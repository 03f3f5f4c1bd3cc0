/* libm's functions for the interpreter inside the launcher, found when one is first called: no fast verb calls any, and
   loading the library at every start costs 0.1 ms and half a megabyte. (libc itself has frexp, ldexp, modf, copysign.)
 */
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

static void *find(const char *name)
{
    static void *library;
    void *function;

    if (!library)
        library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "pyruntime: %s: %s\n", name, dlerror());
        _exit(1); /* no clean-up: Python may hold anything, and the caller wants a number back */
    }
    return function;
}

#define OF_ONE(name)                                                                                                   \
    double name(double x);                                                                                             \
    double name(double x)                                                                                              \
    {                                                                                                                  \
        static double (*call)(double);                                                                                 \
        if (!call)                                                                                                     \
            *(void **)&call = find(#name);                                                                             \
        return call(x);                                                                                                \
    }

#define OF_TWO(name)                                                                                                   \
    double name(double x, double y);                                                                                   \
    double name(double x, double y)                                                                                    \
    {                                                                                                                  \
        static double (*call)(double, double);                                                                         \
        if (!call)                                                                                                     \
            *(void **)&call = find(#name);                                                                             \
        return call(x, y);                                                                                             \
    }

/* clang-format off: a list, not code */
OF_ONE(acos)
OF_ONE(acosh) OF_ONE(asin) OF_ONE(asinh) OF_ONE(atan) OF_ONE(atanh) OF_ONE(cbrt) OF_ONE(cos) OF_ONE(cosh) OF_ONE(erf)
    OF_ONE(erfc) OF_ONE(exp) OF_ONE(exp2) OF_ONE(expm1) OF_ONE(log) OF_ONE(log10) OF_ONE(log1p) OF_ONE(log2) OF_ONE(sin)
        OF_ONE(sinh) OF_ONE(sqrt) OF_ONE(tan) OF_ONE(tanh) OF_TWO(atan2) OF_TWO(fmod) OF_TWO(hypot) OF_TWO(nextafter)
            OF_TWO(pow)
/* clang-format on */

/* These three are used for every time-out that is a float; beyond 2^52 a double has no fraction. */
#define WHOLE_FROM 4503599627370496.0

                static int is_whole(double x)
{
    return !(x > -WHOLE_FROM && x < WHOLE_FROM); /* also what is no number */
}

double copysign(double x, double sign);
double floor(double x);
double floor(double x)
{
    double whole = is_whole(x) ? x : (double)(long long)x;

    return is_whole(x) ? x : copysign(whole > x ? whole - 1 : whole, x);
}

double ceil(double x);
double ceil(double x)
{
    double whole = is_whole(x) ? x : (double)(long long)x;

    return is_whole(x) ? x : copysign(whole < x ? whole + 1 : whole, x);
}

double round(double x);
double round(double x)
{
    double whole = is_whole(x) ? x : (double)(long long)x, rest = x - whole;

    if (is_whole(x))
        return x;
    return copysign(rest >= 0.5 ? whole + 1 : rest <= -0.5 ? whole - 1 : whole, x);
}

void sincos(double x, double *sine, double *cosine);
void sincos(double x, double *sine, double *cosine)
{
    static void (*call)(double, double *, double *);

    if (!call)
        *(void **)&call = find("sincos");
    call(x, sine, cosine);
}
