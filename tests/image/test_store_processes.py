"""The store between processes: eight that add, remove and prune at once; writers killed at any instant."""

from __future__ import annotations

import os
import random
import shutil
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
    failed = [text for process, (_, text) in zip(workers, results) if process.returncode]
    assert not failed, "\n".join(failed)
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


@pytest.mark.parametrize("rounds", [30, pytest.param(120, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("rounds", [3, pytest.param(15, marks=pytest.mark.slow)])
def test_killed_among_others_that_live(tmp_path, rounds) -> None:
    """Some of the workers are killed at any instant; the others notice nothing and the store is whole."""
    root, rng = str(tmp_path / "root"), random.Random(SEED)
    for turn in range(rounds):
        seed = SEED * 1000 + turn * 10
        lasting = [worker("churn", root, seed + number, 12) for number in range(3)]
        doomed = [worker("churn", root, seed + 5 + number, 1000) for number in range(3)]
        for process in doomed:
            time.sleep(rng.random() * 0.7)
            process.kill()
        for process in doomed:
            process.communicate(timeout=60)
        results = [process.communicate(timeout=300) for process in lasting]
        failed = [text for process, (_, text) in zip(lasting, results) if process.returncode]
        assert not failed, "\n".join(failed)
        with Store(root) as store:
            for (holder,) in store.database.read("SELECT holder FROM holds"):
                store.release(holder)  # of workers that were killed while they held
        check_clean(root)
    empty(root)


STEPS = {"linkat": "link", "link": "link", "rename": "move", "renameat": "move", "renameat2": "move", "syncfs": "syncfs",
         "fdatasync": "row", "fsync": "row", "unlink": "unlink", "unlinkat": "unlink"}


def traced(tmp_path, body: str) -> tuple[list[str], int]:
    """What the kernel was asked for, in order, by `body` with an open store, equal neighbours once; how often it synced."""
    log = tmp_path / "strace"
    script = ("import sys\nfrom pyruntime.image.store import Store\nfrom tests.image.made import Made\n"
              f"store = Store({str(tmp_path / 'root')!r})\nopen('/proc/self/comm')\n{body}\nopen('/proc/self/comm')\nstore.close()\n")
    calls = ",".join(STEPS)
    subprocess.run(["strace", "-f", "-y", "-o", str(log), "-e", f"trace=openat,{calls}", sys.executable, "-c", script],
                   cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL, timeout=120)
    _, inside, _ = log.read_text().split("/proc/self/comm")[:3] if log.read_text().count("/proc/self/comm") == 2 else ("", "", "")
    steps: list[str] = []
    syncs = 0
    for line in inside.splitlines():
        name = line.split()[1].partition("(")[0] if len(line.split()) > 1 else ""
        step = STEPS.get(name, "")
        if step == "unlink" and ("/ingest/" in line or "ENOENT" in line):
            continue
        syncs += step in {"row", "syncfs"}
        if step and (not steps or steps[-1] != step):
            steps.append(step)
    return steps, syncs


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_content_is_on_the_disk_before_its_row_and_goes_after_it(tmp_path) -> None:
    with Store(str(tmp_path / "root")) as store, store.database.write() as rows:
        rows.execute("SELECT 1")
    steps, few = traced(tmp_path, "Made('x:1', [1, 2]).add(store)")
    assert steps.count("syncfs") == 1
    before, after = steps[: steps.index("syncfs")], steps[steps.index("syncfs") :]
    assert {"link", "move"} <= set(before)
    assert after == ["syncfs", "row"]
    steps, removal = traced(tmp_path, "store.remove('x:1')")
    # all rows first
    assert steps[0] == "row"
    assert steps.count("row") == 1
    assert {"move", "unlink"} <= set(steps)
    # what waits for the disk does not grow with the number of layers
    _, many = traced(tmp_path, f"Made('x:2', {list(range(10, 40))}).add(store)")
    print(few, many, removal)
    assert few <= many <= 6
    assert removal <= 4
