"""One crafted layer, unpacked and settled by a process of its own: a program of test_layers_work.py.

    layer_work.py PACKAGES CASE COUNT MODE FOLDER

It is small, as the kernel counts a helper's memory from that of the process that started it (getrusage(2)), and makes
the layer while it goes in. Prints CPU seconds of helper and settling, the helper's peak in KiB, and its warnings.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY, SYMLINK, HARD_LINK = b"5", b"2", b"1"
DEPTH = 1500


def header(name: bytes, kind: bytes = b"0", link: bytes = b"", size: int = 0) -> bytes:
    """One header block."""
    block = name.ljust(100, b"\0") + b"0000755\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0 + b" " * 8
    block = (block + kind + link.ljust(100, b"\0") + b"ustar\00000").ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def long(name: bytes, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """An entry with GNU's long name and link."""
    parts = []
    for text, what in ((name, b"L"), (link, b"K")):
        if len(text) > 99:
            parts += [header(b"long", what, size=len(text)), text + bytes(-len(text) % 512)]
    return b"".join([*parts, header(name[:99], kind, link[:99])])


def one(_: int) -> Iterator[bytes]:
    """A file."""
    yield header(b"f")


def large(count: int) -> Iterator[bytes]:
    """A file of so many MiB."""
    yield header(b"f", size=count << 20)
    yield from (bytes(1 << 20) for _ in range(count))


def unlisted(count: int) -> Iterator[bytes]:
    """Files in directories that the archive does not list."""
    return (header(b"d%d/f" % number) for number in range(count))


def deep(count: int) -> Iterator[bytes]:
    """Chains of such directories."""
    return (long(b"%d/" % number + b"d/" * DEPTH + b"f") for number in range(max(1, count // DEPTH)))


def branches(count: int) -> Iterator[bytes]:
    """A branch at every level of a chain, which the lower layer has too."""
    return (long(b"d/" * (number % DEPTH + 1) + b"e%d/f" % number) for number in range(count))


def links(count: int) -> Iterator[bytes]:
    """Hard links to a file of the lower layer, at the end of its chain."""
    return (long(b"l%d" % number, HARD_LINK, b"d/" * DEPTH + b"f") for number in range(count))


def whiteouts(count: int) -> Iterator[bytes]:
    """In a directory far down."""
    return (long(b"d/" * (DEPTH // 4) + b".wh.%d" % number) for number in range(count))


def opaque_again(count: int) -> Iterator[bytes]:
    """A file and an opaque mark for its directory, again and again."""
    return (header(b"d/f%d" % number) + header(b"d/.wh..wh..opq") for number in range(count))


def whiteout_again(count: int) -> Iterator[bytes]:
    """A file and a whiteout of its directory."""
    return (header(b"d/f%d" % number) + header(b".wh.d") for number in range(count))


def up_and_down(count: int) -> Iterator[bytes]:
    """A symlink that climbs out of a chain as often as it can, on the way to every file."""
    yield long(b"d/" * 700, DIRECTORY)
    yield long(b"s", SYMLINK, b"d/" * 700 + b"../" * 690)
    yield from (header(b"s/f%d" % number) for number in range(count))


def same_directory(count: int) -> Iterator[bytes]:
    """One directory listed again and again, and taken for a symlink in between."""
    return (header(b"d", (DIRECTORY, SYMLINK)[number % 2], b"x") for number in range(count))


def xattrs(count: int) -> Iterator[bytes]:
    """PAX headers full of the same names."""
    lines = b"".join(b"30 SCHILY.xattr.user.a%03d=vvv\n" % (number % 500) for number in range(5000))
    whole = header(b"pax", b"x", size=len(lines)) + lines + bytes(-len(lines) % 512) + header(b"l", SYMLINK, b"x")
    return (whole for _ in range(count // 1000))


CASES = (one, large, unlisted, deep, branches, links, whiteouts, opaque_again, whiteout_again, up_and_down, same_directory, xattrs)


def main(words: list[str]) -> None:
    """See the module's docstring."""
    packages, case, count, mode, folder = words
    sys.path[:0] = packages.split(":")
    from pyruntime.errors import UnpackError
    from pyruntime.image.unpack import LayerUnpack, settle

    made = next(call for call in CASES if call.__name__ == case)(int(count))
    lower = f"{folder}/lower"
    os.makedirs(f"{folder}/target")
    os.makedirs(lower)
    if case in {"branches", "links", "whiteouts"}:
        with LayerUnpack(lower) as below:
            below.write(long(b"d/" * DEPTH + b"f"))
            below.finish()
    try:
        with LayerUnpack(f"{folder}/target", mode=mode) as layer:
            for piece in made:
                layer.write(piece)
            result = layer.finish()
    except UnpackError as error:
        print(f"refused: {error}")
        return
    before = time.process_time()
    if mode != "flat":
        settle([(f"{folder}/target", result)], [lower])
    print(result.cpu_s + time.process_time() - before, result.memory_kib)


if __name__ == "__main__":
    main(sys.argv[1:])
