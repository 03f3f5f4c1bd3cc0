"""A process that works on a store, for test_store_processes.py: `store_worker.py VERB ROOT WORDS...`.

`churn SEED COUNT`: adds, tags, removes and prunes images that overlap with other workers'. `add NAME SEEDS SIZE`: adds one
image again and again until it is killed, removing it in between. Prints what went wrong, nothing otherwise.
"""

from __future__ import annotations

import random
import sys

from pyruntime.errors import ImageConflict, ImageNotFound
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image.made import Made

IMAGES = [("a:1", [1, 2, 3]), ("a:2", [1, 2, 4]), ("b:1", [1, 5]), ("b:2", [6]), ("c:1", [1, 2, 3, 7]), ("a:1", [1, 8])]


def churn(root: str, seed: int, count: int) -> None:
    """`count` operations chosen by `seed`; conflicts and absences are part of it, anything else ends the worker."""
    rng = random.Random(seed)
    made = [Made(name, seeds) for name, seeds in IMAGES]
    with Store(root) as store:
        for number in range(count):
            image = rng.choice(made)
            try:
                operation(store, image, rng, f"{seed}-{number}")
            except (ImageNotFound, ImageConflict):
                pass


def operation(store: Store, image: Made, rng: random.Random, token: str) -> None:
    kind = rng.randrange(10)
    if kind < 5:
        found = image.add(store)
        assert found.id == image.id
    elif kind < 7:
        store.remove(rng.choice([image.reference.familiar, image.id]), force=rng.random() < 0.5)
    elif kind == 7:
        store.prune({"dangling": [rng.choice(["true", "false"])]})
    elif kind == 8:
        store.tag(image.id, parse_reference(f"t:{rng.randrange(3)}"))
    else:
        store.hold(token, image.id)
        layer = store.layer(image.chains[-1])
        assert layer is not None
        with open(f"{layer.path}/{next(iter(image.layers[-1][2]))}", "rb") as file:
            assert digest_of(file.read()) == digest_of(next(iter(image.layers[-1][2].values())))
        store.release(token)
    for found in store.images():
        assert found.config.digest == found.id


def add(root: str, name: str, seeds: str, size: int) -> None:
    """Adds and removes until somebody kills us; says a line when it begins."""
    made = Made(name, [int(word) for word in seeds.split(",")], size=size)
    with Store(root) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            made.add(store)
            store.remove(name)


if __name__ == "__main__":
    verb, root, *words = sys.argv[1:]
    if verb == "churn":
        churn(root, int(words[0]), int(words[1]))
    else:
        add(root, words[0], words[1], int(words[2]))
