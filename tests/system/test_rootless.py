"""A plain user's containers: one id or a range, no cgroups or delegated ones, what is refused (contract 4.5-4.7).

The user exists for these tests alone: this process has a mount namespace of its own, in which copies of the account
files with the user's lines lie over the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.leaks import CGROUPS, Watch
from tests.system.runtime import TOKEN, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.system

UID = GID = 54321
NAME, FIRST, COUNT = "ptuser", 7000000, 65536
ACCOUNTS = {"passwd": f"{NAME}:x:{UID}:{GID}::/:/bin/sh", "group": f"{NAME}:x:{GID}:",
            "subuid": f"{NAME}:{FIRST}:{COUNT}", "subgid": f"{NAME}:{FIRST}:{COUNT}"}  # fmt: skip
DROP = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups"]
OWN = [{"containerID": 0, "hostID": UID, "size": 1}]
RANGE = [*OWN, {"containerID": 1, "hostID": FIRST, "size": COUNT}]
FOREIGN = [{"containerID": 0, "hostID": FIRST + COUNT, "size": 10}]


def user_ns(maps: list[dict[str, int]], *kinds: str) -> dict[str, Any]:
    """Changes for a user namespace with these maps."""
    return {"linux.namespaces": namespaces("user", *kinds), "linux.uidMappings": maps, "linux.gidMappings": maps}


class UserRuntime(Runtime):
    """The program as the plain user, who is placed in cgroups of the test's choice first."""

    joins: tuple[Path, ...] = ()
    drop: list[str] = DROP

    def argv(self, *args: Any) -> list[str]:
        enter = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in self.joins)
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *self.drop, *super().argv(*args)]


@pytest.fixture(scope="session")
def account(own_host: None, tmp_path_factory: pytest.TempPathFactory, program: str) -> None:
    """The user, if the machine lets plain users have namespaces."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (Debian: util-linux)")
    probe = subprocess.run([*DROP, "unshare", "--user", "--map-root-user", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip(f"needs unprivileged user namespaces: {probe.stderr.decode().strip()}")
    if subprocess.run([*DROP, program, "--version"], check=False, capture_output=True).returncode:
        pytest.skip(f"needs a program that other users may run, {program} is not")
    folder = tmp_path_factory.mktemp("accounts")
    for name, line in ACCOUNTS.items():
        original = Path("/etc", name)
        original.touch()
        copy = folder / name
        copy.write_text(f"{original.read_text()}{line}\n")
        copy.chmod(0o644)
        subprocess.run(["mount", "--bind", copy, original], check=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's that it can reach."""
    path = Path(tempfile.mkdtemp(prefix=f"{TOKEN}-", dir="/var/tmp"))
    path.chmod(0o755)
    os.chown(path, UID, GID)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def runtime(program: str, account: None, home: Path) -> Iterator[UserRuntime]:
    """The program as the user. After the test nothing it made may be left."""
    (home / "run").mkdir()
    os.chown(home / "run", UID, GID)
    watch = Watch()
    runtime = UserRuntime(program, home / "run" / "state")
    yield runtime
    watch.check(runtime)


@pytest.fixture
def bundle_of(home: Path, rootfs_master: Path) -> Callable[..., Bundle]:
    """`bundle_of(program, changes)`: a bundle that belongs to the user."""

    def make(program: str | list[str] = "true", changes: dict[str, Any] | None = None) -> Bundle:
        path = Path(tempfile.mkdtemp(dir=home))
        path.chmod(0o755)
        shutil.copytree(rootfs_master, path / "rootfs", symlinks=True)
        bundle = Bundle(path, program, changes if changes is not None else user_ns(OWN))
        for top, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(top, name), UID, GID, follow_symlinks=False)
        os.chown(path, UID, GID)
        return bundle

    return make


def test_one_id(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Root inside is the user outside; groups cannot be set, devices are the host's, changed files the user's."""
    bundle = bundle_of("id -u; id -g; cat /proc/self/setgroups; echo >/made; stat -c %t:%T /dev/null; echo >/dev/null")
    assert runtime.look(bundle).split() == ["0", "0", "deny", "1:3"]
    assert (bundle.rootfs / "made").stat().st_uid == UID


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")
def test_a_range(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """newuidmap and newgidmap write what /etc/subuid and /etc/subgid allow; uids differ inside and outside."""
    changes = user_ns(RANGE) | {"process.user": {"uid": 7, "gid": 8}}
    bundle = bundle_of("id -u; id -g; tr -s ' ' </proc/self/uid_map; echo >/tmp/made", changes)
    assert runtime.look(bundle).split("\n") == ["7", "8", f" 0 {UID} 1", f" 1 {FIRST} {COUNT}"]
    made = (bundle.rootfs / "tmp/made").stat()
    assert (made.st_uid, made.st_gid) == (FIRST + 6, FIRST + 7)


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")
def test_a_user_namespace_that_nobody_asked_for(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Its map is the user and what /etc/subuid gives him; `--rootless=false` refuses to add what the config lacks."""
    changes = {"linux.namespaces": namespaces(), "process.user": {"uid": 7, "gid": 8}}
    bundle = bundle_of("id -u; id -g; tr -s ' ' </proc/self/uid_map; sleep 100", changes)
    with runtime.container(bundle) as container:
        told = container.wait_output(f"{COUNT}\n")
        assert told.split("\n") == ["7", "8", f" 0 {UID} 1", f" 1 {FIRST} {COUNT}", ""]
        assert container.look("id -u") == "7"
        assert {"type": "user"} in container.saved()["config"]["linux"]["namespaces"]
    assert f"uid 0 is uid {UID} here" in runtime.run(bundle_of("true", changes)).err
    refused = runtime("--rootless=false", "run", "-b", bundle.path, runtime.new_id())
    assert (refused.code, refused.field) == (1, "/linux/namespaces"), refused
    assert "rootless container requires user namespaces" in refused.message


def test_a_user_namespace_of_one_id(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Where no program may write a longer map, it has the caller alone."""
    runtime.drop = [shutil.which("setpriv") or "", *DROP[1:]]
    bundle = bundle_of("/bin/tr -s ' ' </proc/self/uid_map", {"linux.namespaces": namespaces()})
    assert runtime.look(bundle, env={"PATH": "/nowhere"}, executable=shutil.which("sh")) == f" 0 {UID} 1"


def test_life(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """create, exec before and after start, list, ps, kill, delete; no cgroup anywhere, and pause says so."""
    bundle = bundle_of(["sleep", "100"])
    with runtime.container(bundle, start=False) as container:
        assert container.status == "created"
        assert container.look("id -u") == "0"
        container.ok("start")
        assert f"Uid:\t{UID}\t" in Path(f"/proc/{container.pid}/status").read_text()
        assert container.look("echo $$; id -u").split()[1] == "0"
        assert f"{container.id} " in runtime("list").out
        assert NAME in runtime("list").out
        assert container.saved()["cgroup_paths"] == {}
        assert container.saved()["rootless"] is True
        assert str(container.pid) in runtime("ps", "--format", "json", container.id).out
        paused = container("pause")
        assert (paused.code, paused.message) == (1, "cannot pause a container without a cgroup")
        container.stop()
        container.wait_status("stopped")
        container.ok("delete")
        assert runtime.ids() == []


@pytest.mark.parametrize("flags", [("--force",)], ids=str)
def test_delete_ends_all_of_its_processes(runtime: UserRuntime, bundle_of: Callable[..., Bundle],
                                          flags: tuple[str, ...]) -> None:  # fmt: skip
    """Without a cgroup the pid namespace ends them: nothing of the container outlives its init."""
    with runtime.container(bundle_of("sleep 100 & sleep 100")) as container:
        assert container.look("ps | grep -c '[s]leep 100'") != "0"
        assert runtime("delete", *flags, container.id).code == 0
        assert runtime.ids() == []


def test_binds(runtime: UserRuntime, bundle_of: Callable[..., Bundle], home: Path) -> None:
    """Sources are opened by init: a file, a tree, a read-only one, one inside the rootfs; none appears outside."""
    (home / "data/deep").mkdir(parents=True)
    (home / "data/deep/file").write_text("there\n")
    bundle = bundle_of("cat /f /t/deep/file /again/passwd | head -3; echo >/t/deep/no 2>/dev/null || echo refused")
    bundle.add_mounts(
        {"destination": "/f", "type": "bind", "source": str(home / "data/deep/file"), "options": ["bind"]},
        {"destination": "/t", "type": "bind", "source": str(home / "data"), "options": ["rbind", "ro", "rprivate"]},
        {"destination": "/again", "type": "bind", "source": "rootfs/etc", "options": ["bind", "rshared"]},
    )
    assert runtime.look(bundle).split("\n") == ["there", "there", "root:x:0:0:root:/root:/bin/sh", "refused"]
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


def test_spec_rootless_runs_as_it_is(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """What `spec --rootless` writes, but for the terminal and the program."""
    bundle = bundle_of()
    (bundle.path / "config.json").unlink()
    assert runtime("spec", "--rootless", "--bundle", bundle.path).code == 0
    import json

    bundle.config = json.loads((bundle.path / "config.json").read_text())
    bundle.change({"process.terminal": False, "process.args": ["sh", "-c", "id -u; grep -c . /proc/self/mountinfo; "
                                                              "echo >/no 2>/dev/null || echo refused"]})  # fmt: skip
    first, count, last = runtime.look(bundle).split()
    assert (first, last) == ("0", "refused")
    assert int(count) > 10


@pytest.mark.parametrize(("changes", "message", "field"), [
    (user_ns(OWN) | {"process.user": {"uid": 0, "gid": 0, "additionalGids": [5]}},
     "cannot set any additional groups in a rootless container", "/process/user/additionalGids"),
    (user_ns(OWN) | {"mounts": [{"destination": "/p", "type": "devpts", "source": "devpts", "options": ["gid=5"]}]},
     "cannot specify gid=5 mount option for rootless container: gid 5 is not mapped", "/mounts/0/options"),
    (user_ns(OWN) | {"linux.resources": {"pids": {"limit": 5}}},
     "cannot set pids limit: container could not join or create cgroup", "/linux/resources/pids/limit"),
    (user_ns(OWN) | {"linux.cgroupsPath": f"/{TOKEN}/x"},
     "rootless needs no limits + no cgrouppath when no permission is granted for cgroups", "/linux/cgroupsPath"),
    (user_ns(OWN) | {"process.oomScoreAdj": -500}, "failed to set oom score", "/process/oomScoreAdj"),
    (user_ns(OWN) | {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1 << 30}]},
     "error setting rlimits", "/process/rlimits/0"),
], ids=["groups", "gid", "limit", "cgroup", "oom", "rlimit"])  # fmt: skip
def test_refused(runtime: UserRuntime, bundle_of: Callable[..., Bundle], changes: dict[str, Any], message: str,
                 field: str) -> None:  # fmt: skip
    """One line, the field, and a hint; nothing is left."""
    result = runtime.run(bundle_of("true", changes))
    assert result.code == 1
    assert message in result.message
    assert result.field == field
    assert "  hint: " in result.err


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")
def test_a_range_that_is_not_the_users(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """The line of /etc/subuid that is missing, and the command that adds it."""
    result = runtime.run(bundle_of("true", user_ns(FOREIGN)))
    assert (result.code, result.field) == (1, "/linux/uidMappings")
    span = f"{FIRST + COUNT}-{FIRST + COUNT + 9}"
    assert f"no line of /etc/subuid gives {NAME} the ids {span}" in result.err
    assert f"usermod --add-subuids {span} {NAME}" in result.err


def test_no_mapper_in_path(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Without newuidmap a range is refused, a single id is not."""
    environ = {"PATH": "/nowhere"}
    runtime.drop = [shutil.which("setpriv") or "", *DROP[1:]]
    result = runtime.run(bundle_of("true", user_ns(RANGE)), env=environ, executable=shutil.which("sh"))
    assert "newuidmap is not in PATH" in result.message
    assert runtime.run(bundle_of("true"), env=environ, executable=shutil.which("sh")).code == 0


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")
def test_the_folder_that_is_closed_is_named(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """A root that is mapped to a subordinate id needs a way to the rootfs (contract 7, row 7)."""
    maps = [{"containerID": 0, "hostID": FIRST, "size": 10}]
    bundle = bundle_of("true", user_ns(maps))
    bundle.path.chmod(0o700)
    result = runtime.run(bundle)
    assert result.code != 0
    assert f"{bundle.path} (owner {UID}, mode 0700) is closed to the container's root" in result.err
    assert f"chmod o+x {bundle.path}" in result.err


def test_a_delegated_cgroup_is_used(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Where the user may make cgroups, limits hold; the other hierarchies are left out."""
    top = CGROUPS / "pids"
    if not (top / "cgroup.procs").exists():
        pytest.skip("needs the pids controller as a v1 hierarchy")
    mine = top / f"deleg-{os.getpid()}"
    mine.mkdir()
    try:
        os.chown(mine, UID, GID)
        os.chown(mine / "cgroup.procs", UID, GID)
        runtime.joins = (mine,)
        bundle = bundle_of(["sleep", "100"], user_ns(OWN) | {"linux.resources": {"pids": {"limit": 7}}})
        with runtime.container(bundle) as container:
            assert container.saved()["cgroup_paths"] == {"pids": f"{mine}/{container.id}"}
            assert (mine / container.id / "pids.max").read_text() == "7\n"
            assert str(container.pid) in (mine / container.id / "cgroup.procs").read_text().split()
        assert not (mine / container.id).exists()
    finally:
        mine.rmdir()


def test_no_cgroup_and_no_pid_namespace_warns(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """Nothing could end what outlives init there: said, not refused."""
    spaces = [{"type": kind} for kind in ("user", "mount", "ipc", "uts")]
    bundle = bundle_of("true", user_ns(OWN) | {"linux.namespaces": spaces})
    bundle.change({"mounts": [mount for mount in bundle.config["mounts"] if mount["type"] != "proc"]})
    result = runtime.run(bundle)
    assert result.code == 0, result
    assert "neither a cgroup nor a pid namespace" in result.err


def test_root_of_a_user_namespace_without_mounts_of_its_own(runtime: UserRuntime,
                                                            bundle_of: Callable[..., Bundle]) -> None:  # fmt: skip
    """`unshare --user --map-root-user`: euid 0 with every capability, but not over its mount namespace."""
    # There a sticky folder such as /tmp belongs to nobody, and the launcher refuses to be run from below it.
    shared = [str(folder) for folder in Path(runtime.program).resolve().parents if folder.stat().st_mode & 0o022]
    if shared:
        pytest.skip(f"needs a checkout below no folder that others may write, {shared[0]} is one")
    runtime.drop = [*DROP, "unshare", "--user", "--map-root-user"]
    maps = [{"containerID": 0, "hostID": 0, "size": 1}]
    assert runtime.look(bundle_of("id -u; tr -s ' ' </proc/self/uid_map", user_ns(maps))).split("\n") == ["0", " 0 0 1"]


def test_a_container_in_a_container(runtime: UserRuntime, bundle_of: Callable[..., Bundle], program: str) -> None:
    """The runtime as root of a container with a user namespace of its own, which owns its mount namespace."""
    runtime.drop = ["env"]
    tree = Path(program).resolve().parent.parent
    maps = [{"containerID": 0, "hostID": UID, "size": COUNT}]
    inner = bundle_of("id -u; tr -s ' ' </proc/self/uid_map", user_ns([{"containerID": 0, "hostID": 0, "size": 1000}]))
    call = [str(tree / "build/pyruntime"), "--root", "/tmp/s", "run", "-b", "/inner", "x"]
    outer = bundle_of(call, user_ns(maps) | {"process.env": ["PATH=/usr/bin:/bin"]})
    if not Path(call[0]).exists():
        pytest.skip("needs a program in a tree of its own")
    folders = [folder for folder in ("/usr", "/lib", "/lib64", str(tree)) if Path(folder).exists()]
    outer.add_mounts(*({"destination": at, "type": "bind", "source": source, "options": ["rbind"]}
                       for at, source in [*((each, each) for each in folders), ("/inner", str(inner.path))]))  # fmt: skip
    assert runtime.look(outer).split("\n") == ["0", " 0 0 1000"]
