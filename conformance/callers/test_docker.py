"""Docker runs its containers by pyruntime: named by --runtime, and as the default."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conformance.callers.archive import IMAGE
from conformance.callers.docker import CLIENT, Docker
from conformance.callers.stand import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.callers.stand import Stand

PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2", "dockerd", CLIENT, "iptables", "ip")
# Flags, what a shell inside does, what it prints.
LOOKS = [
    (("--user", "1000:1000"), "id -u; id -g; grep CapEff /proc/self/status", "1000\n1000\nCapEff:\t0000000000000000"),
    (("--user", "user"), "id -G; echo $HOME", "1000 2000\n/home"),
    (("--group-add", "77"), "id -G", "0 77"),
    (("--cap-drop", "ALL"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
    (("--cap-drop", "ALL", "--cap-add", "CHOWN"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000001"),
    (("--privileged",), "grep -c CapEff /proc/self/status; ls /dev/null; mount -t tmpfs x /tmp && echo mounted", "1\n/dev/null\nmounted"),
    (("--read-only",), "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1"),
    (("--read-only", "--tmpfs", "/scratch:size=64k,mode=1777"), "touch /scratch/x && grep ' /scratch ' /proc/mounts | grep -o 'rw.*size=64k'", "rw,nosuid,nodev,noexec,relatime,size=64k"),
    (("--hostname", "box"), "hostname", "box"),
    (("--env", "A=b c"), "echo $A", "b c"),
    (("--workdir", "/var/made"), "pwd", "/var/made"),
    (("--security-opt", "no-new-privileges"), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    ((), "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", "NoNewPrivs:\t0\nSeccomp:\t2"),
    (("--security-opt", "seccomp=unconfined"), "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    (("--security-opt", "seccomp=/run/room/nomkdir.json"), "mkdir /x 2>&1", "mkdir: can't create directory '/x': Operation not permitted"),
    (("--device", "/run/room/kmsg:/dev/extra:r"), "ls -l /dev/extra | cut -c1; true > /dev/extra || echo refused", "c\nrefused"),
    (("--device", "/run/room/kmsg:/dev/extra:rw"), "true > /dev/extra && echo written", "written"),
    (("--ulimit", "nofile=512:600"), "ulimit -Sn; ulimit -Hn", "512\n600"),
    (("--sysctl", "net.ipv4.ip_forward=1"), "cat /proc/sys/net/ipv4/ip_forward", "1"),
    (("--shm-size", "1m"), "df -k /dev/shm | awk 'NR==2{print $2}'", "1024"),
    (("--init",), "cat /proc/1/comm; cat /proc/self/comm", "docker-init\ncat"),
    (("--entrypoint", "/bin/echo"), "", "sh -c"),
    (("--pids-limit", "7"), "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max", "7"),
    (("--memory", "64m", "--memory-swap", "64m"), "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", "67108864"),
    (("--cpus", "0.5"), "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max", "50000"),
    (("--cpuset-cpus", "0"), "grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list:\t0"),
    (("--oom-score-adj", "300"), "cat /proc/self/oom_score_adj", "300"),
    (("--cgroupns", "private"), "grep -c pids:/$ /proc/self/cgroup || true", None),
    (("--volume", "/run/room/shared:/data:ro"), "cat /data/file; touch /data/x 2>&1", "shared\ntouch: /data/x: Read-only file system"),
    (("--mount", "type=bind,src=/run/room/shared,dst=/data"), "echo more > /data/written; cat /data/written", "more"),
    (("--volume", "/anon"), "touch /anon/x && grep -c ' /anon ' /proc/mounts", "1"),
    (("--network", "host"), "ip link show docker0 | grep -c docker0", "1"),
    (("--network", "bridge"), "ip -4 addr show eth0 | grep -c inet; ping -c 1 -W 20 172.17.0.1 >/dev/null && echo reached", "1\nreached"),
    (("--add-host", "there:10.1.2.3", "--network", "bridge"), "grep there /etc/hosts", "10.1.2.3\tthere"),
    (("--dns", "10.9.9.9", "--network", "bridge"), "grep nameserver /etc/resolv.conf", "nameserver 10.9.9.9"),
    (("--uts", "host"), "readlink /proc/self/ns/uts", None),
    (("--ipc", "private"), "test -d /dev/mqueue && echo mqueue", "mqueue"),
    (("--pid", "host"), "test -d /proc/1 && tr '\\0' ' ' </proc/1/cmdline | grep -c signal", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon(make_stand: Callable[..., Stand], program: str) -> Docker:
    """dockerd with pyruntime as its default, by the name `pyruntime`."""
    stand = make_stand("dk", *PROGRAMS)
    rules = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    stand.write("/run/room/nomkdir.json", json.dumps(rules))
    stand.ok("mknod", "/run/room/kmsg", "c", "1", "11")
    stand.write("/run/room/shared/file", "shared\n")
    more = {"runtimes": {"pyruntime": {"path": program}}, "default-runtime": "pyruntime", "live-restore": True}
    return Docker(stand, program, more)


@pytest.fixture
def docker(daemon: Docker) -> Iterator[Docker]:
    """The daemon; after the test nothing of a container may be left."""
    yield daemon
    daemon.check()


def test_it_is_the_default(docker: Docker) -> None:
    assert docker.ok("info", "-f", "{{.DefaultRuntime}}") == "pyruntime"
    with docker.container() as name:
        assert docker.inspect(name, ".HostConfig.Runtime") == "pyruntime"
        assert docker.stand.path("/run/docker/runtime-pyruntime/moby").exists() or docker.stand.ok("find", "/run", "-name", "state.json")


def test_run_and_its_exit_codes(docker: Docker) -> None:
    ended = docker.run(do="echo out; echo err >&2; exit 5")
    assert ended == (5, "out\n", "err\n")
    assert docker.run(do=["nosuch"]).code == 127
    assert docker.run(do=["/etc"]).code in {125, 126}  # "is a directory" is known to newer Docker
    assert docker.run(do=["/etc/passwd"]).code == 126
    assert docker.run(do="sh -c 'kill -9 $$'; exit $?").code == 137
    assert docker.run("-i", do="cat", stdin="through\n").out == "through\n"
    assert docker.run("--workdir", "/etc/passwd/x").code in {125, 126, 127}  # refused by dockerd, or by us


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "do", "printed"), LOOKS, ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "")
def test_flags(docker: Docker, flags: tuple[str, ...], do: str, printed: str | None) -> None:
    ended = docker.run(*flags, do=do)
    if printed is None:
        assert ended.code == 0, ended
    else:
        assert ended.out.strip() == printed, ended


def test_flags_together(docker: Docker) -> None:
    flags = ("--user", "1000", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/scratch", "--hostname", "box", "--init", "--network", "bridge",
             "--memory", "64m", "--pids-limit", "50", "--security-opt", "no-new-privileges", "--ulimit", "nofile=512", "--workdir", "/tmp")  # fmt: skip
    do = "id -u; hostname; pwd; ulimit -n; cat /proc/1/comm; touch /tmp/x 2>/dev/null || echo refused; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ip addr show eth0 | grep -c 'inet '"
    lines = "1000\nbox\n/tmp\n512\ndocker-init\nrefused\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n1"
    assert docker.look(*flags, do=do) == lines


def test_a_life(docker: Docker) -> None:
    with docker.container("--network", "bridge", do="trap 'exit 7' TERM; echo begun; while :; do sleep 0.1; done") as name:
        wait_for(lambda: docker.ok("logs", name) == "begun", "the log")
        assert docker("exec", name, "sh", "-c", "echo in; exit 3") == (3, "in\n", "")
        assert docker("exec", "-i", name, "cat", stdin="through\n").out == "through\n"
        assert docker("exec", name, "nosuch").code in {126, 127}  # 126 from Docker 20
        assert docker.ok("exec", "--user", "user", "-e", "A=b", "-w", "/tmp", name, "sh", "-c", "id -un; echo $A; pwd") == "user\nb\n/tmp"
        docker.ok("pause", name)
        assert docker.inspect(name, ".State.Status") == "paused"
        assert docker("exec", name, "true").code != 0
        docker.ok("unpause", name)
        docker.ok("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "33", name)
        where = docker.inspect(name, ".Id")
        assert docker.stand.cgroup_file(where, "memory/memory.limit_in_bytes", "memory.max") == str(96 << 20)
        assert docker.stand.cgroup_file(where, "pids/pids.max", "pids.max") == "33"
        assert "sh" in docker.ok("top", name)
        assert "96MiB" in docker.ok("stats", "--no-stream", name)
        docker.ok("stop", "-t", "60", name)
        assert docker.inspect(name, ".State.ExitCode") == "7"
        docker.ok("start", name)
        wait_for(lambda: docker.ok("logs", name) == "begun\nbegun", "the log of the second time: SIGTERM is not ignored any more")
        docker.ok("restart", "-t", "60", name)
        assert docker.inspect(name, ".State.Running") == "true"
        docker.ok("kill", "-s", "KILL", name)
        docker.wait_state(name, ".State.ExitCode", "137")


def test_out_of_memory(docker: Docker) -> None:
    with docker.container("--memory", "24m", "--memory-swap", "24m", do="x=$(yes | head -c 100000000); exit 3") as name:
        docker.wait_state(name, ".State.Status", "exited")
        docker.wait_state(name, ".State.OOMKilled", "true")
        assert docker.inspect(name, ".State.ExitCode") == "137"


def test_a_terminal(docker: Docker) -> None:
    typed = "test -t 0 && echo t''ty; exit 6\n"
    with docker.container() as name:
        assert docker.stand.talk(CLIENT, "exec", "-it", name, "sh", typed=typed, wanted="tty\r") == 6
    args = (CLIENT, "run", "--rm", "-it", "--network", "none", IMAGE)
    assert docker.stand.talk(*args, typed=typed, wanted="tty\r") == 6


@pytest.mark.slow
def test_build(docker: Docker) -> None:
    docker.stand.write("/run/room/build/Dockerfile", f"FROM {IMAGE}\nENV A=b\nRUN echo $A > /made && id -u >> /made\nUSER user\nRUN id -u > /tmp/who\nCMD cat /made /tmp/who\n")
    docker.ok("build", "--network", "none", "-t", "built:1", "/run/room/build")
    assert docker.ok("run", "--rm", "--network", "none", "built:1") == "b\n0\n1000"
    docker.stand.write("/run/room/build/Dockerfile", f"FROM {IMAGE}\nRUN exit 9\n")
    ended = docker("build", "--network", "none", "/run/room/build")
    assert "returned a non-zero code: 9" in ended.both
    docker("container", "prune", "-f")


@pytest.mark.slow
def test_namespaces_of_others(docker: Docker) -> None:
    with docker.container("--ipc", "shareable") as one:
        pid = docker.inspect(one, ".State.Pid")
        for kind in ("ipc", "pid", "net"):
            flag = "--network" if kind == "net" else f"--{kind}"
            theirs = docker.stand.ok("readlink", f"/proc/{pid}/ns/{kind}")
            assert docker.look(flag, f"container:{one}", do=f"readlink /proc/self/ns/{kind}") == theirs
    own = docker.stand.ok("readlink", "/proc/self/ns/pid")
    assert docker.look("--pid", "host", do="readlink /proc/self/ns/pid") == own


@pytest.mark.slow
def test_health(docker: Docker) -> None:
    flags = ("--health-cmd", "test -e /well", "--health-interval", "1s", "--health-retries", "1", "--health-timeout", "60s")
    with docker.container(*flags) as name:
        docker.wait_state(name, ".State.Health.Status", "unhealthy")
        docker.ok("exec", name, "touch", "/well")
        docker.wait_state(name, ".State.Health.Status", "healthy")


@pytest.mark.slow
def test_restart_policy(docker: Docker) -> None:
    with docker.container("--restart", "on-failure:2", do="exit 3") as name:
        docker.wait_state(name, ".RestartCount", "2")
        docker.wait_state(name, ".State.Status", "exited")


@pytest.mark.slow
def test_published_port(docker: Docker) -> None:
    with docker.container("-p", "127.0.0.1:8099:80", do="mkdir /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www"):
        busybox = docker.stand.ok("sh", "-c", "command -v busybox")
        look = docker.stand.run
        wait_for(lambda: look(busybox, "wget", "-q", "-O", "-", "http://127.0.0.1:8099/").out == "page\n", "the page")


def test_dockerd_is_killed_and_comes_back(docker: Docker) -> None:
    with docker.container(do="trap 'exit 7' TERM; echo begun; while :; do sleep 0.1; done") as name:
        wait_for(lambda: docker.ok("logs", name) == "begun", "the log")
        pid = docker.inspect(name, ".State.Pid")
        docker.daemon.kill()
        docker.containerd.daemon.kill()
        docker.containerd.daemon.restart()
        docker.containerd.wait_ready()
        docker.stand.path("/run/docker.pid").unlink(missing_ok=True)
        docker.daemon.restart()
        docker.wait_ready()
        assert docker.inspect(name, ".State.Pid") == pid
        assert docker("exec", name, "sh", "-c", "exit 4").code == 4
        docker.ok("stop", "-t", "60", name)
        assert docker.inspect(name, ".State.ExitCode") == "7"
