"""Device nodes, links and cgroup device rules, from inside (contract 4.6; S20, S33)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import DELETE, MOUNTS, Bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

LOOK = "stat -c '%F %t:%T %a %u:%g' "
NULL = "character special file 1:3 666 0:0"
DENY_ALL = {"allow": False, "access": "rwm"}


def device(path: str, kind: str = "c", major: int = 1, minor: int = 3, **more: Any) -> dict[str, Any]:
    """One entry of linux.devices."""
    return {"path": path, "type": kind, "major": major, "minor": minor, **more}


ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "defaults",
        {},
        f"for n in null zero full random urandom tty; do {LOOK} /dev/$n; done",
        "\n".join(f"character special file {number} 666 0:0" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0")),
    ),
    (
        "they work",
        {},
        "echo x >/dev/null; head -c3 /dev/zero | wc -c; echo x 2>&1 >/dev/full | wc -l; head -c2 /dev/urandom | wc -c",
        "3\n1\n2",
    ),
    (
        "links",
        {},
        "for n in fd stdin stdout stderr ptmx; do readlink /dev/$n; done",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx",
    ),
    (
        "core only with kcore",
        {},
        "test -e /proc/kcore = -e /dev/core; test -L /dev/core; a=$?; test -e /proc/kcore; test $? = $a && echo same",
        "same",
    ),
    (
        "nothing else",
        {"process.args": ["ls", "/dev"]},
        "",
        "\n".join(
            sorted(
                ["fd", "full", "null", "ptmx", "pts", "random", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
                + (["core"] if os.path.exists("/proc/kcore") else [])
            )
        ),
    ),
    (
        "mode and owner",
        {"linux.devices": [device("/dev/mine", fileMode=0o640, uid=5, gid=6)]},
        f"{LOOK} /dev/mine",
        "character special file 1:3 640 5:6",
    ),
    (
        "type bits are stripped",
        {"linux.devices": [device("/dev/mine", fileMode=0o20600)]},
        f"{LOOK} /dev/mine",
        "character special file 1:3 600 0:0",
    ),
    ("mode by default", {"linux.devices": [device("/dev/mine")]}, f"{LOOK} /dev/mine", NULL),
    ("type u", {"linux.devices": [device("/dev/mine", "u")]}, f"{LOOK} /dev/mine", NULL),
    (
        "block",
        {"linux.devices": [device("/dev/loop9", "b", 7, 9)]},
        f"{LOOK} /dev/loop9",
        "block special file 7:9 666 0:0",
    ),
    (
        "big numbers",
        {"linux.devices": [device("/dev/big", "c", 259, 70000)]},
        f"{LOOK} /dev/big",
        "character special file 103:11170 666 0:0",
    ),
    (
        "fifo",
        {"linux.devices": [{"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]},
        f"{LOOK} /dev/pipe",
        "fifo 0:0 600 0:0",
    ),
    (
        "any path, parents 0755",
        {"linux.devices": [device("/srv/a/null")]},
        f"{LOOK} /srv/a/null; stat -c %a /srv /srv/a",
        f"{NULL}\n755\n755",
    ),
    (
        "listed wins over a default",
        {"linux.devices": [device("/dev/null", fileMode=0o600, uid=9)]},
        f"{LOOK} /dev/null",
        "character special file 1:3 600 9:0",
    ),
    ("listed ptmx is ignored", {"linux.devices": [device("/dev/ptmx", "c", 5, 2)]}, "readlink /dev/ptmx", "pts/ptmx"),
    ("/dev in the rootfs", {"mounts": [MOUNTS[0]]}, f"{LOOK} /dev/null; readlink /dev/fd", f"{NULL}\n/proc/self/fd"),
]


@pytest.mark.parametrize(("changes", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str
) -> None:
    """Type, number, mode and owner."""
    assert runtime.look(make_bundle(script, changes)) == expected


def test_dev_by_bind(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Any) -> None:
    """/dev itself a bind: its content is the operator's, nothing is made in it (S20)."""
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "only").touch()
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    before = sorted(os.listdir(folder))
    bundle = make_bundle(
        ["ls", "/dev"], {"mounts": [MOUNTS[0], {"destination": "/dev", "source": str(folder), "options": ["bind"]}]}
    )
    assert runtime.look(bundle) == "null\nonly"
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("path", "content"), [("/dev/mine", "file"), ("/dev/mine", "other device"), ("/dev/null", "file")]
)
def test_existing_name_that_differs(runtime: Runtime, make_bundle: MakeBundle, path: str, content: str) -> None:
    """The spec's rule, which no peer keeps: a name that is something else fails, and stays what it was."""
    bundle = make_bundle("true", {"mounts": [MOUNTS[0]], "linux.devices": [device("/dev/mine")]})
    there = bundle.rootfs / path[1:]
    if content == "file":
        there.write_text("mine")
    else:
        os.mknod(there, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    result = runtime.run(bundle)
    assert result.code == 1, result
    assert path in result.err
    assert there.lstat().st_rdev == (0 if content == "file" else os.makedev(1, 5))


def test_existing_name_that_fits(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The same node is kept as it is."""
    bundle = make_bundle(f"{LOOK} /dev/mine", {"mounts": [MOUNTS[0]], "linux.devices": [device("/dev/mine")]})
    os.mknod(bundle.rootfs / "dev/mine", stat.S_IFCHR | 0o604, os.makedev(1, 3))
    os.chmod(bundle.rootfs / "dev/mine", 0o604)
    assert runtime.look(bundle) == "character special file 1:3 604 0:0"


REFUSED: list[tuple[str, list[dict[str, Any]], str]] = [
    ("no type", [{"path": "/dev/x", "major": 1, "minor": 3}], "/linux/devices/0"),
    ("unknown type", [device("/dev/x", "z")], "/linux/devices/0/type"),
    ("relative path", [device("dev/x")], "/linux/devices/0/path"),
    ("through a file", [device("/etc/passwd/x")], "/linux/devices/0"),
]


@pytest.mark.parametrize(("devices", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(runtime: Runtime, make_bundle: MakeBundle, devices: list[dict[str, Any]], field: str) -> None:
    """With the field, and nothing left."""
    result = runtime.run(make_bundle("true", {"linux.devices": devices}))
    assert (result.code, result.field.startswith(field)) == (1, True), result
    assert runtime.ids() == []


# --- rules of the devices cgroup --------------------------------------------------------------------------------------
CAN = "cat /dev/{0} >/dev/null 2>&1 && echo {0}; true"
RULES: list[tuple[str, list[dict[str, Any]], str, str]] = [
    (
        "deny all: the defaults stay",
        [DENY_ALL],
        "head -c1 /dev/zero | wc -c; mknod /tmp/n c 1 11 && echo made; head -c1 /tmp/n 2>&1 | wc -l",
        "1\nmade\n1",
    ),
    ("deny all: no others", [DENY_ALL], "mknod /tmp/kmsg c 1 11; : </tmp/kmsg || echo refused", "refused"),
    (
        "allowed again",
        [DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
        "mknod /tmp/kmsg c 1 11; : </tmp/kmsg && echo read; : >/tmp/kmsg || echo 'no write'",
        "read\nno write",
    ),
    (
        "in order: the last one counts",
        [
            DENY_ALL,
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
            {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"},
        ],
        "mknod /tmp/kmsg c 1 11; : </tmp/kmsg && echo read; : >/tmp/kmsg || echo 'no write'",
        "read\nno write",
    ),
    (
        "a wildcard",
        [DENY_ALL, {"allow": True, "type": "c", "major": 1, "access": "rw"}],
        "mknod /tmp/kmsg c 1 11; : </tmp/kmsg && echo read",
        "read",
    ),
]


@pytest.mark.parametrize(("rules", "script", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rules(
    runtime: Runtime, make_bundle: MakeBundle, rules: list[dict[str, Any]], script: str, expected: str
) -> None:
    """In force before the program runs, for exec too (S33)."""
    changes = {"linux.resources": {"devices": rules}}
    script = (
        script.replace(": <", "(exec 9<")
        .replace(": >", "(exec 9>")
        .replace("kmsg &&", "kmsg) &&")
        .replace("kmsg ||", "kmsg) 2>/dev/null ||")
    )
    assert runtime.look(make_bundle(script, changes)) == expected
    with runtime.container(make_bundle("sleep 600", changes)) as container:
        assert container.look(script) == expected


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"allow": True, "type": "c", "access": ""}, "/linux/resources/devices/1/access"),
        ({"allow": True, "type": "c", "access": "rx"}, "/linux/resources/devices/1/access"),
        ({"allow": True, "type": "q", "access": "r"}, "/linux/resources/devices/1/type"),
    ],
    ids=str,
)
def test_rule_refused(runtime: Runtime, make_bundle: MakeBundle, rule: dict[str, Any], field: str) -> None:
    """Nonsense is no rule."""
    result = runtime.run(make_bundle("true", {"linux.resources": {"devices": [DENY_ALL, rule]}}))
    assert (result.code, result.field) == (1, field), result
    if not rule["access"]:
        assert "device access at 1 field cannot be empty" in result.message


def test_no_resources_no_rules(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Without rules v1 inherits the parent's."""
    bundle = make_bundle("mknod /tmp/n c 1 3 && echo x >/tmp/n && echo open", {"linux.resources": DELETE})
    assert runtime.look(bundle) == "open"
