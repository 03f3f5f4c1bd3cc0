"""What a removal reports, in the order in which docker does: names as texts, tags and digests among each other."""

from __future__ import annotations

import os

import pytest

from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import RegistryClient
from pyruntime.image.store import Store
from tests import small_images
from tests.registry_stand import Registry, upload

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning"),
              pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]  # fmt: skip


@pytest.mark.parametrize("how", ["remove", "prune"])
def test_order(plain: Registry, store: Store, client: RegistryClient, how: str) -> None:
    made = small_images.image([{"file": b"order"}])
    for path in ("order/a", "order/all"):
        upload(plain, path, made, "1")
        pull(store, client, parse_reference(f"{plain.host}/{path}:1"))
    store.tag(made.config_digest, parse_reference("zz:1"))
    report = store.remove(made.config_digest, force=True) if how == "remove" else store.prune({"dangling": ["false"]})[0]
    assert [text for kind, text in report if kind == "Untagged"] == [
        *(f"{plain.host}/{path}{end}" for path in ("order/a", "order/all") for end in (":1", f"@{made.digest}")), "zz:1"]
