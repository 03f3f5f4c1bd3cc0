from __future__ import annotations

import json

from pyruntime.image.config import parse_config
from pyruntime.image.history import MISSING, Step, compile_history

A, B = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def config(history):
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "history": history}
    return parse_config(json.dumps(document).encode())


def test_newest_first_and_sizes_go_to_the_steps_that_made_layers():
    image = config([
        {"created": A, "created_by": "ADD rootfs", "comment": "base"},
        {"created": B, "created_by": "CMD sh", "empty_layer": True},
        {"created": B, "created_by": "RUN x", "author": "me"},
    ])  # fmt: skip
    assert compile_history(image, [10, 20], tags=("x:latest",)) == [
        Step(image.digest, B, "RUN x", 20, "", "me", ("x:latest",)),
        Step(MISSING, B, "CMD sh", 0),
        Step(MISSING, A, "ADD rootfs", 10, "base"),
    ]


def test_more_layers_than_entries():
    image = config([{"created": A, "created_by": "RUN x"}])
    assert [(s.created_by, s.size) for s in compile_history(image, [1, 2, 3])] == [("RUN x", 3), ("", 2), ("", 1)]


def test_fewer_layers_than_entries():
    image = config([{"created_by": "a"}, {"created_by": "b"}])
    assert [s.size for s in compile_history(image, [7])] == [0, 7]


def test_no_history_at_all():
    image = config(None)
    assert compile_history(image, []) == [Step(image.digest, "", "")]
