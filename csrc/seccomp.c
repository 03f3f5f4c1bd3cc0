/* Rules to BPF through libseccomp, which is opened only when a filter has to be made (dlopen), so that a start
   whose filter is cached maps no further library. Each pr_filter holds its own handle: no global state.
   Prototypes and constants are the library's stable interface (seccomp_init(3), seccomp_rule_add(3)); its headers
   are not needed to build. The filter is exported and never loaded here: container-init calls seccomp(2) itself,
   so the library's attributes for no_new_privs, TSYNC and logging play no part. */
#define _GNU_SOURCE
#include "seccomp.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#define LIBRARY "libseccomp.so.2"
#define NR_ERROR (-1)             /* __NR_SCMP_ERROR: no such name on any architecture */
#define ATTR_OPTIMIZE 8           /* SCMP_FLTATR_CTL_OPTIMIZE, libseccomp 2.5 */
#define OPTIMIZE_TREE 2           /* binary tree by system call number */
#define SET_MODE_FILTER 1         /* SECCOMP_SET_MODE_FILTER */

struct version {
    unsigned int major, minor, micro;
};

/* As struct scmp_arg_cmp; pr_condition has the same layout, with the enum as its uint32_t. */
_Static_assert(sizeof(struct pr_condition) == 24, "struct scmp_arg_cmp is 24 bytes");

struct pr_filter {
    void *library;
    void *context;
    void *(*init)(uint32_t);
    void (*release)(void *);
    int (*arch_add)(void *, uint32_t);
    uint32_t (*arch_resolve)(const char *);
    int (*attr_set)(void *, int, uint32_t);
    int (*rule_add)(void *, uint32_t, int, unsigned int, const struct pr_condition *);
    int (*resolve)(const char *);
    int (*resolve_arch)(uint32_t, const char *);
    int (*export_bpf)(const void *, int);
    int (*export_bpf_mem)(const void *, void *, size_t *); /* libseccomp 2.6; NULL before */
    const struct version *(*version)(void);
    unsigned int (*api_get)(void);
};

/* All names that every libseccomp 2.x has. Returns 0, or -ENOSYS when one is missing. */
static int load_symbols(struct pr_filter *f)
{
    const struct {
        const char *name;
        void *to;
    } table[] = {
        {"seccomp_init", &f->init},
        {"seccomp_release", &f->release},
        {"seccomp_arch_add", &f->arch_add},
        {"seccomp_arch_resolve_name", &f->arch_resolve},
        {"seccomp_attr_set", &f->attr_set},
        {"seccomp_rule_add_array", &f->rule_add},
        {"seccomp_syscall_resolve_name", &f->resolve},
        {"seccomp_syscall_resolve_name_arch", &f->resolve_arch},
        {"seccomp_export_bpf", &f->export_bpf},
        {"seccomp_version", &f->version},
        {"seccomp_api_get", &f->api_get},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        void *symbol = dlsym(f->library, table[i].name);

        if (!symbol)
            return -ENOSYS;
        memcpy(table[i].to, &symbol, sizeof(symbol));
    }
    void *symbol = dlsym(f->library, "seccomp_export_bpf_mem");

    memcpy(&f->export_bpf_mem, &symbol, sizeof(symbol));
    return 0;
}

/* A handle on the library with no filter yet, or NULL with the loader's words in `message`. */
pr_filter *pr_filter_open(char *message, size_t size)
{
    struct pr_filter *f = calloc(1, sizeof(*f));

    snprintf(message, size, "%s", f ? "" : "out of memory");
    if (!f)
        return NULL;
    f->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!f->library || load_symbols(f) < 0) {
        const char *words = dlerror();

        snprintf(message, size, "%s", words ? words : "a symbol is missing");
        pr_filter_close(f);
        return NULL;
    }
    return f;
}

/* Releases everything; NULL is allowed. */
void pr_filter_close(pr_filter *f)
{
    if (!f)
        return;
    if (f->context)
        f->release(f->context);
    if (f->library)
        dlclose(f->library);
    free(f);
}

/* version[0..2]: the library's major, minor, micro; version[3]: its API level on this kernel. */
void pr_filter_version(const pr_filter *f, unsigned int *version)
{
    const struct version *v = f->version();

    version[0] = v->major;
    version[1] = v->minor;
    version[2] = v->micro;
    version[3] = f->api_get();
}

/* Length of the file name that the loader found, written with its NUL to `path`. */
int pr_filter_library(const pr_filter *f, char *path, size_t size)
{
    Dl_info info;
    void *symbol;

    memcpy(&symbol, &f->init, sizeof(symbol));
    if (!dladdr(symbol, &info) || !info.dli_fname)
        return -ENOENT;
    size_t length = strlen(info.dli_fname);

    if (length >= size)
        return -ENAMETOOLONG;
    memcpy(path, info.dli_fname, length + 1);
    return (int)length;
}

/* Starts the filter, for the native architecture. -EINVAL: this library or kernel lacks the default action.
   A library before 2.5 has no tree; the list it makes instead gives the same verdicts. */
int pr_filter_begin(pr_filter *f, uint32_t default_action, int tree)
{
    if (f->context)
        return -EBUSY;
    f->context = f->init(default_action);
    if (!f->context)
        return -EINVAL;
    if (tree)
        (void)f->attr_set(f->context, ATTR_OPTIMIZE, OPTIMIZE_TREE);
    return 0;
}

/* Adds an architecture by libseccomp's name ("x86_64"); adding one twice is success. *token is its number.
   -ENOENT: this library does not know it. */
int pr_filter_arch(pr_filter *f, const char *name, uint32_t *token)
{
    int ret;

    *token = f->arch_resolve(name);
    if (*token == 0)
        return -ENOENT;
    ret = f->arch_add(f->context, *token);
    return ret == -EEXIST ? 0 : ret;
}

/* One rule. Returns 0, or 1 when the library knows no system call of that name. */
int pr_filter_rule(pr_filter *f, const char *name, uint32_t action, const struct pr_condition *conditions,
                   unsigned int count)
{
    int number = f->resolve(name);

    if (number == NR_ERROR)
        return 1;
    return f->rule_add(f->context, action, number, count, conditions);
}

/* Number of the system call on that architecture, negative when it has none there. */
int64_t pr_filter_number(const pr_filter *f, uint32_t token, const char *name)
{
    return f->resolve_arch(token, name);
}

/* seccomp_export_bpf(3) through a memfd, for libraries before 2.6. */
static int export_by_file(const struct pr_filter *f, char *buffer, size_t size)
{
    int ret, fd = memfd_create("seccomp", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    ret = f->export_bpf(f->context, fd);
    if (ret >= 0) {
        off_t length = lseek(fd, 0, SEEK_END);

        if (length < 0 || (size_t)length > size)
            ret = length < 0 ? -errno : -E2BIG;
        else
            ret = pread(fd, buffer, (size_t)length, 0) == length ? (int)length : -EIO;
    }
    close(fd);
    return ret;
}

/* Length in bytes of the program written to `buffer`; -E2BIG when it does not fit. */
int pr_filter_export(pr_filter *f, char *buffer, size_t size)
{
    size_t length = size;
    int ret;

    if (!f->export_bpf_mem)
        return export_by_file(f, buffer, size);
    ret = f->export_bpf_mem(f->context, buffer, &length);
    if (ret < 0)
        return ret == -ERANGE ? -E2BIG : ret;
    return (int)length;
}

/* 1 when the kernel knows that SECCOMP_FILTER_FLAG_*: with no program it answers EFAULT, else EINVAL (seccomp(2)). */
int pr_seccomp_flag_supported(unsigned int flag)
{
    return syscall(SYS_seccomp, SET_MODE_FILTER, flag, NULL) < 0 && errno == EFAULT;
}
