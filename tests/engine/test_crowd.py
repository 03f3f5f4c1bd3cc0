"""Many clients at once: none is turned away at the socket while the daemon has no time for it, and each is answered."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from tests.engine.stand import daemon

pytestmark = pytest.mark.system
CLIENTS = 400
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_many_connect_while_it_is_busy(tmp_path):
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < CLIENTS:
        pytest.skip("needs a queue of 400 connections (net.core.somaxconn)")
    with daemon(tmp_path / "e") as engine:
        os.kill(engine.process.pid, signal.SIGSTOP)
        clients = []
        try:
            for _ in range(CLIENTS):
                client = socket.socket(socket.AF_UNIX)
                clients.append(client)
                client.setblocking(False)
                client.connect(str(engine.socket))  # as Go's clients do it: a full queue is an error at once
                client.sendall(PING)
            os.kill(engine.process.pid, signal.SIGCONT)
            for client in clients:
                client.settimeout(60)
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        finally:
            os.kill(engine.process.pid, signal.SIGCONT)
            for client in clients:
                client.close()


def test_it_may_open_as_many_files_as_the_machine_lets_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with daemon(tmp_path / "e") as engine:
            assert resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
