"""Who pulls and unpacks in the image benchmark, each into a folder of its own, from an empty store every time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.image_sample import PACKS
from pyruntime.version import VERSION

HERE = Path(__file__).resolve().parent
WAIT_S = 60


class Peer:
    """`folder` holds all that it stores. `run` is measured; it returns what it knows to be its sync, in seconds."""

    name = ""
    needs: tuple[str, ...] = ()
    packs: tuple[str, ...] = PACKS  # the compressions it takes

    def __init__(self, folder: Path, group: Group, reference: str) -> None:
        self.folder, self.group, self.reference = folder, group, reference
        self.daemon: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Starts what must run, once a round."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def run(self) -> float:
        """The pull."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ends what was started and removes the store."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(WAIT_S)
            self.daemon = None
        self.group.kill()
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((point for point in mounted if point.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def serve(self, command: list[str], ready: list[str]) -> None:
        """Starts a daemon in the group; until `ready` succeeds."""
        self.daemon = self.group.start(command)
        end = time.monotonic() + WAIT_S
        while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > end or self.daemon.poll() is not None:
                raise RuntimeError(f"{command[0]} does not answer")
            time.sleep(0.1)


class Group:
    """A cgroup that counts processor time; a v1 hierarchy of cpuacct, else v2. `processes` are those in it now."""

    def __init__(self, name: str) -> None:
        v1 = Path("/sys/fs/cgroup/cpuacct")
        self.v1 = v1.is_dir()
        self.path = (v1 if self.v1 else Path("/sys/fs/cgroup")) / name
        self.path.mkdir(exist_ok=True)
        self.others: list[Path] = []

    def weigh(self, shares: int) -> None:
        """A cgroup of the v1 cpu controller with so many shares holds its processes too."""
        path = Path("/sys/fs/cgroup/cpu") / self.path.name
        path.mkdir(exist_ok=True)
        (path / "cpu.shares").write_text(str(shares))
        self.others.append(path)

    def start(self, command: list[str], **more: object) -> subprocess.Popen[bytes]:
        """A command in the group."""
        enter = " && ".join(f"echo $$ > {path}/cgroup.procs" for path in (self.path, *self.others))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        return subprocess.Popen(["sh", "-c", f'{enter} && exec "$@"', "sh", *command], **quiet)  # type: ignore[call-overload]

    def call(self, command: list[str]) -> str:
        """Its output. Raises RuntimeError with what it said when it failed."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"{command[0]}: {error.decode().strip()[-400:]}")
        return str(out.decode())

    def cpu_s(self) -> float:
        """Processor time of all that was ever in it."""
        if self.v1:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        rows = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(rows["usage_usec"]) / 1e6

    def memory_mib(self) -> float:
        """Resident memory that is no page cache, of those in it now."""
        total = 0
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))
        return total / 1024

    def kill(self) -> None:
        """Ends who is left in it, and waits until they are gone."""
        for _ in range(100):
            left = (self.path / "cgroup.procs").read_text().split()
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)

    def close(self) -> None:
        """Removes the group, which is empty."""
        for path in (self.path, *self.others):
            for _ in range(100):
                try:
                    path.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


class Ours(Peer):
    """The library, in a process started for it."""

    name = "pyruntime"

    def run(self) -> float:
        """Start of Python included."""
        return float(self.group.call([sys.executable, str(HERE / "pull_once.py"), str(self.folder / "store"), self.reference]))


class Floor(Peer):
    """curl | igzip or zstd | tar, layers in turn, no digests, no store."""

    name = "floor"
    needs = ("curl", "igzip", "zstd", "tar")
    layers: tuple[str, ...] = ()  # URLs
    pack = "gzip"

    def run(self) -> float:
        """One pipe per layer."""
        unpack = {"gzip": "igzip", "zstd": "zstd"}[self.pack]
        lines = [f"curl -sf {url} | {unpack} -dc | tar -C {self.folder} -xp --numeric-owner --xattrs -f -" for url in self.layers]
        self.group.call(["sh", "-ec", "\n".join(lines)])
        return 0.0


class Docker(Peer):
    """dockerd with overlay2, its own containerd."""

    name = "docker"
    packs = ("gzip",)  # 20.10
    needs = ("dockerd", "docker")

    def prepare(self) -> None:
        """A daemon without networks."""
        super().prepare()
        host = f"unix://{self.folder}/docker.sock"
        self.client = ["docker", "-H", host]
        self.serve(["dockerd", "-H", host, "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec",
                    "--pidfile", f"{self.folder}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false",
                    "--insecure-registry", "127.0.0.0/8", "--storage-driver", "overlay2"], [*self.client, "version"])  # fmt: skip

    def run(self) -> float:
        """docker pull."""
        self.group.call([*self.client, "pull", "-q", self.reference])
        return 0.0


class Podman(Peer):
    """podman with overlay."""

    name = "podman"
    needs = ("podman",)

    def run(self) -> float:
        """podman pull."""
        self.group.call(["podman", "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run", "--storage-driver", "overlay",
                         "pull", "-q", "--tls-verify=false", self.reference])  # fmt: skip
        return 0.0


class Skopeo(Peer):
    """skopeo copy into a layout, umoci unpack of it."""

    name = "skopeo+umoci"
    packs = ("gzip",)  # umoci 0.4.7
    needs = ("skopeo", "umoci")

    def run(self) -> float:
        """Two commands."""
        self.group.call(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{self.reference}", f"oci:{self.folder}/oci:t"])
        self.group.call(["umoci", "unpack", "--image", f"{self.folder}/oci:t", f"{self.folder}/bundle"])
        return 0.0


class Containerd(Peer):
    """ctr images pull, which unpacks for overlayfs."""

    name = "ctr"
    needs = ("containerd", "ctr")

    def prepare(self) -> None:
        """A daemon without the CRI plugin."""
        super().prepare()
        config = self.folder / "config.toml"
        config.write_text(f'version = 2\nroot = "{self.folder}/root"\nstate = "{self.folder}/state"\n'
                          f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{self.folder}/sock"\n')  # fmt: skip
        self.client = ["ctr", "-a", f"{self.folder}/sock"]
        self.serve(["containerd", "-c", str(config)], [*self.client, "version"])

    def run(self) -> float:
        """ctr images pull."""
        self.group.call([*self.client, "images", "pull", "--plain-http", self.reference])
        return 0.0


ALL: tuple[type[Peer], ...] = (Ours, Floor, Docker, Podman, Skopeo, Containerd)


def version_of(name: str) -> str:
    """What a peer says of itself, in a word."""
    commands = {"docker": ["dockerd", "--version"], "podman": ["podman", "--version"], "skopeo+umoci": ["skopeo", "--version"],
                "ctr": ["containerd", "--version"], "floor": ["tar", "--version"]}  # fmt: skip
    if name not in commands:
        return f"{VERSION}, Python {sys.version.split()[0]}"
    told = subprocess.run(commands[name], capture_output=True, text=True, check=False).stdout.splitlines()
    return told[0] if told else "?"
