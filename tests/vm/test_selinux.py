"""SELinux at work, enforcing a policy made for it: processes get their labels, file systems theirs, and both hold.

The policy knows few classes and permissions; what it does not know is allowed. So the guest needs no labels on its disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.runtime import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

SELINUX = Path("/sys/fs/selinux")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SELINUX.exists(), reason="needs a kernel that runs SELinux: make test-vm ARGS=-s"),
]
# In the kernel's order, which their numbers follow (security/selinux/include/initial_sid_to_string.h).
SIDS = ("kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket "
        "tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod "
        "policy scmp_packet devnull").split()  # fmt: skip
POLICY = """
class process class file
{sids}
class process {{ transition dyntransition setexec }}
class file {{ read write entrypoint }}
sensitivity s0; dominance {{ s0 }}
category c1; category c2; category c3;
level s0:c1.c3;
mlsconstrain file {{ read write }} ( l1 dom l2 or t1 == host_t );
policycap nnp_nosuid_transition;
attribute domain;
type host_t, domain; type box_t, domain; type other_t, domain; type closed_t, domain;
type secret_t; type box_file_t;
role system_r; role system_r types domain;
allow host_t domain:process {{ transition setexec }};
allow {{ box_t other_t }} self:process {{ transition setexec }};
allow domain {{ box_file_t domain }}:file {{ read write }};
allow {{ host_t box_t other_t }} {{ box_file_t domain }}:file entrypoint;
allow host_t secret_t:file {{ read write }};
user system_u roles {{ system_r object_r }} level s0 range s0 - s0:c1.c3;
{contexts}
fs_use_xattr ext4 system_u:object_r:box_file_t:s0;
fs_use_trans tmpfs system_u:object_r:box_file_t:s0;
fs_use_trans devpts system_u:object_r:box_file_t:s0;
genfscon proc / system_u:object_r:box_file_t:s0
"""
BOX, OTHER, CLOSED, UNKNOWN = (f"system_u:system_r:{name}_t:s0:c1,c2" for name in ("box", "other", "closed", "none"))
FILES = "system_u:object_r:box_file_t:s0:c1,c2"


@pytest.fixture(scope="module", autouse=True)
def enforcing(own_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The policy in the kernel, which obeys it until the last test."""
    folder = tmp_path_factory.mktemp("policy")
    source, policy = folder / "policy.conf", folder / "policy"
    source.write_text(POLICY.format(sids="\n".join(f"sid {name}" for name in SIDS),
                                    contexts="\n".join(f"sid {name} system_u:system_r:host_t:s0" for name in SIDS)))  # fmt: skip
    subprocess.run(["checkpolicy", "-M", "-U", "allow", "-o", policy, source], check=True)
    if not (SELINUX / "enforce").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUX], check=True)
    (SELINUX / "load").write_bytes(policy.read_bytes())
    (SELINUX / "enforce").write_text("1")
    yield
    (SELINUX / "enforce").write_text("0")


def label(path: Path) -> str:
    """The label of a file."""
    return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()


@pytest.mark.representative
@pytest.mark.parametrize("no_new_privileges", [False, True], ids=["", "noNewPrivileges"])
def test_a_label_denies(runtime: Runtime, make_bundle: MakeBundle, no_new_privileges: bool) -> None:
    """By type: a secret; by category: the file of another container, its own is open to it."""
    bundle = make_bundle("cat /proc/self/attr/current | tr '\\0' '\\n'; cat /own /secret /foreign",
                         {"process.selinuxLabel": BOX, "process.noNewPrivileges": no_new_privileges})  # fmt: skip
    labels = {"own": FILES, "foreign": "system_u:object_r:box_file_t:s0:c1,c3", "secret": "system_u:object_r:secret_t:s0"}
    for name, text in labels.items():
        (bundle.rootfs / name).write_text(f"{name}\n")
        os.setxattr(bundle.rootfs / name, "security.selinux", text.encode() + b"\0")
    result = runtime.run(bundle)
    assert result.out.split() == [BOX, "own"], result
    for name in ("secret", "foreign"):
        assert f"can't open '/{name}': Permission denied" in result.err


def test_an_exec_has_the_container_s_label_or_its_own(runtime: Runtime, make_bundle: MakeBundle) -> None:
    with runtime.container(make_bundle(["sleep", "1000"], {"process.selinuxLabel": BOX})) as container:
        assert Path(f"/proc/{container.pid}/attr/current").read_bytes().rstrip(b"\0").decode() == BOX
        assert container.look("cat /proc/self/attr/current").rstrip("\0") == BOX
        own = runtime("exec", "--process-label", OTHER, container.id, "cat", "/proc/self/attr/current")
        assert own.out.rstrip("\0") == OTHER, own
        refused(runtime("exec", "--process-label", UNKNOWN, container.id, "true"), 255, "/process/selinuxLabel", UNKNOWN)
        assert container.status == "running"


@pytest.mark.parametrize("kind", ["context", "rootcontext"])
def test_file_systems_have_the_mount_label(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, kind: str) -> None:
    """Each that the container gets new, or its root alone; not what is bound from the host."""
    (tmp_path / "bound").mkdir()
    bundle = make_bundle(["sleep", "1000"], {"process.selinuxLabel": BOX, "linux.mountLabel": FILES,
                                             "annotations": {"run.oci.mount_context_type": kind}})  # fmt: skip
    bundle.add_mounts({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
                      {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
                      {"destination": "/mnt/new", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                      {"destination": "/mnt/bound", "source": str(tmp_path / "bound"), "options": ["bind"]})  # fmt: skip
    with runtime.container(bundle) as container:
        root = Path(f"/proc/{container.pid}/root")
        assert [label(root / name) for name in ("dev", "dev/shm", "dev/pts", "mnt/new")] == [FILES] * 4
        assert label(root / "mnt/bound") == label(tmp_path / "bound") != FILES
        mounts = Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
        assert f',{kind}="{FILES}"' in next(line for line in mounts if " /mnt/new " in line)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"process.selinuxLabel": UNKNOWN}, "/process/selinuxLabel", UNKNOWN),
        ({"linux.mountLabel": UNKNOWN}, "/linux/mountLabel", UNKNOWN),
    ],
    ids=["of the process", "of mounts"],
)
def test_a_label_that_the_policy_does_not_have(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, str], field: str, value: str
) -> None:
    refused(runtime.run(make_bundle("true", changes)), 1, field, value)
    assert runtime.ids() == []


def test_a_label_that_may_not_be_entered(runtime: Runtime, make_bundle: MakeBundle) -> None:
    result = runtime.run(make_bundle("true", {"process.selinuxLabel": CLOSED}))
    assert (result.code, result.field) == (255, "/process/args"), result
    assert "permission denied" in result.message
    assert "a label of the process forbids it" in result.err
    assert runtime.ids() == []


def refused(result: Result, code: int, field: str, value: str) -> None:
    """By an error that names the field, the label and what to do."""
    assert (result.code, result.field) == (code, field), result
    assert value in result.err
    assert "  hint: " in result.err
