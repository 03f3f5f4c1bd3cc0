"""Pull and push through faults of every kind at random: the right image, or a clean error and a whole store."""

from __future__ import annotations

import os
import random

import pytest

from pyruntime.errors import ImageError
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient, RetryPolicy
from pyruntime.image.store import Store
from tests import small_images
from tests.fault_proxy import Fault
from tests.image.killing import MARKS, SEED
from tests.registry_stand import upload

pytestmark = MARKS
QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.03)
SIZE = 300_000
ROUNDS = pytest.mark.parametrize("rounds", [12, pytest.param(150, marks=pytest.mark.slow)])


def random_faults(chance: random.Random) -> list[Fault]:
    """A handful, each for a few requests."""
    kinds = [
        lambda: {"status": chance.choice([400, 401, 403, 404, 416, 429, 500, 503])},
        lambda: {"cut_at": chance.randrange(SIZE), "reset": chance.random() < 0.5},
        lambda: {"corrupt": chance.randrange(SIZE)},
        lambda: {"no_range": True},
        lambda: {"status": 200, "body": chance.randbytes(chance.randrange(2000))},
        lambda: {"status": 206, "headers": {"Content-Range": f"bytes {chance.randrange(9)}-{SIZE}/*"}, "body": b"x"},
        lambda: {"headers": {"Docker-Content-Digest": f"sha256:{chance.randbytes(32).hex()}"}},
        lambda: {"headers": {"Content-Type": chance.choice(["text/html", "", small_images.INDEX])}},
        lambda: {"headers": {"Content-Length": str(chance.randrange(SIZE))}},
        lambda: {"status": 302, "headers": {"Location": chance.choice(["/v2/", "ftp://x/", "//", "http://127.0.0.1:1/x", "?"])}},
        lambda: {"headers": {"Location": chance.choice(["", "/v2/nothing", "http://["])}},
        lambda: {"headers": {"Range": chance.choice(["", "0-99999999999", "nonsense", "0-0"])}},
        lambda: {"status": 401, "headers": {"WWW-Authenticate": chance.choice(["Basic", 'Bearer realm="', 'Bearer realm="ftp://x"', "?"])}},
    ]
    return [Fault(chance.choice(["GET", "GET", "HEAD", "POST", "PATCH", "PUT"]), chance.choice(["/v2/", "/blobs/", "/manifests/"]),
                  times=chance.randrange(1, 4), skip=chance.randrange(4), **chance.choice(kinds)()) for _ in range(chance.randrange(1, 6))]


def described(faults: list[Fault]) -> str:
    return "; ".join(str({key: value for key, value in vars(fault).items() if value}) for fault in faults)


@ROUNDS
def test_pulls(plain, proxy, tmp_path, rounds) -> None:
    chance = random.Random(SEED)
    files = [{f"f{i}": os.urandom(SIZE)} for i in range(3)]
    made = small_images.image(files)
    upload(plain, "chaos", made, "v1")
    reference = parse_reference(f"{proxy.host}/chaos:v1")
    client = RegistryClient(HostConfig(certs_folders=()), policy=QUICK)
    arrived = 0
    with Store(str(tmp_path / "store")) as store:
        for number in range(rounds):
            proxy.faults[:] = random_faults(chance)
            said = (SEED, number, described(proxy.faults))
            try:
                assert pull(store, client, reference).id == made.config_digest, said
                arrived += 1
                store.remove(str(reference))
            except ImageError as error:
                assert str(error), said
                assert "\n" not in str(error), said
                assert store.images() == [], said
            assert os.listdir(f"{store.root}/staging") == [], said
            assert store.verify() == [], said
        proxy.faults.clear()
        assert pull(store, client, reference).id == made.config_digest
    assert 0 < arrived < rounds


@ROUNDS
def test_pushes(plain, proxy, tmp_path, monkeypatch, rounds) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.SINGLE_MAX_BYTES", 100_000)
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 120_000)
    chance = random.Random(SEED + 1)
    made = small_images.image([{f"f{i}": os.urandom(SIZE)} for i in range(2)])
    upload(plain, "source", made, "v1")
    client = RegistryClient(HostConfig(certs_folders=()), policy=QUICK)
    source = parse_reference(f"{plain.host}/source:v1")
    arrived = 0
    with Store(str(tmp_path / "store")) as store:
        pull(store, client, source)
        for number in range(rounds):
            target = parse_reference(f"{proxy.host}/target{number}:v1")
            store.tag(str(source), target)
            proxy.faults[:] = random_faults(chance)
            said = (SEED, number, described(proxy.faults))
            try:
                push(store, client, target)
            except ImageError as error:
                assert str(error), said
                assert "\n" not in str(error), said
            else:
                status, raw = plain.get(f"/v2/target{number}/manifests/v1", Accept=made.media_type)
                assert (status, raw) == (200, made.manifest), said
                for digest, data in made.blobs.items():
                    assert plain.get(f"/v2/target{number}/blobs/{digest}") == (200, data), said
                arrived += 1
    assert 0 < arrived < rounds
