"""The documents of image-spec's own tables: what they call good is read, what they call bad is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyruntime.errors import InvalidImage
from pyruntime.image.media import Index, Manifest, parse_config, parse_descriptor, parse_manifest

CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "image-spec" / "cases.json"


def rows() -> list:
    if not CASES.exists():
        return []
    tables = json.loads(CASES.read_text(encoding="utf-8"))
    return [pytest.param(group, case, id=f"{group}-{number}") for group, cases in tables.items() if group != "layout"
            for number, case in enumerate(cases)]


def read(group: str, raw: bytes) -> None:
    if group == "config":
        parse_config(raw)
    elif group == "descriptor":
        parse_descriptor(json.loads(raw))
    else:
        found = parse_manifest(raw)
        assert isinstance(found, Index if group == "index" else Manifest)


@pytest.mark.skipif(not CASES.exists(), reason="needs the image-spec tables in shared/data")
@pytest.mark.parametrize(("group", "case"), rows())
def test_case(group, case) -> None:
    raw = case["json"] if isinstance(case["json"], str) else json.dumps(case["json"])
    if case["valid"]:
        read(group, raw.encode())
        return
    with pytest.raises(InvalidImage) as caught:
        read(group, raw.encode())
    assert caught.value.message
    assert "\n" not in caught.value.message
