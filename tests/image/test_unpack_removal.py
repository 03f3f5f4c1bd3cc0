"""A plain user's store with layers of subordinate ids: what unpacking could make, removing can take away."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest

from pyruntime.image import media
from pyruntime.image.digest import digest_of
from tests.image.test_unpack_rootless import NOBODY, place, reachable, subordinate
from tests.image.trees import directory, file, layer, symlink
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")]  # fmt: skip
__all__ = ["place"]

LAYER = layer(directory("./", uid=1000, gid=1000, mode=0o700), directory("d", uid=33, gid=33, mode=0o500),
              file("d/f", b"x" * 5000, uid=34, gid=34, mode=0), directory("d/e", uid=35, mode=0o000), file("d/e/g", uid=36),
              file("deep/" * 200 + "f", uid=37), symlink("d/e/l", "/etc", uid=38), file("mine"))  # fmt: skip

PROGRAM = """
import os, signal, sys
what, home, *sys.path[:0] = sys.argv[1:]
from pyruntime.image.digest import chain_ids, digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import NewLayer, Store
from pyruntime.image.unpack import LayerUnpack
from pyruntime.image.unpack_maps import rootless_maps

def content(name):
    with open(f"{home}/{name}", "rb") as opened:
        return opened.read()

def add(store, reference):
    with store.lease() as lease:
        for name in ("layer", "config", "manifest"):
            store.put_blob(content(name), lease)
        path = store.stage_layer(lease)
        with LayerUnpack(path, mode="overlay-user", id_maps=rootless_maps()) as unpack:
            blob = content("layer")
            unpack.write(blob[:-40])
            if what == "die within":
                os.kill(os.getpid(), signal.SIGKILL)
            unpack.write(blob[-40:])
            result = unpack.finish()
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "leave":
            return
        new = NewLayer(chain_ids([result.diff_id])[0], result.diff_id, path, result.size)
        store.commit_image(lease, reference, digest_of(content("manifest")), [new])

with Store(f"{home}/store") as store:
    if what == "remove":
        store.remove("x:1")
    elif what == "prune":
        store.prune()
    elif what != "open":
        add(store, None if what == "add nameless" else parse_reference("x:1"))
"""


@pytest.fixture
def home(place):
    """The user's, with an image of one layer."""
    made = place / "home"
    made.mkdir()
    blob = gzip.compress(LAYER)
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(LAYER)]}, "config": {}}).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": media.OCI_MANIFEST,
        "config": {"mediaType": media.OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": media.OCI_LAYER_GZIP, "digest": digest_of(blob), "size": len(blob)}],
    }).encode()  # fmt: skip
    for name, data in (("layer", blob), ("config", config), ("manifest", manifest)):
        (made / name).write_bytes(data)
    (made / "program").write_text(PROGRAM)
    os.chown(made, NOBODY, NOBODY)
    return made


def run(place, home, what: str, code: int = 0) -> None:
    """The program, as the plain user."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    if not reachable(packages) and not (place / "site").exists():
        shutil.copytree(packages, place / "site", ignore=shutil.ignore_patterns("__pycache__", "pip*", "mypy*", "ruff*"))
    prefix, _ = subordinate(place)
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/python3", home / "program", what, home]
    readable = [place / "lib", packages if reachable(packages) else place / "site"]
    done = subprocess.run([*prefix, *words, *readable], capture_output=True, text=True, check=False, cwd="/", timeout=90)
    assert done.returncode == code, done.stderr


def left(home) -> list[str]:
    """Layers on the disk."""
    return [f"{name}/{place}" for name in ("staging", "layers") for place in os.listdir(home / "store" / name)]


def owners(home) -> set[int]:
    """Of all files of the layers."""
    return {os.lstat(os.path.join(folder, name)).st_uid for folder, names, files in os.walk(home / "store") for name in [*names, *files]}


@pytest.mark.parametrize(("add", "remove"), [("add", "remove"), ("add nameless", "prune")])
def test_an_image_of_subordinate_ids_goes(place, home, add, remove) -> None:
    run(place, home, add)
    assert {300032, 300033, 300034, 300035, 300999, NOBODY} <= owners(home)
    run(place, home, remove)
    assert left(home) == []


@pytest.mark.parametrize(("how", "code"), [("die", -9), ("leave", 0)])
def test_a_layer_that_no_image_took_goes(place, home, how, code) -> None:
    """After a kill with the next opening, else with its lease."""
    run(place, home, how, code)
    assert len(left(home)) == (1 if code else 0)
    run(place, home, "open")
    assert left(home) == []


def test_a_pull_that_was_killed_while_it_unpacked(place, home) -> None:
    """The helper ends with the pipe that fed it; an opening after that takes away what it made."""
    run(place, home, "die within", -9)

    def opened() -> bool:
        run(place, home, "open")
        return not left(home)

    until(opened)
