"""Our schemas against the published ones, and the whole report on the published configurations."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import jsonschema
import pytest

from pyruntime.errors import RuntimeFailure
from pyruntime.spec.validate import load_schema, schema_errors, validate_document

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared" / "data" / "runtime-spec"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no published schemas at ../shared/data/runtime-spec")

OTHER_PLATFORMS = {"freebsd-example", "freebsd-minimal", "zos-example", "zos-minimal"}  # judged for Linux, they fail


def published(kind, verdict):
    return sorted((SHARED / "test" / kind / verdict).glob("*.json"))


@needs_shared
@pytest.mark.parametrize("path", published("config", "good"), ids=lambda path: path.stem)
def test_published_good_configs(path):
    report = validate_document(path.read_bytes())
    if path.stem in OTHER_PLATFORMS:
        platform = path.stem.partition("-")[0]
        assert f"platform {platform} is not supported" in [violation.message for violation in report.errors]
    else:
        assert report.errors == ()


@needs_shared
@pytest.mark.parametrize(("name", "pointers"), [
    ("freebsd-vnet-disable", ["/freebsd"]),
    ("invalid-json", [""]),
    ("linux-hugepage", ["/linux/resources/hugepageLimits/0/pageSize"]),
    ("linux-netdevice", ["/linux/netDevices/eth0/name"]),
    ("linux-rdma", ["/linux/resources/rdma/mlx5_1/hcaHandles"]),
])
def test_published_bad_configs(name, pointers):
    report = validate_document((SHARED / "test" / "config" / "bad" / f"{name}.json").read_bytes())
    assert [violation.field for violation in report.errors] == pointers


@needs_shared
def test_every_published_bad_config_is_in_the_table_above():
    marks = test_published_bad_configs.pytestmark
    rows = next(mark.args[1] for mark in marks if mark.name == "parametrize")
    assert {name for name, _ in rows} == {path.stem for path in published("config", "bad")}


@needs_shared
@pytest.mark.parametrize("kind", ["state", "features"])
@pytest.mark.parametrize("verdict", ["good", "bad"])
def test_published_state_and_features(kind, verdict):
    schema = load_schema(kind)
    for path in published(kind, verdict):
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            assert verdict == "bad"
            continue
        assert (schema_errors(schema, document) == ()) == (verdict == "good"), path


class Published:
    """The published schema of config.json as a validator; its parts refer to each other by file name."""

    def __init__(self, name="config-schema.json"):
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT4

        documents = [(path.name, json.loads(path.read_text())) for path in SHARED.glob("*.json")]
        registry = Registry().with_resources(
            (file, Resource.from_contents(text, default_specification=DRAFT4)) for file, text in documents)
        self.validator = jsonschema.Draft4Validator({"$ref": name}, registry=registry)

    def accepts(self, document):
        return self.validator.is_valid(document)


# floats without fraction are left out: draft 4 refuses 1.0 as an integer, later drafts take it, Go refuses it
VALUES = (None, True, 0, -1, 5, 1.5, 1 << 15, 1 << 16, (1 << 32) - 1, 1 << 32, 1 << 63, -(1 << 63) - 1, 1 << 64,
          "", "x", "SCMP_ACT_ALLOW", "private", "pid", "MB:0=1", [], ["x"], [1], [{}], {}, {"x": "y"}, {"x": 1},
          {"type": "user"})


def places(node, at=()):
    """All paths below `node`."""
    for key in (node if type(node) is dict else range(len(node)) if type(node) is list else ()):
        yield (*at, key)
        yield from places(node[key], (*at, key))


def mutated(document, path, value):
    """A copy of `document` with the value at `path` replaced, or removed for Ellipsis."""
    result = copy.deepcopy(document)
    place = result
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def corpus(count):
    """`count` mutations of our good fixtures, the same ones at each run."""
    chooser = random.Random(20260101)
    documents = [json.loads(path.read_text()) for path in sorted((REPO / "spec-fixtures" / "good").glob("*.json"))]
    everywhere = [(document, path) for document in documents for path in places(document)
                  if path[0] not in ("windows", "vm")]  # we do not look into other platforms
    for _ in range(count):
        document, path = chooser.choice(everywhere)
        yield path, mutated(document, path, chooser.choice((*VALUES, ...)))


@needs_shared
def test_our_schema_and_the_published_one_agree():
    theirs = Published()
    ours = jsonschema.Draft202012Validator(load_schema("config"))
    verdicts = {True: 0, False: 0}
    for path, document in corpus(700):
        propagation = document.get("linux") if type(document.get("linux")) is dict else {}
        if str(propagation.get("rootfsPropagation", "")) in ("rprivate", "rshared", "rslave", "runbindable"):
            propagation["rootfsPropagation"] = "private"  # ours takes the recursive names that engines write
        verdict = theirs.accepts(document)
        assert ours.is_valid(document) == verdict, (path, document)
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 100


@pytest.mark.parametrize("kind", ["config", "state", "features"])
def test_our_schemas_are_schemas(kind):
    jsonschema.Draft202012Validator.check_schema(load_schema(kind))


def test_report_collects_from_schema_and_rules_and_says_each_place_once():
    report = validate_document(json.dumps({
        "ociVersion": "1.3.0", "root": {"path": "rootfs"}, "hostnme": "x",
        "process": {"cwd": "relative", "args": ["sh"], "capabilities": {"bounding": None}, "commandLine": 5},
        "linux": {"pids": 1, "resources": {"pids": {}}, "devices": [{"path": "/x", "type": "p", "fileMode": 1000}]},
    }).encode())
    assert [(violation.field, violation.message) for violation in report.errors] == [
        ("/process/cwd", "Cwd must be an absolute path"),
        ("/linux/devices/0/fileMode", "linux.devices.0.fileMode has an invalid value"),
        ("/linux/resources/pids/limit", "linux.resources.pids.limit is missing"),
        ("/process/capabilities/bounding",
         "cannot unmarshal null into field process.capabilities.bounding of type array"),
        ("/process/commandLine", "cannot unmarshal number into field process.commandLine of type string"),
    ]
    assert [(violation.field, violation.hint) for violation in report.warnings] == [
        ("/hostnme", 'did you mean "hostname"?'), ("/linux/pids", "it is ignored")]
    assert not report.ok


def test_missing_keys_are_named_one_by_one():
    report = validate_document(b'{"ociVersion":"1.3.0","root":{"path":"r"},"process":{"cwd":"/","args":["x"],'
                               b'"consoleSize":{}},"linux":{"resources":{"hugepageLimits":[{}]}}}')
    assert {violation.field for violation in report.errors} == {
        "/process/consoleSize/height", "/process/consoleSize/width",
        "/linux/resources/hugepageLimits/0/pageSize", "/linux/resources/hugepageLimits/0/limit"}


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(RuntimeFailure, match="needs the Python package jsonschema"):
        validate_document(b'{"ociVersion":"1.3.0"}')
