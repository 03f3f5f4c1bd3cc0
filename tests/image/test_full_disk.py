"""A store on a disk that is full: transfers fail cleanly and keep nothing, removal works, and so does the next start."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyruntime.errors import ImageError
from pyruntime.image.pull import pull
from pyruntime.image.reference import Reference, parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
from tests import small_images
from tests.registry_stand import QUICK, Registry, push_made

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning"), pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
FILE_BYTES = 100_000


@contextmanager
def disk(path: Path, kib: int) -> Iterator[Path]:
    """A file system of that size."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(path: Path) -> None:
    """Somebody else uses all that is left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def tag_for_ever(store: Store, name: Reference) -> None:
    """Until there is no room for another row."""
    for number in range(100_000):
        store.tag(name.familiar, name.with_tag(f"t{number}"))


@pytest.fixture(scope="module")
def client() -> Iterator[RegistryClient]:
    found = RegistryClient(HostConfig(certs_folders=()), policy=QUICK)
    yield found
    found.close()


@pytest.fixture(scope="module")
def names(plain: Registry, client: RegistryClient) -> tuple[str, str]:
    """A large image and a small one, in a registry."""
    noise = random.Random(1)
    large = small_images.image([{f"d{layer}/": b"", **{f"d{layer}/f{i}": noise.randbytes(FILE_BYTES) for i in range(10)}} for layer in range(3)])
    push_made(client, f"{plain.host}/full/large", large, "1")
    push_made(client, f"{plain.host}/full/small", small_images.image([{"file": b"1"}]), "1")
    return f"{plain.host}/full/large:1", f"{plain.host}/full/small:1"


@pytest.mark.parametrize("kib", [700, 2500, 4500, 6500])
def test_a_pull_that_does_not_fit_leaves_nothing(names, client, tmp_path, kib):
    large, small = map(parse_reference, names)
    with disk(tmp_path / "disk", kib) as root:
        with Store(str(root)) as store:
            pull(store, client, small)
            before = {*(root / "blobs/sha256").iterdir(), *(root / "layers").iterdir()}
            with pytest.raises(ImageError, match=r"No space left on device|disk is full"):
                pull(store, client, large)
            assert [image.tags for image in store.images()] == [(small,)]
            assert {*(root / "blobs/sha256").iterdir(), *(root / "layers").iterdir()} == before
            assert os.listdir(root / "ingest") == os.listdir(root / "staging") == []
            assert store.verify() == []
        with Store(str(root)) as store:
            assert [image.tags for image in store.images()] == [(small,)]


@pytest.mark.parametrize("closed", [False, True], ids=["running", "restarted"])
def test_images_can_be_removed_when_others_have_filled_the_disk(names, client, tmp_path, closed):
    large, small = map(parse_reference, names)
    with disk(tmp_path / "disk", 16 << 10) as root:
        store = Store(str(root))
        pull(store, client, small)
        pull(store, client, large)
        if closed:
            store.close()
        fill(root / "others")
        if closed:
            store = Store(str(root))
        with store:
            with pytest.raises(ImageError, match=r"No space left on device|disk is full"):
                tag_for_ever(store, small)
            assert ("Untagged", large.familiar) in store.remove(names[0])
            pull(store, client, small)
            assert small in store.find(names[1]).tags
            assert store.verify() == []
        assert (root / "reserve").stat().st_blocks * 512 >= 1 << 20
