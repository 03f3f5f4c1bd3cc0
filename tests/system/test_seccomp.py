"""seccomp from inside: actions, operators, ENOSYS, both loading points, exec, NOTIFY (contract 4.9)."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.runtime import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the rows use x86-64's calls"),
]

ALLOW, ERRNO, KILL, KILL_PROCESS, TRAP, LOG, NOTIFY, TRACE = (
    f"SCMP_ACT_{name}" for name in ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "TRAP", "LOG", "NOTIFY", "TRACE")
)
MKDIR = ("mkdir", "mkdirat")
TRY = "mkdir /tmp/made 2>&1 | sed 's/.*: //'; test -d /tmp/made && echo made; true"


def profile(
    action: str = ERRNO, *, default: str = ALLOW, names: tuple[str, ...] = MKDIR, **more: Any
) -> dict[str, Any]:
    """A profile of one rule."""
    rule = {
        "names": list(names),
        "action": action,
        **{key: more.pop(key) for key in ("errnoRet", "args") if key in more},
    }
    return {"linux.seccomp": {"defaultAction": default, "syscalls": [rule], **more}}


ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("errno by default EPERM", profile(), TRY, "Operation not permitted"),
    ("errnoRet", profile(errnoRet=28), TRY, "No space left on device"),
    ("errnoRet 0", profile(errnoRet=0), TRY, ""),
    ("allow", profile(ALLOW), TRY, "made"),
    ("log lets it pass", profile(LOG), TRY, "made"),
    ("unknown names are skipped", profile(names=("no_such_call", *MKDIR)), TRY, "Operation not permitted"),
    ("kill", profile(KILL), "mkdir /tmp/made; echo $?", "159"),
    ("kill process", profile(KILL_PROCESS), "mkdir /tmp/made; echo $?", "159"),
    ("trap", profile(TRAP), "mkdir /tmp/made; echo $?", "159"),
    ("trace without a tracer", profile(TRACE), TRY, "Function not implemented"),
    ("mode", {}, "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    ("filtered", profile(), "grep Seccomp: /proc/self/status", "Seccomp:\t2"),
    (
        "no action and no rules is none",
        {"linux.seccomp": {"defaultAction": "", "syscalls": []}},
        "grep Seccomp: /proc/self/status",
        "Seccomp:\t0",
    ),
    ("does not set no_new_privs", profile(), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
    (
        "argument: equal",
        profile(names=("kill",), args=[{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]),
        "trap 'echo got' USR2; kill -USR1 $$ 2>&1 | sed 's/.*: //'; kill -USR2 $$",
        "Operation not permitted\ngot",
    ),
    (
        "argument: masked",
        profile(names=("kill",), args=[{"index": 1, "value": 2, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]),
        "kill -10 $$ 2>&1 | sed 's/.*: //'; kill -0 $$ && echo 0",
        "Operation not permitted\n0",
    ),
    (
        "two conditions on one index: either",
        profile(
            names=("kill",),
            args=[{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}],
        ),
        "kill -10 $$ 2>&1 | sed 's/.*: //'; kill -12 $$ 2>&1 | sed 's/.*: //'",
        "Operation not permitted\nOperation not permitted",
    ),
    (
        "flags",
        profile(flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]),
        TRY,
        "Operation not permitted",
    ),
    ("architectures", profile(architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"]), TRY, "Operation not permitted"),
    ("older than faccessat2, by which the program is looked up", profile(names=("faccessat2",)), "echo ran", "ran"),
    ("no getcwd, by which the working directory is checked", profile(names=("getcwd",)), "echo ran", "ran"),
    ("listenerPath without NOTIFY", profile(listenerPath="/nowhere"), TRY, "Operation not permitted"),
]


@pytest.mark.parametrize("late", [False, True], ids=["before the capabilities go", "no_new_privs"])
@pytest.mark.parametrize(("changes", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str, *, late: bool
) -> None:
    """Loaded last or right before the capabilities go: the program sees the same (S31)."""
    if late and "NoNewPrivs" in script:
        pytest.skip("the other loading point alone")
    more = {"process.noNewPrivileges": True} if late else {}
    assert runtime.look(make_bundle(script, {**changes, **more})) == expected


def test_default_action_errno(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A deny-by-default profile in which a shell works; what it does not name answers defaultErrnoRet (S29)."""
    default = Path(__file__).resolve().parents[2] / "benchmarks/docker_defaults.py"
    if not default.exists():
        pytest.skip("needs benchmarks/docker_defaults.py")
    from benchmarks.docker_defaults import seccomp

    rules = seccomp(platform.machine())
    bundle = make_bundle(
        "keyctl 2>/dev/null; mount -t tmpfs x /tmp 2>&1 | sed 's/.*: //'; echo fine", {"linux.seccomp": rules}
    )
    assert runtime.look(bundle).splitlines()[-1] == "fine"


def helper(tmp_path: Path, source: str) -> Path | None:
    """A static program that makes raw system calls, None without a compiler."""
    (tmp_path / "probe.c").write_text(source)
    made = subprocess.run(
        ["cc", "-static", "-O1", "-o", tmp_path / "probe", tmp_path / "probe.c"], capture_output=True, check=False
    )
    return tmp_path / "probe" if made.returncode == 0 else None


PROBE = """
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        errno = 0;
        long r = syscall(atol(argv[i]), -1, 0, 0, 0, 0);
        printf("%ld:%d ", r < 0 ? -1 : r, errno);
    }
    printf("\\n"); return 0;
}
"""
CALLS = [
    "read",
    "write",
    "exit_group",
    "execve",
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "readlink",
    "getrandom",
    "newfstatat",
    "fstat",
    "ioctl",
    "close",
    "close_range",
    "readlinkat",
    "uname",
    "access",
]


def test_newer_calls_are_enosys(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """S30: what is newer than the newest call named answers ENOSYS, what is older the default."""
    probe = helper(tmp_path, PROBE)
    if probe is None:
        pytest.skip("needs a C compiler")
    enosys, eperm = 38, 1
    newest, older, newer = 436, 135, 462  # close_range, personality, mseal
    bundle = make_bundle(
        ["/probe", str(older), str(newer), "100000"],
        {
            "process.noNewPrivileges": True,
            "linux.seccomp": {"defaultAction": ERRNO, "syscalls": [{"names": CALLS, "action": ALLOW}]},
        },
    )
    bundle.file("probe", probe.read_bytes(), 0o755)
    assert newest < newer
    assert runtime.look(bundle).split() == [f"-1:{eperm}", f"-1:{enosys}", f"-1:{enosys}"]


def test_other_abis_are_refused(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """S29: x32 and 32-bit entry cannot get around a rule."""
    source = (
        PROBE.replace(
            "int main",
            """
static long int80(long n) {
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
    return r;
}
int main""",
        )
        .replace("int i = 1; i < argc", "int i = 1; i < argc - 1")
        .replace('printf("\\n");', 'printf("%ld\\n", int80(atol(argv[argc - 1])));')
    )
    probe = helper(tmp_path, source)
    if probe is None:
        pytest.skip("needs a C compiler")
    x32_getpid, i386_getpid = 0x40000000 + 39, 20
    bundle = make_bundle(["/probe", str(x32_getpid), str(i386_getpid)], profile())
    bundle.file("probe", probe.read_bytes(), 0o755)
    result = runtime.run(bundle)
    assert result.code != 0 or result.out.split()[1] != "1", result  # init's pid is 1: it must not be told


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "unknown action",
        profile("SCMP_ACT_FOO"),
        "string SCMP_ACT_FOO is not a valid action for seccomp",
        "/linux/seccomp/syscalls/0/action",
    ),
    (
        "unknown default",
        profile(default="SCMP_ACT_FOO"),
        "string SCMP_ACT_FOO is not a valid action for seccomp",
        "/linux/seccomp/defaultAction",
    ),
    ("unknown architecture", profile(architectures=["SCMP_ARCH_FOO"]), "", "/linux/seccomp/architectures/0"),
    (
        "unknown operator",
        profile(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_FOO"}]),
        "",
        "/linux/seccomp/syscalls/0/args/0/op",
    ),
    ("unknown flag", profile(flags=["SECCOMP_FILTER_FLAG_FOO"]), "", "/linux/seccomp/flags/0"),
    (
        "index",
        profile(args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]),
        "",
        "/linux/seccomp/syscalls/0/args/0/index",
    ),
    ("errno with allow", profile(ALLOW, errnoRet=1), "", "/linux/seccomp/syscalls/0/errnoRet"),
    ("notify as default", profile(default=NOTIFY, listenerPath="/x"), "", "/linux/seccomp/defaultAction"),
    ("notify for write", profile(NOTIFY, names=("write",), listenerPath="/x"), "", "/linux/seccomp/syscalls/0"),
    ("notify without a path", profile(NOTIFY), "", "/linux/seccomp"),
    ("metadata without a path", profile(listenerMetadata="x"), "", "/linux/seccomp/listenerMetadata"),
]


@pytest.mark.parametrize(("changes", "text", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], text: str, field: str) -> None:
    """A filter that is not exactly what was asked for is an error (S5, S29)."""
    result = runtime.run(make_bundle("true", changes))
    assert (result.code, text in result.message) == (1, True), result
    assert result.field.startswith(field), result
    assert runtime.ids() == []


def test_exec_has_the_filter(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S26, S31: also when the cache is gone, and from the process file."""
    with runtime.container(make_bundle("sleep 600", profile())) as container:
        assert container.look(TRY) == "Operation not permitted"
        process = {"args": ["sh", "-c", TRY], "cwd": "/", "env": ["PATH=/bin"]}
        path = container.bundle.path / "process.json"
        path.write_text(json.dumps(process))
        assert runtime("exec", "--process", path, container.id).out == "Operation not permitted\n"
        (runtime.root / container.id / "seccomp.bpf").unlink()
        assert container.exec("true").code == 255


def test_cache(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S6: 0700; another errno is another filter; a damaged entry is made again."""
    numbers = (1000 + os.getpid() % 1000, 2000 + os.getpid() % 1000)  # no other run's
    returns = [struct.pack("<HBBI", 6, 0, 0, 0x50000 | number) for number in numbers]
    cache = Path("/run/pyruntime-cache")
    before = set(cache.rglob("*")) if cache.exists() else set()
    for number in numbers:
        assert str(number) in runtime.look(make_bundle(TRY, profile(errnoRet=number)))
        assert str(number) in runtime.look(make_bundle(TRY, profile(errnoRet=number)))
    made = [path for path in set(cache.rglob("*")) - before if any(code in bytes_of(path) for code in returns)]
    assert len(made) == 2
    assert {oct(path.parent.stat().st_mode & 0o7777) for path in made} == {"0o700"}
    for path in made:
        path.write_bytes(b"\0" * path.stat().st_size)
    assert str(number) in runtime.look(make_bundle(TRY, profile(errnoRet=number)))
    for path in made:
        path.unlink(missing_ok=True)


def bytes_of(path: Path) -> bytes:
    """Of a file that another run may take away meanwhile; b"" of what is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_deny_all_says_so(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A profile that kills init itself ends in one line, not in silence, and leaves nothing."""
    result = runtime.run(make_bundle("true", {"linux.seccomp": {"defaultAction": KILL_PROCESS}}))
    assert result.code in (1, 255), result
    assert result.message
    assert runtime.ids() == []


# --- NOTIFY ---------------------------------------------------------------------------------------------------------
class Answerer(threading.Thread):
    """An agent: takes the state and the descriptor, then lets every notified call fail with EXDEV."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        self.server.listen()
        self.server.settimeout(4 * WAIT_S)  # between create and exec
        self.states: list[dict[str, Any]] = []
        self.fds: list[int] = []

    def run(self) -> None:
        """One connection for each process."""
        try:
            while True:
                client, _ = self.server.accept()
                with client:
                    data, fds, _, _ = socket.recv_fds(client, 1 << 16, 4)
                    rest = client.recv(1)
                self.states.append({**json.loads(data), "count": len(fds), "rest": rest})
                self.fds += fds
                threading.Thread(target=self.answer, args=(fds[0],), daemon=True).start()
        except OSError:
            return

    def answer(self, fd: int) -> None:
        """SECCOMP_IOCTL_NOTIF_RECV and _SEND (linux/seccomp.h): 80 and 24 bytes."""
        libc = ctypes.CDLL(None, use_errno=True)
        while True:
            request, response = ctypes.create_string_buffer(80), ctypes.create_string_buffer(24)
            if libc.ioctl(fd, ctypes.c_ulong(0xC0502100), request) < 0:
                return
            ctypes.memmove(response, request.raw[:8], 8)
            ctypes.memmove(ctypes.addressof(response) + 16, (-18).to_bytes(4, "little", signed=True), 4)
            libc.ioctl(fd, ctypes.c_ulong(0xC0182101), response)

    def close(self) -> None:
        """Let go of everything."""
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for fd in self.fds:
            os.close(fd)


def test_notify(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """One connection, one JSON, one descriptor; exec tells the running state and its own pid (contract 4.9)."""
    agent = Answerer(tmp_path / "agent")
    agent.start()
    changes = profile(NOTIFY, listenerPath=str(tmp_path / "agent"), listenerMetadata="meta")
    try:
        with runtime.container(make_bundle(f"{TRY}; sleep 600", changes)) as container:
            container.wait_output("\n")
            assert container.output() == "Invalid cross-device link\n"
            pid = container.pid
            assert container.look(TRY) == "Invalid cross-device link"
        first, second = agent.states
        assert (first["ociVersion"], first["fds"], first["metadata"], first["count"], first["rest"]) == (
            "1.3.0",
            ["seccompFd"],
            "meta",
            1,
            b"",
        )
        assert (first["pid"], first["state"]["status"], first["state"]["id"]) == (pid, "creating", container.id)
        assert (second["state"]["status"], second["state"]["pid"]) == ("running", pid)
        assert second["pid"] not in (pid, 0)
    finally:
        agent.close()
        agent.join(WAIT_S)


def test_notify_without_agent(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Nobody listens: create fails and leaves nothing."""
    result = runtime.run(make_bundle("true", profile(NOTIFY, listenerPath=str(tmp_path / "no"))))
    assert (result.code, result.field.startswith("/linux/seccomp")) == (1, True), result
    assert runtime.ids() == []
