"""Docker in a stand: containerd and dockerd as Debian runs them, and the command line as a client."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from conformance.callers.archive import IMAGE
from conformance.callers.containerd import Containerd
from conformance.callers.stand import Ended, Stand, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "/usr/bin/docker"  # Debian's, whatever else is on the path
STATE = ("/run/docker/runtime-pyruntime/moby", "/run/docker/runtime-runc/moby", "/run/containerd/io.containerd.runtime.v2.task/moby", "/run/containerd/s")


class Docker:
    """dockerd with the image loaded; `more` are settings of daemon.json beside those that a stand needs."""

    def __init__(self, stand: Stand, program: str, more: dict[str, Any]) -> None:
        self.stand = stand
        self.containerd = Containerd(stand, program)
        settings = {
            "data-root": "/run/varlib/docker",
            "cgroup-parent": f"/{stand.token}",
            "containerd": "/run/containerd/containerd.sock",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            **more,
        }
        stand.write("/etc/docker/daemon.json", json.dumps(settings))
        self.daemon = stand.daemon("dockerd")
        self.wait_ready()
        self.ok("load", "-i", "/run/image.tar")
        stand.keep_mounts()
        stand.mounts.add("/run/docker/netns/default")  # made for the first container of the host's network, for good
        self.made = 0

    def wait_ready(self) -> None:
        """Until it answers."""
        self.daemon.wait_ready(lambda: self("version").code == 0, "dockerd answers")

    def __call__(self, *args: Any, **more: Any) -> Ended:
        """One finished call of the command line."""
        return self.stand.run("env", "DOCKER_BUILDKIT=0", "DOCKER_CLI_HINTS=false", CLIENT, *args, **more)

    def ok(self, *args: Any, **more: Any) -> str:
        """stdout, without the last line end, of a call that has to succeed."""
        ended = self(*args, **more)
        assert ended.code == 0, (args, ended, self.daemon.tail())
        return ended.out.removesuffix("\n")

    def run(self, *flags: str, do: str | list[str] = "true", image: str = IMAGE, **more: Any) -> Ended:
        """`docker run --rm FLAGS IMAGE`, a shell text or a list of arguments, without a network unless flags say one."""
        return self("run", "--rm", *self._network(flags), *flags, image, *_command(do), **more)

    def look(self, *flags: str, do: str | list[str]) -> str:
        """stdout, without the last line end, of a run that has to succeed."""
        ended = self.run(*flags, do=do)
        assert ended.code == 0, (flags, ended, self.daemon.tail())
        return ended.out.removesuffix("\n")

    @contextlib.contextmanager
    def container(self, *flags: str, do: str | list[str] = "exec sleep 3600", image: str = IMAGE) -> Iterator[str]:
        """A detached container's name; removed at the end."""
        self.made += 1
        name = f"d{self.made}"
        try:
            self.ok("run", "-d", "--name", name, *self._network(flags), *flags, image, *_command(do))
            yield name
        finally:
            self("rm", "-f", "-v", name)

    @staticmethod
    def _network(flags: tuple[str, ...]) -> tuple[str, ...]:
        return () if any(flag.startswith(("--net", "-p")) for flag in flags) else ("--network", "none")

    def inspect(self, name: str, form: str) -> str:
        """One value of a container by a Go template."""
        return self.ok("inspect", "-f", "{{" + form + "}}", name)

    def wait_state(self, name: str, form: str, value: str) -> None:
        """Until the value is that."""
        wait_for(lambda: self.inspect(name, form) == value, lambda: f"{form} is {value}: {self.inspect(name, '.State')}")

    def check(self) -> None:
        """Fails with what is left when no container is."""
        self.stand.check(STATE)


def _command(do: str | list[str]) -> list[str]:
    return ["sh", "-c", do] if isinstance(do, str) else do
