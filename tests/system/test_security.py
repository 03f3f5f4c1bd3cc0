"""Hostile images and containers; each test names its requirements of the security contract (S and R ids)."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import MOUNTS, Bundle, namespaces
from tests.system.runtime import open_pid, wait_until
from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

FULL_MASKS = {
    "linux.maskedPaths": ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
    "linux.readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
}
RACE_S = float(os.environ.get("PYRUNTIME_RACE_SECONDS", "3"))


def digest(folder: Path) -> str:
    """Names, types, modes, owners, targets, bytes and times of a tree: equal only when nothing was touched."""
    found = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        there = path.lstat()
        found.update(
            f"{path}{there.st_mode}{there.st_uid}:{there.st_gid}{there.st_size}{there.st_mtime_ns}{there.st_nlink}".encode()
        )
        if stat.S_ISLNK(there.st_mode):
            found.update(os.readlink(path).encode())
        elif stat.S_ISREG(there.st_mode):
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host that hostile links name; it has to stay byte for byte what it was."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("file", "null", "console", "ptmx"):
        (folder / name).write_text("host's own")
    (folder / "pts").mkdir()
    before = digest(folder)
    mounts = Path("/proc/self/mountinfo").read_text()
    yield folder
    assert digest(folder) == before, "the host was written to"
    assert str(folder) not in Path("/proc/self/mountinfo").read_text().replace(mounts, "")


# --- links in the image (S1, S18, S20, S22-S24) ---------------------------------------------------------------------
LINKS: list[tuple[str, str, str, list[dict[str, Any]], dict[str, Any]]] = [
    ("/dev, no mount on it", "/dev", "{out}", [MOUNTS[0]], {}),
    ("/dev, relative up", "/dev", "../../../../../../../../../..{out}", [MOUNTS[0]], {}),
    ("/dev/pts", "/dev/pts", "{out}/pts", [MOUNTS[0], MOUNTS[2]], {}),
    ("/dev/null", "/dev/null", "{out}/null", [MOUNTS[0]], {}),
    ("/dev/ptmx", "/dev/ptmx", "{out}/ptmx", [MOUNTS[0]], {}),
    ("/dev/fd", "/dev/fd", "{out}", [MOUNTS[0]], {}),
    (
        "a listed device",
        "/dev/mine",
        "{out}/null",
        [MOUNTS[0]],
        {"linux.devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]},
    ),
    (
        "parent of a device",
        "/srv",
        "{out}",
        MOUNTS,
        {"linux.devices": [{"path": "/srv/null", "type": "c", "major": 1, "minor": 3}]},
    ),
    ("/sys", "/sys", "{out}", [*MOUNTS, {"destination": "/sys", "type": "sysfs", "source": "sysfs"}], {}),
    ("a tmpfs target", "/mnt", "{out}", [*MOUNTS, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}], {}),
    (
        "below a target",
        "/mnt",
        "{out}",
        [*MOUNTS, {"destination": "/mnt/new/deep", "type": "tmpfs", "source": "tmpfs"}],
        {},
    ),
    (
        "a bind target",
        "/mnt",
        "{out}/file",
        [*MOUNTS, {"destination": "/mnt", "source": "/etc/hostname", "options": ["bind"]}],
        {},
    ),
    (
        "a bind target that dangles",
        "/mnt",
        "{out}/new",
        [*MOUNTS, {"destination": "/mnt", "source": "/etc/hostname", "options": ["bind"]}],
        {},
    ),
    ("a masked path", "/mnt", "{out}", MOUNTS, {"linux.maskedPaths": ["/mnt", "/mnt/file"]}),
    ("a read-only path", "/mnt", "{out}", MOUNTS, {"linux.readonlyPaths": ["/mnt"]}),
    ("the cwd", "/place", "{out}", MOUNTS, {"process.cwd": "/place/new"}),
    ("/etc/passwd", "/etc/passwd", "{out}/file", MOUNTS, {}),
    (
        "a magic link",
        "/mnt",
        "/proc/self/root{out}",
        [*MOUNTS, {"destination": "/mnt/x", "type": "tmpfs", "source": "t"}],
        {},
    ),
]


@pytest.mark.parametrize(
    ("name", "target", "mounts", "changes"), [row[1:] for row in LINKS], ids=[row[0] for row in LINKS]
)
def test_links_of_the_image_stay_inside(
    runtime: Runtime,
    make_bundle: MakeBundle,
    outside: Path,
    name: str,
    target: str,
    mounts: list[dict[str, Any]],
    changes: dict[str, Any],
) -> None:
    """Refused, or resolved inside the root; the folder outside keeps its bytes (the fixture looks)."""
    bundle = make_bundle("true", {"mounts": mounts, **changes})
    bundle.replace(name, target.format(out=outside))
    result = runtime.run(bundle)
    assert result.code in (0, 1), result
    if result.code == 1:
        assert result.message
        assert runtime.ids() == []


@pytest.mark.parametrize("name", ["/proc", "/sys"])
def test_proc_and_sys_must_be_folders(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """S23: a link is refused even when it stays inside."""
    bundle = make_bundle("true")
    bundle.add_mounts({"destination": "/sys", "type": "sysfs", "source": "sysfs"})
    (bundle.rootfs / "elsewhere").mkdir()
    bundle.replace(name, "/elsewhere")
    result = runtime.run(bundle)
    kind = "proc" if name == "/proc" else "sysfs"
    assert result.code == 1
    assert f'filesystem "{kind}" must be mounted on ordinary directory' in result.message


def test_rootfs_that_is_a_link(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """root.path names a symlink: refused (contract 4.1)."""
    bundle = make_bundle("true", {"root.path": "link"})
    (bundle.path / "link").symlink_to("rootfs")
    result = runtime.run(bundle)
    assert "invalid rootfs: not an absolute path, or a symlink" in result.message


def test_passwd_that_blocks(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S27, R15: a FIFO or a device as /etc/passwd is not read; HOME is /."""
    for make in (os.mkfifo, lambda path: os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))):
        bundle = make_bundle("echo $HOME", {"process.user.uid": 1000})
        (bundle.rootfs / "etc/passwd").unlink()
        make(bundle.rootfs / "etc/passwd")
        assert runtime.look(bundle) == "/"


def test_passwd_without_end(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S27: a huge file is bounded."""
    bundle = make_bundle("echo $HOME", {"process.user.uid": 1000})
    with (bundle.rootfs / "etc/passwd").open("wb") as file:
        file.truncate(1 << 42)
    assert runtime.look(bundle) == "/"


@pytest.mark.parametrize("home", ["relative", "/a\nB=1", "", "/" + "x" * 5000])
def test_passwd_with_nonsense(runtime: Runtime, make_bundle: MakeBundle, home: str) -> None:
    """What is no plain absolute path is not taken."""
    bundle = make_bundle("env | grep -c '^B='; echo ${#HOME}", {"process.user.uid": 7})
    bundle.file("etc/passwd", f"x:x:7:7::{home}:/bin/sh\n")
    assert runtime.look(bundle).splitlines()[0] == "0"


# --- what a container sees of us (S3, S4, S10-S15) ------------------------------------------------------------------
def test_init_runs_from_a_sealed_copy(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S10, S11: before start, /proc/PID/exe is a memfd that nobody can write, grow, shrink or unseal."""
    import fcntl

    with runtime.container(make_bundle("true"), start=False) as container:
        exe = f"/proc/{container.pid}/exe"
        assert os.readlink(exe).startswith("/memfd:")
        fd = os.open(exe, os.O_RDONLY)
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        os.close(fd)
        assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        maps = Path(f"/proc/{container.pid}/maps").read_text()
        files = {
            line.split()[5] for line in maps.splitlines() if len(line.split()) > 5 and line.split()[5].startswith("/")
        }
        assert all(name.startswith("/memfd:") for name in files), files
        with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
            os.close(os.open(exe, os.O_WRONLY))


def test_created_init_holds_nothing_of_the_host(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S12, S13: no directory, no file of the host but the two FIFOs and stdio."""
    with runtime.container(make_bundle("true"), start=False) as container:
        links = {os.readlink(f"/proc/{container.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{container.pid}/fd")}
        named = {link for link in links if link.startswith("/") and "memfd" not in link and "(deleted)" not in link}
        ours = {str(runtime.root / container.id / name) for name in ("exec.fifo", "exec.err")}
        assert named - ours <= {"/", "/dev/null"}, links
        assert os.readlink(f"/proc/{container.pid}/cwd") == "/"
        assert os.stat(f"/proc/{container.pid}/root").st_ino != os.stat("/").st_ino


def test_running_program_has_no_memfd(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R12, S13: three descriptors after execve, in init and in exec."""
    with runtime.container(make_bundle("sleep 600")) as container:
        wait_until(lambda: len(os.listdir(f"/proc/{container.pid}/fd")) == 3, "three descriptors")
        assert container.exec("ls", "/proc/self/fd").out.split() == ["0", "1", "2", "3"]


def test_created_init_cannot_be_peeked_at(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S12: when a namespace is joined, init is not dumpable until execve; a root of the container cannot read it."""
    with runtime.container(make_bundle("sleep 600")) as first:
        changes = {"linux.namespaces": namespaces(pid=f"/proc/{first.pid}/ns/pid")}
        with runtime.container(make_bundle("true", changes), start=False) as second:
            inner = Path(f"/proc/{second.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1]
            seen = first.exec(
                "sh",
                "-c",
                f"ls -l /proc/{inner}/fd /proc/{inner}/exe /proc/{inner}/root; head -c1 /proc/{inner}/mem",
                flags=("--user", "1000"),
            )
            assert "->" not in seen.out, seen


def test_exec_cannot_be_caught_on_its_way(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """CVE-2016-9962, CVE-2019-5736: what a hostile init can open of entering processes is never a file of the host."""
    watch = (
        "cd /proc; while :; do for p in [0-9]*; do [ $p = 1 ] || { readlink $p/exe; ls -l $p/fd; } "
        "2>/dev/null >>/seen; done; done"
    )
    with runtime.container(make_bundle(watch)) as container:
        assert container.exec("sh", "-c", "until [ -s /seen ]; do sleep 0.05; done").code == 0  # it looks
        for _ in range(20):
            assert container.exec("true").code == 0
        seen = (container.bundle.rootfs / "seen").read_text()
    named = {line.split("-> ")[-1] for line in seen.splitlines() if "/" in line}
    foreign = {
        name for name in named if any(word in name for word in ("python", "pyruntime", "/usr", "/work", "/tmp/pytest"))
    }
    assert not foreign, foreign


def test_image_libraries_are_not_loaded(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S4: preload files, NSS and Python of the image have no say in what the runtime does."""
    bundle = make_bundle("echo fine", {"process.env": ["PATH=/bin", "LD_PRELOAD=/evil.so", "PYTHONPATH=/evil"]})
    for name in ("etc/ld.so.preload", "evil.so", "etc/nsswitch.conf", "evil/site.py"):
        bundle.file(name, "nonsense that would be an error")
    result = runtime.run(bundle)
    assert (result.code, result.out, result.err) == (0, "fine\n", "")


def test_python_of_the_caller_is_isolated(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Section 4: PYTHON* variables and the working directory are not where our modules come from."""
    for name in ("posix.py", "pyruntime.py", "sitecustomize.py", "_json.py", "encodings.py"):
        (tmp_path / name).write_text("raise SystemExit(77)\n")
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "posix.py"),
        "PYTHONINSPECT": "1",
    }
    assert runtime.look(make_bundle("echo fine"), cwd=tmp_path, env=env) == "fine"


# --- masks (S16, S17) -----------------------------------------------------------------------------------------------
def test_masks(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Files read as empty, folders are empty and read-only, missing ones are skipped; exec sees the same."""
    changes = {"linux.maskedPaths": ["/etc/passwd", "/secret", "/secret", "/not/there", "/etc/passwd/x", "/link"]}
    bundle = make_bundle("sleep 600", changes)
    bundle.file("secret/inside", "x")
    bundle.file("behind", "x")
    os.symlink("behind", bundle.rootfs / "link")
    look = (
        "wc -c </etc/passwd; ls /secret | wc -l; touch /secret/x 2>&1 | grep -c Read-only; "
        "stat -c %t:%T /etc/passwd; wc -c </behind"
    )
    with runtime.container(bundle) as container:
        assert container.look(look) == "0\n0\n1\n1:3\n0"
        assert container.exec("umount", "/secret").code == 0  # root with everything may: capabilities are the config's
    assert (bundle.rootfs / "secret/inside").read_text() == "x"


def test_mask_is_not_the_images_null(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """CVE-2025-31133: a file called /dev/null in the image is no mask."""
    bundle = make_bundle(
        "stat -c %t:%T /etc/group",
        {
            "mounts": [MOUNTS[0], {"destination": "/dev", "source": "dev", "options": ["bind"]}],
            "linux.maskedPaths": ["/etc/group"],
        },
    )
    (bundle.path / "dev").mkdir()
    (bundle.path / "dev/null").write_text("evil")
    result = runtime.run(bundle)
    assert result.out in ("1:3\n", ""), result
    assert (result.code == 0) == (result.out == "1:3\n")


def test_readonly_paths(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """With what is mounted below, keeping nosuid and friends."""
    mounts = [
        {"destination": "/a", "type": "tmpfs", "source": "a", "options": ["nosuid", "noexec"]},
        {"destination": "/a/b", "type": "tmpfs", "source": "b", "options": ["nodev"]},
    ]
    bundle = make_bundle(
        "for d in /a /a/b; do touch $d/x 2>&1 | grep -c Read-only; done; "
        "grep ' /a ' /proc/self/mountinfo | tail -1 | cut -d' ' -f6",
        {"linux.readonlyPaths": ["/a", "/missing"]},
    ).add_mounts(*mounts)
    assert runtime.look(bundle) == "1\n1\nro,nosuid,noexec,relatime"


# --- ids (S27, S28) -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "user", ["-1", "4294967296", "4294967295", "1x", " 1", "1:", ":1", "1:x", "0x10", "root", "1:2:3", "+1", "\u0661"]
)
def test_user_of_exec(runtime: Runtime, make_bundle: MakeBundle, user: str) -> None:
    """Anything but complete decimal numbers is an error, never root."""
    with runtime.container(make_bundle("sleep 600")) as container:
        result = container.exec("id", flags=(f"--user={user}",))
        assert (result.code, result.out) == (255, ""), result


# --- mount target races (S24) ---------------------------------------------------------------------------------------
def test_mount_race(runtime: Runtime, make_bundle: MakeBundle, outside: Path, tmp_path: Path) -> None:
    """Another process swaps a folder of a shared volume for a link at full speed: nothing leaves the rootfs."""
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to(outside)
    stop = threading.Event()
    swap = subprocess.Popen(
        ["sh", "-c", "while :; do mv -T a c; mv -T b a; mv -T a b; mv -T c a; done"],
        cwd=volume,
        stderr=subprocess.DEVNULL,
    )
    bundle = make_bundle("true").add_mounts(
        {"destination": "/vol", "source": str(volume), "options": ["bind"]},
        {"destination": "/vol/a/new/deep", "type": "tmpfs", "source": "race"},
        {"destination": "/vol/a/file", "source": "/etc/hostname", "options": ["bind"]},
    )
    try:
        end, codes = time.monotonic() + RACE_S, set()
        while time.monotonic() < end:
            codes.add(runtime.run(bundle).code)
        assert codes <= {0, 1}
    finally:
        stop.set()
        swap.kill()
        swap.wait()
    assert " - tmpfs race " not in Path("/proc/self/mountinfo").read_text()


# --- limits (R10) ---------------------------------------------------------------------------------------------------
def test_fork_bomb(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Stays under pids.limit, is gone within 10 s of delete --force."""
    bomb = "echo up; f() { f & f; }; f 2>/dev/null; sleep 600"
    with runtime.container(make_bundle(bomb, {"linux.resources": {"pids": {"limit": 40}}})) as container:
        container.wait_output("up")
        time.sleep(0.5)
        group = Path(container.saved()["cgroup_paths"]["pids"])
        assert int((group / "pids.current").read_text()) <= 40
        begun = time.monotonic()
        assert runtime("delete", "--force", container.id).code == 0
        assert time.monotonic() - begun < 10


def test_memory_limit(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """OOM gives 137."""
    bundle = make_bundle(
        "exec head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null; exit $?",
        {"linux.resources": {"memory": {"limit": 8 << 20, "swap": 8 << 20}}},
    )
    result = runtime.run(bundle)
    if "memory.memsw" in result.err:
        result = runtime.run(bundle.change({"linux.resources": {"memory": {"limit": 8 << 20}}}))
    assert result.code == 137, result


def test_shared_pid_namespace_is_cleaned(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R8: processes that survive init in a shared pid namespace go with delete."""
    shared = [entry for entry in namespaces() if entry["type"] != "pid"]
    with runtime.container(
        make_bundle("sleep 600 & sleep 600 & echo up; exec sleep 600", {"linux.namespaces": shared})
    ) as container:
        container.wait_output("up")
        with open_pid(container.pid):
            os.kill(container.pid, 9)
        container.wait_status("stopped")
        assert runtime("delete", container.id).code == 0


def test_user_namespace_container_owns_nothing_outside(
    runtime: Runtime, make_bundle: MakeBundle, outside: Path
) -> None:
    """With id maps and hostile links together (S20 under S37)."""
    bundle = make_bundle("true", {**USER, "mounts": [MOUNTS[0]]})
    owned(bundle)
    bundle.replace("/dev", str(outside))
    assert runtime.run(bundle).code in (0, 1)


def test_random_link_forests(runtime: Runtime, make_bundle: MakeBundle, outside: Path) -> None:
    """A seeded sample of rootfs trees full of links, with targets all over them (S1)."""
    chance = random.Random(20260729)
    bundle = make_bundle("true")
    names = ["a", "b", "c", "a/d", "b/e"]
    for _ in range(12):
        for name in names:
            path = bundle.rootfs / name
            if path.is_symlink():
                path.unlink()
        for name in names:
            where = bundle.rootfs / name
            if where.parent.is_dir() and not where.exists() and not where.parent.is_symlink():
                where.symlink_to(chance.choice([str(outside), "../" * 9 + str(outside)[1:], "b", "../a", "/c", "."]))
        targets = [chance.choice(names) + chance.choice(["", "/x", "/../y", "/x/y"]) for _ in range(3)]
        bundle.config["mounts"] = [
            *MOUNTS,
            *({"destination": f"/{name}", "type": "tmpfs", "source": "t"} for name in targets),
        ]
        bundle.save()
        assert runtime.run(bundle).code in (0, 1)
