"""criu's wire format, and what it is told of a container. No criu is called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pyruntime.criu import client, wire
from pyruntime.errors import HostError, UsageError
from pyruntime.host.facts import CgroupFacts, Hierarchy
from pyruntime.lifecycle import criu_mounts, criu_options
from pyruntime.lifecycle.checkpoint import freezer, parse_page_server
from pyruntime.lifecycle.criu_options import Options
from pyruntime.lifecycle.restore import descriptor_names
from pyruntime.plan.step import CgroupPlan
from pyruntime.spec.parse import parse_spec
from tests.plan_samples import namespaces, spec, user_ns

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pyruntime.spec.config import Spec


def make_spec(**linux: Any) -> Spec:
    """A small configuration with a bind mount; `linux` goes over its own part."""
    return parse_spec({
        "ociVersion": "1.3.0", "root": {"path": "rootfs"},
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                   {"destination": "/data", "source": "data", "options": ["rbind", "ro"]},
                   {"destination": "/log", "type": "bind", "source": "/var/log"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], **linux},
    })  # fmt: skip


@pytest.mark.parametrize(("value", "data"), [
    (0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (-1, b"\xff" * 9 + b"\x01"),
], ids=str)  # fmt: skip
def test_numbers(value, data):
    message = wire.encode(wire.RESTORED, {"pid": value})
    assert message == b"\x08" + data
    assert wire.decode(wire.RESTORED, message) == {"pid": value}


def test_a_request_as_protobuf_has_it():
    opts = {"images_dir_fd": 5, "shell_job": True, "root": "/r", "ps": None, "ext_mnt": [{"key": "/a", "val": "/b"}]}
    data = wire.encode(wire.REQUEST, {"type": wire.DUMP, "opts": opts})
    assert data == bytes.fromhex("0801 1213 0805 3801 6a022f72 ba0108 0a022f61 12022f62")
    assert wire.decode(wire.REQUEST, data)["opts"] == {key: value for key, value in opts.items() if value is not None}


def test_an_answer_with_unknown_fields():
    data = wire.encode(wire.ANSWER, {"type": 2, "success": True, "restore": {"pid": 77}, "version": {"major": 3}})
    assert wire.decode(wire.ANSWER, b"\xf8\x07\x01" + b"\xfd\x07abcd" + b"\xfa\x07\x01x" + data)["restore"] == {"pid": 77}


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"\x12\x05a", b"\x0b", b"\x80" * 12])
def test_a_damaged_answer(data):
    with pytest.raises(HostError, match="cannot be read"):
        wire.decode(wire.ANSWER, data)


def points(*rows):
    """mountinfo of (mount point, its root in the file system, type); "/" and ext4 where they are not given."""
    found = []
    for number, row in enumerate(rows, 30):
        point, within, kind = (*row, "/", "ext4")[:3] if len(row) < 2 else (*row, "ext4")[:3]
        found.append(f"{number} 25 0:26 {within} {point} rw,nosuid master:1 - {kind} x rw")
    return criu_mounts.mount_points("\n".join(found).encode())


def pairs(found):
    return [(one["key"], one["val"]) for one in found]


BINDS = {"mounts": [
    {"destination": "/proc", "type": "proc"},
    {"destination": "/data", "type": "none", "source": "d", "options": ["rbind"]},
    {"destination": "/data/tmp", "type": "tmpfs", "source": "tmpfs"},
    {"destination": "/f", "type": "bind", "source": "/srv/f"},
], "linux.maskedPaths": ["/proc/keys", "/sys/x"]}  # fmt: skip


def test_external_mounts():
    """A bind, what a recursive one took along from the host, a masked file; not what the container mounted itself."""
    names = ("/", "/data", "/data/deep", "/data/tmp", "/data/tmp/x", "/data/own", "/f", "/f/own")
    inside = points(("/proc/keys", "/null"), *((name,) for name in names))
    host = points(("/",), ("/bundle/d/deep",), ("/srv/f/own",))
    found = criu_mounts.external_mounts(spec(BINDS), "/bundle", inside, host, "/no/such/root")
    assert pairs(found) == [("/data", "/data"), ("/data/deep", "/data/deep"), ("/f", "/f"), ("/proc/keys", "/dev/null")]
    sources = criu_mounts.mount_sources(spec(BINDS), "/bundle", host, CgroupFacts(), CgroupPlan())
    assert pairs(sources) == [("/data", "/bundle/d"), ("/data/deep", "/bundle/d/deep"), ("/f", "/srv/f"), ("/dev/null", "/dev/null")]


@pytest.mark.parametrize("own", [False, True], ids=["", "namespace"])
def test_trees_of_v1_are_external_without_a_cgroup_namespace(own):
    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]
    config = spec({"mounts": mounts, "linux.namespaces": namespaces(*(["cgroup"] if own else []))})
    at = "/sys/fs/cgroup"
    inside = points((at, "/", "tmpfs"), (f"{at}/pids", "/web", "cgroup"), (f"{at}/unified", "/web", "cgroup2"))
    found = pairs(criu_mounts.external_mounts(config, "/b", inside, (), "/no/such/root"))
    assert found == ([] if own else [(f"{at}/pids", f"{at}/pids"), (f"{at}/unified", f"{at}/unified")])
    facts = CgroupFacts("hybrid", (Hierarchy("/host/pids", ("pids",)), Hierarchy("/host/unified", (), "/", 2)))
    plan = CgroupPlan((("pids", "/host/pids/new"), ("", "/host/unified/new")))
    sources = pairs(criu_mounts.mount_sources(config, "/b", (), facts, plan))
    assert sources == ([] if own else [(f"{at}/pids", "/host/pids/new"), (f"{at}/unified", "/host/unified/new")])


def test_mount_points_behind_links(tmp_path: Path):
    """The name stays the configuration's; links lead nowhere outside of the root."""
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "up").symlink_to("../../../run")
    (tmp_path / "loop").symlink_to("loop")
    root = str(tmp_path)
    assert criu_mounts.resolve(root, "/var/run/x/../y") == "/run/y"
    assert criu_mounts.resolve(root, "/up/a") == "/run/a"
    assert criu_mounts.resolve(root, "/loop/a") == "/loop/a"
    config = spec({"mounts": [{"destination": "/var/run/data", "type": "bind", "source": "/srv"}]})
    found = criu_mounts.external_mounts(config, "/b", points(("/run/data",)), (), root)
    assert pairs(found) == [("/run/data", "/var/run/data")]


def test_device_nodes_are_external_in_a_user_namespace():
    config = spec(user_ns())
    assert ("/dev/zero", "/dev/zero") in pairs(criu_mounts.external_mounts(config, "/b", (), (), "/no/such/root"))
    assert ("/dev/zero", "/dev/zero") in pairs(criu_mounts.mount_sources(config, "/b", (), CgroupFacts(), CgroupPlan()))


def test_joined_namespaces_are_external():
    spec = make_spec(namespaces=[{"type": "network", "path": "/run/netns/x"}, {"type": "mount"}, {"type": "pid"}])
    assert criu_options.external_namespaces(spec) == [("net", "/run/netns/x", "extRootNetNS")]


def test_options_that_are_off_are_left_out():
    told = criu_options.common(Options(image_path="/i", manage_cgroups_mode="strict", network_lock="skip"), make_spec(),
                               images_fd=3, work_fd=4, log_file="dump.log")  # fmt: skip
    assert told["manage_cgroups_mode"] == 5
    assert told["network_lock"] == 3
    assert told["tcp_established"] is None
    assert wire.decode(wire.OPTIONS, wire.encode(wire.OPTIONS, told))["log_file"] == "dump.log"


@pytest.mark.parametrize(("options", "text"), [
    ({"manage_cgroups_mode": "hard"}, "Invalid manage cgroups mode"),
    ({"network_lock": "ebtables"}, "invalid network lock method: ebtables"),
    ({"empty_ns": ("pid",)}, "namespace pid is not supported"),
    ({"lsm_profile": "unconfined"}, "invalid lsm-profile: unconfined"),
])  # fmt: skip
def test_bad_values(options, text):
    with pytest.raises(UsageError, match=text):
        criu_options.check(Options(image_path="/i", **options))


def test_page_server():
    assert parse_page_server("") is None
    assert parse_page_server("[::1]:99") == {"address": "[::1]", "port": 99}
    for text in ("host", ":1", "host:", "host:0", "host:70000"):
        with pytest.raises(UsageError, match="Use --page-server ADDRESS:PORT"):
            parse_page_server(text)


def test_freezer_of_each_layout():
    assert freezer({"freezer": "/f", "memory": "/m", "": "/u"}) == "/f"
    assert freezer({"": "/u"}) == "/u"
    assert freezer({"memory": "/m"}) == ""


def test_descriptor_names(tmp_path: Path):
    fd = criu_options.open_folder(str(tmp_path), "image path", make=False)
    assert descriptor_names(fd) == []
    (tmp_path / "descriptors.json").write_text(json.dumps(["/dev/null", "pipe:[7]", "file[1c:2f]"]))
    assert descriptor_names(fd) == ["/dev/null", "pipe:[7]", "file[1c:2f]"]


def test_the_error_of_a_log():
    log = ("(0.1) Error (criu/util.c:642): exited, status=1\n(0.2) Warn  (x): no\n(0.3) Error (criu/a.c:1): tty: bad\n"
           "(0.4)      1: Error (criu/b.c:2): worse\n")  # fmt: skip
    assert client.first_error(log) == "tty: bad; worse"
    assert client.first_error("fine\n") == ""
