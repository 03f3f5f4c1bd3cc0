"""Log records to journald and syslog (crun's --log journald:ID and syslog:ID), one datagram each."""

from __future__ import annotations

import _socket

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3)
FACILITY_DAEMON = 3 << 3


def send(service: str, level: str, message: str, *, journal: str = JOURNAL, syslog: str = SYSLOG) -> None:
    """Sends one record; a service that does not listen loses it, as a log must not fail its verb."""
    kind, _, name = service.partition(":")
    priority = PRIORITIES[level]
    identifier = name or "pyruntime"
    if kind == "journald":
        path, text = journal, f"MESSAGE={message}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={identifier}\n"
    else:
        path, text = syslog, f"<{FACILITY_DAEMON | priority}>{identifier}: {message}"
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.sendto(text.encode("utf-8", "surrogateescape"), path)
    except OSError:
        return
    finally:
        sock.close()
