"""What the unpacking helper answers, as records and words. Pure."""

from __future__ import annotations

import os
from typing import NamedTuple

from pyruntime.errors import UnpackError
from pyruntime.record import Record

# enum code of csrc/unpack_tar.h, in its order: (text, hint). {entry} is quoted, {system} the errno's words.
CODES = (
    ("", ""),
    ("{entry}: {system}", ""),
    ("out of memory at {entry}", ""),
    ("layer ends inside entry {entry}", "the blob is cut short: pull it again"),
    ("layer is no tar archive: bad header after {entry}", "only tar, plain or compressed, is a layer"),
    ("{entry}: a number in its tar header is malformed, negative or too large", ""),
    ("{entry}: malformed PAX record in or before its header", ""),
    ("{entry}: malformed map of a sparse file", ""),
    ("{entry}: unknown type of tar entry", ""),
    ("{entry}: name is over 255 or path over 4094 bytes", ""),
    ("{entry}: name leaves the root of the layer", "an entry must not climb out by '..'"),
    ("{entry}: NUL byte in a name", ""),
    ("{entry}: root of the layer is not a directory", ""),
    ("{entry}: bad whiteout", "a whiteout is an empty file `.wh.NAME`, NAME not '.', '..' or empty"),
    ("{entry}: device 0:0 in a layer", "overlayfs would read it as a whiteout"),
    ("{entry}: hard link to {target}, which is not there", "a hard link's target is relative to the layer's root"),
    ("layer has more entries than the limit of {limit}", "raise the limit if you trust the image"),
    ("{entry}: file is larger than the limit", "raise the limit if you trust the image"),
    ("{entry}: too many symlinks in its path", ""),
    ("{entry}: link without a target", ""),
    ("{entry}: hard link to the directory {target}", ""),
    ("layer needs too much memory to be remembered, at {entry}", ""),
    ("layer takes too long a way through symlinks, at {entry}", "links to links to deep directories: do not trust it"),
)

# enum warning of csrc/unpack.h, in its order
WARNINGS = (
    "{entry}: devices skipped, they need a privileged user",
    "{entry}: extended attribute {detail} is not supported here",
    "{entry}: extended attribute {detail} not permitted here",
    "{entry}: extended attribute {detail} of overlayfs itself ignored",
    "{entry}: entry of vendor type {detail} skipped",
    "layer goes on after a block of zeros: the rest is ignored",
    "{entry}: a file or link of a lower layer at {detail} is hidden by a directory",
    "{entry}: owners squashed, only one id is mapped",
)


TOLD = 300


class Whiteout(Record):
    """A device 0:0 made for `.wh.NAME`: `directory` relative to the layer, "" its root."""

    directory: bytes
    name: bytes


class LayerResult(Record):
    """An unpacked layer. Paths are relative to it, canonical and bytes.

    `size`: bytes of its files, `tar_size` of the tar, `blob_size` of what was read. `implied`: directories that the
    archive does not list, as (how many names of the path before begin this one, the rest of it), parents first; see
    implied_paths. `links`: (path, target in a lower layer). Both, and `whiteouts` that turn out to hide nothing, are
    settled by settle(). `seconds` and `cpu_s` are of the helper; `memory_kib` too, but for a caller that was larger when
    it started the helper: the kernel counts on from there (getrusage(2)).
    """

    diff_id: str
    size: int
    entries: int
    implied: tuple[tuple[int, bytes], ...]
    links: tuple[tuple[bytes, bytes], ...]
    warnings: tuple[str, ...]
    whiteouts: tuple[Whiteout, ...] = ()
    tar_size: int = 0
    blob_size: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    memory_kib: int = 0


class Pair(NamedTuple):
    """One text of the answer and its letter."""

    letter: str
    text: bytes


def quoted(path: bytes) -> str:
    """A path for people, on one line whatever is in it, cut at TOLD characters."""
    text = path.decode("utf-8", "backslashreplace") or "/"
    return repr(text if len(text) <= TOLD else text[:TOLD] + "...")


def _pairs(answer: bytes) -> list[Pair]:
    return [Pair(chr(text[0]), text[1:]) for text in answer.split(b"\0")[:-1] if text]


def _first(pairs: list[Pair], letter: str) -> bytes:
    return next((pair.text for pair in pairs if pair.letter == letter), b"")


def _all(pairs: list[Pair], letter: str) -> list[bytes]:
    return [pair.text for pair in pairs if pair.letter == letter]


def _error(pairs: list[Pair], layer: str, limit: int) -> UnpackError:
    code, number = (int(word) for word in _first(pairs, "c").split())
    entry, path = _first(pairs, "p"), _first(pairs, "q")
    template, hint = CODES[code]
    if number == 28 and code == 1:  # ENOSPC
        hint = "the file system is full; nothing of the layer was kept"
    system = os.strerror(number) + (f" ({quoted(path)})" if path and path != entry else "")
    text = template.format(entry=quoted(entry), system=system, target=quoted(path), limit=limit)
    return UnpackError(f"unpacking layer{layer and ' ' + layer}: {text}", entry=os.fsdecode(entry), layer=layer, hint=hint)


def implied_paths(result: LayerResult) -> list[bytes]:
    """The directories that the archive does not list by their whole paths, b"" the root, sorted. Long when they are deep."""
    names: list[bytes] = []
    paths = []
    for depth, rest in result.implied:
        names[depth:] = filter(None, rest.split(b"/"))
        paths.append(b"/".join(names))
    return sorted(paths)


def _implied(pairs: list[Pair]) -> tuple[tuple[int, bytes], ...]:
    told = (text.partition(b" ") for text in _all(pairs, "i"))
    return tuple((int(depth), rest) for depth, _, rest in told)


def _whiteouts(pairs: list[Pair]) -> tuple[Whiteout, ...]:
    """A directory is told once for those that follow."""
    found = []
    folder = b""
    for letter, text in pairs:
        if letter == "d":
            folder = text
        elif letter == "w":
            found.append(Whiteout(folder, text))
    return tuple(found)


def _warnings(pairs: list[Pair]) -> tuple[str, ...]:
    texts = []
    rows = zip(_all(pairs, "k"), _all(pairs, "f"), _all(pairs, "x"))
    for numbers, entry, detail in rows:
        kind, count = (int(word) for word in numbers.split())
        text = WARNINGS[kind].format(entry=quoted(entry), detail=quoted(detail))
        texts.append(text if count == 1 else f"{text} (and {count - 1} more)")
    return tuple(texts)


def read_answer(answer: bytes, layer: str, limit: int) -> LayerResult:
    """The result in a helper's answer. Raises UnpackError for what it reports, or when it broke off."""
    pairs = _pairs(answer)
    if _first(pairs, "c"):
        raise _error(pairs, layer, limit)
    name = f"layer {layer}" if layer else "layer"
    told = _first(pairs, "Z").decode("utf-8", "replace")
    if told or not _first(pairs, "D"):
        raise UnpackError(f"unpacking {name}: {told or 'the helper process died'}", layer=layer)
    seconds, cpu, memory = (float(word) for word in (_first(pairs, "T") or b"0 0 0").split())
    return LayerResult(
        diff_id="sha256:" + _first(pairs, "D").decode(),
        size=int(_first(pairs, "b")), entries=int(_first(pairs, "e")),
        implied=_implied(pairs), links=tuple(zip(_all(pairs, "l"), _all(pairs, "t"))),
        warnings=_warnings(pairs), whiteouts=_whiteouts(pairs),
        tar_size=int(_first(pairs, "S")), blob_size=int(_first(pairs, "R")),
        seconds=seconds, cpu_s=cpu, memory_kib=int(memory))  # fmt: skip
