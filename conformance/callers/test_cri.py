"""Kubernetes' interface: containerd's CRI plugin makes pods whose RuntimeClass names pyruntime, as a kubelet asks it to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conformance.callers.cri import HANDLER, PLUGINS, CallFailed, Cri
from conformance.callers.cri_messages import (
    CREATED,
    EXITED,
    NODE,
    POD,
    READY,
    RUNNING,
    RUNTIME_DEFAULT,
    TARGET,
    UNCONFINED,
)
from conformance.callers.stand import wait_for
from conformance.callers.websocket import RESIZE, STDERR, STDIN, STDOUT, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.callers.stand import Stand

LOOP = "trap 'exit 7' TERM; echo up; echo down >&2; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def daemon(make_stand: Callable[..., Stand], program: str) -> Iterator[Cri]:
    """containerd with the images."""
    made = Cri(make_stand("cri", "containerd", "ctr", "containerd-shim-runc-v2", f"{PLUGINS}/bridge", f"{PLUGINS}/loopback"), program)
    yield made
    made.close()


@pytest.fixture
def cri(daemon: Cri) -> Iterator[Cri]:
    """The daemon; after the test nothing of it may be left."""
    yield daemon
    daemon.check()


def test_a_pod_of_two(cri: Cri) -> None:
    """What every kubelet does: a pod with a network, two containers that share it, probes, logs, statistics, the end."""
    with cri.pod() as pod:
        status = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id)["status"]
        assert (status["state"], status["runtime_handler"]) == (READY, HANDLER)
        assert status["network"]["ip"].startswith("10.88.9.")
        one, two = pod.create(LOOP), pod.create(LOOP)
        assert pod.status(one)["state"] == CREATED
        for name in (one, two):
            cri.call("StartContainer", container_id=name)
            assert pod.status(name)["state"] == RUNNING
        spaces = {kind: [pod.exec(name, f"readlink /proc/self/ns/{kind}").out for name in (one, two)]
                  for kind in ("net", "ipc", "uts", "mnt", "pid")}  # fmt: skip
        assert {kind for kind, (first, second) in spaces.items() if first == second} == {"net", "ipc", "uts"}
        assert pod.exec(two, "hostname").out == f"{pod.config['hostname']}\n"
        assert status["network"]["ip"] in pod.exec(two, "ip address show eth0").out
        assert pod.exec(one, "echo shared > /dev/shm/note").code == 0
        assert pod.exec(two, "cat /dev/shm/note").out == "shared\n"
        assert pod.exec(one, "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
        pod.wait_log(one, ("stderr", "down\n"), ("stdout", "up\n"))
        stats = cri.call("ContainerStats", container_id=one)["stats"]
        assert stats["cpu"]["usage_core_nano_seconds"]["value"] > 0
        assert stats["memory"]["working_set_bytes"]["value"] > 0
        pod.stop(one)
        assert (pod.status(one)["state"], pod.status(one)["exit_code"]) == (EXITED, 7)
        assert pod.status(two)["state"] == RUNNING
        pod.remove(one)
        with pytest.raises(CallFailed, match="not found"):
            pod.status(one)


@pytest.mark.slow
def test_the_handler_chooses_the_runtime(cri: Cri) -> None:
    """A RuntimeClass names one; without it the default is taken, and an unknown one is refused."""
    with cri.pod() as ours, cri.pod(handler="") as other:
        for pod, binary in ((ours, cri.program), (other, "")):
            info = json.loads(cri.call("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)["info"]["info"])
            assert info["runtimeType"] == "io.containerd.runc.v2"
            assert (info["runtimeOptions"] or {}).get("binary_name", "") == binary
    with pytest.raises(CallFailed, match="nosuch"):
        cri.call("RunPodSandbox", config=cri.pod_config(), runtime_handler="nosuch")


@pytest.mark.slow
def test_two_containers_talk(cri: Cri) -> None:
    with cri.pod() as pod:
        server = pod.run("while :; do echo served | nc -l -p 8080; done")
        client = pod.run(LOOP)
        asked = wait_for(lambda: pod.exec(client, "nc -w 2 127.0.0.1 8080").out, "an answer over the pod's loopback")
        assert asked == "served\n"
        ip = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id)["status"]["network"]["ip"]
        assert wait_for(lambda: cri.stand.run("busybox", "nc", "-w", "2", ip, "8080").out, "an answer over the bridge") == "served\n"
        pod.stop(server, 0)
        assert pod.status(server)["exit_code"] == 137


@pytest.mark.slow
def test_namespaces_of_the_host(cri: Cri) -> None:
    host = {kind: cri.stand.ok("readlink", f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "pid", "mnt", "uts")}
    with cri.pod(namespaces={"network": NODE, "pid": NODE, "ipc": NODE}) as pod:
        name = pod.run(LOOP)
        seen = {kind: pod.exec(name, f"readlink /proc/self/ns/{kind}").out.strip() for kind in host}
        assert {kind for kind in host if host[kind] == seen[kind]} == {"net", "ipc", "pid", "uts"}


@pytest.mark.slow
def test_processes_shared_by_the_pod(cri: Cri) -> None:
    """shareProcessNamespace, and a container for debugging that joins another's processes."""
    with cri.pod(namespaces={"pid": POD}) as pod:
        one, two = pod.run(LOOP), pod.run(LOOP)
        assert pod.exec(one, "cat /proc/1/comm").out == "sleep\n"
        assert pod.exec(one, "readlink /proc/self/ns/pid").out == pod.exec(two, "readlink /proc/self/ns/pid").out
    with cri.pod() as pod:
        one = pod.run(LOOP)
        two = pod.run(LOOP, {"namespace_options": {"network": POD, "ipc": POD, "pid": TARGET, "target_id": one}})
        assert "trap 'exit 7'" in pod.exec(two, "cat /proc/1/cmdline").out
        assert pod.exec(one, "readlink /proc/self/ns/pid").out == pod.exec(two, "readlink /proc/self/ns/pid").out


@pytest.mark.slow
def test_exec_with_streams(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.run(LOOP)
        script = "echo ready; read -r line; echo got $line; echo err >&2; exit 5"
        asked = cri.call("Exec", container_id=name, cmd=["sh", "-c", script], stdin=True, stdout=True, stderr=True)
        with Stream(cri.stand, asked["url"]) as stream:
            stream.wait(STDOUT, b"ready\n")
            stream.send(STDIN, b"a line\n")
            status = stream.status()
            assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]
            assert stream.heard[STDOUT] == b"ready\ngot a line\n"
            assert stream.heard[STDERR] == b"err\n"


@pytest.mark.slow
def test_exec_on_a_terminal(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.run(LOOP)
        asked = cri.call("Exec", container_id=name, cmd=["sh"], tty=True, stdin=True, stdout=True)
        with Stream(cri.stand, asked["url"]) as stream:
            stream.wait(STDOUT, b"# ")
            stream.send(RESIZE, b'{"Width":77,"Height":33}')
            stream.send(STDIN, b"test -t 0 && echo t''ty\n")
            stream.wait(STDOUT, b"tty\r\n")

            def size() -> bool:
                stream.send(STDIN, b"stty size\n")
                return b"33 77\r\n" in stream.look()[STDOUT]

            wait_for(size, lambda: f"the new size: {stream.heard}")
            stream.send(STDIN, b"exit 0\n")
            assert stream.status()["status"] == "Success"


@pytest.mark.slow
def test_attach(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.run("while read -r line; do echo got $line; [ $line = end ] && exit 4; done", stdin=True)
        with Stream(cri.stand, cri.call("Attach", container_id=name, stdin=True, stdout=True, stderr=True)["url"]) as stream:
            stream.send(STDIN, b"one\n")
            stream.wait(STDOUT, b"got one\n")
            stream.send(STDIN, b"end\n")
            assert pod.ended(name)["exit_code"] == 4
        pod.wait_log(name, ("stdout", "got one\n"), ("stdout", "got end\n"))
        assert [text for _, text in pod.log(name)] == ["got one\n", "got end\n"]


@pytest.mark.slow
def test_exec_sync_has_a_time_limit(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.run(LOOP)
        with pytest.raises(CallFailed, match="timeout|timed out|deadline"):
            pod.exec(name, "sleep 600", timeout_s=1)
        with pytest.raises(CallFailed, match='exec: "nosuch": executable file not found in \\$PATH'):
            pod.exec(name, "nosuch", "-x")
        wait_for(lambda: "sleep 600" not in pod.exec(name, "ps -o args | grep -v grep").out, "the command is killed")


@pytest.mark.slow
def test_resources(cri: Cri) -> None:
    file = cri.stand.cgroup_file
    with cri.pod() as pod:
        name = pod.run(LOOP, resources={"memory_limit_in_bytes": 32 << 20, "cpu_quota": 50000, "cpu_period": 100000, "cpu_shares": 512})
        assert file(name, "memory/memory.limit_in_bytes", "memory.max") == str(32 << 20)
        assert file(name, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
        cri.call("UpdateContainerResources", container_id=name, linux={"memory_limit_in_bytes": 48 << 20, "cpu_quota": 20000, "cpu_period": 100000})
        assert file(name, "memory/memory.limit_in_bytes", "memory.max") == str(48 << 20)
        assert file(name, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
        listed = {entry["attributes"]["id"]: entry for entry in cri.call("ListContainerStats")["stats"]}
        assert listed[name]["memory"]["working_set_bytes"]["value"] > 0
        whole = cri.call("PodSandboxStats", pod_sandbox_id=pod.id)["stats"]["linux"]
        assert whole["cpu"]["usage_core_nano_seconds"]["value"] > 0


@pytest.mark.slow
def test_out_of_memory(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.run("sleep 1; x=$(yes | head -c 100000000); exit 3", resources={"memory_limit_in_bytes": 24 << 20})
        assert pod.ended(name)["exit_code"] == 137
        wait_for(lambda: pod.status(name)["reason"] == "OOMKilled", lambda: f"the reason is told: {pod.status(name)}")


@pytest.mark.slow
def test_security_contexts(cri: Cri) -> None:
    look = "id; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; touch /new || true; wc -c < /proc/keys; echo 0 > /proc/sys/net/ipv4/ip_forward || true"
    masked = {"masked_paths": ["/proc/keys"], "readonly_paths": ["/proc/sys"]}
    with cri.pod(security={"seccomp": {"profile_type": RUNTIME_DEFAULT}}) as pod:
        narrow = pod.output(look, {
            "run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "supplemental_groups": [2000], "readonly_rootfs": True,
            "no_new_privs": True, "capabilities": {"drop": ["ALL"]}, "seccomp": {"profile_type": RUNTIME_DEFAULT}, **masked,
        })  # fmt: skip
        assert "uid=1000(user) gid=1000(user) groups=" in narrow
        assert "2000(extra)" in narrow
        for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "touch: /new: Read-only file system", "\n0\n"):
            assert line in narrow
        plain = pod.output(look, {"capabilities": {"add": ["NET_ADMIN"]}, "seccomp": {"profile_type": UNCONFINED}, **masked})
        assert "uid=0(root)" in plain
        for line in ("CapEff:\t00000000a80435fb", "NoNewPrivs:\t0", "Seccomp:\t0", "/proc/sys/net/ipv4/ip_forward: Read-only file system"):
            assert line in plain


@pytest.mark.slow
def test_a_privileged_container(cri: Cri) -> None:
    with cri.pod(security={"privileged": True}) as pod:
        name = pod.run(LOOP, {"privileged": True})
        mine = cri.stand.ok("grep", "CapBnd", "/proc/1/status")
        assert pod.exec(name, "grep CapBnd /proc/1/status").out.strip() == mine
        assert pod.exec(name, "mount -t tmpfs tmpfs /tmp").code == 0
        devices = {path.name for path in cri.stand.path("/dev").iterdir() if path.is_char_device() or path.is_block_device()}
        assert devices - {"console"} <= set(pod.exec(name, "ls /dev").out.split())


@pytest.mark.slow
def test_mounts_sysctls_and_environment(cri: Cri) -> None:
    cri.stand.write("/run/room/volume/file", "from the host\n")
    mounts = [{"container_path": "/ro", "host_path": "/run/room/volume", "readonly": True},
              {"container_path": "/rw", "host_path": "/run/room/volume"},
              {"container_path": "/slave", "host_path": "/run/room/volume", "propagation": 1}]  # fmt: skip
    with cri.pod(sysctls={"net.ipv4.ip_local_port_range": "4000 4100"}) as pod:
        name = pod.run(LOOP, mounts=mounts, envs=[{"key": "GREETING", "value": "a b"}], working_dir="/rw")
        assert pod.exec(name, "pwd; cat /ro/file; echo $GREETING; cat /proc/sys/net/ipv4/ip_local_port_range").out.split("\n") == [
            "/rw", "from the host", "a b", "4000\t4100", "",
        ]  # fmt: skip
        assert "Read-only file system" in pod.exec(name, "echo x > /ro/file").err
        assert pod.exec(name, "echo y > /rw/made").code == 0
        assert cri.stand.path("/run/room/volume/made").read_text() == "y\n"
        cri.stand.ok("mkdir", "-p", "/run/room/volume/late")
        cri.stand.ok("mount", "-t", "tmpfs", "tmpfs", "/run/room/volume/late")
        seen = pod.exec(name, "grep -c ' /slave/late ' /proc/self/mountinfo").out
        cri.stand.ok("umount", "/run/room/volume/late")
        assert seen == "1\n"
        assert pod.exec(name, "grep -c ' /rw/late ' /proc/self/mountinfo").out == "0\n"


@pytest.mark.slow
def test_a_program_that_is_missing(cri: Cri) -> None:
    with cri.pod() as pod:
        name = pod.create("", command=["nosuch"])
        with pytest.raises(CallFailed, match='exec: "nosuch": executable file not found in \\$PATH'):
            cri.call("StartContainer", container_id=name)
        status = pod.status(name)
        assert (status["state"], status["reason"]) == (EXITED, "StartError")
        assert "pyruntime create failed: unable to start container process" in status["message"]


@pytest.mark.slow
def test_a_log_is_moved_away(cri: Cri) -> None:
    """What a kubelet does when it rotates logs."""
    with cri.pod() as pod:
        name = pod.run("n=0; while :; do n=$((n + 1)); echo line $n; sleep 0.1; done")
        wait_for(lambda: pod.log(name), "the first lines")
        path = cri.stand.path(pod.status(name)["log_path"])
        path.rename(f"{path}.1")
        cri.call("ReopenContainerLog", container_id=name)
        wait_for(lambda: path.exists() and pod.log(name), "lines in the new file")


@pytest.mark.slow
def test_containerd_is_killed_and_pods_go_on(cri: Cri) -> None:
    with cri.pod() as pod:
        one, two = pod.run(LOOP), pod.run("sleep 1; exit 6")
        pod.wait_log(one, ("stderr", "down\n"), ("stdout", "up\n"))
        cri.containerd.daemon.kill()
        cri.containerd.daemon.restart()
        cri.containerd.wait_ready()
        wait_for(lambda: cri.answers(), "the plugin answers")
        assert pod.ended(two)["exit_code"] == 6
        assert pod.status(one)["state"] == RUNNING
        assert pod.exec(one, "exit 4").code == 4
        pod.stop(one)
        assert pod.status(one)["exit_code"] == 7


@pytest.mark.slow
def test_ten_pods_at_once(cri: Cri) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def live(number: int) -> int:
        with cri.pod() as pod:
            name = pod.run(f"sleep 1; exit {number}")
            return int(pod.ended(name)["exit_code"])

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(live, range(10))) == list(range(10))
