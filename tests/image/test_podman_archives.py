"""Podman, in a room of its own, loads what we save, and we load all that it saves."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pytest

from conformance.callers.test_podman import Podman
from pyruntime.image.archive_load import load_archive, load_layout
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.commit import commit_layer
from pyruntime.image.importing import import_rootfs
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image_samples import layer
from tests.images import busybox_tar

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.usefixtures("limit")]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with Store.open(str(tmp_path_factory.mktemp("podman") / "store")) as made:
        with open(busybox_tar(), "rb") as file:
            base = import_rootfs(made, file.read, reference=parse_reference("localhost/base:1"), changes=['CMD ["cat","/etc/motd"]'])
        commit_layer(made, [layer({"etc/": b"", "etc/motd": b"from us\n"})], base=base, reference=parse_reference("localhost/ours:1"))
        yield made


@pytest.fixture(scope="module")
def podman(store, program, room) -> Iterator[Podman]:
    with room("podman", "podman", "buildah") as stand:
        out = io.BytesIO()
        save_from_store(store, ["localhost/ours:1"], out.write)
        stand.write("/run/image.tar", out.getvalue())
        yield Podman(stand, program)


def test_podman_loads_and_runs_what_we_save(store, podman):
    theirs = json.loads(podman.ok("image", "inspect", "localhost/ours:1"))[0]
    image = store.find("localhost/ours:1")
    assert f"sha256:{theirs['Id']}" == image.id
    assert theirs["RootFS"]["Layers"] == list(image.config.diff_ids)
    assert podman.ok("run", "--rm", "--network", "none", "--cgroups", "disabled", "localhost/ours:1") == "from us"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_we_load_what_podman_saves(store, podman, tmp_path, form):
    target = f"/run/saved-{form}"
    podman.ok("save", "--format", form, "-o", target, "localhost/ours:1")
    path = podman.stand.path(target)
    with Store.open(str(tmp_path / "other")) as other:
        if form.endswith("archive"):
            with path.open("rb") as file:
                loaded = load_archive(other, file.read)
        else:
            fd = os.open(path, os.O_RDONLY)
            loaded = load_layout(other, fd)
            os.close(fd)
        assert [one.image.id for one in loaded] == [store.find("localhost/ours:1").id]
        assert loaded[0].lines[-1] == "Loaded image: localhost/ours:1"
        assert other.verify() == []
