"""A store of a plain user, and one of root in a user namespace: load, commit, save and bundle with what rights they have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plain_user import AS_NOBODY, NOBODY, need_readable_checkout

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CALLERS = {
    "plain user": [*AS_NOBODY],
    "root of a namespace": [*AS_NOBODY, "unshare", "--user", "--map-root-user"],
}
SCRIPT = """
import io, os, sys
home = sys.argv[1]
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_save import save_archive
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.bundle import bundle_from_store
from pyruntime.image.commit import commit_layer
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image_samples import layer, make_image

layers = [layer({"etc/": b"", "etc/old": b"1", "srv/": b"", "srv/x": b""}), layer({"etc/": b"", "etc/.wh.old": b"", "srv/": b"", "srv/.wh..wh..opq": b""})]
out = io.BytesIO()
with FolderBlobs(f"{home}/blobs") as blobs:
    save_archive(out.write, blobs, [make_image(blobs, layers, "x:1")])
with Store.open(f"{home}/store") as store:
    image = load_archive(store, io.BytesIO(out.getvalue()).read, say=print)[0].image
    top = store.layer(image.chain_ids[1]).path
    print(sorted(os.listdir(f"{top}/etc")), os.listxattr(f"{top}/srv"))
    commit_layer(store, [layer({"new": b"2"})], base=image, reference=parse_reference("y:1"))
    bundle_from_store(store, "y:1", f"{home}/bundle", say=print)
    again = io.BytesIO()
    save_from_store(store, ["x:1"], again.write)
    print(again.getvalue() == out.getvalue(), store.verify())
print(sorted(os.listdir(f"{home}/bundle/rootfs")), os.listdir(f"{home}/bundle/rootfs/etc"), os.listdir(f"{home}/bundle/rootfs/srv"))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pyruntime-home-", dir="/var/tmp"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("caller", CALLERS)
def test_a_store_without_roots_rights(home, caller):
    words = CALLERS[caller]
    need_readable_checkout()
    if subprocess.run([*words, "unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unprivileged user namespaces")
    done = subprocess.run([*words, sys.executable, "-c", SCRIPT, str(home)], cwd="/", env={"PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == [
        "['old'] ['user.overlay.opaque']", "True []", "['etc', 'new', 'srv'] [] []"], done  # fmt: skip
