"""Documents of archives with any value anywhere: an answer or one clear error, never another exception."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure
from pyruntime.image.archive import read_images
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_save import save_archive
from pyruntime.image.runtime_config import RuntimeOptions, compile_config, volume_paths
from pyruntime.image.users import User
from tests.image_samples import archive, contents, layer, make_image, members, sha

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=12) | st.sampled_from(["../x", "/etc", "sha256:" + "0" * 64, "a\0b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """An archive of both forms, by file name."""
    with FolderBlobs(str(tmp_path_factory.mktemp("fuzz") / "blobs")) as blobs:
        out = io.BytesIO()
        inner = {"Cmd": ["x"], "Env": ["A=1"], "Volumes": {"/v": {}}, "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "User": "1:1",
                 "WorkingDir": "/w", "StopSignal": "TERM", "Entrypoint": ["e"]}  # fmt: skip
        save_archive(out.write, blobs, [make_image(blobs, [layer({"f": b"1"})], "x:1", pack="", inner=inner)])
    return members(out.getvalue())


def replaced(document: Any, choose: Any, value: Any) -> Any:
    """The document with `value` at a place that hypothesis chooses."""
    if isinstance(document, dict) and document and choose(st.integers(0, 4)):
        key = choose(st.sampled_from(sorted(document)))
        return document | {key: replaced(document[key], choose, value)}
    if isinstance(document, list) and document and choose(st.integers(0, 4)):
        at = choose(st.integers(0, len(document) - 1))
        return [*document[:at], replaced(document[at], choose, value), *document[at + 1 :]]
    return value


@pytest.mark.parametrize("name", ["manifest.json", "index.json", "oci-layout", "config", "manifest"])
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_anywhere(files, name, data):
    entries = dict(files)
    index = json.loads(files["index.json"])
    manifest_name = f"blobs/sha256/{index['manifests'][0]['digest'][7:]}"
    path = {"manifest": manifest_name, "config": json.loads(files["manifest.json"])[0]["Config"]}.get(name, name)
    changed = json.dumps(replaced(json.loads(files[path]), data.draw, data.draw(VALUES))).encode()
    if path == name:
        entries[path] = changed
    else:  # the documents above it name it by its new digest
        del entries[path]
        entries[f"blobs/sha256/{sha(changed)[7:]}"] = changed
        old, size = path.rpartition("/")[2].encode(), len(files[path])
        for above in (manifest_name, "manifest.json", "index.json"):
            if above in entries and old in entries[above]:
                text = entries[above].replace(old, sha(changed)[7:].encode()).replace(b'"size": %d' % size, b'"size": %d' % len(changed))
                text = text.replace(b'"size":%d' % size, b'"size":%d' % len(changed))
                if above == manifest_name:
                    del entries[above]
                    entries["index.json"] = entries["index.json"].replace(above.rpartition("/")[2].encode(), sha(text)[7:].encode()).replace(
                        b'"size":%d' % len(files[above]), b'"size":%d' % len(text))  # fmt: skip
                    entries[f"blobs/sha256/{sha(text)[7:]}"] = text
                else:
                    entries[above] = text
    folder = tempfile.mkdtemp()
    try:
        for image in read_images(contents(archive(list(entries.items())), Path(folder))):
            compile_config(image.config, User(0, 0), RuntimeOptions(args=("x",)))
            volume_paths(image.config)
    except RuntimeFailure as error:
        assert str(error).isprintable() or "\n" not in str(error)
    finally:
        shutil.rmtree(folder)
