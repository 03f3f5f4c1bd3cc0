"""`pyruntime.image` as a library: README's example, from a process of root's and of a plain user's, in threads, with cancel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pyruntime.errors import Cancelled
from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
from tests import small_images
from tests.plain_user import AS_NOBODY, NOBODY, need_readable_checkout
from tests.registry_stand import Registry, upload

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning"),
              pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]  # fmt: skip
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def example(name: str) -> str:
    """README's program with an image of ours."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [text for text in blocks if "pyruntime.image" in text]
    return found.replace("registry.example/debian:12", name)


@pytest.fixture
def folder():
    """Which other users may enter, as pytest's own folders are not for them."""
    with tempfile.TemporaryDirectory(prefix="pyruntime-library-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.mark.parametrize("prefix", [(), AS_NOBODY], ids=["root", "user"])
def test_the_example(plain: Registry, folder, prefix):
    made = small_images.image([small_images.busybox_layer()])
    upload(plain, "library/example", made, "12")
    if prefix:
        need_readable_checkout()
        os.chown(folder, NOBODY, NOBODY)
    name = f"{plain.host}/library/example:12"
    done = subprocess.run([*prefix, sys.executable, "-c", example(name)], cwd=folder, capture_output=True, text=True, timeout=120,
                          check=False, env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{made.config_digest} ['{name}']\n"
    assert (folder / "bundle/rootfs/bin/busybox").stat().st_size == Path(small_images.BUSYBOX).stat().st_size
    assert (folder / "bundle/config.json").exists()


def test_threads_share_one_store_and_one_client(plain: Registry, tmp_path):
    images = [small_images.image([{"shared": b"s" * 100_000}, {f"own{number}": bytes([number]) * 100_000}]) for number in range(6)]
    for number, made in enumerate(images):
        upload(plain, "library/threads", made, f"v{number}")
    client, found, failed = RegistryClient(HostConfig(certs_folders=())), [], []
    with Store(str(tmp_path / "store")) as store:

        def work(number: int) -> None:
            try:
                found.append(pull(store, client, parse_reference(f"{plain.host}/library/threads:v{number % 6}")).id)
            except BaseException as error:  # noqa: BLE001 # told by the assertion
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failed == []
        assert sorted(found) == sorted([made.config_digest for made in images] * 2)
        assert store.verify() == []
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(Cancelled):
            pull(store, client, parse_reference(f"{plain.host}/library/threads:v0"), cancel=cancel)
    client.close()
