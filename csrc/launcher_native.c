/* The calls of csrc/ext.c as a built-in module of the embedded interpreter: the light twin of the cffi extension, which
   with its backend and libffi takes 0.8 ms to load. cli/embed.py puts it in the extension's place and goes to the real
   one for whatever is missing here, so a function left out costs time, never correctness.

   Pointers come as objects with a buffer (bytes, bytearray, array.array): y* for what is read, w* for what is written.
   The interpreter lock is kept: there is one thread of Python here. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#include "ext_cdef.h"
#include "ext_spawn_cdef.h"
#include "launcher.h"

/* Bytes of a buffer that the callee is told nothing of: what it writes must fit. */
static int holds(const Py_buffer *buffer, size_t size)
{
    if ((size_t)buffer->len >= size)
        return 1;
    PyErr_SetString(PyExc_ValueError, "buffer too small");
    return 0;
}

static PyObject *native_spawn(PyObject *self, PyObject *args)
{
    int exec_fd, sock_fd, count;
    const char *argv0, *argv1;
    Py_buffer stdio, places, pidfd;
    PyObject *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "iiy*yyw*iw*", &exec_fd, &sock_fd, &stdio, &argv0, &argv1, &places, &count, &pidfd))
        return NULL;
    if (count > 0 && holds(&stdio, 3 * sizeof(int)) && holds(&places, (size_t)count * sizeof(int)) &&
        holds(&pidfd, sizeof(int)))
        result = PyLong_FromLong(pr_spawn(exec_fd, sock_fd, stdio.buf, argv0, argv1, places.buf, count, pidfd.buf));
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no places");
    PyBuffer_Release(&stdio);
    PyBuffer_Release(&places);
    PyBuffer_Release(&pidfd);
    return result;
}

static PyObject *native_sealed_memfd(PyObject *self, PyObject *args)
{
    const char *name, *data;
    Py_ssize_t size;
    unsigned long told;
    int executable;

    (void)self;
    if (!PyArg_ParseTuple(args, "yy#ki", &name, &data, &size, &told, &executable))
        return NULL;
    return PyLong_FromLong(pr_sealed_memfd(name, data, told < (size_t)size ? told : (size_t)size, executable));
}

/* The two kinds of pairs differ in the call alone. */
static PyObject *pair(PyObject *args, int (*make)(int *))
{
    Py_buffer fds;
    PyObject *result = NULL;

    if (!PyArg_ParseTuple(args, "w*", &fds))
        return NULL;
    if (holds(&fds, 2 * sizeof(int)))
        result = PyLong_FromLong(make(fds.buf));
    PyBuffer_Release(&fds);
    return result;
}

static PyObject *native_socketpair(PyObject *self, PyObject *args)
{
    (void)self;
    return pair(args, pr_socketpair);
}

static PyObject *native_streampair(PyObject *self, PyObject *args)
{
    (void)self;
    return pair(args, pr_streampair);
}

static PyObject *native_send(PyObject *self, PyObject *args)
{
    Py_buffer data, fds;
    unsigned long size;
    int sock, count;
    PyObject *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "iy*ky*i", &sock, &data, &size, &fds, &count))
        return NULL;
    if (count >= 0 && holds(&data, size) && holds(&fds, (size_t)count * sizeof(int)))
        result = PyLong_FromLong(pr_send(sock, data.buf, size, fds.buf, count));
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "negative count");
    PyBuffer_Release(&data);
    PyBuffer_Release(&fds);
    return result;
}

static PyObject *native_recv(PyObject *self, PyObject *args)
{
    Py_buffer buffer, fds, count;
    unsigned long size;
    int sock, max_fds, timeout_ms, pidfd;
    PyObject *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "iw*kw*iw*ii", &sock, &buffer, &size, &fds, &max_fds, &count, &timeout_ms, &pidfd))
        return NULL;
    if (max_fds >= 0 && holds(&buffer, size) && holds(&fds, (size_t)max_fds * sizeof(int)) &&
        holds(&count, sizeof(int)))
        result = PyLong_FromLong(pr_recv(sock, buffer.buf, size, fds.buf, max_fds, count.buf, timeout_ms, pidfd));
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "negative count");
    PyBuffer_Release(&buffer);
    PyBuffer_Release(&fds);
    PyBuffer_Release(&count);
    return result;
}

static PyObject *native_open_tree(PyObject *self, PyObject *args)
{
    const char *path;
    unsigned int flags;
    int dirfd;

    (void)self;
    return PyArg_ParseTuple(args, "iyI", &dirfd, &path, &flags) ? PyLong_FromLong(pr_open_tree(dirfd, path, flags))
                                                                : NULL;
}

static PyObject *native_mount_setattr(PyObject *self, PyObject *args)
{
    const char *path;
    unsigned long long set, clr, propagation;
    unsigned int flags;
    int fd, userns_fd;

    (void)self;
    if (!PyArg_ParseTuple(args, "iyIKKKi", &fd, &path, &flags, &set, &clr, &propagation, &userns_fd))
        return NULL;
    return PyLong_FromLong(pr_mount_setattr(fd, path, flags, set, clr, propagation, userns_fd));
}

static PyObject *native_prlimit(PyObject *self, PyObject *args)
{
    unsigned long long soft, hard;
    int pid, resource;

    (void)self;
    return PyArg_ParseTuple(args, "iiKK", &pid, &resource, &soft, &hard)
               ? PyLong_FromLong(pr_prlimit(pid, resource, soft, hard))
               : NULL;
}

static PyObject *native_umount(PyObject *self, PyObject *args)
{
    const char *path;
    int flags;

    (void)self;
    return PyArg_ParseTuple(args, "yi", &path, &flags) ? PyLong_FromLong(pr_umount(path, flags)) : NULL;
}

static PyObject *native_signalfd(PyObject *self, PyObject *args)
{
    unsigned int mask;

    (void)self;
    return PyArg_ParseTuple(args, "I", &mask) ? PyLong_FromLong(pr_signalfd(mask)) : NULL;
}

static PyObject *native_write_string(PyObject *self, PyObject *args)
{
    const char *path, *data;
    Py_ssize_t size;
    unsigned long told;

    (void)self;
    if (!PyArg_ParseTuple(args, "yy#k", &path, &data, &size, &told))
        return NULL;
    return PyLong_FromLong(pr_write_string(path, data, told < (size_t)size ? told : (size_t)size));
}

IN_SNAPSHOT static PyMethodDef methods[] = {
    {"pr_spawn", native_spawn, METH_VARARGS, NULL},
    {"pr_sealed_memfd", native_sealed_memfd, METH_VARARGS, NULL},
    {"pr_socketpair", native_socketpair, METH_VARARGS, NULL},
    {"pr_streampair", native_streampair, METH_VARARGS, NULL},
    {"pr_send", native_send, METH_VARARGS, NULL},
    {"pr_recv", native_recv, METH_VARARGS, NULL},
    {"pr_open_tree", native_open_tree, METH_VARARGS, NULL},
    {"pr_mount_setattr", native_mount_setattr, METH_VARARGS, NULL},
    {"pr_prlimit", native_prlimit, METH_VARARGS, NULL},
    {"pr_umount", native_umount, METH_VARARGS, NULL},
    {"pr_signalfd", native_signalfd, METH_VARARGS, NULL},
    {"pr_write_string", native_write_string, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

IN_SNAPSHOT static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_pyruntime_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyObject *init_native(void)
{
    return PyModule_Create(&module);
}
