/* libFuzzer: the container's /etc/passwd, whatever its bytes, gives HOME an absolute path that fits, or nothing. The
   first byte says which uid is looked for. */
#include "ops_exec.c" /* search_passwd is its own */

#include <stdlib.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *home = malloc(64); /* exactly sized: writing past it is caught */
    int fd = memfd_create("passwd", 0);

    if (home == NULL || fd < 0 || size == 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1))
        goto out;
    lseek(fd, 0, SEEK_SET);
    home[0] = 0;
    search_passwd(fd, data[0], home, 64);
    if (home[0] != 0 && (home[0] != '/' || strlen(home) >= 64 || strchr(home, ':') != NULL))
        abort();
out:
    if (fd >= 0)
        close(fd);
    free(home);
    return 0;
}
