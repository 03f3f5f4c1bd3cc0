/* Declarations of bpf.c for cffi. Returns 0 or -errno. */
int pr_cgroup_devices(const char *path, const char *program, unsigned int instructions);
