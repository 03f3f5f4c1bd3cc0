"""Podman and Buildah run their containers by pyruntime, named by --runtime."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from conformance.callers.archive import IMAGE
from conformance.callers.stand import Ended, Stand, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Debian's limits exceed what a container or a restricted root may set; no file is read but these.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
apparmor_profile = ""
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "pyruntime"
runtime_supports_json = ["pyruntime"]
runtime_supports_nocgroup = ["pyruntime"]
[engine.runtimes]
pyruntime = ["{program}"]
"""
STORAGE_CONF = """
[storage]
driver = "vfs"
graphroot = "/run/varlib/containers"
runroot = "/run/containers/storage"
"""
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
STATE = ("/run/pyruntime", "/run/runc", "/run/crun", "/run/libpod/exits")
# Flags, what a shell inside does, what it prints.
LOOKS = [
    (("--user", "1000:1000"), "id -u; grep CapEff /proc/self/status", "1000\nCapEff:\t0000000000000000"),
    (("--cap-drop", "all"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
    (("--privileged",), "mount -t tmpfs x /tmp && echo mounted", "mounted"),
    (("--read-only", "--tmpfs", "/scratch"), "touch /scratch/x; touch /x 2>&1", "touch: /x: Read-only file system"),
    (("--security-opt", "seccomp=unconfined"), "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    (("--security-opt", "no-new-privileges"), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    (("--hostname", "box"), "hostname", "box"),
    (("--pids-limit", "17"), "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max", "17"),
    (("--memory", "64m"), "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", "67108864"),
    (("--volume", "/run/room/shared:/data:ro"), "cat /data/file", "shared"),
    (("--device", "/dev/null:/dev/extra"), "ls -l /dev/extra | cut -c1", "c"),
    (("--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"), "id -u; tr -s ' ' </proc/self/uid_map", "0\n 0 100000 5000"),
    (("--ulimit", "nofile=256:512", "--ulimit", "nproc=4096:4096"), "ulimit -n; ulimit -Hn", "256\n512"),
    (("--pid", "host"), "test -d /proc/1 && echo there", "there"),
    (("--ipc", "host"), "echo yes", "yes"),
    (("--network", "host"), "ip link show lo | grep -c LOOPBACK", "1"),
    (("--env", "A=b", "--workdir", "/tmp"), "echo $A; pwd", "b\n/tmp"),
    (("--cgroups", "disabled"), "echo free", "free"),
    (("--init",), "cat /proc/1/comm", None),
    (("--shm-size", "1m"), "df -k /dev/shm | awk 'NR==2{print $2}'", "1024"),
    (("--group-add", "77"), "id -G", "0 77"),
]  # fmt: skip


class Podman:
    """podman and buildah with files and storage of the room's own."""

    def __init__(self, stand: Stand, program: str) -> None:
        self.stand, self.made = stand, 0
        stand.write("/etc/containers/containers.conf", CONTAINERS_CONF.format(program=program))
        stand.write("/etc/containers/storage.conf", STORAGE_CONF)
        stand.write("/etc/containers/policy.json", json.dumps(POLICY))
        stand.write("/run/room/shared/file", "shared\n")
        self.ok("load", "-i", "/run/image.tar")
        stand.keep_mounts()

    def __call__(self, *args: Any, **more: Any) -> Ended:
        """One finished call of podman."""
        return self.stand.run("podman", *args, **more)

    def ok(self, *args: Any, **more: Any) -> str:
        """stdout, without the last line end, of a call that has to succeed."""
        ended = self(*args, **more)
        assert ended.code == 0, (args, ended)
        return ended.out.removesuffix("\n")

    def run(self, *flags: str, do: str | list[str] = "true", **more: Any) -> Ended:
        """`podman run --rm` in the stand's cgroup."""
        words = ["sh", "-c", do] if isinstance(do, str) else do
        return self("run", "--rm", *self.common(flags), *flags, IMAGE, *words, **more)

    def common(self, flags: tuple[str, ...]) -> list[str]:
        """Flags of every run."""
        network = [] if "--network" in flags else ["--network", "none"]
        cgroup = [] if "--cgroups" in flags else ["--cgroup-parent", f"/{self.stand.token}"]
        return [*network, *cgroup]

    @contextlib.contextmanager
    def container(self, *flags: str, do: str = "exec sleep 3600") -> Iterator[str]:
        """A detached container's name; removed at the end."""
        self.made += 1
        name = f"p{self.made}"
        try:
            self.ok("run", "-d", "--name", name, *self.common(flags), *flags, IMAGE, "sh", "-c", do)
            yield name
        finally:
            self("rm", "-f", "-t", "0", name)

    def inspect(self, name: str, form: str) -> str:
        """One value of a container by a Go template."""
        return self.ok("inspect", "-f", "{{" + form + "}}", name)


@pytest.fixture(scope="module")
def engine(make_stand: Callable[..., Stand], program: str) -> Podman:
    """podman with the image."""
    return Podman(make_stand("pm", "podman", "buildah", "conmon"), program)


@pytest.fixture
def podman(engine: Podman) -> Iterator[Podman]:
    """The engine; after the test nothing of a container may be left."""
    yield engine
    engine.stand.check(STATE)


def test_it_is_the_runtime(podman: Podman, program: str) -> None:
    assert podman.ok("info", "-f", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}") == f"pyruntime {program}"


def test_run_and_its_exit_codes(podman: Podman, program: str) -> None:
    ended = podman.run(do="echo out; echo err >&2; exit 5")
    assert ended == (5, "out\n", "err\n")
    assert podman.run(do=["nosuch"]).code == 127
    assert podman.run(do=["/etc/passwd"]).code == 126
    assert podman.run("-i", do="cat", stdin="through\n").out == "through\n"
    args = ("run", "--rm", *podman.common(()), IMAGE, "echo", "named")
    assert podman.ok("--runtime", program, *args) == "named"


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "do", "printed"), LOOKS, ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "")
def test_flags(podman: Podman, flags: tuple[str, ...], do: str, printed: str | None) -> None:
    ended = podman.run(*flags, do=do)
    if printed is None:
        if "catatonit" in ended.err:
            pytest.skip("needs catatonit")
        assert ended.code == 0, ended
    else:
        assert (ended.code, ended.out.rstrip()) == (0 if "touch" not in do else 1, printed), ended


def test_a_life(podman: Podman) -> None:
    with podman.container(do="trap 'exit 7' TERM; echo begun; while :; do sleep 0.1; done") as name:
        wait_for(lambda: podman.ok("logs", name) == "begun", "the log")
        assert podman("exec", name, "sh", "-c", "echo in; exit 3") == (3, "in\n", "")
        assert podman("exec", name, "nosuch").code == 127
        podman.ok("pause", name)
        assert podman.inspect(name, ".State.Status") == "paused"
        podman.ok("unpause", name)
        assert "sh" in podman.ok("top", name)
        podman.ok("stop", "-t", "60", name)
        assert podman.inspect(name, ".State.ExitCode") == "7"
        podman.ok("start", name)
        wait_for(lambda: podman.ok("logs", name) == "begun\nbegun", "the log of the second time: SIGTERM is not ignored any more")
        podman.ok("restart", "-t", "60", name)
        assert podman.inspect(name, ".State.Running") == "true"
        podman.ok("kill", "-s", "KILL", name)
        wait_for(lambda: podman.inspect(name, ".State.ExitCode") == "137", "the exit code")


@pytest.mark.slow
def test_update_and_stats(podman: Podman) -> None:
    with podman.container("--memory", "64m") as name:
        where = f"libpod-{podman.inspect(name, '.Id')}"
        podman.ok("update", "--memory", "96m", name)
        assert podman.stand.cgroup_file(where, "memory/memory.limit_in_bytes", "memory.max") == str(96 << 20)


@pytest.mark.slow
def test_a_terminal(podman: Podman) -> None:
    typed = "test -t 0 && echo t''ty; exit 6\n"
    assert podman.stand.talk("podman", "run", "--rm", "-it", *podman.common(()), IMAGE, "sh", typed=typed, wanted="tty\r") == 6
    with podman.container() as name:
        assert podman.stand.talk("podman", "exec", "-it", name, "sh", typed=typed, wanted="tty\r") == 6


@pytest.mark.slow
def test_out_of_memory(podman: Podman) -> None:
    with podman.container("--memory", "24m", "--memory-swap", "24m", do="x=$(yes | head -c 100000000); exit 3") as name:
        wait_for(lambda: podman.inspect(name, ".State.Status") == "exited", "the end")
        assert podman.inspect(name, ".State.ExitCode") == "137"  # OOMKilled stays false here, with runc too


@pytest.mark.slow
def test_health(podman: Podman) -> None:
    with podman.container("--health-cmd", "test -e /well", "--health-interval", "disable") as name:
        assert podman("healthcheck", "run", name).code == 1
        podman.ok("exec", name, "touch", "/well")
        assert podman("healthcheck", "run", name).code == 0


@pytest.mark.slow
def test_a_pod(podman: Podman) -> None:
    """Two containers that share namespaces; no infra container, whose image is not at hand."""
    with podman.container() as one:
        pid = podman.inspect(one, ".State.Pid")
        for kind, flag in (("net", "--network"), ("ipc", "--ipc"), ("pid", "--pid")):
            theirs = podman.stand.ok("readlink", f"/proc/{pid}/ns/{kind}")
            assert podman.run(flag, f"container:{one}", do=f"readlink /proc/self/ns/{kind}").out.strip() == theirs


@pytest.mark.slow
def test_podman_builds(podman: Podman) -> None:
    podman.stand.write("/run/room/build/Dockerfile", f"FROM {IMAGE}\nRUN echo made > /made && id -u >> /made\nCMD cat /made\n")
    podman.ok("build", "--network", "none", "--cgroup-parent", f"/{podman.stand.token}/build", "-t", "built:1", "/run/room/build", timeout_s=300)
    assert podman.ok("run", "--rm", *podman.common(()), "built:1") == "made\n0"
    podman.ok("rmi", "-f", "built:1")


def test_buildah_runs(podman: Podman, program: str) -> None:
    stand = podman.stand
    name = stand.ok("buildah", "from", "--pull-never", "--cgroup-parent", f"/{stand.token}/buildah", IMAGE)
    try:
        run = ("buildah", "run", "--runtime", program, "--isolation", "oci", "--network", "none", name, "--")
        ended = stand.run(*run, "sh", "-c", "echo in; exit 3")
        assert (ended.code, ended.out) == (3, "in\n"), ended
        stand.ok(*run, "sh", "-c", "echo kept > /kept")
        assert stand.ok(*run, "cat", "/kept") == "kept"
    finally:
        stand.run("buildah", "rm", name)
