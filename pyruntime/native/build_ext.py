"""Builds pyruntime.native._ext (cffi, API mode, limited API) from csrc/ext*.c and csrc/seccomp.c."""

from __future__ import annotations

import os

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
CSRC = os.path.normpath(os.path.join(HERE, "..", "..", "csrc"))
NAMES = ("ext", "ext_spawn", "ext_ns", "seccomp", "bpf")


def declarations() -> str:
    """What cffi is told: the *_cdef.h files without their comments and include guards."""
    texts = []
    for name in NAMES:
        with open(os.path.join(CSRC, f"{name}_cdef.h"), encoding="utf-8") as file:
            texts.append("".join(line for line in file if not line.startswith("#")))
    return "\n".join(texts)


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "pyruntime.native._ext",
    "#include <stddef.h>\n#include <stdint.h>\n" + declarations(),
    sources=[os.path.relpath(os.path.join(CSRC, f"{name}.c")) for name in NAMES],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
    libraries=["dl"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(tmpdir=os.path.normpath(os.path.join(HERE, "..", "..")), verbose=True)
