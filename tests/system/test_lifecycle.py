"""create, start, state, kill, delete, list, ps, pause, resume: wrong states, races, damage (contract 1-3)."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyruntime.lifecycle import state, store
from pyruntime.lifecycle.delete import delete
from pyruntime.lifecycle.settings import Settings
from tests.system.bundle import Bundle, namespaces
from tests.system.leaks import cgroups
from tests.system.runtime import Container, Result, finish, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

SLEEP = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
RFC3339_NANO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@pytest.fixture
def running(runtime: Runtime, make_bundle: MakeBundle) -> Iterator[Container]:
    """A running container whose program has set itself up; SIGTERM ends it with 9."""
    with runtime.container(make_bundle(SLEEP, {"annotations": {"org.example.key": "välue", "b": ""}})) as container:
        container.wait_output("ready")
        yield container


def test_a_whole_life(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """create, start, pause, resume, kill, delete: the statuses between, and silence."""
    bundle = make_bundle("echo ran; exec sleep 1000")
    with runtime.container(bundle, start=False) as container:
        assert container.status == "created"
        assert (runtime.root / container.id / "exec.fifo").exists()
        assert container.output() == ""
        pid = container.pid
        for verb, status in (("start", "running"), ("pause", "paused"), ("resume", "running")):
            assert container.ok(verb) == ""
            assert (container.status, container.pid) == (status, pid)
        container.wait_output("ran\n")
        assert not (runtime.root / container.id / "exec.fifo").exists()
        assert container.ok("kill", "KILL") == ""
        container.wait_status("stopped")
        assert container.pid == 0
        assert container.ok("delete") == ""
        assert container("state").code == 1
        assert container.output() == "ran\n"
        assert container.errors() == ""


def test_state_document(running: Container) -> None:
    """Keys, types and layout as contract 2.1 has them."""
    text = running.ok("state")
    state = json.loads(text)
    assert list(state) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert text.startswith('{\n  "ociVersion": "1.3.0",\n  "id": ')
    assert text.endswith("\n}")
    assert (state["bundle"], state["rootfs"]) == (str(running.bundle.path), str(running.bundle.rootfs))
    assert RFC3339_NANO.fullmatch(state["created"])
    assert (state["annotations"], state["owner"]) == ({"org.example.key": "välue", "b": ""}, "")
    assert (running.bundle.rootfs / "proc").exists()
    assert os.stat(f"/proc/{state['pid']}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino


def test_no_annotations_no_key(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Omitted when empty."""
    with runtime.container(make_bundle("sleep 600"), start=False) as container:
        assert "annotations" not in container.state()


def test_state_directory(running: Container) -> None:
    """Modes and keys that outsiders read (contract 1.8, S39)."""
    root = running.runtime.root
    folder = root / running.id
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (root, folder, folder / "state.json")}
    assert modes == {root.name: "0o700", folder.name: "0o711", "state.json": "0o600"}
    saved = running.saved()
    wanted = {
        "id",
        "init_process_pid",
        "init_process_start",
        "created",
        "config",
        "cgroup_paths",
        "namespace_paths",
        "external_descriptors",
        "intel_rdt_path",
        "rootless",
    }
    assert wanted <= saved.keys()
    assert saved["init_process_pid"] == running.pid
    assert saved["config"]["annotations"]["org.example.key"] == "välue"
    assert saved["namespace_paths"]["NEWNS"] == f"/proc/{running.pid}/ns/mnt"
    assert all(os.path.isdir(path) for path in saved["cgroup_paths"].values())
    assert "freezer" in saved["cgroup_paths"]


def test_state_is_private_whatever_the_umask(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S39: no state file writable by others, container umask 0022 unless set."""
    with runtime.container(make_bundle("umask; sleep 600"), umask=0) as container:
        container.wait_output("0022")
        for path in [runtime.root, *runtime.root.rglob("*")]:
            assert path.name.startswith("exec.") or not path.stat().st_mode & 0o022, path


def test_fifo_belongs_to_the_containers_root(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """exec.fifo 0622, owned by the host id of the container's root (contract 1.8)."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    bundle = make_bundle(
        "true", {"linux.namespaces": namespaces("user"), "linux.uidMappings": maps, "linux.gidMappings": maps}
    )
    os.chown(bundle.rootfs, 100000, 100000)
    with runtime.container(bundle, start=False) as container:
        there = (runtime.root / container.id / "exec.fifo").stat()
        assert (oct(there.st_mode & 0o7777), there.st_uid, there.st_gid) == ("0o622", 100000, 100000)


# --- wrong states (R14): (verb and arguments, exit code, message) in each status ------------------------------------
MISSING: list[tuple[tuple[str, ...], int]] = [
    (("start", "ID"), 1),
    (("state", "ID"), 1),
    (("kill", "ID"), 1),
    (("kill", "ID", "9"), 1),
    (("kill", "--all", "ID"), 1),
    (("delete", "ID"), 1),
    (("ps", "ID"), 1),
    (("pause", "ID"), 1),
    (("resume", "ID"), 1),
    (("update", "--pids-limit", "10", "ID"), 1),
    (("events", "--stats", "ID"), 1),
    (("exec", "ID", "true"), 255),
    (("delete", "--force", "ID"), 0),
]


@pytest.mark.parametrize(
    ("call", "code"), MISSING, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_no_such_container(runtime: Runtime, call: tuple[str, ...], code: int) -> None:
    """Every verb names it the same way; --force makes it success."""
    result = runtime(*(runtime.new_id() if word == "ID" else word for word in call))
    assert result.code == code
    assert result.message.endswith("container does not exist" if code else "")
    assert result.out == ""


RUNNING = [
    (("start",), 1, "cannot start an already running container"),
    (("resume",), 1, "container not paused"),
    (("delete",), 1, "cannot delete container {id} that is not stopped: running"),
    (("kill", "FOO"), 1, 'unknown signal "FOO"'),
    (("kill", "65"), 1, 'unknown signal "65"'),
    (("kill", "-1"), 1, ""),
    (("kill", "0"), 0, ""),
]
STOPPED = [
    (("start",), 1, "cannot start a container that has stopped"),
    (("kill",), 1, "container not running"),
    (("kill", "0"), 1, "container not running"),
    (("pause",), 1, "container not running"),
    (("resume",), 1, "container not paused"),
    (("update", "--pids-limit", "10"), 1, "container not running"),
    (("events", "--stats"), 1, "container with id {id} is not running"),
    (("exec", "true"), 255, "exec failed: cannot exec in a stopped container"),
    (("ps", "--format", "json"), 0, ""),
]
PAUSED = [
    (("start",), 1, "cannot start a container in the paused state"),
    (("pause",), 1, "container not running"),
    (("delete",), 1, "cannot delete container {id} that is not stopped: paused"),
    (("exec", "true"), 255, "exec failed: cannot exec in a paused container (use --ignore-paused to override)"),
    (("kill", "0"), 0, ""),
]
CREATED = [
    (("resume",), 1, "container not paused"),
    (("kill", "0"), 0, ""),
]


def check_refusals(container: Container, rows: list[tuple[tuple[str, ...], int, str]]) -> None:
    """Every row refused (or not) in one line, and the status the same after it."""
    before = container.state()
    for (verb, *rest), code, text in rows:
        flags = [word for word in rest if word.startswith("--") or word in ("json", "10")]
        words = [word for word in rest if word not in flags]
        result = container.runtime(verb, *flags, container.id, *words)
        assert result.code == code, (verb, rest, result)
        assert text.format(id=container.id) in result.message, (verb, rest, result)
        assert len(result.err.splitlines()[0:1]) <= 1
        assert container.state() == before, (verb, rest)


def test_refused_while_running(running: Container) -> None:
    """R14."""
    check_refusals(running, RUNNING)


def test_refused_when_stopped(running: Container) -> None:
    """R14, R8: init is a zombie here, for its parent has not waited yet."""
    running.stop()
    check_refusals(running, STOPPED)
    assert running("kill", "--all").code in (0, 1)
    assert running.runtime("kill", "--all", running.id, "KILL").code == 0


def test_refused_while_paused(running: Container) -> None:
    """R14."""
    running.ok("pause")
    check_refusals(running, PAUSED)


def test_refused_when_created(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R14."""
    with runtime.container(make_bundle("true"), start=False) as container:
        check_refusals(container, CREATED)


def test_created_can_be_deleted(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """delete of a created container kills it first (contract 3.3)."""
    with runtime.container(make_bundle("true"), start=False) as container:
        container.ok("delete")
        assert runtime.ids() == []
        assert container.output() == ""


@pytest.mark.parametrize("verb", ["create", "run"])
def test_without_systemd_its_driver_leaves_nothing(
    runtime: Runtime, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """What cannot be asked for a unit cannot be asked to stop it either: there is none."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    result = runtime("--systemd-cgroup", verb, "-b", make_bundle("true").path, runtime.new_id())
    assert result.code == 1
    assert "unable to connect to the system instance of systemd: no such file or directory" in result.message
    assert runtime.ids() == []


def test_created_can_be_paused(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """resume brings the status back to created (contract 1.3)."""
    with runtime.container(make_bundle("true"), start=False) as container:
        container.ok("pause")
        assert container.status == "paused"
        container.ok("resume")
        assert container.status == "created"


@pytest.mark.parametrize("signal_word", ["TERM", "SIGTERM", "term", "sigterm", "15", None])
def test_kill_words(running: Container, signal_word: str | None) -> None:
    """A number, a name, with SIG or not, in any case; SIGTERM without one."""
    running.ok("kill", *([signal_word] if signal_word else []))
    running.wait_status("stopped")


def test_kill_realtime(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """RTMIN+n (crun's names, contract 1.4)."""
    script = f"trap 'echo rt' {signal.SIGRTMIN + 3}; echo ready; while :; do sleep 0.05; done"
    with runtime.container(make_bundle(script)) as container:
        container.wait_output("ready")
        container.ok("kill", "RTMIN+3")
        container.wait_output("rt\n")


def test_kill_all(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--all reaches every process of the cgroup."""
    script = (
        "trap 'echo init; ' USR1; (trap 'echo child' USR1; echo up; while :; do sleep 0.05; done) & "
        "echo ready; while :; do wait; done"
    )
    with runtime.container(make_bundle(script)) as container:
        container.wait_output("up")
        container.wait_output("ready")
        assert runtime("kill", "--all", container.id, "USR1").code == 0
        container.wait_output("init")
        container.wait_output("child")


def test_kill_paused_dies(running: Container) -> None:
    """SIGKILL to a paused container: the cgroup is thawed, or it would never die."""
    running.ok("pause")
    running.ok("kill", "KILL")
    running.wait_status("stopped")


def test_kill_without_pid_namespace_kills_all(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """SIGKILL to a container that shares its pid namespace ends the whole cgroup."""
    shared = [entry for entry in namespaces() if entry["type"] != "pid"]
    with runtime.container(
        make_bundle("sleep 600 & echo ready; exec sleep 1000", {"linux.namespaces": shared})
    ) as container:
        container.wait_output("ready")
        container.ok("kill", "KILL")
        wait_until(lambda: json.loads(runtime("ps", "--format", "json", container.id).out) == [], "an empty cgroup")


def test_delete_force_is_idempotent(running: Container) -> None:
    """R8: once for the container, twice for nothing."""
    for _ in range(3):
        assert running.runtime("delete", "--force", running.id) == Result(0, "", "")
    assert running.runtime.ids() == []
    assert not [path for path in cgroups() if running.id in path]


def test_delete_force_without_leaving_children(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Children that ignore signals go too, paused ones as well."""
    shared = [entry for entry in namespaces() if entry["type"] != "pid"]
    script = "trap '' TERM HUP; sh -c \"trap '' TERM; sleep 600\" & echo ready; sleep 600"
    with runtime.container(make_bundle(script, {"linux.namespaces": shared})) as container:
        container.wait_output("ready")
        container.ok("pause")
        assert runtime("delete", "--force", container.id).code == 0
        assert not [path for path in cgroups() if container.id in path]


def test_ids_by_regex(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """kill --regex and delete --regex (crun's flags, contract 1.4)."""
    with runtime.container(make_bundle("sleep 600")) as one, runtime.container(make_bundle("sleep 600")) as two:
        pattern = re.escape(one.id[: one.id.rindex("-")]) + "-[0-9]+"
        assert runtime("kill", "--regex", pattern, "KILL").code == 0
        for container in (one, two):
            container.wait_status("stopped")
        assert runtime("delete", "--regex", pattern).code == 0
        assert runtime.ids() == []


def test_same_id_again(running: Container) -> None:
    """The second create fails and leaves the first alone (R5)."""
    for verb in ("create", "run"):
        result = running.runtime(verb, "-b", running.bundle.path, running.id)
        assert (result.code, "container with given ID already exists" in result.message) == (1, True)
        assert running.status == "running"


def test_id_of_a_bare_directory(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Taken as well (contract 1.7); an empty one may go."""
    name = runtime.new_id()
    (runtime.root / name).mkdir(parents=True)
    result = runtime("create", "-b", make_bundle("true").path, name)
    assert "container with given ID already exists" in result.message
    assert runtime("delete", "--force", name).code == 0
    assert runtime.ids() == []


def test_same_id_at_once(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Of eight creates exactly one wins; the losers touch nothing (R5)."""
    bundle = make_bundle("sleep 600")
    with runtime.container(bundle, start=False) as container:
        container.ok("delete")
        calls = [runtime.popen("create", "-b", bundle.path, container.id, stderr=-3, stdout=-3) for _ in range(8)]
        assert sorted(finish(call) for call in calls) == [0] + [1] * 7
        assert container.status == "created"
        container.ok("start")
        assert container.status == "running"


def test_delete_at_once(running: Container) -> None:
    """Eight forced deletes of one container: all succeed (R6)."""
    calls = [running.runtime.popen("delete", "--force", running.id) for _ in range(8)]
    assert [finish(call) for call in calls] == [0] * 8
    assert running.runtime.ids() == []


def test_looked_at_while_it_goes(running: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every instant of its removal a container is `stopped`, and then there is none: to state, and to list."""
    settings = Settings(root=str(running.runtime.root), warn=pytest.fail)
    unlink, seen = store._unlink, []

    def unlink_and_look(name: str, dir_fd: int) -> None:
        unlink(name, dir_fd)
        if name != "state.json":  # the last, after which the folder goes
            seen.append((state.state(settings, running.id)["status"], state.list_(settings)[0]["status"]))

    running.stop()
    monkeypatch.setattr(store, "_unlink", unlink_and_look)
    delete(settings, running.id)
    assert seen == [("stopped", "stopped")] * (len(store.NAMES) - 1)
    monkeypatch.setattr(state, "listdir", lambda root: [running.id])  # from before
    assert state.list_(settings) == []


# --- damage (R4) ----------------------------------------------------------------------------------------------------
DAMAGE: dict[str, Any] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "binary": lambda data: bytes(range(256)),
    "wrong types": lambda data: b'{"id": 5, "config": []}',
    "array": lambda data: b"[]",
    "no pid": lambda data: data.replace(b'"init_process_pid"', b'"x"'),
    "pid as text": lambda data: re.sub(rb'"init_process_pid":\s*\d+', b'"init_process_pid":"1"', data),
    "missing": None,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_state(running: Container, make_bundle: MakeBundle, kind: str) -> None:
    """list shows the others, state and kill say one line, delete --force kills and cleans, the id is free (R4)."""
    runtime = running.runtime
    path = runtime.root / running.id / "state.json"
    pid = running.pid
    with runtime.container(make_bundle("sleep 600")) as other:
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[kind](path.read_bytes()))
        listed = runtime("list", "--format", "json")
        assert listed.code == 0
        assert other.id in [one["id"] for one in json.loads(listed.out)]
        for verb in ("state", "kill", "start", "pause", "resume"):
            result = running(verb)
            if (kind, verb) == ("missing", "state"):  # as a creation that was interrupted (DESIGN, runtime 12)
                assert (result.code, json.loads(result.out)["status"]) == (0, "stopped")
                continue
            assert result.code == 1, (verb, result)
            assert "Traceback" not in result.err
            assert len(result.message) < 8192
            assert "internal error" not in result.message, (verb, result)
        assert runtime("delete", "--force", running.id).code == 0
        assert not os.path.exists(f"/proc/{pid}/root/proc")
        assert runtime.ids() == [other.id]
        assert not [name for name in cgroups() if running.id in name]
        assert runtime("create", "-b", running.bundle.path, running.id).code == 0


def test_what_an_interrupted_creation_left_is_deleted_as_it_is_listed(running: Container) -> None:
    """Stopped, so without --force; not while its init lives (DESIGN, runtime 12)."""
    runtime = running.runtime
    (runtime.root / running.id / "state.json").unlink()
    refused = running("delete")
    assert (refused.code, "that is not stopped" in refused.message) == (1, True), refused
    os.kill(int(json.loads((runtime.root / running.id / "identity").read_text().splitlines()[-1].partition(" ")[2])["pid"]), signal.SIGKILL)
    wait_until(lambda: running("delete").code == 0, "the container is gone")
    assert runtime.ids() == []


@pytest.mark.parametrize("damage", ["identity", "both"])
def test_damaged_identity(running: Container, damage: str) -> None:
    """state.json alone is enough; with neither the directory is foreign, named and left alone (DESIGN, runtime 5)."""
    runtime, folder = running.runtime, running.runtime.root / running.id
    kept = {name: (folder / name).read_bytes() for name in ("identity", "state.json")}
    (folder / "identity").write_bytes(b"00000000 {}\n")
    if damage == "both":
        (folder / "state.json").write_bytes(b"{}")
        for flags in ((), ("--force",)):
            result = runtime("delete", *flags, running.id)
            assert (result.code, running.id in result.message) == (1, True), result
        assert sorted(os.listdir(folder)) == sorted([*kept, *(set(os.listdir(folder)) - kept.keys())])
        for name, data in kept.items():
            (folder / name).write_bytes(data)
    assert runtime("delete", "--force", running.id).code == 0
    assert runtime.ids() == []


def test_foreign_directory(runtime: Runtime) -> None:
    """Not ours: every verb names it, exits 1 and touches nothing; list warns and goes on."""
    name = runtime.new_id()
    folder = runtime.root / name
    folder.mkdir(parents=True)
    (folder / "precious").write_text("data")
    for words in (("delete", "--force"), ("delete",), ("state",), ("kill",), ("start",), ("pause",)):
        result = runtime(*words, name)
        assert result.code == 1, (words, result)
    listed = runtime("list")
    assert listed.code == 0
    assert name in listed.err
    assert (folder / "precious").read_text() == "data"
    (folder / "precious").unlink()
    assert runtime("delete", "--force", name).code == 0


def test_foreign_file_in_the_directory(running: Container) -> None:
    """Removal unlinks names we know: a stranger's file keeps the directory, and is named."""
    folder = running.runtime.root / running.id
    (folder / "precious").write_text("data")
    result = running.runtime("delete", "--force", running.id)
    assert (result.code, "precious" in result.err) == (1, True), result
    assert (folder / "precious").read_text() == "data"
    (folder / "precious").unlink()
    assert running.runtime("delete", "--force", running.id).code == 0


def test_pid_reuse(running: Container) -> None:
    """A stranger with the old pid is `stopped` to us, is not signalled and not entered (R7)."""
    folder, saved, pid = running.runtime.root / running.id, running.saved(), running.pid
    kept = {name: (folder / name).read_bytes() for name in ("identity", "state.json")}
    saved["init_process_start"] -= 1
    (folder / "state.json").write_text(json.dumps(saved))
    assert running.status == "stopped"
    assert running("kill", "KILL").code == 1
    assert running.exec("true").code == 255
    assert os.path.exists(f"/proc/{pid}/root/proc")
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    assert running.status == "running"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "a b", "ä", "a\n", "x" * 256, "a:b", "../x"])
@pytest.mark.parametrize("call", ["create", "run", "state", "start", "kill", "delete", "delete --force", "exec"])
def test_illegal_ids(runtime: Runtime, make_bundle: MakeBundle, call: str, name: str) -> None:
    """S38: refused by every command, also delete --force. (`run .` names a bundle, and with -b an id.)"""
    more = ["-b", make_bundle("true").path] if call in ("create", "run") else []
    result = runtime(*call.split(), *more, "--", name, *(["true"] if call == "exec" else []))
    assert result.code == (255 if call == "exec" else 1), result
    text = "invalid container ID format" if name else "container id cannot be empty"
    assert text in result.message, result
    assert runtime.ids() == []


@pytest.mark.parametrize("name", ["a", "A-Z_0.9+x", "...", "x" * 255])
def test_legal_ids(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """The whole set of characters, and 255 bytes (contract 1.9). A cgroup of its own keeps it ours."""
    result = runtime("run", "-b", make_bundle("true", {"linux.cgroupsPath": f"/{runtime.new_id()}"}).path, "--", name)
    assert result == Result(0, "", "")


def test_parallel_execs(running: Container) -> None:
    """Ten execs at once into one container, each with its own code (R6)."""
    codes: dict[int, int] = {}

    def one(number: int) -> None:
        codes[number] = running.exec("sh", "-c", f"exit {number}").code

    threads = [threading.Thread(target=one, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: number for number in range(10)}


@pytest.mark.slow
def test_hundred_cycles_leave_nothing(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R12: create, start, exec, kill, delete a hundred times; the leak check follows."""
    bundle = make_bundle("exec sleep 1000")
    for _ in range(100):
        with runtime.container(bundle) as container:
            assert container.exec("true").code == 0
