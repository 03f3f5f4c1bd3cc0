"""Starts the engine: flags and daemon.json to Settings, the lock, the sockets, then serves until told to end.

A daemon started on demand by pyctr does not fail when another has the data root: it waits until that one's socket
answers (exit 0, nothing to do) or the lock is free. So any number of callers end with one daemon.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from pyruntime.api.client.connection import parse_host
from pyruntime.api.client.places import places
from pyruntime.cli.flags import BOOL, INT, LIST, TEXT, records
from pyruntime.cli.parse import HelpAsked
from pyruntime.cli.pyctr.words import parse_words
from pyruntime.cli.pyctrd.listen import answers, listen
from pyruntime.engine.engine import Engine, lock_root
from pyruntime.engine.journal import LEVELS, Journal
from pyruntime.engine.settings import Settings, merge, read_file
from pyruntime.errors import HostError, RuntimeFailure, UsageError
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from pyruntime.cli.parse import Parsed

IDLE_EXIT_S = 600  # of a daemon started on demand
LOCK_TIMEOUT_S = 20.0
LOOK_S = 0.02
FLAGS = records((
    ("host", "H", LIST, (), "HOST", "where to listen: unix:///path, tcp://name:port, fd://"),
    ("data-root", "", TEXT, "", "DIR", "images and state (as root /var/lib/pyctr)"),
    ("config-file", "", TEXT, "", "FILE", "settings with dockerd's key names (as root /etc/pyctr/daemon.json)"),
    ("group", "G", TEXT, "docker", "GROUP", "group of the unix socket"),
    ("insecure-registry", "", LIST, (), "HOST", "a registry without TLS or with a certificate nobody vouches for"),
    ("registry-mirror", "", LIST, (), "URL", "asked before docker.io"),
    ("max-concurrent-downloads", "", INT, 3, "N", "layers of one pull at once"),
    ("max-concurrent-uploads", "", INT, 5, "N", "layers of one push at once"),
    ("label", "", LIST, (), "KEY=VALUE", "shown by info"),
    ("log-level", "l", TEXT, "info", "LEVEL", "debug, info, warn, error or fatal"),
    ("debug", "D", BOOL, False, "", "as --log-level debug"),
    ("tlsverify", "", BOOL, False, "", "serve a TCP socket to clients with a certificate of ours; there is no other TCP"),
    ("tlscacert", "", TEXT, "", "FILE", "the authority of clients' certificates, in PEM"),
    ("tlscert", "", TEXT, "", "FILE", "the server's certificate, in PEM"),
    ("tlskey", "", TEXT, "", "FILE", "its key, in PEM"),
    ("idle-exit", "", INT, 0, "SECONDS", "end after so long without a request; 0 never"),
    ("pidfile", "p", TEXT, "", "FILE", "where to write the daemon's process ID"),
    ("on-demand", "", BOOL, False, "", "started by pyctr: wait for another daemon, and end when idle", True),
    ("version", "v", BOOL, False, "", "print the version"),
))  # fmt: skip
FIELDS = {"host": "hosts", "data_root": "data_root", "group": "group", "insecure_registry": "insecure_registries",
          "registry_mirror": "registry_mirrors", "max_concurrent_downloads": "max_concurrent_downloads",
          "max_concurrent_uploads": "max_concurrent_uploads", "label": "labels", "log_level": "log_level",
          "debug": "debug", "tlsverify": "tls_verify", "tlscacert": "tls_authority", "tlscert": "tls_certificate",
          "tlskey": "tls_key"}  # fmt: skip


def entry() -> NoReturn:
    """The installed command. Threads whose client has gone are not waited for: what they write is safe at any instant."""
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(words: list[str]) -> int:
    """The exit code of the daemon: 0 when it ended in order, 1 with a line of what was wrong."""
    try:
        parsed = parse_words(FLAGS, words)
    except HelpAsked:
        return _help()
    except UsageError as error:
        print(f"{error}\n\nRun 'pyctrd --help' for more information", file=sys.stderr)
        return 125
    if parsed.values["version"]:
        print(f"pyctrd version {VERSION}")
        return 0
    journal = Journal()
    try:
        settings = read_settings(parsed)
        journal = Journal("debug" if settings.debug else settings.log_level)
        return _run(settings, journal, parsed)
    except (RuntimeFailure, OSError) as error:
        journal.fatal(str(error))
        if isinstance(error, RuntimeFailure) and not parsed.values["on_demand"]:  # whose caller shows the log's last line
            print("".join(f"{line}\n" for line in error.details()), file=sys.stderr, end="")
        return 1


def _help() -> int:
    from pyruntime.cli.pyctr.help import flag_lines

    print(f"Usage:  pyctrd [OPTIONS]\n\nThe engine: Docker's API on a unix socket\n\nOptions:\n{flag_lines(FLAGS)}")
    return 0


def read_settings(parsed: Parsed) -> Settings:
    """Settings from flags and file. Raises UsageError."""
    if parsed.rest:
        raise UsageError(f"unknown argument {parsed.rest[0]!r}: pyctrd takes flags only")
    where = places()
    values = {FIELDS[key]: value for key, value in parsed.values.items() if key in FIELDS and key in parsed.given}
    path = parsed.values["config_file"] or where.config_file
    settings = merge(path, read_file(path, required=bool(parsed.values["config_file"])), values)
    changes: dict[str, Any] = {"config_folder": os.path.dirname(os.path.abspath(path)),
                               "data_root": os.path.abspath(settings.data_root or where.data_root),
                               "hosts": settings.hosts or (f"unix://{where.socket}",)}  # fmt: skip
    if "idle_exit" in parsed.given or parsed.values["on_demand"]:
        changes["idle_exit_s"] = float(parsed.values["idle_exit"] if "idle_exit" in parsed.given else IDLE_EXIT_S)
    if settings.log_level not in LEVELS:
        raise UsageError(f"invalid logging level: {settings.log_level}", hint=f"known are {', '.join(LEVELS)}")
    return settings.replace(**changes)


def _run(settings: Settings, journal: Journal, parsed: Parsed) -> int:
    """Holds the lock, listens, serves."""
    lock = _lock(settings, wait=parsed.values["on_demand"])
    if lock is None:
        return 0
    import asyncio
    import resource

    from pyruntime.api.server.routes import common_headers, make_router
    from pyruntime.api.server.server import Server

    os.umask(0o022)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a descriptor or two for each client
    engine = Engine(settings, journal)
    listening = listen(settings)
    server = Server(make_router(engine), common_headers(), journal, idle_s=settings.idle_exit_s,
                    before_end=listening.remove_names, reload=lambda: _reload(engine, parsed))  # fmt: skip
    if parsed.values["pidfile"]:
        with open(parsed.values["pidfile"], "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    journal.info(f"pyctrd {VERSION} on {settings.data_root}: API listens on {', '.join(settings.hosts)}")
    try:
        asyncio.run(server.run(listening.listeners))
    finally:
        listening.remove_names()
        engine.close()
        os.close(lock)
    return 0


def _reload(engine: Engine, parsed: Parsed) -> None:
    """SIGHUP: reads daemon.json again. What only a start can change stays; a file that is wrong changes nothing."""
    try:
        engine.reload(read_settings(parsed))
    except RuntimeFailure as error:
        engine.journal.error(f"settings stay as they are: {error}")


def _lock(settings: Settings, *, wait: bool) -> int | None:
    """The lock of the data root; None when a daemon that we were to start answers already. Raises HostError."""
    sockets = [place for kind, place in map(parse_host, settings.hosts) if kind == "unix"] if wait else []
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            lock = lock_root(settings.data_root)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"can't use the data root {settings.data_root}: {reason}") from None
        if lock is not None:
            return lock
        if any(map(answers, sockets)):
            return None
        if not wait or time.monotonic() > deadline:
            raise HostError(f"{settings.data_root} is in use by another pyctrd: end it, or name another --data-root")
        time.sleep(LOOK_S)
