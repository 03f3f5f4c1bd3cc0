"""pyctrd killed at random instants of a pull, a removal and a prune: the next one starts, verifies, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from pyruntime.image.store import Store
from tests import small_images
from tests.engine.registries import publish
from tests.engine.stand import PYCTR, TIMEOUT_S, Daemon
from tests.registry_stand import registry
from tests.waiting import helpers_of, until

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
SEED = int(os.environ.get("PYRUNTIME_SEED", "5"))
LONGEST_S = 1.2  # of a pull here, about


def work(daemon: Daemon, name: str, number: int) -> list[subprocess.Popen[bytes]]:
    """Clients that are busy when the daemon dies."""
    words = [["pull", "-q", name], ["pull", "-q", name], ["image", "prune", "-af"] if number % 2 else ["rmi", "-f", name]]
    return [subprocess.Popen([PYCTR, *one], env=daemon.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for one in words]


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_instant(tmp_path, rounds):
    chance = random.Random(SEED)
    made = small_images.image([{"d/": b"", **{f"d/{layer}.{n}": os.urandom(20_000) for n in range(150)}} for layer in range(3)])
    with registry(tmp_path / "registry") as hub:
        name = publish(hub, "kill/image", "1", made)
        daemon = Daemon(tmp_path / "d")
        try:
            for number in range(rounds):
                daemon.start()
                clients = work(daemon, name, number)
                time.sleep(chance.uniform(0, LONGEST_S))
                assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
                for client in clients:
                    client.wait(TIMEOUT_S)
                until(lambda: not helpers_of(daemon.root))  # they end with the pipe that fed them
                with Store.open(str(daemon.root)) as store:
                    assert store.verify() == [], f"round {number}, seed {SEED}"
            daemon.start()
            daemon.run(PYCTR, "pull", "-q", name)
            daemon.run(PYCTR, "rmi", name)
            assert daemon.stop() == 0
            left = [path for folder in ("staging", "layers", "ingest") for path in (daemon.root / folder).rglob("*") if path.is_file()]
            assert left == []
            assert not list((daemon.root / "blobs").rglob("*[0-9a-f]")) or all(path.is_dir() for path in (daemon.root / "blobs").rglob("*"))
        finally:
            daemon.end()
