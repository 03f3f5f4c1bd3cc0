"""Starting pyctrd on demand: only for the default socket, at most one per data root, ready when /_ping answers.

The daemon itself decides who stays: it takes the lock of its data root or waits for the socket of the one that has it
(pyruntime.cli.pyctrd). So callers may start as many as they like, and all end with the same one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from pyruntime.api.client.connection import Client, Unreachable
from pyruntime.api.client.places import Places, default_host, places

START_TIMEOUT_S = 30.0
LOOK_S = 0.02
LOG_BYTES = 1 << 20  # a log that has grown past this is begun anew
# A plain user's daemon has to find the user's folders.
KEPT = ("HOME", "USER", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def connect(host: str = "") -> Client:
    """A client of `host`; of the default place's daemon, started if need be, when it is "". Raises Unreachable."""
    if host and host != default_host():
        return Client(host)
    client = Client(default_host())
    if not _answers(client):
        _start(client, places())
    return client


def _answers(client: Client) -> bool:
    """Whether the daemon answers. Raises Unreachable when we may not even ask."""
    try:
        client.ping()
    except Unreachable as error:
        if error.message.startswith("permission denied"):
            raise
        return False
    return True


def _start(client: Client, where: Places) -> None:
    """Starts the daemon and waits until it answers. Raises Unreachable with the last line of its log."""
    try:
        os.makedirs(where.run, mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
    except OSError as error:
        raise Unreachable(f"mkdir {where.run}: {(error.strerror or '').lower()}",
                          hint="set XDG_RUNTIME_DIR to a folder of this user's, as a login does, or name an engine with -H"
                          ) from None  # fmt: skip
    deadline = time.monotonic() + START_TIMEOUT_S
    daemon = _spawn(where)
    while time.monotonic() < deadline:
        if _answers(client):
            daemon.returncode = 0  # it lives on in its own session; nobody waits for it
            return
        code = daemon.poll()
        if code is not None and code != 0:
            raise Unreachable(f"pyctrd ended with {code}: {_last_line(where.log)}", hint=f"its log is {where.log}")
        if code == 0:
            daemon = _spawn(where)  # the one it found has gone meanwhile
        time.sleep(LOOK_S)
    daemon.returncode = 0
    raise Unreachable(f"pyctrd did not answer within {START_TIMEOUT_S:g} s: {_last_line(where.log)}",
                      hint=f"its log is {where.log}")  # fmt: skip


def _spawn(where: Places) -> subprocess.Popen[bytes]:
    """The daemon with cwd /, umask 022, a session of its own, no descriptor of ours and a fixed environment."""
    import pyruntime

    folder = os.path.dirname(os.path.dirname(os.path.abspath(pyruntime.__file__)))
    boot = f"import sys; sys.path.append({folder!r}); from pyruntime.cli.pyctrd.main import entry; entry()"
    environment = {"PATH": PATH, "LANG": "C.UTF-8"}
    if os.geteuid() != 0:
        environment |= {name: os.environ[name] for name in KEPT if name in os.environ}
    log = os.open(where.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(log).st_size > LOG_BYTES:
            os.ftruncate(log, 0)
        return subprocess.Popen([sys.executable, "-I", "-c", boot, "--on-demand"], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, cwd="/", env=environment, umask=0o022, start_new_session=True)  # fmt: skip
    finally:
        os.close(log)


def _last_line(path: str) -> str:
    """The last line of the daemon's log."""
    try:
        with open(path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4096))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except OSError as error:
        return f"no log: {error.strerror}"
    return lines[-1] if lines else "it wrote nothing"
