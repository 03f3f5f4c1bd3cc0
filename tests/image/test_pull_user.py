"""A plain user pulls: layers for overlay mounts in a user namespace, in a store of the user's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import small_images
from tests.plain_user import AS_NOBODY, NOBODY, need_readable_checkout
from tests.registry_stand import registry, upload

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
REPOSITORY = Path(__file__).resolve().parents[2]
PULL = """
import sys
from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
with Store(sys.argv[1]) as store:
    image = pull(store, RegistryClient(HostConfig(certs_folders=())), parse_reference(sys.argv[2]))
    assert store.verify() == []
    print(image.id, *(store.layer(chain).path for chain in image.chain_ids))
"""


@pytest.fixture
def place():
    """A directory that others may reach, unlike pytest's."""
    made = Path(tempfile.mkdtemp(prefix="pull-user-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_plain_user_pulls(place) -> None:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    as_nobody = [*AS_NOBODY, "env", f"PYTHONPATH={REPOSITORY}:{packages}"]
    python = os.path.realpath(sys.executable)
    need_readable_checkout()
    if subprocess.run([*AS_NOBODY, "unshare", "-Ur", "true"], cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("needs unprivileged user namespaces")
    home = place / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    made = small_images.image([{"a": b"one", "d/": b"", "d/x": b"x"}, {"d/.wh.x": b"", "b": b"two"}])
    with registry(place / "registry") as found:
        upload(found, "x", made, "v1")
        done = subprocess.run([*as_nobody, python, "-c", PULL, str(home / "store"), f"{found.host}/x:v1"], cwd="/",
                              capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    image, base, top = done.stdout.split()
    assert image == made.config_digest
    assert (Path(base) / "a").read_bytes() == b"one"
    assert (Path(top) / "a").exists() is False
    assert (Path(top) / "d/x").is_char_device()
    assert {path.lstat().st_uid for path in home.rglob("*")} == {NOBODY}
