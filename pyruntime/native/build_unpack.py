"""Builds pyruntime.native._unpack (cffi, API mode, limited API), the layer unpacker, from csrc/unpack*.c.

It is a module of its own so that the runtime's verbs neither load nor wait for it.
"""

from __future__ import annotations

import os

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
CSRC = os.path.normpath(os.path.join(HERE, "..", "..", "csrc"))
SOURCES = ("unpack", "unpack_tar", "unpack_pax", "unpack_names", "unpack_dirs", "unpack_remove", "unpack_attrs",
           "unpack_stamps", "unpack_confine")  # fmt: skip


def declarations() -> str:
    """What cffi is told: unpack_cdef.h without its include guard."""
    with open(os.path.join(CSRC, "unpack_cdef.h"), encoding="utf-8") as file:
        return "".join(line for line in file if not line.startswith("#"))


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "pyruntime.native._unpack",
    "#include <stddef.h>\n#include <stdint.h>\n" + declarations(),
    sources=[os.path.relpath(os.path.join(CSRC, f"{name}.c")) for name in SOURCES],
    depends=[os.path.join(CSRC, name) for name in os.listdir(CSRC) if name.endswith(".h")],
    extra_compile_args=["-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(tmpdir=os.path.normpath(os.path.join(HERE, "..", "..")), verbose=True)
