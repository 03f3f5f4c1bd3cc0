"""An image that is removed while it is saved or pushed: all of it goes out; one that has gone before is not found."""

from __future__ import annotations

import io
import os
import threading
from contextlib import suppress

import pytest

from pyruntime.errors import ImageNotFound
from pyruntime.image.archive_blobs import StoreBlobs
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_store import save_from_store, stored_manifest
from pyruntime.image.progress import Progress
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import RegistryClient
from pyruntime.image.store import Image, Store
from tests import small_images
from tests.registry_stand import Registry, upload

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning"),
              pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]  # fmt: skip


@pytest.fixture
def image(plain: Registry, store: Store, client: RegistryClient) -> Image:
    upload(plain, "save/removed", small_images.image([{"one": b"1" * 5000}, {"two": b"2" * 5000}]), "1")
    return pull(store, client, parse_reference(f"{plain.host}/save/removed:1"))


def test_while_it_is_saved(store: Store, image: Image, tmp_path) -> None:
    saved = io.BytesIO()

    def write(data: bytes) -> None:
        if store.images():
            store.remove(image.id, force=True)
            store.prune({"dangling": ["false"]})
        saved.write(data)

    save_from_store(store, [image.id], write)
    assert store.images() == []
    assert os.listdir(f"{store.root}/layers") == []
    with Store(str(tmp_path / "other")) as other:
        assert [loaded.image.id for loaded in load_archive(other, io.BytesIO(saved.getvalue()).read)] == [image.id]
        assert other.verify() == []


def test_before(store: Store, image: Image) -> None:
    store.remove(image.id, force=True)
    with store.lease() as lease, pytest.raises(ImageNotFound):
        stored_manifest(StoreBlobs(store, lease), image)


@pytest.mark.parametrize("moment", ["Preparing", "Layer already exists"])
def test_while_it_is_pushed(plain: Registry, store: Store, client: RegistryClient, image: Image, tmp_path, moment: str) -> None:
    reference = parse_reference(f"{plain.host}/save/{moment.split(maxsplit=1)[0].lower()}:1")
    store.tag(image.id, reference)
    if moment == "Layer already exists":
        push(store, client, reference)
    said = []

    def tell(progress: Progress) -> None:
        said.append(progress.status)
        if progress.status == moment and store.images():
            store.remove(image.id, force=True)

    pushed = push(store, client, reference, progress=tell)
    assert moment in said
    assert store.images() == []
    with Store(str(tmp_path / "pulled")) as pulled:
        assert pull(pulled, client, reference.with_digest(pushed.digest)).id == image.id


def test_pulled_while_others_remove_all(plain: Registry, store: Store, client: RegistryClient, image: Image) -> None:
    """What was pulled is told, however soon somebody removes it."""
    done, failed = threading.Event(), []

    def remove() -> None:
        while not done.is_set():
            for found in store.images():
                with suppress(ImageNotFound):
                    store.remove(found.id, force=True)

    def work() -> None:
        try:
            for _ in range(15):
                assert pull(store, client, parse_reference(f"{plain.host}/save/removed:1")).id == image.id
        except BaseException as error:  # noqa: BLE001 # told by the assertion
            failed.append(error)

    threads = [threading.Thread(target=what) for what in (remove, work, work)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(120)
    done.set()
    threads[0].join(120)
    assert failed == []
