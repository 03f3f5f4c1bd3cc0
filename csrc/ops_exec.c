/* The way to the container's program: where it runs, what it is, when it starts. */
#include "init.h"

#define PASSWD_MAX (4u << 20)
#define EXECUTE 1 /* X_OK */

/* S14: a directory outside the root has a name that is gone or starts with "(unreachable)". */
static int check_cwd(struct ctx *c)
{
    static const char outside[] = "outside of the root";
    char path[PATH_MAX];
    long size = syscall(SYS_getcwd, path, sizeof path);

    if (size > 0 && path[0] == '/')
        return 0;
    set_detail(c, outside);
    return size < 0 && errno != ENOENT ? -errno : -ENOENT;
}

int op_chdir(struct ctx *c, const struct step *s)
{
    const char *path = plan_str(&c->plan, s->arg[0]);
    int ret;

    if ((s->arg[1] & F_NEW_ONLY) != 0 && c->chdir_done)
        return 0;
    set_detail(c, path);
    ret = res(chdir(path));
    if (ret == 0)
        ret = check_cwd(c);
    c->chdir_done = ret == 0;
    return ret;
}

/* The value of NAME in a list of NAME=value, the last one counting; NULL when there is none. */
static const char *env_value(const struct plan *p, int64_t strv, const char *name)
{
    uint32_t i, count = plan_strv_count(p, strv);
    size_t size = strlen(name);

    for (i = count; i > 0; i--) {
        const char *text = plan_strv_at(p, strv, i - 1);

        if (strncmp(text, name, size) == 0 && text[size] == '=')
            return text + size + 1;
    }
    return NULL;
}

/* 0 when `path` can be executed by us as we are now. A seccomp filter that is loaded already may be older than
   faccessat2 (Linux 5.8) and refuse it: access(2) asks the same for the real ids, which are the effective ones here. */
static int check_program(const char *path)
{
    struct stat st;
    int ret;

    if (fstatat(AT_FDCWD, path, &st, 0) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode))
        return -EACCES;
    ret = res(syscall(NR_FACCESSAT2, AT_FDCWD, path, EXECUTE, AT_EACCESS));
    if (ret == -EPERM || ret == -ENOSYS)
        ret = res(syscall(SYS_faccessat, AT_FDCWD, path, EXECUTE));
    return ret;
}

/* PATH entry of `size` bytes + name into c->program; an empty entry is the working directory. */
static int join_program(struct ctx *c, const char *entry, size_t size, const char *name)
{
    if (size == 0) {
        entry = ".";
        size = 1;
    }
    if (size + strlen(name) + 2 > sizeof c->program)
        return -ENAMETOOLONG;
    memcpy(c->program, entry, size);
    c->program[size] = '/';
    strcpy(c->program + size + 1, name);
    return 0;
}

/* Along PATH as execvp(3) does: what may not be executed is remembered, the search goes on. */
static int search_program(struct ctx *c, const char *path, const char *name)
{
    int ret = -ENOENT;

    while (path != NULL) {
        size_t size = strcspn(path, ":");
        int one = join_program(c, path, size, name);

        if (one == 0)
            one = check_program(c->program);
        if (one == 0)
            return 0;
        if (one == -EACCES)
            ret = one;
        path = path[size] == ':' ? path + size + 1 : NULL;
    }
    return ret;
}

/* OP_FIND_PROGRAM: ENOENT, EACCES (no execute permission), EISDIR; what was found is what execve runs. */
int op_find_program(struct ctx *c, const struct step *s)
{
    const char *name = plan_str(&c->plan, s->arg[0]);
    int ret;

    set_detail(c, name);
    if (*name == 0)
        return -ENOENT;
    if (strchr(name, '/') == NULL) {
        ret = search_program(c, env_value(&c->plan, s->arg[1], "PATH"), name);
    } else if (strlen(name) >= sizeof c->program) {
        ret = -ENAMETOOLONG;
    } else {
        strcpy(c->program, name);
        ret = check_program(name);
    }
    if (ret < 0)
        c->program[0] = 0;
    return ret;
}

/* The home directory in one line of passwd(5) if the line is about `uid`; 1 when it was. */
static int passwd_line(const char *line, int64_t uid, char *home, size_t room)
{
    int64_t value = 0;
    const char *end;
    int field;

    for (field = 0; field < 2; field++) {
        line = strchr(line, ':');
        if (line == NULL)
            return 0;
        line++;
    }
    for (end = line; *end >= '0' && *end <= '9' && value <= UINT32_MAX; end++)
        value = value * 10 + (*end - '0');
    if (end == line || *end != ':' || value != uid)
        return 0;
    line = end;
    for (field = 0; field < 3; field++) {
        line = strchr(line, ':');
        if (line == NULL)
            return 0;
        line++;
    }
    end = strchr(line, ':');
    if (end == NULL || *line != '/' || (size_t)(end - line) >= room)
        return 0;
    memcpy(home, line, (size_t)(end - line));
    home[end - line] = 0;
    return 1;
}

/* Line by line through the file; lines that do not fit are skipped, what lies behind PASSWD_MAX is not read (S27). */
static void search_passwd(int fd, int64_t uid, char *home, size_t room)
{
    static char text[4096];
    size_t used = 0, total = 0;
    int skipping = 0;
    ssize_t got;

    while (total < PASSWD_MAX && (got = read(fd, text + used, sizeof text - 1 - used)) > 0) {
        char *line = text, *end;

        total += (size_t)got;
        used += (size_t)got;
        text[used] = 0;
        while ((end = memchr(line, '\n', used - (size_t)(line - text))) != NULL) {
            *end = 0;
            if (!skipping && passwd_line(line, uid, home, room))
                return;
            skipping = 0;
            line = end + 1;
        }
        used -= (size_t)(line - text);
        memmove(text, line, used);
        if (used == sizeof text - 1) {
            skipping = 1;
            used = 0;
        }
    }
    text[used] = 0;
    if (!skipping)
        passwd_line(text, uid, home, room);
}

/* OP_HOME: HOME for an environment that has none or an empty one, from the container's own file, else "/". Only a
   regular file is read; the lookup cannot block on a FIFO. */
int op_home(struct ctx *c, const struct step *s)
{
    const char *present = env_value(&c->plan, s->arg[1], "HOME");
    struct stat st;
    int fd;

    if (present != NULL && *present != 0)
        return 0;
    if (slot_fd(c, SLOT_ROOT) < 0)
        return -EBADF;
    strcpy(c->home, "HOME=/");
    fd = open_below(slot_fd(c, SLOT_ROOT), "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, RES_IN_ROOT);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        search_passwd(fd, s->arg[0], c->home + 5, sizeof c->home - 5);
    close_fd(&fd);
    return 0;
}

/* OP_WAIT_START: from here on the socket is closed, which tells `create` that all went well, and a failure goes to
   exec.err. The FIFO was opened for reading and writing, so one byte arrives and never its end. */
int op_wait_start(struct ctx *c, const struct step *s)
{
    int fifo = slot_fd(c, s->arg[0]), err = slot_fd(c, s->arg[1]);
    char byte;
    ssize_t got;

    if (fifo < 0 || err < 0)
        return -EBADF;
    wire_taken(c);
    close_fd(&c->socket);
    c->err_fd = err;
    got = read(fifo, &byte, 1);
    if (got != 1)
        return got < 0 ? -errno : -EPIPE;
    close_fd(&c->slots[s->arg[0]]); /* "started": the FIFO has no reader any more */
    return 0;
}

/* The strings of `strv` as a vector in the room at `*at`, which moves behind it. */
char **make_argv(struct ctx *c, char **at, int64_t strv)
{
    uint32_t i, count = plan_strv_count(&c->plan, strv);

    for (i = 0; i < count; i++)
        at[i] = (char *)(uintptr_t)plan_strv_at(&c->plan, strv, i);
    at[count] = NULL;
    return at + count + 1;
}

/* The same for an environment; HOME as the step `home` found it stands in for an absent or empty one. */
char **make_env(struct ctx *c, char **at, int64_t strv)
{
    const char *present = env_value(&c->plan, strv, "HOME");
    char **end = make_argv(c, at, strv);
    char **from, **to;

    if (c->home[0] == 0 || (present != NULL && *present != 0))
        return end;
    for (from = to = at; *from != NULL; from++)
        if (strncmp(*from, "HOME=", 5) != 0)
            *to++ = *from;
    *to++ = c->home;
    *to++ = NULL;
    return to;
}

static const char *error_text(int err)
{
    switch (err) {
    case ENOEXEC:
        return "exec format error";
    case ENOENT:
        return "no such file or directory";
    case EACCES:
        return "permission denied";
    case EPERM:
        return "operation not permitted";
    case E2BIG:
        return "argument list too long";
    case ENOMEM:
        return "cannot allocate memory";
    case ELOOP:
        return "too many levels of symbolic links";
    case ETXTBSY:
        return "text file busy";
    case EINVAL:
        return "invalid argument";
    case ENOTDIR:
        return "not a directory";
    }
    return "input/output error";
}

/* A late failure of a started container is told on its own stderr too: nobody but its log may be there to see it. */
static void tell_stderr(const char *path, int err)
{
    static char line[PATH_MAX + 64];
    const char *parts[] = {"exec ", path, ": ", error_text(err), "\n"};
    size_t i, used = 0;
    ssize_t ignored;

    for (i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        size_t size = strlen(parts[i]);

        if (size > sizeof line - used)
            size = sizeof line - used;
        memcpy(line + used, parts[i], size);
        used += size;
    }
    ignored = write(2, line, used);
    (void)ignored;
}

/* A byte on exec.err says that execve comes next: without it, the end of the stream means that we were killed before.
 */
static void tell_going(const struct ctx *c)
{
    ssize_t ignored = c->err_fd >= 0 ? write(c->err_fd, "x", 1) : 0;
    (void)ignored;
}

/* OP_EXECVE: the end of this program. Returns only when it failed. */
int op_execve(struct ctx *c, const struct step *s)
{
    char **argv = c->vectors, **env = make_argv(c, argv, s->arg[0]);
    const char *path = c->program[0] != 0 ? c->program : plan_strv_at(&c->plan, s->arg[0], 0);
    int ret;

    make_env(c, env, s->arg[1]);
    if (!c->filtered)
        settle_umask(c);
    wire_taken(c);
    tell_going(c);
    ret = res(execve(path, argv, env));
    set_detail(c, path);
    if (c->err_fd >= 0)
        tell_stderr(path, -ret);
    return ret;
}
