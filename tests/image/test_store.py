"""The store in one process: content, layers, names, Docker's rules of removal, what is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from pyruntime.errors import (
    Cancelled,
    DigestMismatch,
    ImageConflict,
    ImageNotFound,
    InvalidImage,
    InvalidReference,
    StoreError,
)
from pyruntime.image.digest import digest_of
from pyruntime.image.layers import remove_tree
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import NewLayer, Store
from tests.image.made import Made, tree


@pytest.fixture
def store(tmp_path):
    with Store(str(tmp_path / "root")) as opened:
        yield opened
        assert opened.verify() == []


def short(text: str) -> str:
    return text.removeprefix("sha256:")[:12]


def test_an_image_comes_and_goes(store) -> None:
    made = Made("x:1", [1, 2])
    empty = tree(store.root)
    image = made.add(store)
    assert (image.id, image.tags, image.chain_ids) == (made.id, (made.reference,), made.chains)
    assert [r.familiar for r in image.repo_digests] == [f"x@{digest_of(made.manifest)}"]
    assert image.manifest_digests == (digest_of(made.manifest),)
    assert image.size == sum(len(tar) for tar, _, _ in made.layers)
    layer = store.layer(made.chains[1])
    assert layer is not None
    assert (layer.parent, layer.diff_id) == (made.chains[0], made.diff_ids[1])
    for name, data in made.layers[1][2].items():
        with open(f"{layer.path}/{name}", "rb") as file:
            assert file.read() == data
    assert os.stat(f"{store.root}/layers").st_mode & 0o777 == 0o700
    assert store.read_blob(made.id) == made.config
    with os.fdopen(store.open_blob(digest_of(made.manifest)), "rb") as file:
        assert file.read() == made.manifest
    assert store.verify() == []
    assert store.remove("x:1") == [
        ("Untagged", "x:1"), ("Untagged", f"x@{digest_of(made.manifest)}"), ("Deleted", made.id),
        ("Deleted", made.chains[1]), ("Deleted", made.chains[0]),
    ]
    assert tree(store.root) == empty
    assert store.images() == []


def test_shared_layers_and_content_stay(store) -> None:
    first, second = Made("x:1", [1, 2]), Made("x:2", [1, 3])
    first.add(store)
    second.add(store)
    usage = store.disk_usage()
    sizes = {image.tags[0].tag: (shared, alone) for image, shared, alone in usage.images}
    tar = len(first.layers[0][0])
    assert sizes == {"1": (tar, tar), "2": (tar, tar)}
    assert usage.layers_bytes == 3 * tar
    assert usage.blobs_bytes == sum(len(data) for data in (first.blobs | second.blobs).values())
    report = store.remove("x:1")
    assert ("Deleted", first.chains[1]) in report
    assert ("Deleted", first.chains[0]) not in report
    assert store.find("x:2").chain_ids == second.chains
    assert store.has_blob(digest_of(second.layers[0][1]))
    assert not store.has_blob(digest_of(first.layers[1][1]))


def test_find(store) -> None:
    made = Made("host.example:5000/a/b:1", [1])
    made.add(store)
    digits = made.id.removeprefix("sha256:")
    for text in ("host.example:5000/a/b:1", f"host.example:5000/a/b@{digest_of(made.manifest)}", made.id, digits, digits[:5],
                 f"sha256:{digits[:7]}", f"host.example:5000/a/b:other@{digest_of(made.manifest)}"):  # fmt: skip
        assert store.find(text).id == made.id, text
    for text, shown in (("x", "x:latest"), ("x:2", "x:2"), ("0" * 64, "0" * 64), ("host.example:5000/a/b", "host.example:5000/a/b:latest"),
                        (f"x@{made.id}", f"x@{made.id}")):  # fmt: skip
        with pytest.raises(ImageNotFound) as caught:
            store.find(text)
        assert caught.value.message == f"No such image: {shown}"
    with pytest.raises(InvalidReference, match="must be lowercase"):
        store.find("Foo")
    # a name wins over the prefix of an ID
    other = Made(f"{digits[:4]}", [2])
    other.add(store)
    assert store.find(digits[:4]).id == other.id


def test_an_ambiguous_prefix_is_named(store) -> None:
    seen: dict[str, Made] = {}
    for seed in range(40):
        made = Made(f"x:{seed}", [seed])
        made.add(store)
        first = made.id[7]
        if first in seen:
            with pytest.raises(InvalidReference, match=f"^multiple IDs found with provided prefix: {first}$"):
                store.find(first)
            return
        seen[first] = made
    raise AssertionError


def test_tags_move_and_the_last_one_takes_the_image(store) -> None:
    first, second = Made("x:1", [1]), Made("x:1", [2])
    first.add(store, target=False)
    assert store.tag("x:1", parse_reference("y")).tags == (parse_reference("x:1"), parse_reference("y"))
    second.add(store, target=False)
    assert store.find("y").tags == (parse_reference("y"),)
    assert store.find("x:1").id == second.id
    assert store.find("x:1").last_tagged > store.find("y").last_tagged > 0
    store.tag("x:1", parse_reference("y:latest"))
    assert store.find(first.id).tags == ()
    assert store.remove("y") == [("Untagged", "y:latest")]
    with pytest.raises(InvalidReference, match="refusing to create a tag with a digest reference"):
        store.tag("x:1", parse_reference(f"z@{second.id}"))
    assert store.prune() == ([("Deleted", first.id), ("Deleted", first.chains[0])], freed(first))


def freed(made: Made) -> int:
    return sum(len(data) for data in made.blobs.values()) + sum(len(tar) for tar, _, _ in made.layers)


def test_by_id_with_several_repositories(store) -> None:
    made = Made("x:1", [1])
    made.add(store)
    store.tag("x:1", parse_reference("y:1"))
    with pytest.raises(ImageConflict) as caught:
        store.remove(made.id)
    assert caught.value.message == (
        f"conflict: unable to delete {short(made.id)} (must be forced) - image is referenced in multiple repositories")
    assert [what for what, _ in store.remove(made.id[:20], force=True)] == ["Untagged"] * 3 + ["Deleted"] * 2


def test_by_id_with_one_repository(store) -> None:
    made = Made("x:1", [1])
    made.add(store)
    assert [what for what, _ in store.remove(made.id)] == ["Untagged"] * 2 + ["Deleted"] * 2


def test_a_tag_of_two_is_only_untagged(store) -> None:
    made = Made("x:1", [1])
    made.add(store)
    store.tag("x:1", parse_reference("x:2"))
    assert store.remove("x:2") == [("Untagged", "x:2")]
    assert store.remove("x:1")[-1] == ("Deleted", made.chains[0])


def test_an_image_in_use(store) -> None:
    made, container = Made("x:1", [1]), "c" * 64
    made.add(store)
    store.hold(container, made.id)
    with pytest.raises(ImageConflict) as caught:
        store.remove("x:1")
    assert caught.value.message == (
        f'conflict: unable to remove repository reference "x:1" (must force) - container cccccccccccc is using its '
        f"referenced image {short(made.id)}")
    with pytest.raises(ImageConflict, match="must be forced.*image is being used by stopped container cccccccccccc"):
        store.remove(made.id)
    with pytest.raises(ImageConflict, match="cannot be forced.*image is being used by running container cccccccccccc"):
        store.remove(made.id, force=True, running=[container])
    assert store.prune({"dangling": ["false"]}) == ([], 0)
    # forced by name while it runs: the name goes, the image stays
    assert [what for what, _ in store.remove("x:1", force=True, running=[container])] == ["Untagged", "Untagged"]
    assert store.find(made.id).tags == ()
    # forced when it is stopped: the image goes, what the container runs on stays until it is gone
    assert store.remove(made.id, force=True) == [("Deleted", made.id)]
    layer = store.layer(made.chains[0])
    assert layer is not None
    assert os.path.isdir(layer.path)
    store.release(container)
    assert store.layer(made.chains[0]) is None
    assert not os.path.exists(layer.path)


def test_children_keep_their_parents(store) -> None:
    base, child = Made("base:1", [1]), Made("child:1", [1, 2])
    base.add(store, target=False)
    child.add(store, target=False, parent=base.id)
    with pytest.raises(ImageConflict, match="cannot be forced.*image has dependent child images"):
        store.remove(base.id, force=True)
    assert store.remove("base:1") == [("Untagged", "base:1")]
    assert store.prune() == ([], 0)
    assert store.remove("child:1") == [
        ("Untagged", "child:1"), ("Deleted", child.id), ("Deleted", child.chains[1]), ("Deleted", base.id),
        ("Deleted", base.chains[0])]
    base.add(store, target=False)
    child.add(store, target=False, parent=base.id)
    store.remove("base:1")
    assert len(store.remove("child:1", prune=False)) == 3
    assert [image.id for image in store.images()] == [base.id]


@pytest.mark.parametrize(("filters", "left"), [
    ({}, "abc"), (None, "abc"), ({"dangling": {"true": True}}, "abc"), ({"dangling": ["0"]}, ""),
    ({"dangling": ["false"], "label": ["keep"]}, "ab"), ({"dangling": ["false"], "label": ["keep=no"]}, "abc"),
    ({"dangling": ["false"], "label!": ["keep"]}, "c"), ({"dangling": ["false"], "until": ["2025-06-01"]}, "bc"),
    ({"dangling": ["false"], "until": ["1h"]}, "c"),
])
def test_prune_filters(store, filters, left) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    Made("x:a", [1], created="2025-01-01T00:00:00Z").add(store)
    Made("x:b", [2], created="2026-01-01T00:00:00+02:00").add(store)
    Made("x:c", [3], created=now, labels={"keep": "yes"}).add(store)
    store.prune(filters)
    assert sorted(image.tags[0].tag for image in store.images()) == list(left)


@pytest.mark.parametrize("filters", [{"reference": ["x"]}, {"dangling": ["maybe"]}, {"until": ["soon"]}, {"until": ["1h", "2h"]}])
def test_prune_refuses(store, filters) -> None:
    with pytest.raises(InvalidReference):
        store.prune(filters)


def test_content_that_lies_is_refused_and_not_kept(store) -> None:
    digest = digest_of(b"good")
    with store.lease() as lease:
        with store.ingest(digest, 4, lease) as ingest:
            ingest.write(b"evil")
            with pytest.raises(DigestMismatch, match=f"expected {digest}, got sha256:"):
                ingest.commit()
        with store.ingest(digest, 4, lease) as ingest:
            assert ingest.offset == 0
            with pytest.raises(DigestMismatch, match="longer than its 4 bytes"):
                ingest.write(b"good!")
        with store.ingest(digest, 4, lease) as ingest:
            ingest.write(b"goo")
            with pytest.raises(DigestMismatch, match="has 3 bytes, expected 4"):
                ingest.commit()
        assert not store.has_blob(digest)
    assert os.listdir(f"{store.root}/ingest") == []


def test_a_part_is_gone_on_with(store) -> None:
    data = os.urandom(5000)
    digest = digest_of(data)
    with store.lease() as lease, store.ingest(digest, len(data), lease) as ingest:
        ingest.write(data[:3000])
    with store.lease() as lease, store.ingest(digest, len(data), lease) as ingest:
        assert (ingest.offset, ingest.resumed, b"".join(ingest.read_partial(1000))) == (3000, True, data[:3000])
        ingest.write(memoryview(data)[3000:])
        ingest.commit()
    with store.lease() as lease, store.ingest(digest, len(data), lease) as ingest:
        assert ingest.complete
    assert store.read_blob(digest) == data
    assert store.blob_size(digest) == 5000


def test_a_part_that_is_spoiled_starts_anew(store) -> None:
    data = os.urandom(5000)
    digest = digest_of(data)
    with store.lease() as lease:
        with store.ingest(digest, len(data), lease) as ingest:
            ingest.write(b"\0" * 100)
        with store.ingest(digest, len(data), lease) as ingest:
            ingest.write(data[100:])
            with pytest.raises(DigestMismatch):
                ingest.commit()
            assert ingest.offset == 0
            ingest.write(data)
            ingest.commit()
        with store.ingest(digest_of(b""), 0, lease) as ingest:
            ingest.commit()
        assert store.read_blob(digest_of(b"")) == b""


def test_new_content_is_named_when_it_is_complete(store) -> None:
    data = os.urandom(3000)
    with store.lease() as lease:
        with store.new_blob(lease) as blob:
            blob.write(data[:1000])
            blob.write(data[1000:])
            assert blob.commit() == digest_of(data)
        with store.new_blob(lease) as blob:
            blob.write(data)
            assert blob.commit() == digest_of(data)
        with store.new_blob(lease):
            pass
        assert store.put_blob(data, lease) == digest_of(data)
        with store.new_blob(lease, "sha512") as blob:
            blob.write(data)
            assert store.read_blob(blob.commit()) == data
    assert os.listdir(f"{store.root}/ingest") == []


def test_one_writer_and_the_others_wait(store) -> None:
    data = os.urandom(100)
    digest = digest_of(data)
    seen: list[str] = []

    def second() -> None:
        with store.lease() as lease, store.ingest(digest, 100, lease) as ingest:
            seen.append("complete" if ingest.complete else "alone")

    with store.lease() as lease:
        with store.ingest(digest, 100, lease) as ingest:
            thread = threading.Thread(target=second)
            thread.start()
            cancel = threading.Event()
            threading.Timer(0.05, cancel.set).start()
            with pytest.raises(Cancelled), store.ingest(digest, 100, lease, cancel=cancel):
                pass
            assert seen == []
            ingest.write(data)
            ingest.commit()
        thread.join(60)
    assert seen == ["complete"]


def test_content_whose_row_cannot_be_written_leaves_no_file(store) -> None:
    """As on a disk that has room for the content and for nothing else."""
    with store.database.write() as rows:
        rows.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON main.blobs BEGIN SELECT RAISE(ABORT, 'is full'); END")
    with store.lease() as lease, pytest.raises(StoreError, match="is full"):
        store.put_blob(b"x", lease)
    assert os.listdir(f"{store.root}/blobs/sha256") == []
    with store.database.write() as rows:
        rows.execute("DROP TRIGGER full")


def test_what_is_not_committed_goes_with_its_lease(store) -> None:
    before = tree(store.root)
    made = Made("x", [1])
    with store.lease() as lease:
        path = store.stage_layer(lease)
        os.mkdir(f"{path}/a")
        with pytest.raises(StoreError, match="is not in the store"):
            store.commit_image(lease, None, digest_of(made.manifest), [])
        store.put_blob(made.manifest, lease)
        store.put_blob(made.config, lease)
        with pytest.raises(StoreError, match="content sha256:.* of the image is not in the store"):
            store.commit_image(lease, None, digest_of(made.manifest), [NewLayer(made.chains[0], made.diff_ids[0], path, 1)])
        with pytest.raises(InvalidImage, match="not those of the image's config"):
            store.commit_image(lease, None, digest_of(made.manifest), [])
        store.put_blob(made.layers[0][1], lease)
        with pytest.raises(StoreError, match="layer sha256:.* is not in the store"):
            store.commit_image(lease, None, digest_of(made.manifest), [NewLayer(made.chains[0], made.diff_ids[0], None, 1)])
        with pytest.raises(StoreError, match="not a staged one"):
            store.commit_image(lease, None, digest_of(made.manifest), [NewLayer(made.chains[0], made.diff_ids[0], "/etc", 1)])
    assert store.images() == []
    assert [name for name in tree(store.root) if name.startswith(("staging/", "layers/", "ingest/"))] == []
    # blobs of a transfer that broke off are kept for the next one, for a time
    assert store.has_blob(made.id)
    store.close()
    with Store(store.root, keep_s=0) as again:
        assert tree(again.root) == before
    store.__init__(store.root)


def test_the_loser_of_two_committers_cleans_up(store) -> None:
    made = Made("x", [1, 2])
    with store.lease() as one, store.lease() as two:
        for lease in (one, two):
            for data in made.blobs.values():
                store.put_blob(data, lease)
        first, second = made.unpack(store, one), made.unpack(store, two)
        store.commit_image(one, made.reference, digest_of(made.manifest), first)
        store.commit_image(two, made.reference, digest_of(made.manifest), second)
    assert len(os.listdir(f"{store.root}/layers")) == 2
    assert os.listdir(f"{store.root}/staging") == []


def test_what_a_lease_claims_stays_while_it_lives(store) -> None:
    made = Made("x", [1])
    made.add(store)
    with store.lease() as lease:
        assert store.layer(made.chains[0], lease)
        assert store.has_blob(made.id, lease)
        assert store.remove("x")[-1] == ("Deleted", made.id)
        assert store.layer(made.chains[0])
        assert store.has_blob(made.id)
        assert not store.has_blob(digest_of(made.manifest))
        made.add(store)
    assert store.find("x").id == made.id


def test_an_image_without_layers(store) -> None:
    made = Made("x", [])
    image = made.add(store)
    assert (image.size, image.chain_ids) == (0, ())
    assert store.remove("x")[-1] == ("Deleted", made.id)


def test_content_not_on_stable_storage_does_not_outlive_the_kernel(store) -> None:
    Made("x", [1]).add(store)
    with store.lease() as lease:
        digest = store.put_blob(b"not synced", lease)
        place = store.stage_layer(lease)
        with store.database.write() as rows:
            rows.execute("UPDATE meta SET value = 'another boot' WHERE key = 'boot'")
            rows.execute("UPDATE leases SET boot = 'another boot'")
        with Store(store.root) as again:
            assert not again.has_blob(digest)
            assert not os.path.exists(place)
            assert not os.path.exists(f"{store.root}/blobs/sha256/{digest[7:]}")
            assert again.find("x").tags


def test_orphans_are_named_by_verify_and_swept(store) -> None:
    Made("x", [1]).add(store)
    before = tree(store.root)
    for path in ("layers/aaa/diff/x", "staging/bbb/diff"):
        os.makedirs(f"{store.root}/{path}")
    for path in (f"blobs/sha256/{'a' * 64}", "ingest/new-1"):
        with open(f"{store.root}/{path}", "wb") as file:
            file.write(b"x")
    assert len(store.verify()) == 3
    Store(store.root).close()
    assert tree(store.root) == before


def test_verify_names_what_is_damaged(store) -> None:
    made = Made("x", [1, 2])
    made.add(store)
    path = store.blob_path(digest_of(made.layers[0][1]))
    with open(path, "r+b") as file:
        file.write(b"damaged")
    assert [line.partition(":")[0] for line in store.verify()] == ["content sha256"]
    assert store.verify(content=False) == []
    os.truncate(path, 3)
    assert "has 3 bytes, its row says" in store.verify(content=False)[0]
    os.unlink(path)
    layer = store.layer(made.chains[0])
    assert layer is not None
    os.rename(layer.path, f"{layer.path}.away")
    found = store.verify(content=False)
    assert "No such file" in found[0]
    assert f"layer {made.chains[0]}" in found[1]
    with open(store.blob_path(made.id), "ab") as file:
        file.write(b" ")
    assert any("image sha256" in line for line in store.verify())
    with pytest.raises(DigestMismatch):
        store.read_blob(made.id)
    with pytest.raises(StoreError, match="No such file"):
        store.open_blob(digest_of(made.layers[0][1]))
    store.remove("x")


def test_a_store_of_a_later_version_is_refused(store) -> None:
    root = f"{store.root}-later"
    with Store(root) as later, later.database.write() as rows:
        rows.execute("PRAGMA user_version=2")
    with pytest.raises(StoreError, match="format 2, this version reads 1"):
        Store(root)
    with open(f"{root}/db.sqlite", "wb") as file:
        file.write(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Store(root)
    with open(f"{root}-file", "wb"), pytest.raises(StoreError, match="File exists|Not a directory"):
        Store(f"{root}-file")


def test_the_engine_joins_a_write(store) -> None:
    made = Made("x", [1])
    made.add(store)
    with pytest.raises(ZeroDivisionError), store.database.write():  # noqa: PT012 - both belong to the block
        store.hold("c", made.id)
        1 / 0  # noqa: B018
    store.remove("x")
    with store.database.write(durable=False), pytest.raises(ValueError, match="durable"), store.database.write():
        pass


def test_a_tree_goes_however_deep_it_is(tmp_path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for depth in range(400):
        os.mkdir("d", dir_fd=here)
        os.symlink("/etc/passwd", "link", dir_fd=here)
        if depth == 200:
            os.mkdir("locked", 0, dir_fd=here)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    remove_tree(str(top))
    assert not top.exists()
    remove_tree(str(top))


def test_many_images_go_with_few_descriptors(store, monkeypatch) -> None:
    monkeypatch.setattr("pyruntime.image.content.LOCKS_MAX", 2)
    empty = tree(store.root)
    made = [Made(f"x:{seed}", [seed], size=10) for seed in range(4)]
    for one in made:
        one.add(store)
    assert store.prune({"dangling": ["0"]})[1] == sum(freed(one) for one in made)
    assert tree(store.root) == empty


def test_a_pull_of_what_is_there_writes_no_content(store, monkeypatch) -> None:
    made = Made("x", [1])
    made.add(store)

    def unwanted(_fd: int) -> None:
        raise AssertionError

    monkeypatch.setattr("pyruntime.image.appearing.syncfs", unwanted)
    assert made.add(store).id == made.id


@pytest.fixture
def small(tmp_path):
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=True)
    yield str(path)
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_said_and_leaves_the_store_whole(small) -> None:
    with Store(f"{small}/root") as store:
        fits, large = Made("fits", [1], size=100_000), Made("large", [2, 3, 4], size=500_000)
        fits.add(store)
        with pytest.raises((StoreError, OSError), match="No space left on device|disk is full") as caught:
            large.add(store)
        if isinstance(caught.value, StoreError):
            assert "full" in caught.value.hint
        assert store.verify() == []
        assert store.find("fits").id == fits.id
    with Store(f"{small}/root", keep_s=0) as store:
        store.remove("fits")
        assert store.verify() == []
        assert store.images() == []
        assert fits.add(store).id == fits.id


PLAIN = """
import os, sys
from pyruntime.errors import StoreError
from pyruntime.image.layers import remove_tree
from pyruntime.image.store import Store
from tests.image.made import Made
os.setgid(65534); os.setuid(65534)
try:
    Store(sys.argv[1] + "/foreign")
except StoreError as error:
    assert "another user" in error.hint, error.hint
else:
    raise AssertionError("a foreign root was opened")
with Store(sys.argv[1] + "/own") as store:
    Made("x", [1]).add(store)
    layer = store.layer(store.find("x").chain_ids[0]).path
    os.makedirs(layer + "/closed/in/side")
    for name in ("closed/in/side", "closed/in", "closed", "d1"):
        os.chmod(f"{layer}/{name}", 0)
    store.remove("x")
    assert os.listdir(store.root + "/staging") == [], os.listdir(store.root + "/staging")
    assert store.verify() == []
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_plain_user_has_a_store_of_their_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/own")
        os.chown(f"{folder}/own", 65534, 65534)
        Store(f"{folder}/foreign").close()
        repository = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        subprocess.run([sys.executable, "-B", "-c", PLAIN, folder], cwd=repository, check=True, timeout=60)
