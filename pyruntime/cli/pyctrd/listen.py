"""The daemon's sockets: unix with mode and group, TCP with mutual TLS, and those that systemd hands over.

There is no TCP without TLS on both sides: whoever reaches the API has the rights of the one who runs it.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from typing import TYPE_CHECKING

from pyruntime.api.client.connection import parse_host
from pyruntime.errors import HostError, UsageError

if TYPE_CHECKING:
    import ssl

    from pyruntime.engine.settings import Settings

FIRST_FD = 3  # sd_listen_fds(3)
SOCKET_MODE = 0o660
DEFAULT_GROUP = "docker"  # which need not be there


class Listening:
    """Sockets to serve, and the names to remove at the end."""

    def __init__(self, settings: Settings) -> None:
        self.listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._settings = settings
        self._names: list[tuple[str, int]] = []

    def add_unix(self, path: str, group: str) -> None:
        """Listens at `path`. Raises HostError when somebody does already, and for a group that is not there."""
        number = group_id(group) if os.geteuid() == 0 else -1
        if answers(path):
            raise HostError(f"can't create unix socket {path}: another process listens there")
        os.makedirs(os.path.dirname(path), mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o777 & ~0o600)  # nobody connects before the group is set
        try:
            listener.bind(path)
        except OSError as error:
            listener.close()
            raise HostError(f"can't create unix socket {path}: {(error.strerror or str(error)).lower()}") from None
        finally:
            os.umask(umask)
        if number >= 0:
            os.chown(path, 0, number)
        os.chmod(path, SOCKET_MODE)
        self._names.append((path, os.stat(path).st_ino))
        self.listeners.append((listener, None))

    def add_tcp(self, place: str) -> None:
        """Listens at host:port. Raises UsageError without what TLS needs, HostError."""
        host, _, port = place.rpartition(":")
        context = tls_context(self._settings, place)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.listeners.append((socket.create_server((host.strip("[]"), int(port)), family=family), context))
        except (OSError, ValueError) as error:
            raise HostError(f"can't listen on tcp://{place}: {error}") from None

    def add_inherited(self) -> None:
        """The sockets of systemd's socket unit. Raises UsageError when there are none."""
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            raise UsageError("no sockets found via socket activation: make sure the service was started by systemd")
        for fd in range(FIRST_FD, FIRST_FD + int(os.environ.get("LISTEN_FDS", "0"))):
            os.set_inheritable(fd, False)
            given = socket.socket(fileno=fd)
            local = given.family == socket.AF_UNIX
            self.listeners.append((given, None if local else tls_context(self._settings, str(given.getsockname()))))

    def remove_names(self) -> None:
        """Unlinks the unix sockets that are still ours."""
        for path, inode in self._names:
            try:
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
            except OSError:
                continue


def tls_context(settings: Settings, place: str) -> ssl.SSLContext:
    """TLS that wants a certificate of the client. Raises UsageError that names what is missing, HostError for a bad file."""
    needed = {"--tlsverify": settings.tls_verify, "--tlscacert": settings.tls_authority,
              "--tlscert": settings.tls_certificate,
              "--tlskey": settings.tls_key}  # fmt: skip
    if missing := [name for name, value in needed.items() if not value]:
        raise UsageError(f"tcp://{place} needs TLS with certificates on both sides: {', '.join(missing)} missing; "
                         "who reaches this socket has all rights of the engine")  # fmt: skip
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        context.load_verify_locations(settings.tls_authority)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"can't use the certificates for tcp://{place}: {error}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def listen(settings: Settings) -> Listening:
    """Listens on every host: unix://PATH, tcp://HOST:PORT, fd://. Raises HostError, UsageError."""
    listening = Listening(settings)
    for host in settings.hosts:
        if host.startswith("fd://"):
            listening.add_inherited()
            continue
        kind, place = parse_host(host)
        if kind == "unix":
            listening.add_unix(place, settings.group)
        else:
            listening.add_tcp(place)
    return listening


def answers(path: str) -> bool:
    """Whether somebody listens on the unix socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def group_id(name: str) -> int:
    """The number of a group; root's for the default one where there is none. Raises HostError for another."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdigit() and name.isascii():
            return int(name)
        if name in ("", DEFAULT_GROUP):
            return 0
        raise HostError(f"could not give the socket to group {name}: no such group",
                        hint="make the group, or name another with --group") from None  # fmt: skip
