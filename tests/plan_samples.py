"""Configs, facts and strategies that the tests of plans share: one base, each test changes one thing."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pyruntime.host.facts import BundleFacts, CgroupFacts, Hierarchy, HostFacts
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import CgroupPlan, HostStep, Options, Plan, Step
from pyruntime.spec.parse import parse_spec

if TYPE_CHECKING:
    from pyruntime.spec.config import Spec

BASE: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs"},
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    },
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
}
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
V1 = CgroupFacts("v1", (
    Hierarchy("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct")),
    Hierarchy("/sys/fs/cgroup/memory", ("memory",)),
    Hierarchy("/sys/fs/cgroup/systemd", ("name=systemd",)),
))  # fmt: skip
HYBRID = CgroupFacts("hybrid", (*V1.hierarchies, Hierarchy("/sys/fs/cgroup/unified", (), version=2)))
V2 = CgroupFacts("v2", (Hierarchy("/sys/fs/cgroup", (), version=2, v2_controllers=("cpu", "memory")),))
ROOTLESS = HostFacts(euid=1000, egid=1000, capabilities=0, cgroup=V2)
HOST = HostFacts()
NO_CGROUPS = CgroupPlan()
BUNDLE = BundleFacts("/b", "/b/rootfs")


def document(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """BASE with `changes`: "process.user.uid" names a key, a value of None removes it, "mounts+" appends."""
    found = copy.deepcopy(BASE)
    for path, value in (changes or {}).items():
        *parents, last = path.removesuffix("+").split(".")
        place = found
        for name in parents:
            place = place.setdefault(name, {})
        if path.endswith("+"):
            place[last] = [*place.get(last, ()), *value]
        elif value is None:
            del place[last]
        else:
            place[last] = value
    return found


def spec(changes: dict[str, Any] | None = None) -> Spec:
    """The parsed config with these changes."""
    return parse_spec(document(changes))


def plan(
    changes: dict[str, Any] | None = None,
    *,
    host: HostFacts = HOST,
    bundle: BundleFacts = BUNDLE,
    cgroup: CgroupPlan = NO_CGROUPS,
    **options: Any,
) -> Plan:
    """The plan of the config with these changes; `options` are fields of Options."""
    return compile_plan(spec(changes), bundle, host, Options(**({"id": "c1"} | options)), cgroup)


def namespaces(*kinds: str, **joined: str) -> list[dict[str, str]]:
    """namespaces("pid", network="/run/netns/a") as the config has them."""
    return [{"type": kind} for kind in kinds] + [{"type": kind, "path": path} for kind, path in joined.items()]


def user_ns(*kinds: str) -> dict[str, Any]:
    """Changes for a container in a user namespace of its own."""
    return {
        "linux.namespaces": namespaces("user", "pid", "mount", *kinds),
        "linux.uidMappings": MAPS,
        "linux.gidMappings": MAPS,
    }


def ops(found: Plan, lane: str = "") -> list[str]:
    """The op of every step, of one lane or of both."""
    return [step.op for step in found.steps if lane in ("", step.lane)]


def steps(found: Plan, op: str) -> list[Any]:
    """Every step of that op."""
    return [step for step in found.steps if step.op == op]


def only(found: Plan, op: str) -> Any:
    """The one step of that op."""
    (step,) = steps(found, op)
    return step


def where(found: Plan, op: str, first: Any = None) -> int:
    """Position of the first step of that op, with that first argument when given."""
    for index, step in enumerate(found.steps):
        if step.op == op and (first is None or step.args[0] == first):
            return index
    raise AssertionError(f"no step {op} {first or ''} in {ops(found)}")


def resolve(pointer: str, config: dict[str, Any]) -> Any:
    """What the JSON pointer names. Raises KeyError or IndexError when it names nothing."""
    place: Any = config
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        place = place[int(name)] if isinstance(place, list) else place[name]
    return place


def every_step(found: Plan) -> list[Step | HostStep]:
    """Steps and alternatives."""
    return [each for step in found.steps for each in (step, *getattr(step, "alternatives", ()))]


MOUNTS = (
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "relatime"]},
    {"destination": "/tmp", "type": "tmpfs", "options": ["ro", "size=64k"]},
    {"destination": "/data", "type": "none", "source": "/srv", "options": ["rbind", "ro", "rshared"]},
    {"destination": "etc/x", "type": "bind", "source": "x", "options": ["bind", "rro", "private"]},
    {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["lowerdir=/a:/b", "noatime"]},
)
DEVICES = (
    {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 3, "gid": 4},
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
    {"path": "/run/pipe", "type": "p"},
    {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
)
HOOK = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=1"], "timeout": 2}
SECCOMP = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}


def _some(values: tuple[Any, ...]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=len(values), unique_by=str)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid configs, from nearly empty to nearly everything."""
    kinds = draw(_some(("pid", "network", "ipc", "uts", "user", "cgroup", "time")))
    joined = draw(st.sets(st.sampled_from(kinds))) if kinds else set()
    entries = [{"type": kind, "path": f"/run/ns/{kind}"} if kind in joined else {"type": kind} for kind in kinds]
    changes: dict[str, Any] = {
        "linux.namespaces": [*entries, {"type": "mount"}],
        "mounts": draw(_some(MOUNTS)),
        "linux.devices": draw(_some(DEVICES)),
        "linux.maskedPaths": draw(_some(("/proc/kcore", "/sys/firmware"))),
        "linux.readonlyPaths": draw(_some(("/proc/sys", "/proc/bus"))),
        "linux.rootfsPropagation": draw(st.sampled_from(("", "rslave", "private", "shared", "runbindable"))),
        "process.user": {"uid": draw(st.sampled_from((0, 7))), "gid": 0, "additionalGids": draw(_some((5, 6)))},
        "process.cwd": draw(st.sampled_from(("/", "/work"))),
        "process.env": draw(_some(("PATH=/bin", "HOME=/h", "HOME=", "A=\x01ü"))),
        "process.noNewPrivileges": draw(st.booleans()),
        "process.rlimits": draw(_some(({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**64 - 1},))),
        "root.readonly": draw(st.booleans()),
        "hooks": {name: [HOOK, {"path": "/bin/x"}] for name in draw(_some(
            ("prestart", "createRuntime", "createContainer", "startContainer")))},
    }  # fmt: skip
    if "user" in kinds and "user" not in joined:
        changes |= {"linux.uidMappings": MAPS, "linux.gidMappings": MAPS}
    if "time" in kinds and "time" not in joined and draw(st.booleans()):
        changes["linux.timeOffsets"] = {"boottime": {"secs": 5}}
    if "network" in kinds and draw(st.booleans()):
        changes["linux.sysctl"] = {"net.ipv4.ip_forward": "1"}
    if "uts" in kinds:
        changes["hostname"] = "h"
    if draw(st.booleans()):
        changes["linux.seccomp"] = SECCOMP
    if draw(st.booleans()):
        changes["process.oomScoreAdj"] = 100
    if draw(st.booleans()):
        changes["process.capabilities"] = None
    return document(changes)


def hosts() -> st.SearchStrategy[HostFacts]:
    """Hosts that a privileged caller meets."""
    return st.tuples(
        st.sampled_from((V1, HYBRID, V2, CgroupFacts())), st.booleans(), st.sampled_from((1, 64, 65)), st.booleans()
    ).map(lambda t: HostFacts(cgroup=t[0], in_user_ns=t[1], cpu_count=t[2], has_kcore=t[3]))


CGROUPS = CgroupPlan(
    paths=(("cpu", "/sys/fs/cgroup/cpu,cpuacct/c1"), ("memory", "/sys/fs/cgroup/memory/c1"),
           ("name=systemd", "/sys/fs/cgroup/systemd/c1"), ("", "/sys/fs/cgroup/unified/c1")),
    make=(HostStep("cg_make", ("/sys/fs/cgroup/memory/c1",), "/linux"),),
    early=(HostStep("cg_write", ("/sys/fs/cgroup/cpuset/c1/cpuset.cpus", "0"), "/linux"),),
    join=(HostStep("cg_join", ("/sys/fs/cgroup/memory/c1",), "/linux"),),
    limits=(HostStep("cg_write", ("/sys/fs/cgroup/memory/c1/memory.limit_in_bytes", "1"), "/linux"),
            HostStep("cg_write", ("/sys/fs/cgroup/devices/c1/devices.deny", "a"), "/linux")),
)  # fmt: skip
