"""pull, push, save, load, import: images between registries, files and the engine."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from pyruntime.cli.pyctr.names import auth_header, split_name
from pyruntime.cli.pyctr.progress import follow
from pyruntime.errors import UsageError
from pyruntime.image.reference import parse_familiar, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.cli.pyctr.call import Call
    from pyruntime.image.reference import Reference

PIECE_BYTES = 1 << 20
SCHEMES = ("http://", "https://", "ftp://")


# ---- registries -----------------------------------------------------------------------------------------------------
def pull(call: Call) -> None:
    """An image from a registry."""
    reference = _wanted(call, call.rest[0])
    query = {"fromImage": reference.name, "tag": reference.digest or reference.tag, "platform": call["platform"]}
    with call.client.request("POST", "/images/create", query, headers=auth_header(reference)) as reply:
        follow(reply.objects(), quiet=call["quiet"])
    print(reference)


def push(call: Call) -> None:
    """An image, or all of a name's, to the registry of that name."""
    reference = _wanted(call, call.rest[0])
    if reference.digest:
        raise UsageError("cannot push a digest reference")
    query = {"tag": reference.tag, "platform": call["platform"]}
    headers = auth_header(reference)
    with call.client.request("POST", f"/images/{reference.familiar_name}/push", query, headers=headers) as reply:
        follow(reply.objects(), quiet=call["quiet"])
    if call["quiet"]:
        print(reference)


def _wanted(call: Call, name: str) -> Reference:
    """The reference of a name, `latest` told of when it has no tag; with --all-tags no tag at all."""
    found = parse_familiar(name)
    if call["all_tags"]:
        if found.tag or found.digest:
            raise UsageError("tag can't be used with --all-tags/-a")
        return found
    if not found.tag and not found.digest and not call["quiet"]:
        print("Using default tag: latest", flush=True)
    return parse_reference(name)


# ---- files ----------------------------------------------------------------------------------------------------------
def save(call: Call) -> None:
    """Images as one archive, to a file or to standard output."""
    if not call["output"] and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    with call.client.request("GET", "/images/get", {"names": list(call.rest), "platform": call["platform"]}) as reply:
        if not call["output"]:
            for piece in reply.pieces():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        write_file(call["output"], reply.pieces())


def write_file(path: str, pieces: Iterator[bytes]) -> None:
    """Writes a file that appears whole or not at all; a device or pipe is written as it is. Raises OSError."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        if os.path.isdir(path):
            raise UsageError(f'failed to save image: invalid output path: "{path}" must be a regular file')
        with open(path, "wb") as target:
            target.writelines(pieces)
        return
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UsageError(f'failed to save image: invalid output path: directory "{folder}" does not exist')
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".pyctr-save-", delete=False) as part:
        try:
            part.writelines(pieces)
            part.flush()
            os.fchmod(part.fileno(), 0o666 & ~_umask())
            os.rename(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value


def load(call: Call) -> None:
    """Images out of an archive, from a file or standard input."""
    if not call["input"] and sys.stdin.isatty():
        raise UsageError("requested load from stdin, but stdin is empty")
    query = {"quiet": 1 if call["quiet"] or not sys.stdout.isatty() else 0, "platform": call["platform"]}
    headers = {"Content-Type": "application/x-tar"}
    with (open(call["input"] or 0, "rb", buffering=0, closefd=bool(call["input"])) as source,
          call.client.request("POST", "/images/load", query, body=_read(source), headers=headers) as reply):  # fmt: skip
        follow(reply.objects())


def import_(call: Call) -> None:
    """A root file system as an image of one layer."""
    source = call.rest[0]
    repository, label = split_name(call.rest[1]) if len(call.rest) > 1 else ("", "")
    remote = source.startswith(SCHEMES)
    query = {"fromSrc": source if remote else "-", "repo": repository, "tag": label, "message": call["message"],
             "changes": list(call["change"]), "platform": call["platform"]}  # fmt: skip
    headers = {"Content-Type": "text/plain"}
    if remote:
        with call.client.request("POST", "/images/create", query, headers=headers) as reply:
            follow(reply.objects())
        return
    with (open(0 if source == "-" else source, "rb", buffering=0, closefd=source != "-") as file,
          call.client.request("POST", "/images/create", query, body=_read(file), headers=headers) as reply):  # fmt: skip
        follow(reply.objects())


def _read(file: Any) -> Iterator[bytes]:
    """The file, in pieces."""
    while piece := file.read(PIECE_BYTES):
        yield piece
