"""explain and validate: what they print of good and bad bundles, and that both make nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import DELETE, Bundle, namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

BAD: dict[str, Any] = {
    "ociVersion": "one",
    "process.cwd": "relative",
    "process.args": [],
    "process.user.uid": -1,
    "process.rlimits": [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}],
    "linux.namespaces": [*namespaces(), {"type": "pid"}, {"type": "foo"}],
    "linux.maskedPaths": "text",
    "linux.seccomp": {"defaultAction": "SCMP_ACT_FOO"},
    "hooks": {"prestart": [{"path": "relative"}]},
}
POINTERS = {
    "/ociVersion",
    "/process/cwd",
    "/process/args",
    "/process/user/uid",
    "/process/rlimits/0/type",
    "/linux/namespaces/4",
    "/linux/namespaces/5",
    "/linux/maskedPaths",
    "/linux/seccomp/defaultAction",
    "/hooks/prestart/0/path",
}


def test_all_violations_at_once(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Every one with its pointer, each on a line of its own; exit 1."""
    bundle = make_bundle("true", BAD)
    result = runtime("validate", "--json", bundle.path)
    assert result.code == 1
    report = json.loads(result.out)
    assert (report["version"], report["valid"]) == (1, False)
    found = {entry["field"] for entry in report["errors"]}
    assert {pointer for pointer in POINTERS if not any(field.startswith(pointer) for field in found)} == set()
    text = runtime("validate", bundle.path).out
    assert all(f"error: {field or '/'}: " in text for field in found)
    assert f"not valid: {len(report['errors'])} errors" in text


def test_good_bundle(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Exit 0; what was left out and matters is a warning."""
    result = runtime("validate", make_bundle().path)
    assert result.code == 0, result
    assert "warning: /process/capabilities: " in result.out
    assert result.out.endswith("valid: 0 errors, 1 warning\n")


WARNINGS: list[tuple[dict[str, Any], str]] = [
    ({"process.capabilities": {"bounding": ["CAP_FOO"]}}, "/process/capabilities"),
    ({"linux.namespaces": namespaces(network="/nope")}, "/linux/namespaces"),
    ({"root.path": "missing"}, "/root/path"),
    ({"mounts": [{"destination": "relative", "type": "tmpfs", "source": "x"}]}, "/mounts/0/destination"),
    ({"proces": {}}, "/proces"),
]


@pytest.mark.parametrize(("changes", "field"), WARNINGS, ids=str)
def test_warnings(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], field: str) -> None:
    """What this host cannot do, what is deprecated, and misspelt keys: seen, and no error of the file."""
    result = runtime("validate", "--json", make_bundle("true", changes).path)
    report = json.loads(result.out)
    entries = report["warnings"] + (report["errors"] if field == "/root/path" else [])
    assert any(entry["field"].startswith(field) for entry in entries), report


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
@pytest.mark.parametrize("verb", ["validate", "explain"])
def test_no_document(runtime: Runtime, make_bundle: MakeBundle, verb: str, content: bytes) -> None:
    """One clear line."""
    bundle = make_bundle()
    (bundle.path / "config.json").write_bytes(content)
    result = runtime(verb, bundle.path)
    assert result.code == 1
    assert "internal error" not in result.err
    assert result.out or result.message


def test_other_config_name(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--config as in create."""
    bundle = make_bundle()
    (bundle.path / "config.json").rename(bundle.path / "other.json")
    for verb in ("validate", "explain"):
        assert runtime(verb, "--config", "other.json", bundle.path).code == 0
        assert runtime(verb, bundle.path).code == 1


def test_explain_table(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Both lanes, numbered, with pointers; alternatives below their step."""
    bundle = make_bundle("true", {"hostname": "inner", "linux.resources": {"pids": {"limit": 9}}})
    lines = runtime("explain", bundle.path).out.splitlines()
    assert lines[0].split() == ["#", "lane", "step", "detail", "from"]
    numbers = [int(line.split()[0]) for line in lines[1:] if line.split()[0].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert any("init  sethostname" in line and line.endswith("/hostname") for line in lines)
    assert any("host  cg_write" in line and "pids.max 9" in line and "/linux/resources/pids" in line for line in lines)
    assert any("or on ENOENT: make_path" in line for line in lines)


def test_explain_json_is_the_table(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The same steps; every pointer leads to something in config.json or its parent does."""
    bundle = make_bundle("true", {"linux.maskedPaths": ["/proc/keys"], "linux.sysctl": {"kernel.msgmax": "1"}})
    document = json.loads(runtime("explain", "--json", bundle.path).out)
    table = [line.split() for line in runtime("explain", bundle.path).out.splitlines()[1:] if line.split()[0].isdigit()]
    assert document["version"] == 1
    assert [(str(step["number"]), step["lane"], step["step"]) for step in document["steps"]] == [
        tuple(row[:3]) for row in table
    ]
    for step in document["steps"]:
        place: Any = bundle.config
        for key in step["from"].split("/")[1:-1]:
            place = (
                place[int(key)] if isinstance(place, list) else place.get(key.replace("~1", "/").replace("~0", "~"), {})
            )


def test_explain_hides_the_environment(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Names alone, unless asked (STYLE 1.9)."""
    bundle = make_bundle("true", {"process.env": ["PATH=/bin", "TOKEN=secret-value"]})
    for flags in ((), ("--json",)):
        hidden, shown = (
            runtime("explain", *flags, bundle.path).out,
            runtime("explain", "--show-env", *flags, bundle.path).out,
        )
        assert "secret-value" not in hidden
        assert "secret-value" in shown


def test_explain_is_pure(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Twice the same bytes, and nothing made."""
    bundle = make_bundle("true", {"linux.namespaces": namespaces("network", "cgroup")})
    assert runtime("explain", bundle.path).out == runtime("explain", bundle.path).out
    assert not runtime.root.exists()


def test_explain_of_a_bad_bundle(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """As create would say it."""
    result = runtime("explain", make_bundle("true", {"process": DELETE}).path)
    assert (result.code, result.message) == (1, "process property must not be empty")
