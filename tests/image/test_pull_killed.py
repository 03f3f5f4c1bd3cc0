"""Pulls that are killed at random instants: no half image, no damage, and the next pull goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient, RetryPolicy
from pyruntime.image.store import Store
from tests import small_images
from tests.fault_proxy import Fault
from tests.image.killing import MARKS, SEED, begun
from tests.registry_stand import upload
from tests.waiting import helpers_of, until

pytestmark = MARKS
PULL = """
import sys
from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
with Store(sys.argv[1]) as store:
    print("begun", flush=True)
    print(pull(store, RegistryClient(HostConfig(certs_folders=())), parse_reference(sys.argv[2])).id, flush=True)
"""


def missing(root: Path, total: int) -> int:
    """About how much of `total` bytes of layers the store lacks; parts count."""
    return total - sum(path.stat().st_size for name in ("ingest", "blobs") for path in (root / name).rglob("*") if path.is_file())


def check_whole(store: Store, made: small_images.Made, files: list[dict[str, bytes | str]]) -> None:
    (image,) = store.images()
    assert image.id == made.config_digest
    for chain, content in zip(image.chain_ids, files):
        for name, data in content.items():
            assert Path(store.layer(chain).path, name).read_bytes() == data


@pytest.mark.parametrize("rounds", [15, pytest.param(120, marks=pytest.mark.slow)])
def test_killed_at_any_instant(plain, proxy, tmp_path, rounds) -> None:
    chance = random.Random(SEED)
    files = [{f"f{i}": os.urandom(700_000), f"g{i}": b"text " * 50_000} for i in range(5)]
    made = small_images.image(files)
    upload(plain, "killed", made, "v1")
    proxy.faults.append(Fault("GET", "|".join(made.layers), slow_s=0.01, times=-1))
    reference = f"{proxy.host}/killed:v1"
    total = sum(len(made.blobs[digest]) for digest in made.layers)
    generation, ended = 0, 0
    for number in range(rounds):
        root = tmp_path / f"store{generation}"
        # what was sent tells how far a pull is, on any machine; after the last byte it commits
        enough = proxy.sent + min(chance.uniform(0, 1.2), 1.0) * missing(root, total)
        call = begun(PULL, root, reference)
        until(lambda call=call, enough=enough: proxy.sent >= enough or call.poll() is not None)
        time.sleep(chance.uniform(0, 0.2))
        call.send_signal(signal.SIGKILL)
        call.wait()
        assert call.stdout is not None
        call.stdout.close()
        with Store(str(root)) as store:
            assert store.verify() == [], (SEED, number)
            if store.images():
                check_whole(store, made, files)
                generation += 1
                ended += 1
    root = tmp_path / f"store{generation}"
    until(lambda: not helpers_of(tmp_path))  # they end with the pipe that fed them, then what they made can go
    with Store(str(root)) as store:
        pull(store, RegistryClient(HostConfig(certs_folders=()), policy=RetryPolicy()), parse_reference(reference))
        check_whole(store, made, files)
        assert store.verify() == []
        assert os.listdir(root / "staging") == []
        assert os.listdir(root / "ingest") == []
    assert any("Range" in request.headers for request in proxy.seen)
    assert ended < rounds / 2  # the kills did hit pulls in the middle


def test_two_processes_pull_one_image(plain, proxy, tmp_path) -> None:
    files = [{f"f{i}": os.urandom(500_000)} for i in range(3)]
    made = small_images.image(files)
    upload(plain, "both", made, "v1")
    proxy.faults.append(Fault("GET", "|".join(made.layers), slow_s=0.01, times=-1))
    calls = [begun(PULL, tmp_path / "store", f"{proxy.host}/both:v1") for _ in range(3)]
    for call in calls:
        said, _ = call.communicate(timeout=120)
        assert (call.returncode, said) == (0, f"{made.config_digest}\n")
    for layer in made.layers:
        assert proxy.count("GET", layer) == 1
    with Store(str(tmp_path / "store")) as store:
        assert store.verify() == []
        check_whole(store, made, files)
