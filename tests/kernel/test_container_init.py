"""container-init on its own: protocol, namespaces, names below the root, mounts, masks, the change of root.

Each test gives it a plan of a few steps and looks at the process from outside while it waits at `ready`. The same
tests run against the build with sanitizers. Needs root.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from pyruntime.plan.opcodes import BARRIERS
from tests.kernel.initkit import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    LIKE_SLOT,
    MAKE_FILE,
    NO_FOLLOW,
    NO_SYMLINK,
    NULL_DEVICE,
    PROC,
    READY,
    REPLACE,
    TIMEOUT_S,
    Enter,
    Step,
    open_tree,
    pack,
    snapshot,
    start,
)

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# --- protocol -------------------------------------------------------------------------------------------------------
def test_an_empty_plan_ends_well(init_program: Path) -> None:
    assert start(init_program).finish().status == 0


def test_every_barrier_is_reported_and_released(init_program: Path) -> None:
    names = [name for name in BARRIERS if name != "listener"]
    run = start(init_program, *(Step("barrier", BARRIERS[name]) for name in names)).passes(*names).finish()
    assert [(m.type, m.step, m.value) for m in run.messages] == [
        ("BARRIER", i, BARRIERS[name]) for i, name in enumerate(names)]
    assert run.status == 0


@pytest.mark.parametrize("barrier", [name for name in BARRIERS if name != "listener"])
def test_a_host_that_is_gone_ends_it_silently(init_program: Path, barrier: str) -> None:
    run = start(init_program, Step("barrier", BARRIERS[barrier]), Step("sethostname", "never")).until(barrier)
    run.host.close()
    assert run.wait().status == 1
    assert run.text() == ""


def test_a_wrong_release_is_an_error(init_program: Path) -> None:
    run = start(init_program, Step("barrier", 1)).until("joined").release("mapped").finish()
    assert (run.error.step, run.error.errno, run.status) == (0, errno.EPROTO, 1)


def test_descriptors_beyond_one_message(init_program: Path) -> None:
    with open("/dev/null", "rb") as null:
        fds = {slot: null.fileno() for slot in range(2, 402)}
        run = start(init_program, Step("barrier", 1), fds=fds, slots=402, fd_base=20).until("joined")
        assert {int(n) for n in os.listdir(f"/proc/{run.pid}/fd")} == {0, 1, 2, *range(20, 421)}
        run.close()


def test_descriptors_may_come_at_a_barrier(init_program: Path) -> None:
    run = start(init_program, Step("barrier", 1), Step("place_fd", 5, 4), Step("barrier", 2), fd_base=10)
    with open("/dev/zero", "rb") as zero:
        run.until("joined").send_fds({5: zero.fileno()})
    run.release("joined").until("mapped")
    assert os.readlink(f"/proc/{run.pid}/fd/4") == "/dev/zero"
    run.close()


@pytest.mark.parametrize("slot", [16, 1 << 31])
def test_a_slot_outside_the_plan_is_refused(init_program: Path, slot: int) -> None:
    run = start(init_program, fds={slot: 0}).finish()
    assert (run.error.step, run.error.errno) == (-1, errno.EPROTO)


@pytest.mark.parametrize(("tolerate", "instead", "kinds", "step"), [
    ((errno.EBADF,), (), [], None),
    ((errno.EPERM, errno.ENOENT, errno.EBADF, errno.EIO), (), [], None),
    ((errno.EPERM,), (), ["ERROR"], 0),
    ((), (Step("umask", 0, on_errno=errno.EBADF),), ["ALT"], 1),
    ((), (Step("umask", 0, on_errno=errno.EPERM),), ["ERROR"], 0),
    ((), (Step("umask", 0, on_errno=errno.EPERM), Step("umask", 0, on_errno=errno.EBADF)), ["ALT"], 2),
    ((), (Step("chroot", on_errno=errno.EBADF),), ["ERROR"], 1),
    ((), (Step("chroot", on_errno=errno.EBADF, tolerate=(errno.EBADF,)),), ["ALT"], 1),
    ((), (Step("umask", 0, on_errno=errno.EBADF, retry=True),), ["ALT", "ERROR"], 0),
    ((), (Step("use_root", "/", on_errno=errno.EBADF, retry=True),), ["ALT"], 1),
    ((), (Step("umask", 0, on_errno=errno.EBADF, retry=True), Step("umask", 0, on_errno=errno.EBADF)),
     ["ALT"], 2),
], ids=str)
def test_tolerated_errnos_and_alternatives(
        init_program: Path, tolerate: tuple[int, ...], instead: tuple[Step, ...], kinds: list[str],
        step: int | None) -> None:
    """The main step needs slot 0 and answers EBADF without it."""
    main = Step("make_path", "/", 0o755, tolerate=tolerate, instead=instead)
    run = start(init_program, main, Step("umask", 0)).finish()
    assert run.kinds() == kinds, run.messages
    assert step is None or run.messages[-1].step == step
    assert run.status == (1 if "ERROR" in kinds else 0)


def test_nothing_of_the_caller_is_left(init_program: Path, tmp_path: Path) -> None:
    """S3: cwd, descriptors, mask, dispositions; Python itself ignores SIGPIPE and SIGXFSZ."""
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        run = start(init_program, Step("barrier", 1))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        os.close(inherited)
    run.until("joined")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{run.pid}/status").read_text().splitlines())
    assert {int(status[key], 16) for key in ("SigBlk", "SigIgn")} == {0}
    assert status["Name"] == "container-init"
    assert os.readlink(f"/proc/{run.pid}/cwd") == "/"
    assert set(os.listdir(f"/proc/{run.pid}/fd")) == {"0", "1", "2", "3"}
    run.close()


def test_closed_stdio_becomes_the_null_device(init_program: Path) -> None:
    """Started without 0, 1 and 2, it has all three, and none of them is one of its own descriptors."""
    command = f"exec {init_program} 0<&- 1>&- 2>&-"
    host, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen(["/bin/sh", "-c", command], preexec_fn=lambda: os.dup2(remote.fileno(), 3), pass_fds=(3,))
    remote.close()
    memfd = os.memfd_create("plan")
    os.write(memfd, pack([Step("barrier", 1)]))
    socket.send_fds(host, [struct.pack("<Iiii", 1, -1, 0, 1)], [memfd])
    os.close(memfd)
    host.settimeout(TIMEOUT_S)
    assert host.recv(100)
    assert [os.readlink(f"/proc/{child.pid}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3
    host.close()
    assert child.wait(TIMEOUT_S) == 1


# --- namespaces and ids ---------------------------------------------------------------------------------------------
def test_clone_makes_a_sibling_and_reports_it_first(init_program: Path) -> None:
    run = start(init_program, Step("clone", CLONE_NEWPID | CLONE_NEWUTS), Step("sethostname", "inner"),
                Step("setdomainname", "example"), READY).until("ready")
    assert run.kinds() == ["PID", "BARRIER"]
    status = Path(f"/proc/{run.pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status
    assert f"NSpid:\t{run.pid}\t1\n" in status
    name = subprocess.run(["nsenter", "-t", str(run.pid), "-u", "hostname"], capture_output=True, text=True, check=True)
    assert name.stdout == "inner\n"
    assert os.uname().nodename != "inner"
    run.close()


def test_user_namespace_with_maps_written_at_the_barrier(init_program: Path) -> None:
    run = start(init_program, Step("set_dumpable", 0), Step("unshare", CLONE_NEWUSER), Step("set_dumpable", 1),
                Step("barrier", 2), Step("set_dumpable", 0), Step("set_ids", 0, 0),
                Step("unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET), Step("clone", CLONE_NEWPID),
                Step("link_up", "lo"), Step("open_proc", 0), READY).until("mapped")
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{run.pid}/{kind}").write_text("0 100000 1000\n")
    run.release("mapped").until("ready")
    status = Path(f"/proc/{run.pid}/status").read_text()
    assert "Uid:\t100000\t100000\t100000\t100000\n" in status
    flags = subprocess.run(["nsenter", "-t", str(run.pid), "-n", "cat", "/sys/class/net/lo/flags"],
                           capture_output=True, text=True, check=False)
    assert flags.returncode != 0 or int(flags.stdout, 16) & 1
    run.close()


def test_setns_checks_the_type(init_program: Path) -> None:
    with open("/proc/self/ns/uts", "rb") as uts:
        good = start(init_program, Step("setns", 2, CLONE_NEWUTS), fds={2: uts.fileno()}).finish()
        bad = start(init_program, Step("setns", 2, CLONE_NEWNET), fds={2: uts.fileno()}).finish()
    assert good.status == 0
    assert (bad.error.step, bad.error.errno) == (0, errno.EINVAL)


def test_keyring_gets_its_permissions(init_program: Path) -> None:
    run = start(init_program, Step("keyring", "_ses.test.4711", 0xFFFFFFFF, 0x00080000), READY)
    message = run.receive()
    if message.type == "ERROR" and message.errno == errno.ENOSYS:
        pytest.skip("kernel without keyrings")
    assert message.type == "BARRIER", message
    run.close()


@pytest.mark.parametrize(("path", "data", "file", "seen"), [
    ("self/oom_score_adj", b"321", "oom_score_adj", "321\n"),
    ("thread-self/comm", b"other", "comm", "other\n"),
])
@pytest.mark.parametrize("private", [0, 1])
def test_write_proc_reaches_ourselves(
        init_program: Path, path: str, data: bytes, file: str, seen: str, private: int) -> None:
    """Also when the procfs was opened before clone and so belongs to another pid namespace."""
    run = start(init_program, Step("open_proc", private), Step("clone", CLONE_NEWPID), Step("write_proc", path, data),
                READY).until("ready")
    assert Path(f"/proc/{run.pid}/{file}").read_text() == seen
    run.close()


@pytest.mark.parametrize(("path", "error"), [
    ("self/cwd/etc/passwd", {errno.ELOOP}), ("self/root/etc/passwd", {errno.ELOOP}), ("self/fd/0", {errno.ELOOP}),
    ("mounts", {errno.ELOOP}), ("../etc/passwd", {errno.EXDEV}), ("/etc/passwd", {errno.EXDEV}),
    ("self/nothing", {errno.ENOENT, errno.EACCES}), ("self/../../etc/passwd", {errno.EXDEV}),
    ("self", {errno.ELOOP}), ("self/exe", {errno.ELOOP}),
], ids=str)
@pytest.mark.parametrize("private", [0, 1])
def test_write_proc_follows_nothing(init_program: Path, path: str, error: set[int], private: int) -> None:
    """S21."""
    run = start(init_program, Step("open_proc", private), Step("write_proc", path, b"x")).finish()
    assert run.error.step == 1
    assert run.error.errno in error


def test_write_proc_does_not_enter_what_covers_it(enter: Enter, tmp_path: Path) -> None:
    """S21: a file over /proc/sys/kernel/hostname is not written."""
    decoy = tmp_path / "decoy"
    decoy.write_text("untouched")
    (tmp_path / "root/proc").mkdir()
    tree = open_tree(decoy)
    run = enter(*PROC, Step("move_mount", 3, "/proc/sys/kernel/domainname", 0), Step("pivot_root"),
                Step("open_proc", 0), Step("write_proc", "sys/kernel/domainname", b"x"), fds={3: tree}, fails=True,
                new=CLONE_NEWUTS)
    os.close(tree)
    assert run.error.errno == errno.EXDEV
    assert decoy.read_text() == "untouched"


def test_oom_score_adj_without_a_handle(init_program: Path) -> None:
    run = start(init_program, Step("oom_score_adj", 77), READY).until("ready")
    assert Path(f"/proc/{run.pid}/oom_score_adj").read_text() == "77\n"
    run.close()


# --- names below the root -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("links", "path", "flags", "made"), [
    ({}, "/a/b/c", 0, "a/b/c"),
    ({}, "//a///b/", 0, "a/b"),
    ({}, "a/./b/../c", 0, "a/c"),
    ({}, "/a/f", MAKE_FILE, "a/f"),
    ({}, "/../../x", 0, "x"),
    ({"l": "/a"}, "/l/b", 0, "a/b"),
    ({"l": "a/b"}, "/l/c", 0, "a/b/c"),
    ({"l": "../../../../outside"}, "/l/b", 0, "outside/b"),
    ({"l": "/etc"}, "/l/f", MAKE_FILE, "etc/f"),
    ({"l": "m", "m": "n", "n": "/deep/er"}, "/l/x", 0, "deep/er/x"),
    ({"l": "t/"}, "/l", 0, "t"),
    ({"l": "t"}, "/l", MAKE_FILE, "t"),
    ({"l": "/"}, "/l/x", 0, "x"),
    ({"l": ".."}, "/l/l/x", 0, "x"),
], ids=str)
def test_make_path(enter: Enter, root: Path, links: dict[str, str], path: str, flags: int, made: str) -> None:
    for name, text in links.items():
        (root / name).symlink_to(text)
    before = snapshot(root.parent / "outside")
    enter(Step("make_path", path, 0o700, flags))
    real = root / made
    assert not real.is_symlink()
    assert real.is_file() if flags & MAKE_FILE else real.is_dir()
    assert stat.S_IMODE(real.lstat().st_mode) == (0o600 if flags & MAKE_FILE else 0o700)
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o755 for p in real.parents if p != root and root in p.parents)
    assert snapshot(root.parent / "outside") == before == []


@pytest.mark.parametrize(("links", "path", "flags", "error"), [
    ({"l": "l"}, "/l/x", 0, errno.ELOOP),
    ({"l": "m", "m": "l"}, "/l", 0, errno.ELOOP),
    ({"l": "/a"}, "/l", NO_FOLLOW, errno.ELOOP),
    ({"l": "/a"}, "/l/b", NO_SYMLINK, errno.ELOOP),
    ({"l": "/a"}, "/l", NO_SYMLINK, errno.ELOOP),
    ({"l": "f"}, "/l/x", 0, errno.ENOTDIR),
    ({}, "/f/x", 0, errno.ENOTDIR),
    ({}, "/f", 0, errno.ENOTDIR),
    ({}, "/d", MAKE_FILE, errno.EISDIR),
    ({}, "/" + "n" * 256, 0, errno.ENAMETOOLONG),
    ({}, "/n" * 2100, 0, errno.ENAMETOOLONG),
    ({"l": "./" * 2040}, "/l/l/l/x", 0, errno.ELOOP),
], ids=lambda value: str(value)[:30])
def test_make_path_refuses(
        enter: Enter, root: Path, links: dict[str, str], path: str, flags: int, error: int) -> None:
    (root / "f").touch()
    (root / "d").mkdir()
    for name, text in links.items():
        (root / name).symlink_to(text)
    run = enter(Step("make_path", path, 0o755, flags), fails=True)
    assert (run.error.step, run.error.errno) == (5, error)
    assert run.error.payload == path.encode()[:4080]


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_make_path_like_a_slot(enter: Enter, root: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "outside" / "s"
    source.touch() if kind == "file" else source.mkdir()
    tree = open_tree(source)
    enter(Step("make_path", "/x/t", 0o644 if kind == "file" else 0o755, LIKE_SLOT, 3), Step("move_mount", 3, "/x/t", 0),
          fds={3: tree})
    os.close(tree)
    assert (root / "x/t").is_file() == (kind == "file")


def test_make_path_against_a_racing_directory(enter: Enter, root: Path) -> None:
    """S24: another process swaps a directory with a symlink to the outside at full speed; nothing gets out."""
    outside = root.parent / "outside"
    (root / "v/real").mkdir(parents=True)
    (root / "v/link").symlink_to(f"../../../../../../../..{outside}")
    done = threading.Event()
    missed = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EAGAIN)

    def swap() -> None:
        while not done.is_set():
            for a, b in (("real", "x"), ("link", "real"), ("x", "link")):
                try:
                    os.rename(root / "v" / a, root / "v" / b)
                except OSError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for number in range(10):
            steps = [step for i in range(40) for step in (
                Step("make_path", f"/v/real/d{number}.{i}/e", 0o755, tolerate=missed),
                Step("mknod", f"/v/real/n{number}.{i}", 0o10644, 0, 5, 5, tolerate=missed))]
            run = enter(*steps, fails=False)
            run.close()
    finally:
        done.set()
        attacker.join()
    assert snapshot(outside) == []


@pytest.mark.parametrize(("path", "mode", "dev", "ids"), [
    ("/null", stat.S_IFCHR | 0o666, NULL_DEVICE, (0, 0)),
    ("/block", stat.S_IFBLK | 0o640, os.makedev(250, 7), (0, 6)),
    ("/pipe", stat.S_IFIFO | 0o6755, 0, (1000, 1000)),
    ("/d/big", stat.S_IFCHR | 0o600, os.makedev(4095, 1048575), (7, 0)),
], ids=str)
def test_mknod(enter: Enter, root: Path, path: str, mode: int, dev: int, ids: tuple[int, int]) -> None:
    (root / "d").mkdir()
    (root / "d").chmod(0o2755)
    os.chown(root / "d", 0, 33)
    enter(Step("umask", 0o77), Step("mknod", path, mode, dev, *ids))
    st = (root / path[1:]).lstat()
    assert (st.st_mode, st.st_rdev, st.st_uid, st.st_gid) == (mode, dev, *ids)


@pytest.mark.parametrize(("kind", "error"), [
    ("same", 0), ("number", errno.EEXIST), ("type", errno.EEXIST), ("file", errno.EEXIST), ("symlink", errno.EEXIST),
    ("directory", errno.EEXIST),
])
def test_mknod_on_what_exists(enter: Enter, root: Path, kind: str, error: int) -> None:
    path = root / "null"
    if kind in ("same", "number", "type"):
        os.mknod(path, (stat.S_IFBLK if kind == "type" else stat.S_IFCHR) | 0o600,
                 os.makedev(1, 5) if kind == "number" else NULL_DEVICE)
    else:
        {"file": path.touch, "symlink": lambda: path.symlink_to("/dev/null"), "directory": path.mkdir}[kind]()
    run = enter(Step("mknod", "/null", stat.S_IFCHR | 0o666, NULL_DEVICE), fails=error != 0)
    assert (run.error.errno if run.error else 0) == error
    if kind == "same":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("before", "flags", "error"), [
    ("none", 0, 0), ("file", 0, errno.EEXIST), ("file", REPLACE, 0), ("link", REPLACE, 0), ("none", REPLACE, 0),
    ("dir", REPLACE, errno.EISDIR),
])
def test_symlink(enter: Enter, root: Path, before: str, flags: int, error: int) -> None:
    path = root / "dev/ptmx"
    path.parent.mkdir()
    if before != "none":
        {"file": path.touch, "link": lambda: path.symlink_to("/etc/passwd"), "dir": path.mkdir}[before]()
    run = enter(Step("symlink", "pts/ptmx", "/dev/ptmx", flags), fails=error != 0)
    assert (run.error.errno if run.error else 0) == error
    assert error or os.readlink(path) == "pts/ptmx"


def test_a_dev_that_is_a_symlink_stays_inside(enter: Enter, root: Path) -> None:
    """S20."""
    outside = root.parent / "outside"
    (root / "dev").symlink_to(f"../../../../../../../..{outside}")
    run = enter(Step("mknod", "/dev/null", stat.S_IFCHR | 0o666, NULL_DEVICE), fails=True)
    assert run.error.errno == errno.ENOENT
    run = enter(Step("make_path", "/dev", 0o755), Step("mknod", "/dev/null", stat.S_IFCHR | 0o666, NULL_DEVICE),
                Step("symlink", "x", "/dev/y"))
    assert (root / str(outside)[1:] / "null").exists()
    assert snapshot(outside) == []


# --- copying up, ids of stdio ---------------------------------------------------------------------------------------
def test_descriptors_placed_for_the_program(init_program: Path, tmp_path: Path) -> None:
    """A slot never lies where place_fd puts another one."""
    files = {}
    for slot, name in enumerate(("a", "b", "c"), start=2):
        (tmp_path / name).write_text(name)
        files[slot] = os.open(tmp_path / name, os.O_RDONLY)
    run = start(init_program, Step("place_fd", 4, 3), Step("place_fd", 2, 4), Step("place_fd", 3, 5),
                Step("close_from", 6),
                Step("execve", ("/bin/sh", "-c", "cat <&3; cat <&4; cat <&5; echo; ls /proc/self/fd"),
                     ("PATH=/bin:/usr/bin",)), fds=files, fd_base=6).finish()
    for fd in files.values():
        os.close(fd)
    assert run.text().split() == ["cab", "0", "1", "2", "3", "4", "5", "6"]  # 6 is that of ls itself


def test_header_fields_match_the_drawing() -> None:
    assert struct.unpack_from("<4sI", pack([])) == (b"PRTP", 48)
