"""The plan is what happens: the effect syscalls that strace sees of container-init against the steps of `explain`.

SYSCALLS is the one table from a step to its system calls. A call is written as `name argument…` with constants as
numbers, made by `seen` from strace's line and by the table from the step's arguments, so that both must agree.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]
    Step = dict[str, Any]
    Calls = list[str]

pytestmark = [pytest.mark.system, pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")]

EFFECTS = (
    "fsopen fsconfig fsmount open_tree move_mount mount_setattr mount umount2 pivot_root setns unshare clone clone3 "
    "vfork fork setuid setgid setgroups setresuid setresgid setreuid setregid setfsuid capset prctl sethostname "
    "setdomainname seccomp mknodat mknod symlinkat symlink mkdirat mkdir chroot execve execveat"
)
LIKE_SLOT, RECURSIVE, INHERIT_MODE, MOUNT_CONSOLE = 32, 4, 2, 128
SIGCHLD = 17
PR_SET_DUMPABLE, PR_SET_NAME, PR_CAPBSET_DROP, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = (
    4,
    15,
    24,
    8,
    38,
    47,
)


# --- what strace saw ------------------------------------------------------------------------------------------------
def numbers(text: str) -> str:
    """Every numeric constant in decimal; `0x1|0x2` summed."""
    text = re.sub(r"\b0x[0-9a-f]+\b", lambda found: str(int(found[0], 16)), text)
    return re.sub(r"\b\d+(?:\|\d+)+\b", lambda found: str(sum(map(int, found[0].split("|")))), text)


# name: from the arguments to the words that the table below writes; what depends on descriptor numbers is left out
SEEN: dict[str, Callable[[list[str]], str]] = {
    "fsopen": lambda a: a[0],
    "fsconfig": lambda a: "create" if a[1] == "6" else a[2] if a[3] == "NULL" else f"{a[2]}={a[3]}",
    "fsmount": lambda a: a[2],
    "open_tree": lambda a: a[1],
    "move_mount": lambda a: a[3],
    "mount_setattr": lambda a: a[3],
    "mount": lambda a: f"{a[1]} {a[3]}",
    "umount2": lambda a: f"{a[0]} {a[1]}",
    "setns": lambda a: a[1],
    "unshare": lambda a: a[0],
    "clone": lambda a: next(word[6:] for word in a if word.startswith("flags=")),
    "setgroups": lambda a: a[0],
    "prctl": lambda a: f"{a[0]} {a[1]}",
    "mknodat": lambda a: f"{a[1]} {int(a[2], 8)} {a[3] if len(a) > 3 else 0}",
    "symlinkat": lambda a: f"{a[0]} {a[2]}",
    "mkdirat": lambda a: a[1],
    "seccomp": lambda a: f"{a[0]} {a[1]}",
    "capset": lambda a: a[1],
    "pivot_root": lambda a: "",
    "sethostname": lambda a: a[0],
    "setdomainname": lambda a: a[0],
    "chroot": lambda a: a[0],
    "setresuid": lambda a: a[0],
    "setresgid": lambda a: a[0],
    "vfork": lambda a: "",
}


def arguments(text: str) -> list[str]:
    """The arguments of a call, cut at the commas of its own level; strings without their quotes."""
    found, depth, current, quoted = [], 0, "", False
    for char in text:
        quoted ^= char == '"'
        depth += (char in "{[(") - (char in "}])") if not quoted else 0
        if char == "," and depth == 0 and not quoted:
            found.append(current.strip())
            current = ""
        else:
            current += char
    return [word.strip('"') if word.startswith('"') else word for word in [*found, current.strip()]]


def seen(lines: Iterator[str]) -> Iterator[str]:
    """The effect calls of one process up to its program's execve; the name that a process gives itself is none."""
    for line in lines:
        call = re.match(r"(\w+)\((.*)\) += (-?\d+|\?)", line)
        if call is None:
            continue
        name, result = call[1], call[3]
        if name == "execveat":  # how stage 0 came to be
            continue
        if name == "execve":
            return
        words = arguments(call[2] if name == "mknodat" else numbers(call[2]))
        words = [numbers(word) for word in words] if name == "mknodat" else words
        if name == "prctl" and words[0] == str(PR_SET_NAME):
            continue
        failed = " !" if result.startswith("-") else ""
        yield f"{name} {SEEN[name](words)}".rstrip() + failed


def init_calls(folder: Path) -> Calls:
    """Stage 0's calls, then those of the process that it cloned."""
    files = {int(path.suffix[1:]): path.read_text().splitlines() for path in folder.glob("trace.*")}
    stage0 = next(pid for pid, lines in files.items() if lines and '["container-init"' in lines[0])
    first = list(seen(iter(files[stage0])))
    child = next(int(line.rpartition("= ")[2]) for line in files[stage0] if line.startswith("clone("))
    return first + list(seen(iter(files[child])))


# --- what explain says ----------------------------------------------------------------------------------------------
def mount_calls(args: Step, known: Step) -> list[Calls]:
    data = [f"fsconfig {entry}" for entry in args["data"] if entry]
    source = [f"fsconfig source={args['source']}"] if args["source"] else []
    inherited = ["fsconfig mode=*"] if args["flags"] & INHERIT_MODE else []
    return [
        [
            f"fsopen {args['fstype']}",
            *source,
            *inherited,
            *data,
            "fsconfig create",
            f"fsmount {args['attrs']}",
            "move_mount",
        ]
    ]


def make_path_calls(args: Step, known: Step) -> list[Calls]:
    names = [name for name in args["path"].split("/") if name]
    made = [[f"mkdirat {name}" for name in names[start:]] for start in range(len(names) + 1)]
    files = [[*calls[:-1], f"mknodat {names[-1]} {0o100000 | args['mode'] & 0o7777} 0"] for calls in made if calls]
    plain = [[*calls[:-1], f"mknodat {names[-1]} {0o100644} 0"] for calls in made if calls]
    return made + files + plain if args["flags"] & LIKE_SLOT else made


def mask_calls(args: Step, known: Step) -> list[Calls]:
    folder = [
        "fsopen tmpfs",
        "fsconfig source=tmpfs",
        "fsconfig ro",
        "fsconfig size=4k",
        "fsconfig nr_inodes=2",
        "fsconfig mode=755",
        "fsconfig create",
        "fsmount 15",
        "move_mount",
    ]
    return [folder, ["open_tree /dev/null", "move_mount"], ["open_tree", "move_mount"]]


def bounding_calls(args: Step, known: Step) -> list[Calls]:
    dropped = [number for number in range(args["last_cap"] + 1) if not args["mask"] >> number & 1]
    return [[f"prctl {PR_CAPBSET_DROP} {number}" for number in dropped]]


def capset_calls(args: Step, known: Step) -> list[Calls]:
    sets = [args[name] & (1 << 64) - 1 for name in ("effective", "permitted", "inheritable")]
    return [
        [
            "capset {"
            + ", ".join(
                f"{name}={value}" for name, value in zip(("effective", "permitted", "inheritable"), sets, strict=True)
            )
            + "}"
        ]
    ]


def setattr_calls(args: Step, known: Step) -> list[Calls]:
    values = f"attr_set={args['attr_set']}, attr_clr={args['attr_clr']}, propagation={args['propagation']}, userns_fd=0"
    return [[f"mount_setattr {{{values}}}"]]


def node_calls(args: Step, known: Step) -> list[Calls]:
    return [[f"mknodat {args['path'].rsplit('/', 1)[-1]} {args['mode']} {args['dev']}"]]


READONLY = ["open_tree", "mount_setattr {attr_set=1, attr_clr=0, propagation=0, userns_fd=0}", "move_mount"]
PROC = ["fsopen proc", "fsconfig create", "fsmount 14"]

# step: from its arguments to the sequences of calls it may be; [] in the list: nothing need happen
SYSCALLS: dict[str, Callable[[Step, Step], list[Calls]]] = {
    "setns": lambda a, _: [[f"setns {a['nstype']}"]],
    "set_dumpable": lambda a, _: [[f"prctl {PR_SET_DUMPABLE} {a['value']}"]],
    "unshare": lambda a, _: [[f"unshare {a['flags']}"]],
    "set_ids": lambda a, _: [[f"setresgid {a['gid']}", f"setresuid {a['uid']}"]],
    "clone": lambda a, _: [[f"clone {a['flags'] + SIGCHLD}"]],
    "open_proc": lambda a, _: [PROC] if a["private"] else [[]],
    "propagation": lambda a, _: [[f"mount {a['path']} {a['flags']}"]],
    "attach_root": lambda a, _: [[f"move_mount {a['path']}"]],
    "make_path": make_path_calls,
    "mount": mount_calls,
    "move_mount": lambda a, _: [["move_mount"]],
    "mount_setattr": setattr_calls,
    "mknod": node_calls,
    "symlink": lambda a, _: [[f"symlinkat {a['text']} {a['path'].rsplit('/', 1)[-1]}"]],
    "mask": mask_calls,
    "readonly": lambda a, _: [READONLY],
    "hook": lambda a, _: [["vfork"]],
    "pivot_root": lambda a, _: [["pivot_root", "mount . 540672", "umount2 . 2"]],
    "move_root": lambda a, _: [["mount / 8192", "chroot ."]],
    "chroot": lambda a, _: [["chroot ."]],
    "umount": lambda a, _: [[f"umount2 {a['path']} {a['flags']}"]],
    "sethostname": lambda a, _: [[f"sethostname {a['name']}"]],
    "setdomainname": lambda a, _: [[f"setdomainname {a['name']}"]],
    "no_new_privs": lambda a, _: [[f"prctl {PR_SET_NO_NEW_PRIVS} 1"]],
    "bounding": bounding_calls,
    "keepcaps": lambda a, _: [[f"prctl {PR_SET_KEEPCAPS} {a['value']}"]],
    "setgroups": lambda a, _: [[f"setgroups {len(a['groups']) // 8}"]],
    "setgid": lambda a, _: [[f"setresgid {a['gid']}"]],
    "setuid": lambda a, _: [[f"setresuid {a['uid']}"]],
    "capset": capset_calls,
    "ambient": lambda a, _: [
        [f"prctl {PR_CAP_AMBIENT} 4", *[f"prctl {PR_CAP_AMBIENT} 2" for bit in range(64) if a["mask"] >> bit & 1]]
    ],
    "seccomp": lambda a, _: [[f"seccomp 1 {a['flags']}"]],
}
# Steps without any call of EFFECTS: barriers, descriptors, and what is set by calls that the list leaves out.
SILENT = {
    "barrier",
    "write_proc",
    "keyring",
    "link_up",
    "net_device",
    "hook_output",
    "use_root",
    "setsid",
    "reopen_null",
    "chown_stdio",
    "umask",
    "personality",
    "chdir",
    "find_program",
    "home",
    "wait_start",
    "close_slot",
    "place_fd",
    "close_from",
    "execve",
    "affinity",
    "oom_score_adj",
    "rlimit",
    "scheduler",
    "io_priority",
    "memory_policy",
}
# Steps that no plan of this table has: they need a terminal, an old kernel, a user's own rights, or --no-pivot.
ELSEWHERE = {"remount", "console", "copy_up", "classic_mount", "cover", "clone_tree"}


def matches(expected: Calls, found: Calls) -> bool:
    """The first calls of `found` are those expected; `*` at the end of a word stands for any value."""
    same = [
        one == two or (one.endswith("*") and two.startswith(one[:-1]))
        for one, two in zip(expected, found, strict=False)
    ]
    return len(found) >= len(expected) and all(same)


def take(step: Step, found: Calls) -> int | None:
    """How many calls of `found` this step alone explains; None when they are not its own."""
    ways = [[]] if step["step"] in SILENT else SYSCALLS[step["step"]](step["args"], step)
    return max((len(way) for way in ways if matches(way, found)), default=None)


def follow(steps: list[Step], found: Calls) -> None:
    """Walk both lists. An alternative may stand in for its step, or before it when the step is tried again."""
    at = 0
    for step in steps:
        used = take(step, found[at:])
        if used is None:
            used = alternative(step, found[at:])
        if used is None and "tolerates" in step:
            used = 0
        assert used is not None, (
            f"step {step['number']} {step['step']} {step['detail']}: strace saw {found[at : at + 3]}"
        )
        at += used
    assert found[at:] == [], "calls that no step explains"


def on_made_path(step: Step) -> Step:
    """The step when its target was made a moment ago: there is no mode of an image's folder to take over."""
    args = step["args"]
    return {**step, "args": {**args, "flags": args["flags"] & ~INHERIT_MODE}} if step["step"] == "mount" else step


def alternative(step: Step, found: Calls) -> int | None:
    """The calls of one alternative of the step, its failed attempt before it and its second one after it included."""
    tried = 1 if found and found[0].endswith(" !") else 0
    for other in step.get("alternatives", ()):
        used = take(other, found[tried:])
        if used is None:
            continue
        rest = take(on_made_path(step), found[tried + used :]) if other["again"] else 0
        if rest is not None:
            return tried + used + rest
    return None


# --- bundles --------------------------------------------------------------------------------------------------------
def bind(source: str, target: str, *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"destination": target, "source": source, "options": ["bind", *options]}


CAPS = ["CAP_KILL", "CAP_CHOWN"]
ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}
ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "all namespaces": {
        "linux.namespaces": namespaces("network", "cgroup", "time"),
        "linux.timeOffsets": {"boottime": {"secs": 5}},
    },
    "user namespace": USER,
    "user, network, time": {
        **USER,
        "linux.namespaces": namespaces("user", "network", "time", "cgroup"),
        "linux.timeOffsets": {"boottime": {"secs": 5}},
    },
    "no mount namespace": {"linux.namespaces": [e for e in namespaces() if e["type"] != "mount"]},
    "names": {"hostname": "inner", "domainname": "example"},
    "capabilities of a user": {
        "process.user.uid": 5,
        "process.user.additionalGids": [1, 2],
        "process.capabilities": {
            "bounding": CAPS,
            "effective": CAPS,
            "permitted": CAPS,
            "inheritable": CAPS,
            "ambient": CAPS,
        },
    },
    "no capabilities": {"process.capabilities": {}, "process.noNewPrivileges": True},
    "seccomp": {"linux.seccomp": ALLOW_ALL},
    "seccomp with no_new_privs": {"linux.seccomp": ALLOW_ALL, "process.noNewPrivileges": True},
    "masks": {
        "linux.maskedPaths": ["/proc/fs", "/nope", "/proc/version", "/proc/kmsg", "/proc/bus", "/proc/scsi", "/etc"],
        "linux.readonlyPaths": ["/proc/sys", "/nope/there", "/tmp"],
        "root.readonly": True,
    },
    "propagation": {"linux.rootfsPropagation": "rshared"},
    "devices": {
        "linux.devices": [
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            {"path": "/dev/sub/loop", "type": "b", "major": 7, "minor": 0, "uid": 5},
        ]
    },
    "sysctl and oom": {"linux.sysctl": {"kernel.msgmax": "9000"}, "process.oomScoreAdj": 10},
    "new cwd": {"process.cwd": "/made/for/it"},
    "hooks": {"hooks": {"createContainer": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/true"}]}},
}
MOUNTS: list[dict[str, Any]] = [
    bind("/etc", "/new/place"),
    bind("/etc/hostname", "/file/of/etc", "ro", "nosuid"),
    bind("/etc", "/tmp", "rro", "rprivate"),
    {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=4k", "noexec"]},
    {"destination": "/var", "type": "tmpfs", "source": "x"},
    {"destination": "/t", "options": ["remount", "nosuid"]},
]


def traced(runtime: Runtime, bundle: Bundle, folder: Path) -> Calls:
    """The effect calls of container-init in a run of the bundle, which has to succeed."""
    command = [
        "strace",
        "-ff",
        "-X",
        "raw",
        "-s",
        "4096",
        "-o",
        str(folder / "trace"),
        "-e",
        f"trace={','.join(EFFECTS.split())}",
    ]
    done = subprocess.run(
        [*command, *runtime.argv("run", "-b", bundle.path, runtime.new_id())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return init_calls(folder)


def explained(runtime: Runtime, bundle: Bundle) -> list[Step]:
    """The init lane of `explain --json`."""
    result = runtime("explain", "--json", f"{bundle.path}/")
    assert result.code == 0, result
    return [step for step in json.loads(result.out)["steps"] if step["lane"] == "init"]


@pytest.mark.parametrize("row", [*ROWS, "mounts"])
def test_strace_sees_what_explain_says(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, row: str) -> None:
    """Both lists from end to end: no call without a step, no step without its calls."""
    bundle = make_bundle(["/bin/true"], ROWS.get(row, {}))
    if row == "mounts":
        bundle.add_mounts(*MOUNTS)
    if "uidMappings" in bundle.config["linux"]:
        owned(bundle)
    steps = explained(runtime, bundle)
    follow(steps, traced(runtime, bundle, tmp_path))


def test_joined_namespaces(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """The same with namespaces of another container."""
    with runtime.container(make_bundle("sleep 600", {"linux.namespaces": namespaces("network")})) as other:
        paths = {
            kind: f"/proc/{other.pid}/ns/{file}" for kind, file in (("network", "net"), ("ipc", "ipc"), ("pid", "pid"))
        }
        bundle = make_bundle(["/bin/true"], {"linux.namespaces": namespaces(**paths)})
        steps = explained(runtime, bundle)
        assert [step["step"] for step in steps].count("setns") == 3
        follow(steps, traced(runtime, bundle, tmp_path))


def test_every_step_has_its_row() -> None:
    """A new opcode needs a row in SYSCALLS, or a place in SILENT or ELSEWHERE with a reason."""
    from pyruntime.plan.opcodes import OPS

    assert set(OPS) == set(SYSCALLS) | SILENT | ELSEWHERE
    assert not set(SYSCALLS) & SILENT


def test_a_lie_is_noticed() -> None:
    """The comparison itself: a missing call, a call too many, another argument and another order each fail."""
    steps = [
        {"number": 1, "step": "sethostname", "detail": "", "args": {"name": "a"}},
        {"number": 2, "step": "unshare", "detail": "", "args": {"flags": 5}},
    ]
    follow(steps, ["sethostname a", "unshare 5"])
    for wrong in (
        ["sethostname a"],
        ["sethostname b", "unshare 5"],
        ["unshare 5", "sethostname a"],
        ["sethostname a", "unshare 5", "chroot ."],
        ["sethostname a", "unshare 4"],
    ):
        with pytest.raises(AssertionError):
            follow(steps, wrong)
