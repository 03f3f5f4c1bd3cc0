"""A pyctrd of the test's own, and the clients that drive it: pyctr, Debian's docker, a newer docker, docker-py, raw HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyruntime.api.client.connection import Client, Unreachable

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PYCTR, PYCTRD = (str(REPOSITORY / ".venv/bin" / name) for name in ("pyctr", "pyctrd"))
DOCKERS = {"docker20": "/usr/bin/docker", "docker28": "/usr/local/bin/docker"}
TIMEOUT_S = 180  # of what takes a second on an idle machine


class Daemon:
    """pyctrd with socket, data root, log and clients' configuration below one folder."""

    def __init__(self, folder: Path, *words: str, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.socket, self.root, self.log = folder / "api.sock", folder / "data", folder / "log"
        self.host = f"unix://{self.socket}"
        (folder / "daemon.json").write_text(json.dumps(settings or {}), encoding="utf-8")
        (folder / "client").mkdir(exist_ok=True)
        self.words = words
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(self.host)

    def start(self) -> None:
        """Starts it; returns when it answers."""
        words = [PYCTRD, "--host", self.host, "--data-root", str(self.root), "--config-file", str(self.folder / "daemon.json")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*words, "--debug", *self.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.client.ping()
            except Unreachable:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.end()
                    pytest.fail(f"pyctrd does not answer: {self.log.read_text()[-2000:]}")
                time.sleep(0.02)
            else:
                return

    def end(self) -> None:
        """Ends it by force, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """Of a client."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", "DOCKER_HOST": self.host,
                "DOCKER_CONFIG": str(self.folder / "client")}

    def run(self, program: str, *words: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A client's command."""
        done = subprocess.run([program, *words], input=stdin, capture_output=True, env=self.environment, cwd=self.folder,
                              timeout=TIMEOUT_S, check=False)
        assert not check or done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:], self.log.read_text()[-4000:])
        return done


class Tool:
    """One command line client of a daemon: `tool("images", "-q")` is its output."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon, self.name = daemon, name
        self.program = PYCTR if name == "pyctr" else DOCKERS[name]
        if not Path(self.program).exists():
            pytest.skip(f"needs {self.program}")

    def __call__(self, *words: str, stdin: bytes = b"") -> str:
        return self.daemon.run(self.program, *words, stdin=stdin).stdout.decode()

    def fails(self, *words: str, stdin: bytes = b"", code: int = 1) -> str:
        """What it says on stderr when it fails."""
        done = self.daemon.run(self.program, *words, stdin=stdin, check=False)
        assert done.returncode == code, (words, done)
        return done.stderr.decode()

    def both(self, *words: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        done = self.daemon.run(self.program, *words, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()


TOOLS = ("pyctr", *DOCKERS)


@contextmanager
def daemon(folder: Path, *words: str, settings: dict[str, Any] | None = None) -> Iterator[Daemon]:
    """A running pyctrd; ended at the end, in order."""
    made = Daemon(folder, *words, settings=settings)
    made.start()
    try:
        yield made
        if made.process is not None and made.process.poll() is None:
            assert made.stop() == 0, made.log.read_text()
            assert not made.socket.exists()
    finally:
        made.end()


ECHO = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listens", flush=True)
    while True:
        with listener.accept()[0] as found:
            found.sendall(found.recv(100))
"""


@contextmanager
def echo(folder: Path) -> Iterator[Callable[[], None]]:
    """One exchange with a process that only echoes: what any answer takes on this machine just now."""
    path = str(folder / "echo.sock")
    with subprocess.Popen([sys.executable, "-c", ECHO, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"listens\n"

        def exchange() -> None:
            with socket.socket(socket.AF_UNIX) as found:
                found.connect(path)
                found.sendall(b"x")
                assert found.recv(100) == b"x"

        try:
            yield exchange
        finally:
            process.kill()


def seconds(exchange: Callable[[], object]) -> float:
    """How long it took."""
    began = time.monotonic()
    exchange()
    return time.monotonic() - began


def are_quick(took: Sequence[float], beside: Sequence[float], share: float) -> bool:
    """Whether this share of them took less than 0.1 s; on a machine where an echo takes its time, ten times that."""
    at = int(len(took) * share)
    return sorted(took)[at] < max(0.1, 10 * sorted(beside)[at])


def need(program: str) -> str:
    """The path of a program; skips without it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    return found
