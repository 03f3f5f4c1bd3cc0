/* Declarations of seccomp.c for cffi. Functions that return int give a value >= 0, or -errno. */
typedef struct pr_filter pr_filter;
struct pr_condition {
    uint32_t index;
    uint32_t op;
    uint64_t value;
    uint64_t value_two;
};
pr_filter *pr_filter_open(char *message, size_t size);
void pr_filter_close(pr_filter *filter);
void pr_filter_version(const pr_filter *filter, unsigned int *version);
int pr_filter_library(const pr_filter *filter, char *path, size_t size);
int pr_filter_begin(pr_filter *filter, uint32_t default_action, int tree);
int pr_filter_arch(pr_filter *filter, const char *name, uint32_t *token);
int pr_filter_rule(pr_filter *filter, const char *name, uint32_t action, const struct pr_condition *conditions,
                   unsigned int count);
int64_t pr_filter_number(const pr_filter *filter, uint32_t token, const char *name);
int pr_filter_export(pr_filter *filter, char *buffer, size_t size);
int pr_seccomp_flag_supported(unsigned int flag);
