"""containerd's CRI plugin in a stand, as a kubelet has it: pods and containers by gRPC on containerd's socket."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from conformance.callers.archive import IMAGE, make_archive
from conformance.callers.containerd import SOCKET, Containerd
from conformance.callers.cri_messages import CONTAINER, METHODS, POD, RUNNING
from conformance.callers.protobuf import decode, encode
from conformance.callers.stand import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.callers.stand import Stand

HANDLER = "pyruntime"  # what a RuntimeClass names as its handler; without one it is Debian's runc
PAUSE = "localhost/pause:1"
LOGS = "/run/room/logs"
PLUGINS = "/usr/lib/cni"
CONFIG = """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}.options]
      BinaryName = "{program}"
      SystemdCgroup = false
"""
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipam": {"type": "host-local", "subnet": "10.88.9.0/24", "dataDir": "/run/room/addresses"},
        },
    ],
}


class CallFailed(Exception):
    """A call that the CRI plugin refused; the text is its message."""


class Done(NamedTuple):
    """How a command in a container ended."""

    code: int
    out: str
    err: str


class Cri:
    """A containerd that serves CRI; `call` is any method of it."""

    def __init__(self, stand: Stand, program: str) -> None:
        grpc = pytest.importorskip("grpc", reason="needs grpcio")
        self._error = grpc.RpcError
        self.stand, self.program, self.made = stand, program, 0
        stand.ok("mount", "-t", "tmpfs", "tmpfs", "/var/lib")  # the CNI library keeps its results there
        stand.write("/etc/cni/net.d/10-pods.conflist", json.dumps(NETWORK))
        self.containerd = Containerd(stand, program, CONFIG.format(pause=PAUSE, plugins=PLUGINS, handler=HANDLER, program=program))
        busybox = shutil.which("busybox")
        assert busybox is not None
        stand.write("/run/pause.tar", make_archive(busybox, PAUSE, ("sleep", "2147483647")))
        for name in ("image", "pause"):
            self.containerd.ok("images", "import", f"/run/{name}.tar", namespace="k8s.io")
        # Go's gRPC takes no authority that is a path.
        options = [("grpc.default_authority", "localhost")]
        self._channel = grpc.insecure_channel(f"unix://{stand.path(SOCKET)}", options)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def call(self, method: str, timeout_s: float = WAIT_S, **values: Any) -> dict[str, Any]:
        """The response of one call. Raises CallFailed."""
        request, response = METHODS[method]
        kind = "ImageService" if "Image" in method else "RuntimeService"
        send = self._channel.unary_unary(f"/runtime.v1.{kind}/{method}")
        try:
            return decode(response, send(encode(request, values), timeout=timeout_s, wait_for_ready=True))
        except self._error as error:
            raise CallFailed(f"{method}: {error.details()}") from None

    def answers(self) -> bool:
        """Whether the runtime says that it is ready."""
        try:
            conditions = self.call("Status")["status"]["conditions"]
        except CallFailed:
            return False
        return any(entry["type"] == "RuntimeReady" and entry["status"] for entry in conditions)

    def new_name(self, kind: str) -> str:
        """A name that no other test uses."""
        self.made += 1
        return f"{kind}{self.made}"

    def pod_config(self, namespaces: dict[str, int] | None = None, security: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A pod's configuration, its namespaces as a kubelet's without a word of them; `more` goes into its `linux`."""
        name = self.new_name("pod")
        options = {"network": POD, "pid": CONTAINER, "ipc": POD, **(namespaces or {})}
        security = {"namespace_options": options, **(security or {})}
        return {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "default"},
            "log_directory": f"{LOGS}/{name}",
            "linux": {"cgroup_parent": f"/{self.stand.token}-{name}", "security_context": security, **more},
            **({"hostname": f"host-{name}"} if options["network"] == POD else {}),
        }

    @contextlib.contextmanager
    def pod(self, *, handler: str = HANDLER, **more: Any) -> Iterator[Pod]:
        """A ready pod; gone at the end, with all its containers."""
        config = self.pod_config(**more)
        self.stand.ok("mkdir", "-p", config["log_directory"])
        name = self.call("RunPodSandbox", config=config, runtime_handler=handler)["pod_sandbox_id"]
        try:
            yield Pod(self, name, config)
        finally:
            self.call("StopPodSandbox", pod_sandbox_id=name)
            self.call("RemovePodSandbox", pod_sandbox_id=name)

    def check(self) -> None:
        """Fails when a pod, a container or anything of one is left."""
        assert self.call("ListPodSandbox")["items"] == []
        assert self.call("ListContainers")["containers"] == []
        self.containerd.check()


class Pod:
    """One sandbox and the containers in it."""

    def __init__(self, cri: Cri, name: str, config: dict[str, Any]) -> None:
        self.cri, self.id, self.config = cri, name, config
        self.namespaces = config["linux"]["security_context"]["namespace_options"]

    def create(self, script: str, security: dict[str, Any] | None = None, resources: dict[str, Any] | None = None, **more: Any) -> str:
        """Id of a container that will run `script` in a shell, or `command` of `more`."""
        name = self.cri.new_name("c")
        config = {
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "command": ["sh", "-c", script],
            "log_path": f"{name}.log",
            "linux": {"security_context": {"namespace_options": self.namespaces, **(security or {})}, "resources": resources or {}},
            **more,
        }
        made = self.cri.call("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return str(made["container_id"])

    def run(self, script: str, security: dict[str, Any] | None = None, resources: dict[str, Any] | None = None, **more: Any) -> str:
        """Id of a started container."""
        name = self.create(script, security, resources, **more)
        self.cri.call("StartContainer", container_id=name)
        return name

    def status(self, name: str) -> dict[str, Any]:
        """state, exit_code, reason and more of a container."""
        status: dict[str, Any] = self.cri.call("ContainerStatus", container_id=name)["status"]
        return status

    def ended(self, name: str) -> dict[str, Any]:
        """Its status as soon as it does not run."""
        wait_for(lambda: self.status(name)["state"] != RUNNING, f"{name} ends")
        return self.status(name)

    def exec(self, name: str, *command: str, timeout_s: int = 60) -> Done:
        """A command beside it; a single word is a shell's script."""
        words = command if len(command) > 1 else ("sh", "-c", *command)
        done = self.cri.call("ExecSync", container_id=name, cmd=list(words), timeout=timeout_s)
        return Done(done["exit_code"], done["stdout"].decode(), done["stderr"].decode())

    def output(self, script: str, security: dict[str, Any] | None = None, **more: Any) -> str:
        """What a container printed from its start to its end, both streams, by its log."""
        name = self.run(script, security, **more)
        self.ended(name)
        return "".join(text for _, text in self.log(name))

    def log(self, name: str) -> list[tuple[str, str]]:
        """(stream, text) of every entry of its log: a line with its end, or a part without."""
        text = self.cri.stand.path(self.status(name)["log_path"]).read_text()
        entries = (line.split(" ", 3) for line in text.splitlines(keepends=True) if line.endswith("\n"))  # not half of one
        return [(stream, content if tag == "F" else content.removesuffix("\n")) for _, stream, tag, content in entries]

    def wait_log(self, name: str, *wanted: tuple[str, str]) -> None:
        """Until its log holds these entries, in any order of the streams, and no others."""
        wait_for(lambda: sorted(self.log(name)) == sorted(wanted), lambda: f"{wanted} in the log: {self.log(name)}")

    def stop(self, name: str, grace_s: int = 60) -> None:
        """SIGTERM, and SIGKILL after the grace time."""
        self.cri.call("StopContainer", container_id=name, timeout=grace_s)

    def remove(self, name: str) -> None:
        """A container that has ended."""
        self.cri.call("RemoveContainer", container_id=name)
