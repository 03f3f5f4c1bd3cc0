/* The layer unpacker, for cffi; see pyruntime/image/unpack_helper.py. */
#ifndef UNPACK_CDEF_H
#define UNPACK_CDEF_H

struct unpack;

struct unpack *unpack_new(int root_fd, int mode, int flags, uint64_t max_entries, int64_t max_size);
int unpack_feed(struct unpack *u, const void *data, size_t size);
int unpack_finish(struct unpack *u);
size_t unpack_report(struct unpack *u, const char **text);
void unpack_free(struct unpack *u);
int unpack_user_namespace(int status);
int unpack_confine(int target_fd);

#endif
