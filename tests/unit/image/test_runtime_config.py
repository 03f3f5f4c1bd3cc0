"""Image configuration and options to config.json: Docker's defaults, and that an image configures nothing but itself."""

from __future__ import annotations

import json

import pytest

from pyruntime.errors import InvalidImage, UsageError
from pyruntime.image import confinement
from pyruntime.image.config import ImageConfig, parse_config
from pyruntime.image.runtime_config import (
    IdMap,
    RuntimeOptions,
    compile_annotations,
    compile_args,
    compile_config,
    compile_env,
    volume_paths,
    working_dir,
)
from pyruntime.image.seccomp_default import MACHINES, default_seccomp
from pyruntime.image.users import User
from pyruntime.spec.parse import check
from tests.seccomp_bpf import moby_default

ROOT = User(0, 0, (0,))


def image(inner: dict | None = None, **outer) -> ImageConfig:
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "config": inner} | outer
    return parse_config(json.dumps(document).encode())


def config(inner: dict | None = None, user: User = ROOT, **options) -> dict:
    return compile_config(image({"Cmd": ["sh"]} | (inner or {})), user, RuntimeOptions(**options))


@pytest.mark.parametrize(("inner", "options", "args"), [
    ({"Entrypoint": ["a"], "Cmd": ["b"]}, {}, ("a", "b")),
    ({"Entrypoint": ["a"], "Cmd": ["b"]}, {"args": ("c", "d")}, ("a", "c", "d")),
    ({"Entrypoint": ["a"], "Cmd": ["b"]}, {"entrypoint": ("e",)}, ("e",)),  # drops Cmd
    ({"Entrypoint": ["a"], "Cmd": ["b"]}, {"entrypoint": ("e",), "args": ("c",)}, ("e", "c")),
    ({"Entrypoint": ["a"], "Cmd": ["b"]}, {"entrypoint": ("",), "args": ("c",)}, ("c",)),
    ({"Entrypoint": ["a"]}, {"args": ()}, ("a",)),
    ({"Cmd": ["b"]}, {}, ("b",)),
    ({"Entrypoint": None, "Cmd": ["b"]}, {}, ("b",)),
], ids=str)
def test_command_line(inner, options, args):
    assert compile_args(image(inner), RuntimeOptions(**options)) == args


@pytest.mark.parametrize("inner", [None, {}, {"Cmd": []}, {"Cmd": None, "Entrypoint": []}])
def test_no_command(inner):
    with pytest.raises(UsageError, match="^no command specified$"):
        compile_args(image(inner), RuntimeOptions())


def test_environment():
    inner = image({"Env": ["A=1", "B=x=y", "PATH=/opt", "GONE=1"]})
    options = RuntimeOptions(env=("B=2", "GONE", "NEW="), hostname="web", terminal=True)
    assert compile_env(inner, options) == ["PATH=/opt", "HOSTNAME=web", "TERM=xterm", "A=1", "B=2", "NEW="]
    assert compile_env(image(), RuntimeOptions())[0].startswith("PATH=/usr/local/sbin:")


@pytest.mark.parametrize(("text", "given", "result"), [
    (None, "", "/"), ("", "", "/"), ("/a/../b/", "", "/b"), ("app", "", "/app"), ("/a", "/c", "/c"), ("//x", "", "/x"),
    ("../../etc", "", "/etc"),
], ids=str)
def test_working_directory(text, given, result):
    assert working_dir(image({"WorkingDir": text}), RuntimeOptions(working_dir=given)) == result


def test_labels_become_annotations_but_none_that_a_runtime_obeys():
    labels = {"version": "1", "org.opencontainers.image.os": "mine", "run.oci.seccomp_bpf_data": "AAAA",
              "run.oci.hooks.stdout": "/x", "org.criu.config": "/etc/x", "org.systemd.property.ExecStart": "'x'",
              "bundle": "/", "io.katacontainers.config.hypervisor.path": "/x", "": "empty"}  # fmt: skip
    found = compile_annotations(
        image({"Labels": labels, "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}}, author="me",
              created="2026-01-01T00:00:00Z", variant="v2"),
        RuntimeOptions(annotations=(("run.oci.seccomp.receiver", "/asked/for"), ("version", "2"))),
    )
    prefix = "org.opencontainers.image."
    assert found == {
        f"{prefix}os": "mine", f"{prefix}architecture": "amd64", f"{prefix}variant": "v2", f"{prefix}author": "me",
        f"{prefix}created": "2026-01-01T00:00:00Z", f"{prefix}stopSignal": "SIGINT",
        f"{prefix}exposedPorts": "53/udp,80/tcp", "version": "2", "run.oci.seccomp.receiver": "/asked/for",
    }  # fmt: skip


def test_every_annotation_that_pyruntime_obeys_is_kept_from_images():
    from pyruntime.cgroup.systemd import ANNOTATION
    from pyruntime.image.runtime_config import OBEYED
    from pyruntime.lifecycle.features import features
    from pyruntime.spec import annotations as ours

    names = [ours.SECCOMP_RECEIVER, ours.SECCOMP_BPF, ours.SECCOMP_STRICT, ours.PIDFD_RECEIVER, ANNOTATION]
    names += features()["potentiallyUnsafeConfigAnnotations"]
    assert [name for name in names if not name.startswith(OBEYED)] == []


def test_a_default_container_is_confined_as_docker_confines():
    made = config()
    process, linux = made["process"], made["linux"]
    assert process["capabilities"] == {key: list(confinement.CAPABILITIES) for key in ("bounding", "effective", "permitted")}
    mask = sum(1 << confinement.KNOWN.index(name) for name in confinement.CAPABILITIES)
    assert mask == 0xA80425FB
    assert process["noNewPrivileges"] is False
    assert linux["maskedPaths"] == list(confinement.MASKED_PATHS)
    assert linux["readonlyPaths"] == list(confinement.READONLY_PATHS)
    assert {n["type"] for n in linux["namespaces"]} == {"mount", "uts", "ipc", "pid", "network"}
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert [m["destination"] for m in made["mounts"]] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]  # fmt: skip
    assert made["root"] == {"path": "rootfs", "readonly": False}
    assert "hostname" not in made


def test_what_is_written_is_a_valid_configuration():
    for options in (
        {},
        {"terminal": True, "hostname": "web", "privileged": True, "cgroup_v2": True},
        {"uid_maps": (IdMap(0, 1000),), "gid_maps": (IdMap(0, 1000),), "rootless": True, "shared": ("network",)},
        {"devices": ({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},), "sysctl": (("kernel.shm_rmid_forced", "1"),)},
        {"rlimits": ({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},), "resources": (("pids", {"limit": 9}),)},
    ):
        assert check(config(**options))[1] == ()


def test_a_user_without_root_holds_no_capability():
    made = config(user=User(1000, 1000, (1000, 4)))["process"]
    assert made["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 4]}
    assert made["capabilities"]["effective"] == made["capabilities"]["permitted"] == []
    assert made["capabilities"]["bounding"]


def test_privileged():
    made = config(privileged=True, last_cap=37)
    assert len(made["process"]["capabilities"]["bounding"]) == 38
    assert not {"maskedPaths", "readonlyPaths", "seccomp"} & made["linux"].keys()
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert all("ro" not in m["options"] for m in made["mounts"])


@pytest.mark.parametrize(("add", "drop", "has", "lacks"), [
    (("sys_admin",), (), "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"),
    (("CAP_SYS_ADMIN",), ("chown",), "CAP_SYS_ADMIN", "CAP_CHOWN"),
    (("all",), ("NET_RAW",), "CAP_BPF", "CAP_NET_RAW"),
    (("NET_ADMIN",), ("ALL",), "CAP_NET_ADMIN", "CAP_CHOWN"),
], ids=str)
def test_capabilities(add, drop, has, lacks):
    found = confinement.capabilities(add, drop)
    assert has in found
    assert lacks not in found


def test_an_unknown_capability_is_named():
    with pytest.raises(UsageError, match='invalid CapAdd: unknown capability: "CAP_FLY"'):
        confinement.capabilities(("fly",))


def test_a_mount_of_the_caller_takes_the_place_of_a_default():
    mine = {"destination": "/dev/shm/", "type": "tmpfs", "source": "tmpfs", "options": []}
    made = [m for m in config(mounts=(mine,))["mounts"] if m["destination"].startswith("/dev/shm")]
    assert made == [mine]


def test_shared_namespaces_and_rootless():
    made = config(shared=("network", "uts"), hostname="web", uid_maps=(IdMap(0, 1000),), gid_maps=(IdMap(0, 1000),))
    assert {n["type"] for n in made["linux"]["namespaces"]} == {"pid", "ipc", "mount", "user"}
    assert "hostname" not in made
    assert "sysctl" not in made["linux"]
    options = {m["destination"]: m["options"] for m in made["mounts"]}
    assert "rbind" in options["/sys"]
    assert "gid=5" not in options["/dev/pts"]


def test_volumes_are_paths_inside():
    assert volume_paths(image({"Volumes": {"/data": {}, "../../etc": {}, "/": {}, "//x//y/": {}}})) == ("/data", "/etc", "/x/y")
    assert volume_paths(image(None)) == ()


def test_an_unknown_seccomp_word_is_refused():
    with pytest.raises(UsageError, match="unknown seccomp profile 'none'"):
        config(seccomp="none")
    assert "seccomp" not in config(seccomp="unconfined")["linux"]


def test_bad_os_features():
    with pytest.raises(InvalidImage, match=r"os.features"):
        compile_annotations(image(None, **{"os.features": [1]}), RuntimeOptions())


MOBY_NAMES = {"386": "x86"}
ALL_SETS = [frozenset(confinement.CAPABILITIES), frozenset(), frozenset(confinement.KNOWN),
            *(frozenset((*confinement.CAPABILITIES, name)) for name in ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYSLOG"))]  # fmt: skip


@pytest.mark.parametrize("held", ALL_SETS, ids=len)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_is_equal_in_effect_to_mobys(machine, held):
    def rules(profile):
        return {(name, rule["action"], str(rule.get("errnoRet")), json.dumps([(a["index"], a["op"], a["value"]) for a in rule.get("args") or ()]))
                for rule in profile["syscalls"] for name in rule["names"]}  # fmt: skip

    ours, theirs = default_seccomp(machine, held), moby_default(held, MOBY_NAMES.get(machine, machine))
    assert rules(ours) == rules(theirs)
    assert (ours["defaultAction"], ours["defaultErrnoRet"]) == (theirs["defaultAction"], theirs["defaultErrnoRet"])


def test_no_filter_for_a_machine_that_is_not_known():
    assert default_seccomp("vax", ()) is None
