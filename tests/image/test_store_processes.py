"""The store between processes: eight that add, remove and prune at once; writers killed at any instant."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyruntime.image.digest import digest_of
from pyruntime.image.store import Store
from tests.image.made import Made, tree

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("PYRUNTIME_SEED", "1"))
SIZE = 60_000


def worker(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.image.store_worker", *map(str, words)], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_clean(root: str) -> None:
    """A store that is opened anew has nothing wrong, and nothing that no row names."""
    with Store(root) as store:
        assert store.verify() == []
        with store.database.snapshot() as rows:
            assert rows.execute("SELECT count(*) FROM leases").fetchone()[0] == 0
            assert rows.execute("SELECT count(*) FROM claims").fetchone()[0] == 0


def empty(root: str) -> None:
    """After the last image nothing is left but what a transfer may go on with; without that, nothing at all."""
    with Store(root, keep_s=0) as store:
        for image in store.images():
            store.remove(image.id, force=True)
        assert store.verify() == []
    with Store(root, keep_s=0):
        left = [name for name in tree(root) if name.count("/") > 1 or name.startswith(("ingest/", "staging/", "layers/"))]
        assert left == []


@pytest.mark.parametrize("seed", [SEED, pytest.param(SEED + 1, marks=pytest.mark.slow), pytest.param(SEED + 2, marks=pytest.mark.slow)])
def test_eight_processes_at_once(tmp_path, seed) -> None:
    root = str(tmp_path / "root")
    workers = [worker("churn", root, seed * 100 + number, 25) for number in range(8)]
    results = [process.communicate(timeout=300) for process in workers]
    assert [(process.returncode, *result) for process, result in zip(workers, results)] == [(0, "", "")] * 8
    check_clean(root)
    empty(root)


def kill_and_look(root: str, made: Made, delay_s: float) -> str:
    """Lets a writer run for `delay_s`, kills it, looks at what it left; what was seen."""
    process = worker("add", root, made.reference.familiar, "1,2,3", SIZE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
    finally:
        process.kill()
        process.communicate(timeout=60)
    with Store(root) as store:
        assert store.verify() == []
        images = store.images()
        if images:
            image = images[0]
            assert (image.id, image.chain_ids) == (made.id, made.chains)
            for chain, (_, _, files) in zip(made.chains, made.layers):
                layer = store.layer(chain)
                assert layer is not None
                for name, data in files.items():
                    assert Path(layer.path, name).read_bytes() == data
            return "whole"
        assert store.disk_usage().layers_bytes == 0
        parts = {digest: store._core.part_file(digest) for digest in made.blobs}
        kept = {digest: os.path.getsize(path) for digest, path in parts.items() if os.path.exists(path)}
        done = [digest for digest in made.blobs if store.has_blob(digest)]
        resumes(store, made, kept, done)
        return "part" if kept else "content" if done else "nothing"


def resumes(store: Store, made: Made, kept: dict[str, int], done: list[str]) -> None:
    """The next try finds what was complete, and each part's bytes."""
    with store.lease() as lease:
        for digest, data in made.blobs.items():
            with store.ingest(digest, len(data), lease) as ingest:
                assert ingest.complete == (digest in done)
                if not ingest.complete:
                    assert ingest.offset == kept.get(digest, 0)
                    assert b"".join(ingest.read_partial()) == data[: ingest.offset]


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_nothing_half(tmp_path, rounds) -> None:
    root, made = str(tmp_path / "root"), Made("x:1", [1, 2, 3], size=SIZE)
    began = time.monotonic()
    with Store(root) as store:
        made.add(store)
        store.remove("x:1")
    once_s = time.monotonic() - began
    rng = random.Random(SEED)
    seen = [kill_and_look(root, made, rng.random() * 2 * once_s) for _ in range(rounds)]
    print({kind: seen.count(kind) for kind in set(seen)})
    with Store(root) as store:
        assert made.add(store).tags == (made.reference,)
    check_clean(root)
    empty(root)


def test_a_killed_remover_is_finished_by_the_next_opening(tmp_path) -> None:
    root, made = str(tmp_path / "root"), Made("x:1", [1, 2])
    with Store(root) as store:
        made.add(store)
        # the rows are gone for good, the process ends before the files are
        with store.database.write() as rows:
            rows.execute("DELETE FROM images")
            for chain in reversed(made.chains):
                rows.execute("DELETE FROM layers WHERE chain = ?", (chain,))
            rows.execute("DELETE FROM blobs")
    with Store(root) as store:
        assert store.verify() == []
    empty(root)


def test_a_waiter_takes_over_when_the_writer_is_killed(tmp_path) -> None:
    root, data = str(tmp_path / "root"), os.urandom(1000)
    digest = digest_of(data)
    script = (
        "import sys, time; from pyruntime.image.store import Store\n"
        f"with Store({root!r}) as s, s.lease() as l, s.ingest({digest!r}, 1000, l) as i:\n"
        f"    i.write(bytes.fromhex({data[:400].hex()!r})); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate(timeout=60)
    with Store(root) as store, store.lease() as lease, store.ingest(digest, 1000, lease) as ingest:
        assert ingest.offset == 400
        ingest.write(data[400:])
        ingest.commit()
