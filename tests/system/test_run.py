"""`pyruntime run`: from a bundle to its program's exit code; stdio, signals, files, errors (contract 1.4, 1.5)."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import DELETE, Bundle, namespaces
from tests.system.runtime import finish, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.runtime import Result, Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

NO_PID_NS = {"linux.namespaces": [entry for entry in namespaces() if entry["type"] != "pid"]}
SLEEP = "echo ready; exec sleep 600"
MEGABYTES = 8 << 20


def test_run_short_form(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """`run bundle/`: the id is generated, and gone at the end."""
    bundle = make_bundle("echo from inside $$")
    result = runtime("run", f"{bundle.path}/")
    assert (result.code, result.out) == (0, "from inside 1\n"), result


@pytest.mark.parametrize("where", [".", "./", "../here", "empty/..", ".."])
def test_run_short_form_is_a_path(runtime: Runtime, make_bundle: MakeBundle, where: str) -> None:
    """What is `.`, `..` or holds a slash can be no id, and so names the bundle."""
    bundle = make_bundle("echo inside", name="here")
    (bundle.path / "empty").mkdir()
    cwd = bundle.path / "empty" if where == ".." else bundle.path
    assert runtime("run", where, cwd=cwd).out == "inside\n"


def test_run_default_bundle(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Without -b the bundle is the working directory."""
    bundle = make_bundle("echo inside")
    assert runtime("run", runtime.new_id(), cwd=bundle.path).out == "inside\n"


@pytest.mark.parametrize("flag", ["-f", "--config"])
def test_run_config_name(runtime: Runtime, make_bundle: MakeBundle, flag: str) -> None:
    """--config names another file of the bundle (crun's flag, contract 1.4)."""
    bundle = make_bundle("echo other")
    (bundle.path / "config.json").rename(bundle.path / "other.json")
    assert runtime.look(bundle, flag, "other.json") == "other"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
    ],
    ids=str,
)
def test_exit_code(runtime: Runtime, make_bundle: MakeBundle, script: str, code: int) -> None:
    """The program's own code comes back, and nothing is said."""
    result = runtime.run(make_bundle(script))
    assert (result.code, result.err) == (code, "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "ABRT", "USR1"])
def test_exit_code_of_signal(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """128 + n; without a pid namespace, where a program can end itself by a signal."""
    result = runtime.run(make_bundle(f"kill -{name} $$; sleep 5", NO_PID_NS))
    assert result.code == 128 + getattr(signal, f"SIG{name}")


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "CONT", "RTMIN"])
def test_signals_are_forwarded(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """A signal to the foreground `run` reaches the program (R9)."""
    number = getattr(signal, f"SIG{name}")
    script = f"trap 'echo got {name}; exit 5' {number}; echo ready; while :; do sleep 0.02; done"
    with runtime.foreground(make_bundle(script)) as run:
        run.call.send_signal(number)
        assert finish(run.call) == 5
        assert run.out.read() == f"got {name}\n".encode()


def test_sigterm_ends_with_143(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A forwarded SIGTERM that kills the program gives 143."""
    with runtime.foreground(make_bundle(SLEEP, NO_PID_NS)) as run:
        run.call.terminate()
        assert finish(run.call) == 143


def test_sigkill_of_init_ends_with_137(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """`kill ID KILL` beside a foreground run."""
    with runtime.foreground(make_bundle(SLEEP)) as run:
        assert runtime("kill", run.id, "KILL").code == 0
        assert finish(run.call) == 137


def test_eight_megabytes_through_pipes(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """stdin to stdout and stderr, complete and in order (R11)."""
    data = os.urandom(1 << 20) * (MEGABYTES >> 20)
    argv = runtime.argv("run", "-b", make_bundle("tee /proc/self/fd/2").path, runtime.new_id())
    done = subprocess.run(argv, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data


def test_early_reader_exit(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Nobody reads stdout any more: the program gets SIGPIPE, nothing hangs (R11)."""
    bundle = make_bundle("echo ready; dd if=/dev/zero bs=65536 count=64 2>/dev/null; echo $? >/code")
    with runtime.foreground(bundle) as run:
        assert len(run.out.read(10)) == 10
        run.out.close()
        assert finish(run.call) == 0
    assert (bundle.rootfs / "code").read_text() == "141\n"


def test_stdin_is_passed(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A file as stdin."""
    assert runtime.look(make_bundle("cat"), stdin="to the inside\n") == "to the inside"


def test_closed_stdio(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A caller without descriptors 0-2 still gets a container with its own three, and none of ours (S13)."""
    bundle = make_bundle("ls /proc/self/fd >/fds; exit 3")
    argv = runtime.argv("run", "-b", bundle.path, runtime.new_id())
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv], check=False, timeout=60)
    assert done.returncode == 3
    assert set((bundle.rootfs / "fds").read_text().split()) <= {"0", "1", "2", "3"}  # 3 is ls's own


def test_detach(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """-d returns once the program runs; stdio is inherited as it is."""
    name = runtime.new_id()
    out = tmp_path / "out"
    with out.open("wb") as file:
        call = runtime.popen("run", "-d", "-b", make_bundle("echo up; exec sleep 600").path, name, stdout=file)
    try:
        assert finish(call) == 0
        assert '"status": "running"' in runtime("state", name).out
        wait_until(lambda: out.read_text() == "up\n", "the program's output")
    finally:
        assert runtime("delete", "--force", name).code == 0


def test_keep(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--keep leaves a stopped container."""
    name = runtime.new_id()
    assert runtime("run", "-keep", "-b", make_bundle("exit 4").path, name).code == 4
    state = runtime("state", name).out
    assert '"status": "stopped"' in state
    assert '"pid": 0' in state
    assert runtime("delete", name).code == 0


@pytest.mark.parametrize("verb", ["run", "create"])
def test_pid_file(runtime: Runtime, make_bundle: MakeBundle, verb: str) -> None:
    """Decimal, no line end, made absolute before anything changes folder (contract 1.4)."""
    bundle = make_bundle("exec sleep 600")
    name = runtime.new_id()
    detach = ["-d"] if verb == "run" else []
    (bundle.path / "sub").mkdir()
    result = runtime(verb, *detach, "--pid-file", "sub/pid", "--bundle", ".", name, cwd=bundle.path)
    try:
        assert result.code == 0, result
        text = (bundle.path / "sub/pid").read_text()
        assert f'"pid": {text},' in runtime("state", name).out
        assert os.listdir(bundle.path / "sub") == ["pid"]
    finally:
        runtime("delete", "--force", name)


def test_no_pid_file_after_failure(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Written only after success."""
    result = runtime.run(make_bundle(["/nope"]), "--pid-file", tmp_path / "pid")
    assert result.code == 1
    assert not (tmp_path / "pid").exists()


def test_pid_file_in_missing_folder(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A pid file that cannot be written fails the create, which leaves nothing (R2)."""
    result = runtime("create", "-b", make_bundle("sleep 600").path, "--pid-file", tmp_path / "no/pid", runtime.new_id())
    assert result.code == 1
    assert "no such file or directory" in result.message
    assert runtime.ids() == []


# (args, file to make, message's end): the program cannot be executed; create fails, exit 1 (contract 1.7)
PROGRAMS: list[tuple[list[str], dict[str, Any], str]] = [
    (["nope"], {}, 'exec: "nope": executable file not found in $PATH'),
    (["/nope"], {}, 'exec: "/nope": stat /nope: no such file or directory'),
    (["/bin"], {}, 'exec: "/bin": is a directory'),
    (["/plain"], {"name": "plain", "content": "x"}, 'exec: "/plain": permission denied'),
    (["/etc/passwd/x"], {}, 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
]


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize(("args", "file", "text"), PROGRAMS, ids=lambda value: str(value)[:20])
def test_program_cannot_run(
    runtime: Runtime, make_bundle: MakeBundle, verb: str, args: list[str], file: dict[str, Any], text: str
) -> None:
    """Seen by create; line 1 in the peers' words, below it the field."""
    bundle = make_bundle(args)
    if file:
        bundle.file(**file)
    result = runtime(verb, "-b", bundle.path, runtime.new_id())
    assert (result.code, result.out) == (1, ""), result
    assert result.message.startswith(f"pyruntime {verb} failed: unable to start container process: ")
    assert result.message.endswith(text)
    assert result.field == "/process/args/0"
    assert runtime.ids() == []


def test_no_path_no_bare_names(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The PATH that counts is the container's own."""
    result = runtime.run(make_bundle(["busybox", "true"], {"process.env": []}))
    assert result.code == 1
    assert "executable file not found in $PATH" in result.message


# (content of /x, mode, what is said): execve itself fails, after start (contract 1.5)
LATE = [
    (b"\x7fELF garbage", "exec /x: exec format error"),
    (b"#!/no/interpreter\n", "exec /x: no such file or directory"),
    (b"", "exec /x: exec format error"),
]


@pytest.mark.parametrize(("content", "text"), LATE, ids=str)
def test_late_failure_of_run(runtime: Runtime, make_bundle: MakeBundle, content: bytes, text: str) -> None:
    """`run` gives 255 and the cause."""
    bundle = make_bundle(["/x"])
    bundle.file("x", content, 0o755)
    result = runtime.run(bundle)
    assert result.code == 255, result
    assert text in result.err
    assert text in result.message


@pytest.mark.parametrize(("content", "text"), LATE, ids=str)
def test_late_failure_of_start(runtime: Runtime, make_bundle: MakeBundle, content: bytes, text: str) -> None:
    """`start` gives 1 and the cause; the text is on the container's stderr too and its status is stopped."""
    bundle = make_bundle(["/x"])
    bundle.file("x", content, 0o755)
    with runtime.container(bundle, start=False) as container:
        result = container("start")
        assert (result.code, text in result.message) == (1, True), result
        wait_until(lambda: text in container.errors(), "the text on the container's stderr")
        container.wait_status("stopped")


def test_interpreter_is_named(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A program that is there but whose interpreter is not says so on a line of its own (contract 7, row 14)."""
    bundle = make_bundle(["/x"])
    bundle.file("x", "#!/no/interpreter\n", 0o755)
    assert "its interpreter (#! line or ELF loader) is not in the image" in runtime.run(bundle).err


def test_cwd_is_made(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A missing cwd is made at create, 0755, root's (contract 3.4)."""
    bundle = make_bundle("pwd; stat -c %a:%u .", {"process.cwd": "/new/folder"})
    assert runtime.look(bundle) == "/new/folder\n755:0"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"process.cwd": "/bin/busybox"}, "not a directory"),
        ({"process.cwd": ""}, "Cwd property must not be empty"),
        ({"process.cwd": "rel"}, "Cwd must be an absolute path"),
        ({"process.args": []}, "args must not be empty"),
        ({"process": DELETE}, "process property must not be empty"),
        ({"root": DELETE}, "root must be specified"),
        ({"root.path": "missing"}, "invalid rootfs: "),
        ({"process.terminal": True}, "open /dev/tty: no such device or address"),
    ],
    ids=str,
)
def test_config_is_refused(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], text: str) -> None:
    """One clear line, exit 1, nothing left."""
    bundle = make_bundle("true")
    bundle.change(changes)
    result = runtime.run(bundle, start_new_session=True)
    assert result.code == 1
    assert text in result.message
    assert runtime.ids() == []


def test_terminal_rules(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """terminal needs a console socket when nobody stays, and a console socket needs terminal (contract 1.7)."""
    needs = "cannot allocate tty if runc will detach without setting console socket"
    spare = "cannot use console socket if runc will not detach or allocate tty"
    terminal, plain = make_bundle("true", {"process.terminal": True}), make_bundle("true")
    for bundle, flags, text in (
        (terminal, ("run", "-d"), needs),
        (terminal, ("create",), needs),
        (plain, ("create", "--console-socket", tmp_path / "s"), spare),
        (plain, ("run", "--console-socket", tmp_path / "s"), spare),
        (terminal, ("run", "--console-socket", tmp_path / "s"), spare),
    ):
        result = runtime(*flags, "-b", bundle.path, runtime.new_id())
        assert (result.code, text in result.message) == (1, True), (flags, result)


def test_bundle_is_not_changed(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A read-only root: config.json and the rootfs keep their bytes and times."""
    bundle = make_bundle("touch /new || echo refused", {"root.readonly": True})

    def look() -> list[tuple[str, int, int]]:
        return sorted(
            (str(path), path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in bundle.path.rglob("*")
            if not stat.S_ISLNK(path.lstat().st_mode)
        )

    before = look()
    assert runtime.look(bundle) == "refused"
    assert look() == before


def test_no_subreaper(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--no-subreaper is accepted; the code still comes back."""
    assert runtime.run(make_bundle("exit 6"), "--no-subreaper").code == 6


def test_orphans_end_with_init(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A background process of the container does not outlive it nor delay `run`."""
    assert runtime.run(make_bundle("sleep 600 & exit 2")).code == 2


def test_orphans_end_without_pid_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The same where the kernel does not do it: by the cgroup (contract 3.3, delete)."""
    assert runtime.run(make_bundle("sleep 600 & exit 2", NO_PID_NS)).code == 2


def test_caller_death_leaves_container_alone(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """SIGKILL to a foreground `run`: the container goes on and can be deleted."""
    with runtime.foreground(make_bundle(SLEEP)) as run:
        run.call.kill()
        assert finish(run.call) == 137
        assert '"status": "running"' in runtime("state", run.id).out


@pytest.mark.slow
def test_fifty_at_once(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """50 parallel runs, each with its own code (R6)."""
    bundles = [make_bundle(f"exit {number}") for number in range(50)]
    wrong: dict[int, Result] = {}

    def one(number: int) -> None:
        result = runtime("run", f"{bundles[number].path}/", timeout_s=240)
        if result != (number, "", ""):
            wrong[number] = result

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == {}
