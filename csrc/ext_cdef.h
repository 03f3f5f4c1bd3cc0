/* Declarations of ext.c for cffi. Every function returns a value >= 0, or -errno. */
int pr_sealed_memfd(const char *name, const char *data, size_t size, int executable);
int pr_socketpair(int *fds);
int pr_send(int sock, const char *data, size_t size, const int *fds, int count);
int pr_recv(int sock, char *buffer, size_t size, int *fds, int max_fds, int *count, int timeout_ms, int pidfd);
int pr_connect_unix(const char *path);
int pr_open_tree(int dirfd, const char *path, unsigned int flags);
int pr_mount_setattr(int fd, const char *path, unsigned int flags, uint64_t set, uint64_t clr, uint64_t propagation,
                     int userns_fd);
int pr_mount_propagation(int fd, uint64_t flags);
int pr_prlimit(int pid, int resource, uint64_t soft, uint64_t hard);
int pr_umount(const char *path, int flags);
int pr_pidfd_getfd(int pidfd, int fd);
int pr_signalfd(unsigned int mask);
int pr_write_string(const char *path, const char *data, size_t size);
int pr_streampair(int *fds);
int pr_syncfs(int fd);
