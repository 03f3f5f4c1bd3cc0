/* Only in the build with sanitizers: no leak check (the process ends or is replaced), and an exit status of its own. */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "detect_leaks=0:exitcode=99:handle_segv=0:allocator_may_return_null=1";
}
