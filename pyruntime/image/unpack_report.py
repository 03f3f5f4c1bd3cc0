"""What the unpacking helper answers, as records and words. Pure."""

from __future__ import annotations

import os

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
    ("layer has far more directories than entries, at {entry}", "long paths of directories not listed: do not trust it"),
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


Texts = dict[str, list[bytes]]  # those of an answer by their letters


def quoted(path: bytes) -> str:
    """A path for people, on one line whatever is in it, cut at TOLD characters."""
    text = path.decode("utf-8", "backslashreplace") or "/"
    return repr(text if len(text) <= TOLD else text[:TOLD] + "...")


def _texts(answer: bytes) -> tuple[Texts, tuple[Whiteout, ...]]:
    """All but whiteouts, whose directory is told once for those that follow; and these."""
    found: Texts = {}
    whiteouts = []
    folder = b""
    for text in answer.split(b"\0")[:-1]:
        letter = text[:1].decode("latin-1")
        if letter == "d":
            folder = text[1:]
        elif letter == "w":
            whiteouts.append(Whiteout(folder, text[1:]))
        elif letter:
            found.setdefault(letter, []).append(text[1:])
    return found, tuple(whiteouts)


def _first(texts: Texts, letter: str) -> bytes:
    return texts.get(letter, [b""])[0]


def _all(texts: Texts, letter: str) -> list[bytes]:
    return texts.get(letter, [])


def _error(texts: Texts, layer: str, limit: int) -> UnpackError:
    code, number = (int(word) for word in _first(texts, "c").split())
    entry, path = _first(texts, "p"), _first(texts, "q")
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


def _implied(texts: Texts) -> tuple[tuple[int, bytes], ...]:
    told = (text.partition(b" ") for text in _all(texts, "i"))
    return tuple((int(depth), rest) for depth, _, rest in told)


def _warnings(texts: Texts) -> tuple[str, ...]:
    told = []
    rows = zip(_all(texts, "k"), _all(texts, "f"), _all(texts, "x"))
    for numbers, entry, detail in rows:
        kind, count = (int(word) for word in numbers.split())
        text = WARNINGS[kind].format(entry=quoted(entry), detail=quoted(detail))
        told.append(text if count == 1 else f"{text} (and {count - 1} more)")
    return tuple(told)


def read_answer(answer: bytes, layer: str, limit: int) -> LayerResult:
    """The result in a helper's answer. Raises UnpackError for what it reports, or when it broke off."""
    texts, whiteouts = _texts(answer)
    if _first(texts, "c"):
        raise _error(texts, layer, limit)
    name = f"layer {layer}" if layer else "layer"
    told = _first(texts, "Z").decode("utf-8", "replace")
    if told or not _first(texts, "D"):
        raise UnpackError(f"unpacking {name}: {told or 'the helper process died'}", layer=layer)
    seconds, cpu, memory = (float(word) for word in (_first(texts, "T") or b"0 0 0").split())
    return LayerResult(
        diff_id="sha256:" + _first(texts, "D").decode(),
        size=int(_first(texts, "b")), entries=int(_first(texts, "e")),
        implied=_implied(texts), links=tuple(zip(_all(texts, "l"), _all(texts, "t"))),
        warnings=_warnings(texts), whiteouts=whiteouts,
        tar_size=int(_first(texts, "S")), blob_size=int(_first(texts, "R")),
        seconds=seconds, cpu_s=cpu, memory_kib=int(memory))  # fmt: skip
