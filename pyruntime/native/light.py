"""The cffi extension's `ffi` and `lib` for the embedded interpreter, without cffi: loading cffi costs it 0.8 ms.

`lib` has the launcher's own binding of csrc/ext.c (csrc/launcher_native.c) and `ffi` the few things that kernel.py
asks of it, made of memoryview and bytearray (array would import collections.abc). Whatever else is asked for loads
the real extension and comes from there, so objects of the two never meet: a type known here is only given to
functions known here.
"""

from __future__ import annotations

import _pyruntime_launcher as launcher
import _pyruntime_native as native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# C type -> struct's letter for an item, its size, and how many there are (0: as many as given)
ARRAYS = {"int *": ("i", 4, 1), "int[2]": ("i", 4, 2), "int[3]": ("i", 4, 3), "int[]": ("i", 4, 0),
          "uint64_t[2]": ("Q", 8, 2)}  # fmt: skip


class Extension:
    """The real extension, loaded when something first needs it."""

    def __init__(self) -> None:
        self.module: ModuleType | None = None

    def __call__(self) -> ModuleType:
        """The module."""
        if self.module is None:
            self.module = launcher.load_extension("pyruntime.native._ext")
        return self.module


class Ffi:
    """What kernel.py uses of cffi's FFI."""

    @staticmethod
    def new(kind: str, initial: Any = None) -> Any:
        """Zeroed memory of a C type, or filled from `initial`."""
        if kind == "char[]":
            return bytearray(initial) if isinstance(initial, int) else initial
        if kind not in ARRAYS:
            return _real().ffi.new(kind) if initial is None else _real().ffi.new(kind, initial)
        letter: Any  # one of struct's, which the stubs list one by one
        letter, size, count = ARRAYS[kind]
        items = () if initial is None or isinstance(initial, int) else initial
        count = count or (initial if isinstance(initial, int) else len(items))
        memory = memoryview(bytearray(size * count)).cast(letter)
        for at, item in enumerate(items):
            memory[at] = item
        return memory

    @staticmethod
    def from_buffer(data: bytes) -> bytes:
        """The data itself."""
        return data

    @staticmethod
    def buffer(memory: Any, size: int) -> Any:
        """The first `size` bytes."""
        return bytes(memory[:size]) if isinstance(memory, bytearray) else _real().ffi.buffer(memory, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(_real().ffi, name)


class Lib:
    """The functions of csrc/ext.c, and those of the real extension."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(native, name, None)
        return found if found is not None else getattr(_real().lib, name)


_real = Extension()
ffi = Ffi()
lib = Lib()
