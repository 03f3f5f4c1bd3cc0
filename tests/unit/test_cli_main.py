"""Dispatch, exit codes and what goes where: contract 1.1, 1.5, 1.6, 1.8. No container is made here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyruntime.cli import main as main_module
from pyruntime.cli import verbs
from pyruntime.cli.flags import VERBS
from pyruntime.cli.main import FAST, default_root, main
from pyruntime.cli.output import list_table
from pyruntime.cli.paths import absolute, clean
from pyruntime.cli.ps_table import ps_table
from pyruntime.errors import HostError, RuntimeFailure, SpecError


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`call(words)` gives (exit code, stdout, stderr) of the command with a root of its own."""

    def run(*words: str, root: str = "") -> tuple[int, str, str]:
        code = main(["prog", "--root", root or str(tmp_path), *words])
        return code, *capfd.readouterr()

    return run


NO_CONFIG = "JSON specification file config.json not found"
Call = Callable[..., tuple[int, str, str]]


def message(stderr: str) -> str:
    """The msg of the first record."""
    found = re.match(r'time="[^"]+" level=error msg=(?:"((?:[^"\\]|\\.)*)"|(\S+))', stderr)
    assert found, stderr
    return (found[1] or found[2] or "").replace('\\"', '"')


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["foo"], 3, "No help topic for 'foo'"),
        (["version"], 3, "No help topic for 'version'"),
        (["help", "foo"], 3, "No help topic for 'foo'"),
        (["create"], 1, 'prog: "create" requires exactly 1 argument(s)'),
        (["create", "a", "b"], 1, 'prog: "create" requires exactly 1 argument(s)'),
        (["kill"], 1, 'prog: "kill" requires a minimum of 1 argument(s)'),
        (["kill", "x", "--all", "KILL"], 1, 'prog: "kill" requires a maximum of 2 argument(s)'),
        (["exec"], 1, 'prog: "exec" requires a minimum of 1 argument(s)'),
        (["list", "x"], 1, 'prog: "list" requires exactly 0 argument(s)'),
        (["state", "--foo", "x"], 1, "flag provided but not defined: -foo"),
        (["state", "x"], 1, "container does not exist"),
        (["state", ""], 1, "container id cannot be empty"),
        (["state", "a/b"], 1, "invalid container ID format"),
        (["exec", "x", "true"], 255, "exec failed: container does not exist"),
        (["exec", "x"], 255, "exec failed: process args cannot be empty"),
        (["kill", "x"], 1, "container does not exist"),
        (["delete", "x"], 1, "container does not exist"),
        (["list", "--format", "xml"], 1, "invalid format option"),
        (["ps", "--format", "xml", "x"], 1, "invalid format option"),
        (["events", "--interval", "0", "x"], 1, "duration interval must be greater than 0"),
        (["kill", "--regex", "("], 1, "invalid regular expression"),
        (["create", "--bundle", "/nonexistent", "x"], 1, f"pyruntime create failed: {NO_CONFIG}"),
        (["run", "--bundle", "/nonexistent", "x"], 1, f"pyruntime run failed: {NO_CONFIG}"),
        (["run", "/nonexistent/"], 1, f"pyruntime run failed: {NO_CONFIG}"),
        (["explain", "/nonexistent"], 1, NO_CONFIG),
    ],
    ids=str,
)
def test_failures(words: list[str], code: int, text: str, call: Call) -> None:
    got, _, stderr = call(*words)
    assert (got, message(stderr)[: len(text)]) == (code, text)
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["strat"], "did you mean start? `pyruntime help` lists the commands"),
        (["help", "foo"], "`pyruntime help` lists the commands"),
        (["state", "x"], "`pyruntime list` shows the containers below"),
        (["list", "-f", "xml"], "--format is table or json"),
        (["exec", "x"], "name a command after the id, or a file with --process"),
        (["events", "--interval", "soon", "x"], "a number with a unit, as in 500ms, 5s or 1m"),
        (["create", "--preserve-fds", "few", "x"], "a whole number"),
        (["create", "--no-pivot=maybe", "x"], "true or false"),
        (["update", "--memory", "much", "x"], "bytes, or with one of k m g t p behind the number"),
        (["update", "--cpu-share", "-1", "x"], "a number from 0 to 18446744073709551615"),
        (["run", "--bundle", "/etc/passwd", "x"], "a bundle is the folder that holds it"),
        (["explain", "--bundle", "a", "b"], "as an argument or with --bundle"),
        (["--log-format", "xml", "list"], "formats are text and json"),
        (["--rootless", "maybe", "list"], "--rootless is true, false or auto"),
    ],
    ids=str,
)
def test_hints(words: list[str], hint: str, call: Call) -> None:
    _, _, stderr = call(*words)
    assert f"\n  hint: {hint}" in stderr


def test_the_bundle_of_explain_and_validate(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, --bundle, or the current directory."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "bundle")
    for words in (["validate"], ["validate", "."], ["validate", "-b", "."], ["validate", "--config", "config.json"]):
        code, stdout, _ = call(*words)
        assert (code, "ociVersion is missing" in stdout) == (1, True), words


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["create"], "Incorrect Usage."),
        (["state", "--foo", "x"], "Incorrect Usage: flag provided but not defined: -foo"),
    ],
    ids=str,
)
def test_wrong_usage_prints_help_on_stdout(words: list[str], first: str, call: Call) -> None:
    _, stdout, _ = call(*words)
    assert stdout.splitlines()[:3] == [first, "", "NAME:"]


@pytest.mark.parametrize("verb", ["state", "create", "start", "kill", "delete"])
def test_an_id_is_needed(verb: str, call: Call) -> None:
    code, _, stderr = call(verb)
    assert code == 1
    assert f'"{verb}" requires' in message(stderr)


def test_wrong_global_flag(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prog", "--foo"]) == 1
    stdout, stderr = capfd.readouterr()
    assert stdout.startswith("Incorrect Usage. flag provided but not defined: -foo\n\nNAME:\n")
    assert message(stderr) == "flag provided but not defined: -foo"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--log-format", "xml", "state", "x"], "invalid log-format: xml"),
        (["--root", "/", "state", "x"], "Option --root argument should not be set to /"),
        (["--root", "/tmp/..", "state", "x"], "Option --root argument should not be set to /"),
        (["--rootless=foo", "state", "x"], 'strconv.ParseBool: parsing "foo": invalid syntax'),
        (["--cgroup-manager=x", "state", "x"], "invalid cgroup manager: x"),
    ],
    ids=str,
)
def test_global_flags_refused(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prog", *words]) == 1
    assert message(capfd.readouterr().err) == text


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["h"]], ids=str)
def test_help_of_the_program(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prog", *words]) == 0
    stdout, stderr = capfd.readouterr()
    assert stderr == ""
    assert all(f"\n   {name} " in stdout for name in VERBS)
    assert "--criu" not in stdout


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prog", name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert main(["prog", "help", name]) == 0
    assert capfd.readouterr().out == shown
    assert all(f"--{row[0]}" in shown for row in VERBS[name][5] if len(row) < 7)


@pytest.mark.parametrize("word", ["--version", "-v", "-V"])
def test_version(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prog", word]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"pyruntime version \d+\.\d+\.\d+\S*", lines[0])
    assert "spec: 1.3.0" in lines
    names = [line.partition(":")[0] for line in lines[1:]]
    assert names == [name for name in ("commit", "spec", "libseccomp") if name in names]


def test_list_of_nothing(call: Call) -> None:
    assert call("list")[:2] == (0, "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n")
    assert call("list", "-q")[:2] == (0, "")
    assert call("list", "-f", "json")[:2] == (0, "[]\n")


def test_list_of_a_root_that_is_missing(call: Call, tmp_path: Path) -> None:
    code, _, stderr = call("list", root=f"{tmp_path}/none")
    assert (code, message(stderr)) == (1, f"open {tmp_path}/none: no such file or directory")


def test_list_table() -> None:
    state = {"id": "a-long-identifier", "pid": 7, "status": "running", "bundle": "/b", "created": "now"}
    assert list_table([state | {"owner": "root"}]).splitlines() == [
        "ID                  PID         STATUS      BUNDLE      CREATED     OWNER",
        "a-long-identifier   7           running     /b          now         root",
    ]


def test_delete_force_of_nothing(call: Call) -> None:
    assert call("delete", "--force", "x") == (0, "", "")


def test_details_go_to_stderr_and_not_to_the_log(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code, _, stderr = call("--log", str(log), "--log-format", "json", "state", "x")
    assert code == 1
    assert stderr.splitlines()[0] == "container does not exist"
    assert json.loads(log.read_text())["msg"] == "container does not exist"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SpecError("a is wrong", field="/a"), "a is wrong"),
        (HostError("mount: busy"), "mount: busy"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: no such file or directory"),
        (PermissionError(1, "Operation not permitted"), "operation not permitted"),
        (MemoryError(), "out of memory"),
        (KeyError("k"), "internal error: KeyError: 'k'"),
        (ModuleNotFoundError("No module named 'h11'", name="h11"), "cannot import h11: No module named 'h11'"),
        (ModuleNotFoundError("no", name="pyruntime.x"), "cannot load pyruntime.x"),
        (ImportError("cannot import name 'x'", name="pyruntime.lifecycle"), "cannot load: cannot import name 'x'"),
        (ImportError("cannot import name", name="pyruntime.x"), "internal error: ImportError: cannot import name"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "code", "prefix"),
    [
        ("state", 1, ""),
        ("create", 1, "pyruntime create failed: "),
        ("run", 1, "pyruntime run failed: "),
        ("exec", 255, "exec failed: "),
    ],
)
def test_every_error_is_one_line(error: Exception, text: str, name: str, code: int, prefix: str, call: Call,
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def fail(_: verbs.Call) -> int:
        if isinstance(error, RuntimeFailure):
            raise type(error)(error.message, field=error.field)
        raise error

    monkeypatch.setitem(verbs.FUNCTIONS, name, fail)
    got, stdout, stderr = call(name, "x", "y") if name == "exec" else call(name, "x")
    assert (got, stdout, message(stderr)) == (code, "", prefix + text)
    assert "Traceback" not in stderr


def test_debug_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: verbs.Call) -> int:
        raise KeyError("k")

    monkeypatch.setitem(verbs.FUNCTIONS, "state", fail)
    assert "Traceback" in call("--debug", "state", "x")[2]


def test_the_exit_code_of_a_verb_is_the_program_s(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verbs.FUNCTIONS, "run", lambda _: 143)
    assert call("run", "x")[0] == 143


def test_an_obsolete_flag_warns(call: Call) -> None:
    assert "level=warning" in call("--criu", "/usr/sbin/criu", "list")[2]


@pytest.mark.parametrize(
    ("words", "bundle", "is_given"),
    [
        (["run", "."], ".", False),
        (["run", "./b"], "b", False),
        (["run", "-b", "b", "x"], "b", True),
        (["run", "x"], ".", True),
    ],
    ids=str,
)
def test_run_takes_a_bundle_or_an_id(words: list[str], bundle: str, is_given: bool, call: Call,
                                     monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    import pyruntime.lifecycle.run

    seen: list[tuple[str, str, dict[str, object]]] = []
    replaced = pyruntime.lifecycle.run
    monkeypatch.setattr(replaced, "run", lambda _, name, path, **flags: seen.append((name, path, flags)) or 0)
    monkeypatch.chdir(tmp_path)
    assert call(*words )[0] == 0
    name, path, flags = seen[0]
    assert path == absolute(bundle, str(tmp_path))
    assert (name == "x") is is_given
    assert flags["config"] == "config.json"
    assert flags["signals"] is True


def test_generated_ids_differ() -> None:
    names = {verbs.generated_id() for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"run-[0-9a-f]{12}", name) for name in names)


def test_paths_of_create(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyruntime.lifecycle.create

    seen: list[dict[str, object]] = []
    monkeypatch.setattr(pyruntime.lifecycle.create, "create", lambda *_, **flags: seen.append(flags) or 0)
    monkeypatch.chdir(tmp_path)
    sockets = ("--console-socket", "c", "--pidfd-socket", "/q")
    call("create", "-b", "b", "--pid-file", "p", *sockets, "--preserve-fds", "2", "x")
    assert seen[0]["pid_file"] == f"{tmp_path}/p"
    assert seen[0]["console_socket"] == f"{tmp_path}/b/c"
    assert seen[0]["pidfd_socket"] == "/q"
    assert seen[0]["preserve_fds"] == 2


@pytest.mark.parametrize(
    ("pid", "count", "passed"),
    [("own", "3", 3), ("1", "3", 0), ("own", "x", 0), ("own", "-1", 0), ("own", "", 0), ("own", "9" * 9, 0)],
)
def test_socket_activation(pid: str, count: str, passed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import posix

    own = str(os.getpid()) if pid == "own" else pid
    monkeypatch.setattr(posix, "environ", {b"LISTEN_PID": own.encode(), b"LISTEN_FDS": count.encode()})
    assert verbs.listen_fds() == passed


def test_update_sends_what_was_given(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyruntime.lifecycle.update

    seen: list[dict[str, object]] = []
    monkeypatch.setattr(pyruntime.lifecycle.update, "update", lambda *_, **words: seen.append(words))
    document = tmp_path / "resources.json"
    document.write_text("{}")
    call("update", "--memory", "64m", "--pids-limit=0", "--kernel-memory", "1", "x")
    call("update", "--memory", "1", "--resources", str(document), "x")
    assert seen == [{"flags": {"memory": "64m", "pids-limit": "0"}}, {"resources": b"{}"}]


def test_spec_writes_once(call: Call, tmp_path: Path) -> None:
    assert call("spec", "-b", str(tmp_path)) == (0, "", "")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["process"]["terminal"] is True
    code, _, stderr = call("spec", "-b", str(tmp_path))
    assert (code, message(stderr)) == (1, "File config.json exists. Remove it first")
    assert json.loads(call("spec", "--file", "-", "--rootless")[1])["linux"]["uidMappings"]


def test_the_root_of_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import posix

    monkeypatch.setattr(posix, "environ", {b"XDG_RUNTIME_DIR": os.fsencode(tmp_path)})
    monkeypatch.setattr(main_module, "_honours_xdg", lambda: False)
    assert default_root() == "/run/pyruntime"
    monkeypatch.setattr(main_module, "_honours_xdg", lambda: True)
    assert default_root() == f"{tmp_path}/pyruntime" == default_root()
    assert (tmp_path / "pyruntime").stat().st_mode & 0o7777 == 0o1700
    monkeypatch.setattr(posix, "environ", {})
    assert default_root() == "/run/pyruntime"


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [("/a/./b//c/..", "/a/b"), ("/..", "/"), ("", "."), ("a/..", "."), ("../x", "../x"), ("./b/", "b"), ("//", "/")],
)
def test_clean(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


def test_ps_table_keeps_the_header_and_the_rows_asked_for() -> None:
    own = os.getpid()
    lines = ps_table([own], ["-eo", "pid,ppid,comm"]).splitlines()
    assert lines[0].split() == ["PID", "PPID", "COMMAND"]
    assert [line.split()[0] for line in lines[1:]] == [str(own)]


def test_ps_without_a_pid_column() -> None:
    with pytest.raises(HostError, match="couldn't find PID field"):
        ps_table([1], ["-eo", "comm"])


def test_every_fast_verb_exists() -> None:
    assert set(FAST) <= set(VERBS) == set(verbs.FUNCTIONS)
