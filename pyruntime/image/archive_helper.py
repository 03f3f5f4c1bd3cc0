"""The confined process that takes an archive's compression off: a program, run by archive_confined.py, never imported.

    stdin -> inflate -> stdout

Everything is imported before the process confines itself as the unpacking helper does (csrc/unpack_confine.c); its root
is then an empty folder. When it fails it says why in one message on the status socket.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 1 << 18
MEMORY = 1 << 30  # address space: xz may ask for its 256 MiB, zstd for windows of 128 MiB


def main(words: list[str]) -> None:
    """Runs to the end of its input, and exits without the interpreter's clean-up."""
    target, status, fresh, limit = (int(word) for word in words[:4])
    sys.path[:] = words[4:]
    answer = b""
    try:
        read = _prepare(target, status, limit, fresh=bool(fresh))
        while piece := read(CHUNK):
            view = memoryview(piece)
            while view:
                view = view[posix.write(1, view) :]
    except BrokenPipeError:
        pass  # nobody wants more
    except BaseException as error:  # noqa: BLE001 - the outermost frame
        answer = (str(error) or type(error).__name__).encode("utf-8", "backslashreplace")
    posix.write(status, answer or b"\0")
    posix._exit(0)  # noqa: SLF001 - its public name


def _prepare(target: int, status: int, limit: int, *, fresh: bool) -> Any:
    """A reader of the inflated input; the process is confined, and has read its input's first bytes."""
    import encodings.idna  # noqa: F401 - nothing is to be looked for later
    import resource

    from pyruntime.image.archive_inflate import inflating
    from pyruntime.native._unpack import lib

    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_NOFILE, 64)):
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))
    import bz2  # noqa: F401
    import lzma  # noqa: F401

    for name in ("isal.isal_zlib", "zlib", "compression.zstd", "backports.zstd"):
        try:
            __import__(name)
        except ImportError:
            continue
    if fresh:
        _check(lib.unpack_user_namespace(status))
    _check(lib.unpack_confine(target))
    posix.close(target)
    return inflating(lambda size: posix.read(0, size), limit_bytes=limit)


def _check(result: int) -> None:
    """Raises OSError for -(1000 * step + errno)."""
    if result < 0:
        raise OSError(-result % 1000, "the inflating helper cannot be confined")


if __name__ == "__main__":
    main(sys.argv[1:])
