/* Declarations of ext_spawn.c for cffi. A value >= 0, or -errno. */
int pr_spawn(int exec_fd, int sock_fd, const int *stdio, const char *argv0, const char *argv1, int *places, int count,
             int *pidfd);
