"""Debian's Docker (20.10, in a room of its own) loads what we save, and we load what it saves."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.callers.docker import Docker
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.bundle import bundle_from_archive
from pyruntime.image.history import compile_history
from pyruntime.image.importing import import_rootfs
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image_samples import layer, make_image
from tests.images import busybox_tar

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.usefixtures("limit")]
DOCKERFILE = """FROM busybox:ours
COPY same /one
COPY same /one
RUN rm /bin/hostname && mkdir /made
ENV A=1
CMD ["cat", "/one"]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with Store.open(str(tmp_path_factory.mktemp("docker") / "store")) as made:
        with open(busybox_tar(), "rb") as file:
            import_rootfs(made, file.read, reference=parse_reference("busybox:ours"), changes=['CMD ["echo","from us"]'])
        yield made


def saved(store: Store, *texts: str) -> bytes:
    out = io.BytesIO()
    save_from_store(store, list(texts), out.write)
    return out.getvalue()


@pytest.fixture(scope="module")
def docker(store, program, room) -> Iterator[Docker]:
    with room("images", "dockerd", "containerd") as stand:
        stand.write("/run/image.tar", saved(store, "busybox:ours"))
        yield Docker(stand, program, {"storage-driver": "overlay2"})


def inspected(docker: Docker, name: str) -> dict:
    return json.loads(docker.ok("image", "inspect", name))[0]


def read_back(store: Store, docker: Docker, *names: str) -> list:
    docker.ok("save", "-o", "/run/theirs.tar", *names)
    with docker.stand.path("/run/theirs.tar").open("rb") as file:
        return load_archive(store, file.read)


def test_docker_loads_what_we_save(store, docker):
    image, theirs = store.find("busybox:ours"), inspected(docker, "busybox:ours")
    assert theirs["Id"] == image.id
    assert theirs["RootFS"]["Layers"] == list(image.config.diff_ids)
    assert docker.ok("run", "--rm", "--network", "none", "busybox:ours") == "from us"


@pytest.mark.parametrize("pack", ["gzip", "zstd", ""])
def test_docker_loads_every_compression(store, docker, tmp_path, pack):
    from pyruntime.image.archive_blobs import FolderBlobs
    from pyruntime.image.archive_save import save_archive

    with FolderBlobs(str(tmp_path / "blobs")) as blobs:
        one = make_image(blobs, [layer({"a": b"1"}), layer({".wh.a": b"", "b": b"2"})], f"packed:1{pack}", pack=pack)
        two = make_image(blobs, [layer({"a": b"1"})], f"second:1{pack}", pack=pack)
        out = io.BytesIO()
        save_archive(out.write, blobs, [one, two])
    docker.stand.write("/run/packed.tar", out.getvalue())
    assert docker.ok("load", "-i", "/run/packed.tar").splitlines() == [f"Loaded image: packed:1{pack}", f"Loaded image: second:1{pack}"]
    for image in (one, two):
        assert inspected(docker, image.references[0].familiar)["Id"] == image.config.digest


def repacked(docker: Docker, change: str) -> None:
    """/run/changed.tar: what `docker save` wrote to /run/theirs.tar, after a shell command in its folder."""
    docker.stand.ok("sh", "-c", "rm -rf /run/theirs && mkdir /run/theirs && cd /run/theirs && tar -xf ../theirs.tar && "
                                f"{change} && tar -cf ../changed.tar *")


@pytest.mark.parametrize(("inner", "outer"), [("bzip2", "cat"), ("xz", "gzip"), ("gzip", "xz"), ("xz", "bzip2")])
def test_layers_and_archives_that_somebody_has_compressed(docker, tmp_path, inner, outer):
    """Docker loads them, and so do we, to the same image."""
    own = inspected(docker, "busybox:ours")["Id"]
    docker.ok("save", "-o", "/run/theirs.tar", "busybox:ours")
    repacked(docker, f"for f in */layer.tar; do {inner} -c $f > x && mv x $f; done")
    docker.stand.ok("sh", "-c", f"{outer} < /run/changed.tar > /run/packed.tar")
    docker.ok("tag", "busybox:ours", "kept:1")
    assert docker.ok("load", "-i", "/run/packed.tar") == "Loaded image: busybox:ours"
    assert inspected(docker, "busybox:ours")["Id"] == own
    with docker.stand.path("/run/packed.tar").open("rb") as file, Store.open(str(tmp_path / "other")) as other:
        (loaded,) = load_archive(other, file.read)
        assert (loaded.image.id, loaded.lines) == (own, ("Loaded image: busybox:ours",))
        assert other.verify() == []


def test_an_archive_from_before_the_manifest(store, docker, tmp_path):
    """Docker makes a config of the layers' ones; so do we, and it is the same to the byte."""
    docker.stand.write("/run/context/Dockerfile", DOCKERFILE + 'LABEL odd="<a & b>" \nRUN echo "1 > 2" > /three\n')
    docker.stand.write("/run/context/same", "same\n")
    docker.ok("build", "-q", "-t", "oldest:1", "/run/context")
    docker.ok("save", "-o", "/run/theirs.tar", "oldest:1")
    repacked(docker, "rm *.json")
    docker.ok("rmi", "oldest:1")
    docker.ok("load", "-i", "/run/changed.tar")  # and says nothing
    with docker.stand.path("/run/changed.tar").open("rb") as file, Store.open(str(tmp_path / "other")) as other:
        (loaded,) = load_archive(other, file.read)
        assert loaded.lines == ("Loaded image: oldest:1",)
        assert list(loaded.image.config.diff_ids) == inspected(docker, "oldest:1")["RootFS"]["Layers"]
        assert loaded.image.id == inspected(docker, "oldest:1")["Id"]
        assert other.verify() == []


def test_we_load_what_docker_builds_and_saves(store, docker):
    """Layers that are links in its archive, steps without layers, and the way back: one ID all along."""
    docker.stand.write("/run/context/Dockerfile", DOCKERFILE)
    docker.stand.write("/run/context/same", "same\n")
    docker.ok("build", "-q", "-t", "built:1", "-t", "built:2", "/run/context")
    loaded = read_back(store, docker, "built:1", "built:2", "busybox:ours")
    lines = [line for one in loaded for line in one.lines]  # dockerd saves images in any order
    assert sorted(lines) == ["Loaded image: built:1", "Loaded image: built:2", "Loaded image: busybox:ours"]
    image, theirs = store.find("built:1"), inspected(docker, "built:1")
    assert image.id == theirs["Id"]
    assert list(image.config.diff_ids) == theirs["RootFS"]["Layers"]
    top = Path(store.layer(image.chain_ids[-1]).path)
    assert (top / "bin/hostname").is_char_device()
    assert (top / "made").is_dir()
    assert store.verify() == []
    docker.ok("rmi", "built:1", "built:2")
    docker.stand.write("/run/back.tar", saved(store, "built"))
    assert docker.ok("load", "-i", "/run/back.tar").splitlines() == ["Loaded image: built:1", "Loaded image: built:2"]
    assert inspected(docker, "built:2")["Id"] == image.id
    assert docker.ok("run", "--rm", "--network", "none", "built:1") == "same"


def test_a_bundle_of_what_docker_saves_runs(docker, program, own_host, tmp_path):
    docker.stand.write("/run/context/Dockerfile", DOCKERFILE)
    docker.stand.write("/run/context/same", "same\n")
    docker.ok("build", "-q", "-t", "bundled", "/run/context")
    docker.ok("save", "-o", "/run/bundled.tar", "bundled")
    with docker.stand.path("/run/bundled.tar").open("rb") as file:
        bundle_from_archive(file.read, str(tmp_path / "bundle"), name="bundled")
    done = subprocess.run([program, "--root", str(tmp_path / "state"), "run", "--bundle", str(tmp_path / "bundle"), "arch-docker"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "same\n"), done


def test_history_is_dockers(store, docker):
    docker.stand.write("/run/context/Dockerfile", DOCKERFILE)
    docker.stand.write("/run/context/same", "same\n")
    docker.ok("build", "-q", "-t", "told:1", "/run/context")
    image = read_back(store, docker, "told:1")[0].image
    ours = compile_history(image.config, [store.layer(chain).size for chain in image.chain_ids], image_id=image.id)
    theirs = [json.loads(line) for line in docker.ok("history", "--no-trunc", "--human=false", "--format", "{{json .}}", "told:1").splitlines()]
    assert [(step.created_by, step.comment) for step in ours] == [(one["CreatedBy"], one["Comment"]) for one in theirs]
    # Docker counts the text of symlinks as well
    assert [step.size for step in ours] == [pytest.approx(int(one["Size"]), rel=0.001) for one in theirs]
    assert ours[0].id == theirs[0]["ID"]


def test_import_gives_the_same_layer(store, docker):
    docker.stand.write("/run/rootfs.tar", busybox_tar().read_bytes())
    docker.ok("import", "--change", "ENV A=1 B=\"x y\"", "--change", "EXPOSE 80 53/udp", "--change", "HEALTHCHECK --interval=5s CMD true",
              "--change", "ONBUILD RUN x", "--change", "VOLUME /a /b", "--change", "WORKDIR /w", "--change", "LABEL k=v",
              "--change", "ENTRYPOINT [\"sh\"]", "--change", "CMD -c ls", "--change", "USER web", "/run/rootfs.tar", "imported:1")  # fmt: skip
    theirs = inspected(docker, "imported:1")
    with open(busybox_tar(), "rb") as file:
        ours = import_rootfs(store, file.read, changes=["ENV A=1 B=\"x y\"", "EXPOSE 80 53/udp", "HEALTHCHECK --interval=5s CMD true", "ONBUILD RUN x",
                                                       "VOLUME /a /b", "WORKDIR /w", "LABEL k=v", "ENTRYPOINT [\"sh\"]", "CMD -c ls", "USER web"])  # fmt: skip
    assert theirs["RootFS"]["Layers"] == list(ours.config.diff_ids)
    for name, value in ours.config.config.items():
        assert theirs["Config"][name] == value, name
