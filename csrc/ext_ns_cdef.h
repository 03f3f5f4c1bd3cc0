/* Declarations of ext_ns.c for cffi. Every function returns a value >= 0, or -errno. */
int pr_user_ns(const char *uid_map, size_t uid_size, const char *gid_map, size_t gid_size);
