"""container-init's mounts: file systems, binds, attributes, masks, the change of root, copying up. Needs root."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.kernel.initkit import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    INHERIT_MODE,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
    NO_SYMLINK,
    NODEV,
    NOEXEC,
    NOSUID,
    NULL_DEVICE,
    PROC,
    RDONLY,
    READY,
    RECURSIVE,
    REPLACE,
    Enter,
    Run,
    Step,
    open_tree,
    snapshot,
    start,
)

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MS_SHARED, MS_BIND, MS_RDONLY, MS_NOSUID = 1 << 20, 0x1000, 1, 2


def mount_at(run: Run, target: str) -> list[str]:
    """Fields of the mountinfo line of the topmost mount at `target`."""
    found = [line for line in run.mounts() if line[4] == target]
    assert found, f"nothing is mounted on {target}: {run.mounts()}"
    return found[-1]


def options(run: Run, target: str) -> set[str]:
    """Options of mount and superblock at `target`."""
    line = mount_at(run, target)
    return set(line[5].split(",")) | set(line[-1].split(","))


def fstype(run: Run, target: str) -> str:
    line = mount_at(run, target)
    return line[line.index("-") + 1]


@pytest.mark.parametrize(("kind", "source", "data", "attrs", "wanted"), [
    ("tmpfs", "tmpfs", ("mode=1700", "size=64k"), NOSUID | NODEV, {"nosuid", "nodev", "mode=1700", "size=64k", "rw"}),
    ("tmpfs", "none", ("ro", "nr_inodes=7"), RDONLY | NOEXEC, {"ro", "noexec", "nr_inodes=7"}),
    ("tmpfs", None, (), 0, {"rw", "relatime"}),
    ("tmpfs", "x", (), 0x10, {"noatime"}),
    ("devpts", "devpts", ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"), NOSUID | NOEXEC,
     {"gid=5", "mode=620", "ptmxmode=666"}),
    ("mqueue", "mqueue", (), 14, {"nosuid", "nodev", "noexec"}),
    ("sysfs", "sysfs", ("ro",), 15, {"ro"}),
    ("proc", "proc", ("hidepid=2",), 14, {"hidepid=invisible"}),
], ids=str)
def test_mount(enter: Enter, root: Path, kind: str, source: str | None, data: tuple[str, ...], attrs: int,
               wanted: set[str]) -> None:
    (root / "t").mkdir()
    run = enter(Step("mount", kind, source, "/t", data, attrs, 0), Step("pivot_root"))
    assert fstype(run, "/t") == kind
    assert wanted <= options(run, "/t")


@pytest.mark.parametrize(("steps", "error", "detail"), [
    (Step("mount", "tmpfs", "tmpfs", "/t", ("size=no",), 0, 0), errno.EINVAL, "e tmpfs: Bad value for 'size'"),
    (Step("mount", "tmpfs", "tmpfs", "/t", ("zzz",), 0, 0), errno.EINVAL, "e tmpfs: Unknown parameter 'zzz'"),
    (Step("mount", "nosuchfs", "x", "/t", (), 0, 0), errno.ENODEV, "/t"),
    (Step("mount", "tmpfs", "x", "/missing", (), 0, 0), errno.ENOENT, "/missing"),
    (Step("mount", "tmpfs", "x", "/f", (), 0, 0), errno.ENOTDIR, "/f"),
    (Step("mount", "proc", "x", "/link", (), 0, NO_SYMLINK), errno.ELOOP, "/link"),
    (Step("mount", "proc", "x", "/link/x", (), 0, NO_SYMLINK), errno.ELOOP, "/link/x"),
    (Step("mount", "tmpfs", "x", "/t", ("k" * 300 + "=1",), 0, 0), errno.EINVAL, "/t"),
    (Step("move_mount", 9, "/t", 0), errno.EBADF, "/t"),
    (Step("mount_setattr", "/t", RDONLY, 0, 0, 0), errno.EINVAL, "/t"),
    (Step("umount", "/nothing/here", 0), errno.ENOENT, "/nothing/here"),
], ids=str)
def test_refused_mounts_say_why(enter: Enter, root: Path, steps: Step, error: int, detail: str) -> None:
    (root / "t").mkdir()
    (root / "t/x").mkdir()
    (root / "f").touch()
    (root / "link").symlink_to("t")
    run = enter(steps, fails=True)
    assert (run.error.step, run.error.errno, run.error.payload.decode()) == (enter.FIRST, error, detail)


def test_a_proc_that_is_a_symlink_is_refused(enter: Enter, root: Path) -> None:
    """S23."""
    (root / "sys").mkdir()
    (root / "proc").symlink_to("sys")
    run = enter(*PROC, fails=True)
    assert run.error.errno == errno.ELOOP


def test_mode_of_the_covered_directory(enter: Enter, root: Path) -> None:
    for name in ("own", "given"):
        (root / name).mkdir()
        (root / name).chmod(0o1751)
    run = enter(Step("mount", "tmpfs", "t", "/own", (), 0, INHERIT_MODE),
                Step("mount", "tmpfs", "t", "/given", ("mode=700",), 0, INHERIT_MODE), Step("pivot_root"))
    assert stat.S_IMODE(run.inside("/own").stat().st_mode) == 0o1751
    assert stat.S_IMODE(run.inside("/given").stat().st_mode) == 0o700


def test_binds_by_slot_files_and_directories(enter: Enter, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside/file").write_text("from outside")
    (root / "f").touch()
    (root / "d").mkdir()
    fds = {3: open_tree(tmp_path / "outside"), 4: open_tree(tmp_path / "outside/file")}
    run = enter(Step("move_mount", 3, "/d", 0), Step("move_mount", 4, "/f", 0), Step("pivot_root"),
                Step("mount_setattr", "/d", RDONLY | NOSUID, 0, 0, 0),
                Step("mount_setattr", "/f", NODEV, 0, MS_PRIVATE, RECURSIVE), fds=fds)
    for fd in fds.values():
        os.close(fd)
    assert run.inside("/f").read_text() == run.inside("/d/file").read_text() == "from outside"
    assert {"ro", "nosuid"} <= set(mount_at(run, "/d")[5].split(","))
    assert "nodev" in mount_at(run, "/f")[5].split(",")


def test_a_bind_through_a_symlink_lands_inside(enter: Enter, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (root / str(outside)[1:]).mkdir(parents=True)
    (root / "l").symlink_to(outside)
    source = open_tree(tmp_path / "outside")
    run = enter(Step("move_mount", 3, "/l", 0), Step("pivot_root"), fds={3: source})
    os.close(source)
    assert mount_at(run, str(outside))


@pytest.mark.parametrize("path", ["/t", "/f"])
def test_remount_by_descriptor(enter: Enter, root: Path, path: str, tmp_path: Path) -> None:
    (root / "t").mkdir()
    (root / "f").touch()
    source = open_tree(tmp_path / "outside" if path == "/t" else root / "f", recursive=False)
    run = enter(Step("move_mount", 3, path, 0), Step("pivot_root"),
                Step("remount", path, MS_BIND | MS_RDONLY | MS_NOSUID, None), fds={3: source})
    os.close(source)
    assert {"ro", "nosuid"} <= set(mount_at(run, path)[5].split(","))
    assert os.readlink(f"/proc/{run.pid}/cwd") == "/"


def test_mount_with_long_data(enter: Enter, root: Path, tmp_path: Path) -> None:
    """mount(2) takes a value that fsconfig(2) does not; the same call changes propagation."""
    (root / "over").mkdir()
    layers = [tmp_path / f"{number}-{'x' * 60}" for number in range(6)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"f{number}").touch()
    data = f"lowerdir={':'.join(map(str, layers))}"
    assert len(data) > 256
    run = enter(Step("classic_mount", "overlay", "overlay", "/over", MS_NOSUID, data),
                Step("classic_mount", None, None, "/over", MS_SHARED, None), Step("pivot_root"))
    assert sorted(os.listdir(run.inside("/over"))) == [f"f{number}" for number in range(6)]
    line = mount_at(run, "/over")
    assert "nosuid" in line[5]
    assert line[6].startswith("shared:")


def test_cover_of_a_host_path(enter: Enter, root: Path, tmp_path: Path) -> None:
    """What was there cannot be reached, nothing can be made there, and the host's own mounts stay as they are."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret").touch()
    run = enter(Step("cover", str(hidden)))
    assert {"ro", "nosuid", "nodev", "noexec"} <= options(run, str(hidden))
    assert os.listdir(f"/proc/{run.pid}/root{hidden}") == []
    assert os.listdir(hidden) == ["secret"]


# --- masks ----------------------------------------------------------------------------------------------------------
def test_masks_of_files_and_directories(enter: Enter, root: Path) -> None:
    """Also several of each, through a symlink, and after the root has changed."""
    (root / "dev").mkdir()
    (root / "dev/null").write_text("hostile")
    for name in ("a", "b", "c"):
        (root / name).write_text("secret")
        (root / f"d{name}").mkdir()
        (root / f"d{name}/secret").touch()
    (root / "link").symlink_to("/c")
    run = enter(*(Step("mask", path) for path in ("/a", "/da")), Step("pivot_root"),
                *(Step("mask", path) for path in ("/b", "/link", "/db", "/dc")),
                Step("mask", "/missing", tolerate=(errno.ENOENT,)))
    for name in ("a", "b", "c"):
        st = run.inside(f"/{name}").stat()
        assert (stat.S_ISCHR(st.st_mode), st.st_rdev) == (True, NULL_DEVICE)
        assert os.listdir(run.inside(f"/d{name}")) == []
        with pytest.raises(OSError, match="Read-only"):
            run.inside(f"/d{name}/new").touch()
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount_at(run, f"/d{name}")[5].split(","))
    assert (root / "a").read_text() == "secret"


@pytest.mark.parametrize("what", ["missing", "file", "zero"])
def test_a_host_without_the_null_device_cannot_mask(enter: Enter, root: Path, tmp_path: Path, what: str) -> None:
    """S16, S17: it is an error, and never one that reads as "nothing there to mask"."""
    (root / "a").write_text("secret")
    dev = tmp_path / "outside/dev"
    dev.mkdir()
    if what == "file":
        (dev / "null").write_text("")
    if what == "zero":
        os.mknod(dev / "null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    for pivot in ((), (Step("pivot_root"),)):
        fds = {3: open_tree(dev), 2: open_tree(root)}
        run = start(enter.program, Step("unshare", CLONE_NEWNS), Step("propagation", "/", MS_REC | MS_SLAVE),
                    Step("attach_root", 3, "/dev"),
                    Step("use_root", str(root)) if not pivot else Step("attach_root", 2, str(root)),
                    *pivot, Step("mask", "/a", tolerate=(errno.ENOENT,)), READY,
                    fds=fds).finish()
        for fd in fds.values():
            os.close(fd)
        assert run.error is not None, run.messages
        assert run.error.errno == errno.ENODEV
        assert run.error.payload == b"/a"


def test_readonly_covers_mounts_below(enter: Enter, root: Path) -> None:
    (root / "d").mkdir()
    (root / "f").write_text("x")
    run = enter(Step("make_path", "/d/e", 0o755), Step("mount", "tmpfs", "t", "/d/e", (), NOSUID, 0),
                Step("readonly", "/d"), Step("readonly", "/f"), Step("readonly", "/missing", tolerate=(errno.ENOENT,)),
                Step("pivot_root"))
    for path in ("/d/x", "/d/e/x"):
        with pytest.raises(OSError, match="Read-only"):
            run.inside(path).touch()
    with pytest.raises(OSError, match="Read-only"):
        run.inside("/f").write_text("y")
    run.inside("/other").touch()


@pytest.mark.parametrize("path", ["/", "//.", "/d/..", "/link"])
def test_the_root_itself(enter: Enter, root: Path, path: str) -> None:
    """S5: a mount on it would not be seen by those whose root it is. It is made read-only itself; masked it cannot be."""
    (root / "d").mkdir()
    (root / "link").symlink_to("/")
    steps = (Step("mount", "tmpfs", "t", "/d", (), NOSUID, 0), Step("pivot_root"), Step("readonly", path))
    run = enter(*steps)
    with pytest.raises(OSError, match="Read-only"):
        run.inside("/x").touch()
    run.inside("/d/x").touch()
    failed = enter(Step("pivot_root"), Step("mask", path), fails=True).error
    assert failed is not None
    assert failed.errno == errno.EBUSY


# --- the change of root ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", ["/", "root"])
@pytest.mark.parametrize("change", ["pivot_root", "move_root", "chroot"])
def test_change_of_root(enter: Enter, root: Path, at: str, change: str) -> None:
    (root / "marker").touch()
    run = enter(Step(change), Step("make_path", "/made", 0o755), at="/" if at == "/" else str(root))
    assert sorted(os.listdir(run.inside("/"))) == ["made", "marker"]
    assert os.readlink(f"/proc/{run.pid}/cwd") == "/" or change == "chroot"
    if change == "pivot_root":
        assert [line[4] for line in run.mounts()] == ["/"]
    assert Path("/proc/self/mountinfo").read_text().count(str(root)) == 0


def test_root_without_a_mount_namespace(init_program: Path, root: Path) -> None:
    (root / "marker").touch()
    run = start(init_program, Step("use_root", str(root)), Step("clone", 0), Step("chroot"), READY).until("ready")
    assert os.listdir(run.inside("/")) == ["marker"]


def test_nothing_propagates_to_the_host(enter: Enter) -> None:
    """S25: also when the container's own root is shared."""
    before = Path("/proc/self/mountinfo").read_text()
    run = enter(*PROC, Step("pivot_root"), Step("mount_setattr", "/", 0, 0, MS_SHARED, RECURSIVE),
                Step("make_path", "/t", 0o755), Step("mount", "tmpfs", "t", "/t", (), 0, 0))
    assert [line[6].split(":")[0] for line in run.mounts()] == ["shared"] * 3
    assert Path("/proc/self/mountinfo").read_text() == before


def test_user_namespace_with_its_own_root(init_program: Path, root: Path) -> None:
    """The whole of a root as an unprivileged user would have it: binds instead of nodes, masks, pivot."""
    for name in ("dev", "proc", "sys"):
        (root / name).mkdir()
    (root / "dev/null").touch()
    for directory in (root, root / "dev", root / "proc", root / "sys", root / "dev/null"):
        os.chown(directory, 100000, 100000)
    null = open_tree("/dev/null")
    tree = open_tree(root)
    run = start(init_program, Step("unshare", CLONE_NEWUSER), Step("barrier", 2), Step("set_ids", 0, 0),
                Step("unshare", CLONE_NEWNS), Step("clone", CLONE_NEWPID), Step("propagation", "/", MS_REC | MS_SLAVE),
                Step("attach_root", 2, "/"), Step("move_mount", 3, "/dev/null", 0),
                Step("mknod", "/dev/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5), tolerate=(errno.EPERM,)),
                Step("mount", "tmpfs", "t", "/sys", ("mode=755",), 14, 0), Step("make_path", "/sys/a/b", 0o755),
                *PROC, Step("mask", "/proc/keys"), Step("mask", "/sys/a"), Step("pivot_root"),
                Step("readonly", "/proc/sys"), READY, fds={2: tree, 3: null}).until("mapped")
    os.close(tree)
    os.close(null)
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{run.pid}/{kind}").write_text("0 100000 65536\n")
    run.release("mapped").until("ready")
    assert sorted(line[4] for line in run.mounts()) == [
        "/", "/dev/null", "/proc", "/proc/keys", "/proc/sys", "/sys", "/sys/a"]
    assert run.inside("/dev/null").stat().st_rdev == run.inside("/proc/keys").stat().st_rdev == NULL_DEVICE


# --- tmpcopyup ------------------------------------------------------------------------------------------------------
def test_copy_up(enter: Enter, root: Path) -> None:
    source = root / "etc"
    (source / "sub/deep").mkdir(parents=True)
    (source / "sub").chmod(0o2750)
    (source / "file").write_bytes(b"x" * 300_000)
    (source / "file").chmod(0o4755)
    os.chown(source / "file", 12, 34)
    (source / "file").chmod(0o4755)
    os.utime(source / "file", (1_000_000, 2_000_000))
    (source / "link").symlink_to("/somewhere/else")
    os.lchown(source / "link", 5, 6)
    os.mkfifo(source / "sub/fifo", 0o640)
    os.mknod(source / "sub/deep/null", stat.S_IFCHR | 0o666, NULL_DEVICE)
    run = enter(Step("mount", "tmpfs", "t", "/etc", (), 0, INHERIT_MODE), Step("copy_up", "/etc"), Step("pivot_root"))
    copy = run.inside("/etc")
    assert fstype(run, "/etc") == "tmpfs"

    def facts(tree: Path) -> dict[str, tuple[int, ...]]:
        return {str(p.relative_to(tree)): (st.st_mode, st.st_uid, st.st_gid, st.st_rdev,
                                           int(st.st_mtime) if p.is_file() else 0)
                for p in tree.rglob("*") for st in (p.lstat(),)}

    assert facts(copy) == facts(source)
    assert (copy / "file").read_bytes() == (source / "file").read_bytes()
    assert os.readlink(copy / "link") == "/somewhere/else"
    assert int((copy / "file").stat().st_mtime) == 2_000_000


@pytest.mark.parametrize(("steps", "error"), [
    ([Step("mount", "ramfs", "r", "/etc", (), 0, 0), Step("copy_up", "/etc")], errno.EXDEV),
    ([Step("mount", "tmpfs", "t", "/etc", (), 0, 0), Step("umask", 0), Step("copy_up", "/etc")], errno.EBADF),
    ([Step("mount", "tmpfs", "t", "/etc", ("size=4k",), 0, 0), Step("copy_up", "/etc")], errno.ENOSPC),
], ids=["no-tmpfs", "not-covered", "full"])
def test_copy_up_refuses(enter: Enter, root: Path, steps: list[Step], error: int) -> None:
    (root / "etc").mkdir()
    (root / "etc/f").write_bytes(b"x" * 100_000)
    run = enter(*steps, fails=True)
    assert (run.error.step, run.error.errno) == (enter.FIRST + len(steps) - 1, error)


# --- races ----------------------------------------------------------------------------------------------------------
def test_mounts_against_a_racing_directory(enter: Enter, root: Path, tmp_path: Path) -> None:
    """S24: mount targets are swapped with a symlink to the outside; no mount and no name gets there."""
    outside = tmp_path / "outside"
    (outside / "victim").mkdir()
    before = snapshot(outside)
    (root / "v/real").mkdir(parents=True)
    (root / "v/link").symlink_to(f"../../../../../../../..{outside}/victim")
    attacker = subprocess.Popen(
        ["/bin/sh", "-c", "cd $0; while :; do mv -T real x; mv -T link real; mv -T x link; done", root / "v"],
        stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 1.5
        missed = (errno.ENOENT, errno.EAGAIN, errno.ENOTDIR, errno.ESTALE)  # EAGAIN: the tries are bounded
        while time.monotonic() < end:
            run = enter(*[step for _ in range(20) for step in (
                Step("mount", "tmpfs", "t", "/v/real", (), 0, 0, tolerate=missed),
                Step("mask", "/v/real", tolerate=missed),
                Step("symlink", "x", "/v/real/y", REPLACE, tolerate=(*missed[:2], errno.EEXIST, errno.EROFS)),
            )])
            assert not any("victim" in line[4] for line in run.mounts())
            run.close()
    finally:
        attacker.kill()
        attacker.wait()
    assert snapshot(outside) == before
