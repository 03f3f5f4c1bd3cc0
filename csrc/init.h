/* What the operations of container-init share. Functions return 0 or -errno unless they say otherwise. */
#ifndef INIT_H
#define INIT_H

#include "sys.h"
#include "plan.h"

#define DETAIL_MAX 4096
#define WAIT_STEP (-1) /* the step of a message that belongs to none */

/* A mount that is attached once and cloned from there on: detached trees can be cloned from kernel 6.15 only. */
struct stencil {
    int fd; /* -1: not made yet */
    int attached;
};

#define DEFAULT_UMASK 022

#define MAX_TAKEN 256

#define MAX_FRESH 32

struct ctx {
    struct plan plan;
    int *slots;                /* plan.slots descriptors, -1 when empty */
    char **vectors;            /* room for plan.vector + 4 pointers */
    int socket;                /* -1 after wait_start */
    int err_fd;                /* exec.err once the program was started, else -1; borrowed from its slot */
    uint32_t step;             /* the step that runs */
    int ready;                 /* the barrier `ready` is behind us: failures exit 255 */
    int filtered;              /* seccomp is loaded: only read, write, close, close_range, execve, exit_group */
    uint32_t taken[MAX_TAKEN]; /* alternatives that ran and have not been told yet */
    uint32_t taken_count;
    int root_on_top;  /* attach_root stacked the tree over "/" */
    int root_changed; /* what is at a path now belongs to the container */
    int chdir_done;
    int umask_done;            /* until the step `umask` it is 0, and modes are exact */
    int hook_output[2];        /* stdout and stderr of hooks, -1 while they are captured; borrowed from their slots */
    uint64_t fresh[MAX_FRESH]; /* the mounts of file systems that were made here, by number */
    uint32_t fresh_count;
    uint64_t made[2]; /* mount and inode of the directory that make_path last created at the end of its path */
    int covered;      /* what the mount step just before hid, for copy_up; else -1 */
    struct stencil null_file, empty_dir;
    int32_t value; /* of the ERROR message */
    uint32_t detail_size;
    char detail[DETAIL_MAX];
    char program[PATH_MAX]; /* what find_program found; empty before */
    char home[PATH_MAX];    /* HOME=..., empty when not asked for */
};

typedef int op_fn(struct ctx *c, const struct step *s);

/* init.c */
void set_detail(struct ctx *c, const char *text);
void set_detail_bytes(struct ctx *c, const char *bytes, size_t size);
_Noreturn void leave(const struct ctx *c, int code);

/* wire.c */
int wire_start(struct ctx *c);
int wire_send(int fd, uint32_t type, int32_t step, int32_t err, int32_t value, const char *payload, size_t size);
int wire_wait(struct ctx *c, int32_t barrier);
void wire_taken(struct ctx *c);

/* fd.c: descriptors */
void close_fd(int *fd);
void settle_umask(struct ctx *c);
int keep_high(const struct ctx *c, int fd);
void fd_name(char out[32], int fd);
int set_slot(struct ctx *c, int64_t slot, int fd);
int slot_fd(const struct ctx *c, int64_t slot);
int check_magic(int fd, unsigned long magic);
int place_of(int fd, uint64_t place[2]);
int same_place(int one, int other);
int read_all(int fd, void *buffer, size_t size);

/* path.c: names below the root (S1) */
int open_below(int dir, const char *path, uint64_t flags, uint64_t resolve);
int open_target(struct ctx *c, const char *path, int64_t op_flags, uint64_t flags);
int open_mount_point(struct ctx *c, const char *path, int64_t op_flags);
int open_parent(struct ctx *c, const char *path, char name[NAME_MAX + 1]);
int make_path(struct ctx *c, const char *path, int64_t mode, int64_t op_flags);

/* proc.c: procfs that nobody covered (S21) */
int proc_fd(struct ctx *c);
int proc_write(struct ctx *c, const char *path, const void *data, size_t size);

/* tree.c: mounts by descriptor */
int tree_clone(int fd, int recursive);
int tree_attach(int tree, int target);
int tree_make(struct ctx *c, const char *fstype, const char *source, const char *const *data, uint64_t attrs);
void prepare_masks(struct ctx *c);
int make_empty_dir(struct ctx *c);

/* ops_ns.c */
int set_up(int fd, const char *name);

/* vectors of execve */
char **make_argv(struct ctx *c, char **at, int64_t strv);
char **make_env(struct ctx *c, char **at, int64_t strv);

op_fn op_barrier, op_setns, op_set_dumpable, op_unshare, op_set_ids, op_write_proc, op_clone, op_open_proc, op_keyring,
    op_link_up, op_propagation, op_attach_root, op_use_root, op_make_path, op_mount, op_move_mount, op_mount_setattr,
    op_remount, op_mknod, op_symlink, op_mask, op_readonly, op_hook, op_hook_output, op_pivot_root, op_move_root,
    op_chroot, op_umount, op_sethostname, op_setdomainname, op_console, op_setsid, op_reopen_null, op_chown_stdio,
    op_umask, op_personality, op_no_new_privs, op_bounding, op_keepcaps, op_setgroups, op_setgid, op_setuid, op_capset,
    op_ambient, op_seccomp, op_chdir, op_find_program, op_home, op_wait_start, op_close_slot, op_place_fd,
    op_close_from, op_execve, op_affinity, op_copy_up, op_clone_tree, op_oom_score_adj, op_classic_mount, op_cover,
    op_scheduler, op_io_priority, op_rlimit, op_memory_policy, op_net_device;

#endif
