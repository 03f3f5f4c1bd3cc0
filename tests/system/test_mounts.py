"""Mounts from inside: options, propagation, targets, what may not leave (contract 4.3, 4.4, 4.10)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import MOUNTS, Bundle, namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

UIDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def info(target: str) -> str:
    """A script that prints the mount's own options, its propagation, type, and superblock options."""
    return (
        f"grep ' {target} ' /proc/self/mountinfo | tail -1 | "
        "sed -e 's/ master:[0-9]*/ slave/' -e 's/ shared:[0-9]*/ shared/' "
        "-e 's/.* \\(r[wo][^ ]*\\)\\( [a-z ]*\\)*- /\\1\\2/'"
    )


def options(line: str) -> set[str]:
    """The mount's own options of an `info` line."""
    return set(line.split(maxsplit=1)[0].split(","))


def tmpfs(*words: str, target: str = "/mnt") -> dict[str, Any]:
    """A tmpfs with options."""
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(words)}


def bind(source: Path | str, *words: str, target: str = "/mnt") -> dict[str, Any]:
    """A bind with options."""
    return {"destination": target, "source": str(source), "options": [*(words or ("bind",))]}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs on the host with a file, a folder, and another tmpfs below."""
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "volume", path], check=True)
    (path / "file").write_text("of the volume")
    (path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "below", path / "below"], check=True)
    yield path
    subprocess.run(["umount", "-R", path], check=True)


# (options, its own options among others, which may not be there)
OPTIONS: list[tuple[tuple[str, ...], str, str]] = [
    ((), "rw relatime", "nosuid nodev noexec ro"),
    (("ro",), "ro", "rw"),
    (("ro", "rw"), "rw", "ro"),
    (("nosuid", "nodev", "noexec"), "nosuid nodev noexec", ""),
    (("nosuid", "suid", "nodev", "dev", "noexec", "exec"), "rw", "nosuid nodev noexec"),
    (("noatime",), "noatime", "relatime"),
    (("strictatime",), "rw", "relatime noatime"),
    (("noatime", "relatime"), "relatime", "noatime"),
    (("nodiratime",), "nodiratime", ""),
    (("nosymfollow",), "nosymfollow", ""),
    (("nosymfollow", "symfollow"), "rw", "nosymfollow"),
    (
        ("defaults", "silent", "loud", "mand", "nomand", "async", "iversion", "noiversion", "lazytime", "nolazytime"),
        "rw",
        "",
    ),
]


@pytest.mark.parametrize(("words", "there", "absent"), OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_options(
    runtime: Runtime, make_bundle: MakeBundle, volume: Path, kind: str, words: tuple[str, ...], there: str, absent: str
) -> None:
    """Effective when the program starts, last one wins (S25)."""
    if kind == "bind" and "mand" in words:
        words = ("defaults", "silent")
    mount = tmpfs(*words) if kind == "tmpfs" else bind(volume, "bind", *words)
    line = runtime.look(make_bundle(info("/mnt")).add_mounts(mount))
    assert set(there.split()) <= options(line), line
    assert not set(absent.split()) & options(line), line
    assert volume.joinpath("file").exists()


ROWS: list[tuple[str, list[dict[str, Any]], str, str]] = [
    (
        "size and mode",
        [tmpfs("size=64k", "mode=1750", "uid=7")],
        "stat -c %a:%u /mnt; df -k /mnt | tail -1 | tr -s ' ' | cut -d' ' -f2",
        "1750:7\n64",
    ),
    ("mode of an existing target", [tmpfs(target="/tmp")], "stat -c %a /tmp", "1777"),
    ("the kernel's mode where the target was missing", [tmpfs(target="/a/new")], "stat -c %a /a /a/new", "755\n1777"),
    ("copied up, where it was missing", [tmpfs("tmpcopyup", target="/a/new")], "stat -c %a /a/new", "1777"),
    ("mode of a target that a mount before made", [tmpfs(), tmpfs(target="/mnt")], "stat -c %a /mnt", "1777"),
    ("an explicit mode wins", [tmpfs("mode=700", target="/tmp")], "stat -c %a /tmp", "700"),
    (
        "a new target",
        [tmpfs(target="/a/b/c")],
        "stat -c %a /a /a/b; grep -c ' /a/b/c ' /proc/self/mountinfo",
        "755\n755\n1",
    ),
    (
        "stacked",
        [tmpfs("mode=700"), tmpfs("mode=755")],
        "stat -c %a /mnt; grep -c ' /mnt ' /proc/self/mountinfo",
        "755\n2",
    ),
    ("in order", [tmpfs(), tmpfs(target="/mnt/in")], "grep -c ' /mnt/in ' /proc/self/mountinfo", "1"),
    ("unclean destination", [tmpfs(target="//x/../mnt/./y/")], "grep -c ' /mnt/y ' /proc/self/mountinfo", "1"),
    (
        "remount",
        [tmpfs(), {"destination": "/mnt", "options": ["remount", "ro", "nosuid"]}],
        "grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1,2",
        "ro,nosuid",
    ),
    ("mqueue", [{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}], "mount | grep -c mqueue", "1"),
    (
        "sysfs",
        [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]}],
        "test -d /sys/class && touch /sys/x 2>&1 | grep -c -E 'Read-only|Permission'",
        "1",
    ),
    (
        "shm",
        [tmpfs("nosuid", "noexec", "nodev", "mode=1777", "size=64k", target="/dev/shm")],
        "stat -c %a /dev/shm",
        "1777",
    ),
    (
        "ro tmpfs still gets its mount points",
        [tmpfs("ro"), tmpfs(target="/mnt/sub")],
        "touch /mnt/x 2>&1 | grep -c Read-only; touch /mnt/sub/x",
        "1",
    ),
    (
        "ro /dev still gets its devices",
        [{**MOUNTS[1], "options": ["ro", "mode=755"]}],
        "test -c /dev/null; touch /dev/x 2>&1 | grep -c Read-only",
        "1",
    ),
]


@pytest.mark.parametrize(("mounts", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(
    runtime: Runtime, make_bundle: MakeBundle, mounts: list[dict[str, Any]], script: str, expected: str
) -> None:
    """File systems of the container's own."""
    assert runtime.look(make_bundle(script).add_mounts(*mounts)) == expected


BINDS: list[tuple[str, tuple[str, ...], str, str]] = [
    ("bind shows the top alone", ("bind",), "ls /mnt /mnt/below | tr '\\n' ' '", "/mnt: below file  /mnt/below: "),
    ("bind leaves mounts below", ("bind",), "grep -c ' /mnt/below ' /proc/self/mountinfo; true", "0"),
    ("rbind takes them", ("rbind",), "grep -c ' /mnt/below ' /proc/self/mountinfo", "1"),
    ("ro", ("bind", "ro"), "touch /mnt/x 2>&1 | grep -c Read-only; cat /mnt/file", "1\nof the volume"),
    (
        "rbind ro covers the top",
        ("rbind", "ro"),
        "touch /mnt/x 2>&1 | grep -c Read-only; touch /mnt/below/x && echo below",
        "1\nbelow",
    ),
    (
        "rro covers all",
        ("rbind", "rro"),
        "for d in /mnt /mnt/below; do touch $d/x 2>&1 | grep -c Read-only; done",
        "1\n1",
    ),
    ("rro, then rrw", ("rbind", "rro", "rrw"), "touch /mnt/x /mnt/below/x && echo both", "both"),
    (
        "rnosuid rnodev rnoexec",
        ("rbind", "rnosuid", "rnodev", "rnoexec"),
        "grep -c '/mnt.* rw,nosuid,nodev,noexec' /proc/self/mountinfo",
        "2",
    ),
    ("rnoatime", ("rbind", "rnoatime"), "grep '/mnt' /proc/self/mountinfo | grep -c noatime", "2"),
    ("rstrictatime", ("rbind", "rstrictatime"), "grep '/mnt' /proc/self/mountinfo | grep -c relatime; true", "0"),
    ("rnodiratime", ("rbind", "rnodiratime"), "grep '/mnt' /proc/self/mountinfo | grep -c nodiratime", "2"),
    ("rnosymfollow", ("rbind", "rnosymfollow"), "grep '/mnt' /proc/self/mountinfo | grep -c nosymfollow", "2"),
    ("type alone is no bind", ("rbind",), "cat /mnt/file", "of the volume"),
]


@pytest.mark.parametrize(("words", "script", "expected"), [row[1:] for row in BINDS], ids=[row[0] for row in BINDS])
def test_bind(
    runtime: Runtime, make_bundle: MakeBundle, volume: Path, words: tuple[str, ...], script: str, expected: str
) -> None:
    """A folder of the host with a mount below it."""
    before = subprocess.run(["grep", str(volume), "/proc/self/mountinfo"], capture_output=True, check=True).stdout
    assert runtime.look(make_bundle(script).add_mounts(bind(volume, *words))) == expected
    assert (
        subprocess.run(["grep", str(volume), "/proc/self/mountinfo"], capture_output=True, check=True).stdout == before
    )


PROPAGATION: list[tuple[tuple[str, ...], str]] = [
    ((), "slave"),
    (("private",), ""),
    (("rprivate",), ""),
    (("slave",), "slave"),
    (("rslave",), "slave"),
    (("shared",), "shared"),
    (("rshared",), "shared"),
    (("unbindable",), "unbindable"),
    (("runbindable",), "unbindable"),
    (("rshared", "rprivate"), ""),
    (("rprivate", "rshared"), "shared"),
]


@pytest.mark.parametrize(("words", "expected"), PROPAGATION, ids=str)
def test_propagation(
    runtime: Runtime, make_bundle: MakeBundle, volume: Path, words: tuple[str, ...], expected: str
) -> None:
    """Of a bind of a shared host mount; in order, after the mount."""
    line = runtime.look(make_bundle(info("/mnt")).add_mounts(bind(volume, "rbind", *words)))
    tags = (
        set(line.split(" - ")[0].split()[1:-1])
        if " - " in line
        else set(line.split()[1:]) & {"shared", "slave", "unbindable"}
    )
    assert expected in tags or (expected == "" and not tags & {"shared", "slave", "unbindable"}), line


@pytest.mark.parametrize("words", [(), ("rprivate",), ("rslave",), ("rshared",), ("shared",), ("unbindable",)], ids=str)
def test_mounts_stay_inside(runtime: Runtime, make_bundle: MakeBundle, volume: Path, words: tuple[str, ...]) -> None:
    """A mount made below a bind never appears on the host, whatever the bind's propagation (S25)."""
    bundle = make_bundle("mount -t tmpfs leaked /mnt/below && mount -t tmpfs leaked /mnt && echo done; sleep 600")
    bundle.add_mounts(bind(volume, "rbind", *words))
    with runtime.container(bundle) as container:
        container.wait_output("done")
        assert "- tmpfs leaked" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize(("words", "seen"), [((), True), (("rslave",), True), (("rprivate",), False)], ids=str)
def test_host_mounts_arrive(
    runtime: Runtime, make_bundle: MakeBundle, volume: Path, words: tuple[str, ...], *, seen: bool
) -> None:
    """A slave sees what the host mounts later; a private bind does not."""
    (volume / "later").mkdir()
    with runtime.container(make_bundle("sleep 600").add_mounts(bind(volume, "rbind", *words))) as container:
        subprocess.run(["mount", "-t", "tmpfs", "arrived", volume / "later"], check=True)
        assert ("arrived" in container.look("cat /proc/self/mountinfo")) == seen


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("", ""),
        ("private", ""),
        ("rprivate", ""),
        ("slave", "slave"),
        ("rslave", "slave"),
        ("shared", "shared"),
        ("rshared", "shared"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ],
    ids=str,
)
def test_rootfs_propagation(runtime: Runtime, make_bundle: MakeBundle, value: str, tags: str) -> None:
    """The tag of `/` inside (contract 4.10)."""
    changes = {"linux.rootfsPropagation": value} if value else {}
    bundle = make_bundle(
        "grep ' / / \\| / rw' /proc/self/mountinfo | head -1; grep '[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo",
        changes,
    )
    line = runtime.look(bundle).splitlines()[-1]
    found = {word.split(":")[0].replace("master", "slave") for word in line.split(" - ")[0].split()[6:]}
    assert (found & {"shared", "unbindable"}) == ({tags} & {"shared", "unbindable"}), line
    if tags == "":
        assert not found - {"slave"}, line
    assert runtime.ids() == []


def test_rootfs_propagation_shared_carries_out(runtime: Runtime, make_bundle: MakeBundle, volume: Path) -> None:
    """rshared root and an rshared bind: what the container mounts there appears on the host, as asked for."""
    bundle = make_bundle(
        "mount -t tmpfs carried /mnt/below && echo done; sleep 600", {"linux.rootfsPropagation": "rshared"}
    )
    with runtime.container(bundle.add_mounts(bind(volume, "rbind", "rshared"))) as container:
        container.wait_output("done")
        assert "carried" in Path("/proc/self/mountinfo").read_text()


# --- targets and sources --------------------------------------------------------------------------------------------
def test_bind_of_a_file(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A file for a file (0644), folders 0755; relative to the bundle."""
    bundle = make_bundle("cat /new/place /other; stat -c %a /new")
    (bundle.path / "beside").write_text("relative\n")
    (tmp_path / "plain").write_text("absolute\n")
    bundle.add_mounts(bind("beside", target="/new/place"), bind(tmp_path / "plain", "bind", "ro", target="/other"))
    assert runtime.look(bundle) == "relative\nabsolute\n755"
    assert (bundle.rootfs / "new/place").stat().st_mode == 0o100644


def test_bind_follows_a_source_link(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """The operator's symlink is followed; with src-nofollow it is not (crun's option)."""
    (tmp_path / "plain").write_text("behind a link")
    (tmp_path / "link").symlink_to("plain")
    assert runtime.look(make_bundle("cat /mnt").add_mounts(bind(tmp_path / "link"))) == "behind a link"
    result = runtime.run(make_bundle("readlink /mnt").add_mounts(bind(tmp_path / "link", "bind", "src-nofollow")))
    assert result.out in ("plain\n", "")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("missing source", bind("/nope/nowhere"), "no such file or directory"),
    (
        "data on a bind",
        bind("/etc", "bind", "size=5k"),
        "bind mounts cannot have any filesystem-specific options applied",
    ),
    ("the top", tmpfs(target="/"), ""),
    ("no destination", tmpfs(target=""), ""),
    ("unknown data", tmpfs("nonsense=1"), "error mounting"),
    ("unknown type", {"destination": "/mnt", "type": "nofs", "source": "x"}, "no such device"),
    ("a file in the way", tmpfs(target="/bin/busybox/x"), "not a directory"),
    ("tmpfs on a file", tmpfs(target="/etc/passwd"), "not a directory"),
    ("folder on a file", bind("/etc", target="/etc/passwd"), "not a directory"),
    ("inside /proc", tmpfs(target="/proc/self"), "cannot be mounted because it is inside /proc"),
    ("inside /proc, unclean", tmpfs(target="/x/..//proc/./sys"), "cannot be mounted because it is inside /proc"),
    ("a bind on /proc", bind("/etc", target="/proc"), "/proc"),
    ("tmpfs on /proc", tmpfs(target="/proc"), "/proc"),
    ("NUL in a source", bind("/etc\0x"), ""),
]


@pytest.mark.parametrize(("mount", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(runtime: Runtime, make_bundle: MakeBundle, mount: dict[str, Any], text: str) -> None:
    """One line with source and destination; its field; nothing left (S22)."""
    result = runtime.run(make_bundle("true").add_mounts(mount))
    assert (result.code, text in result.message) == (1, True), result
    assert result.field.startswith(f"/mounts/{len(MOUNTS)}"), result
    assert runtime.ids() == []


def test_message_of_a_failed_mount(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The peers' shape (contract 1.7)."""
    result = runtime.run(make_bundle("true").add_mounts(tmpfs("nonsense=1", "nosuid")))
    assert 'error mounting "tmpfs" to rootfs at "/mnt": mount src=tmpfs, dst=/mnt, dstFd=' in result.message
    assert ", flags=MS_NOSUID, data=nonsense=1: invalid argument" in result.message


@pytest.mark.parametrize("name", ["cpuinfo", "meminfo", "stat", "uptime", "loadavg"])
def test_allowed_below_proc(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, name: str) -> None:
    """The list of contract 4.3 alone, as lxcfs needs it."""
    (tmp_path / "fake").write_text("fake")
    assert (
        runtime.look(make_bundle(f"cat /proc/{name}").add_mounts(bind(tmp_path / "fake", target=f"/proc/{name}")))
        == "fake"
    )


def test_proc_by_bind(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A bind whose source is procfs may sit on /proc."""
    bundle = make_bundle("test -d /proc/1 && echo procfs")
    bundle.config["mounts"][0] = bind("/proc", "rbind", target="/proc")
    bundle.save()
    assert runtime.look(bundle) == "procfs"


def test_tmpcopyup(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The shadowed folder's content with modes, owners and links; the rootfs keeps its own (contract 4.3)."""
    bundle = make_bundle(
        "cat /mnt/file; stat -c %a:%u:%g /mnt/file /mnt/deep; readlink /mnt/link; echo new >/mnt/file; ls /mnt/deep"
    )
    path = bundle.file("mnt/file", "old\n", 0o640)
    os.chown(path, 11, 12)
    bundle.file("mnt/deep/er", "x")
    (bundle.rootfs / "mnt/deep").chmod(0o1711)
    os.symlink("/etc/passwd", bundle.rootfs / "mnt/link")
    bundle.add_mounts(tmpfs("tmpcopyup"))
    assert runtime.look(bundle) == "old\n640:11:12\n1711:0:0\n/etc/passwd\ner"
    assert path.read_text() == "old\n"


# --- idmapped mounts ------------------------------------------------------------------------------------------------
MAP = [{"containerID": 1000, "hostID": 7, "size": 1}]


@pytest.mark.parametrize("words", [("bind",), ("bind", "idmap"), ("rbind", "ridmap")], ids=str)
def test_idmap(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, words: tuple[str, ...]) -> None:
    """On-disk 1000 is shown as 7 (containerID is the id on disk); mappings alone mean idmap."""
    folder = tmp_path / "owned"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    mount = {**bind(folder, *words), "uidMappings": MAP, "gidMappings": MAP}
    assert runtime.look(make_bundle("stat -c %u:%g /mnt").add_mounts(mount)) == "7:7"


def test_idmap_without_mappings(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Those of the container's user namespace; without any, an error."""
    result = runtime.run(make_bundle("true").add_mounts(bind(tmp_path, "bind", "idmap")))
    assert "id-mapped mounts must have both uid and gid mappings specified" in result.message
    folder = tmp_path / "owned"
    folder.mkdir()
    bundle = make_bundle(
        "stat -c %u:%g /mnt",
        {"linux.namespaces": namespaces("user"), "linux.uidMappings": UIDS, "linux.gidMappings": UIDS},
    )
    (bundle.rootfs / "mnt").mkdir()  # the container's root may not make it
    assert runtime.look(bundle.add_mounts(bind(folder, "bind", "idmap"))) == "0:0"


# --- cgroup mount on v1 and hybrid ----------------------------------------------------------------------------------
@pytest.mark.parametrize("own", [False, True], ids=["host's namespace", "own namespace"])
def test_cgroup_mount(runtime: Runtime, make_bundle: MakeBundle, *, own: bool) -> None:
    """A tmpfs with each hierarchy's own cgroup, read-only as asked (contract 4.4, S32)."""
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("needs cgroup v1")
    mounts = (
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
    )
    script = (
        "cat /sys/fs/cgroup/pids/cgroup.procs | head -1; for f in pids/cgroup.procs devices/devices.allow; do "
        "echo $$ 2>/dev/null >/sys/fs/cgroup/$f || echo refused; done; "
        "mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused"
    )
    bundle = make_bundle(script, {"linux.namespaces": namespaces(*(["cgroup"] if own else []))}).add_mounts(*mounts)
    assert runtime.look(bundle) == "1\nrefused\nrefused\nrefused"


def test_no_pivot(runtime: Runtime, make_bundle: MakeBundle, volume: Path) -> None:
    """--no-pivot: the old root is out of reach, its mounts are not in the way."""
    bundle = make_bundle("ls /; cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '").add_mounts(bind(volume))
    out = runtime.look(bundle, "--no-pivot")
    assert "bin" in out
    assert str(volume) not in out


def test_no_pivot_and_private(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Rejected together (contract 1.4)."""
    result = runtime.run(make_bundle("true", {"linux.rootfsPropagation": "private"}), "--no-pivot")
    assert (result.code, result.field) == (1, "/linux/rootfsPropagation")


def test_readonly_root(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """After the mounts: their targets are made first."""
    bundle = make_bundle("touch /x 2>&1 | grep -c Read-only; touch /made/x && echo made", {"root.readonly": True})
    assert runtime.look(bundle.add_mounts(tmpfs(target="/made"))) == "1\nmade"


def test_copy_symlink(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A source that is a symlink arrives as that symlink, again and again; any other is bound; another link is refused."""
    (tmp_path / "link").symlink_to("/somewhere/else")
    (tmp_path / "file").write_text("bound")
    mounts = [bind(tmp_path / "link", "bind", "copy-symlink", target="/mnt/deep/link"),
              bind(tmp_path / "file", "bind", "copy-symlink", target="/mnt/file")]  # fmt: skip
    bundle = make_bundle("readlink /mnt/deep/link; cat /mnt/file").add_mounts(*mounts)
    for _ in range(2):
        assert runtime.look(bundle) == "/somewhere/else\nbound"
    bundle.replace("/mnt/deep/link", "/other")
    result = runtime.run(bundle)
    assert (result.code, result.field) == (1, "/mounts/3"), result
    assert "file exists" in result.message


def test_links_that_are_not_followed(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """src-nofollow binds the symlink itself, dest-nofollow covers it, so that what it names stays what it was."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("bound")
    bundle = make_bundle("readlink /srv/here; cat /srv/there; ls /srv")
    bundle.replace("/srv/there", "target")
    bundle.replace("/srv/here", "other")
    bundle.add_mounts(bind(tmp_path / "link", "bind", "src-nofollow", "dest-nofollow", target="/srv/here"),
                      bind(tmp_path / "file", "bind", "dest-nofollow", target="/srv/there"))  # fmt: skip
    assert runtime.look(bundle) == "nowhere\nboundhere\nthere"
