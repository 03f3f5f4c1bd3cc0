"""Where things are: as root below /run, /var/lib and /etc, for a plain user below the XDG folders (DESIGN, engine 4)."""

from __future__ import annotations

import os

from pyruntime.record import Record


class Places(Record):
    """Paths of the daemon that this user starts on demand."""

    run: str  # 0711 as root, 0700 otherwise: socket and log
    data_root: str  # the store and the lock
    config: str  # daemon.json and certs.d

    @property
    def socket(self) -> str:
        """The API's socket."""
        return f"{self.run}/pyctr.sock"

    @property
    def log(self) -> str:
        """What a daemon started on demand writes to."""
        return f"{self.run}/pyctrd.log"

    @property
    def config_file(self) -> str:
        """The daemon's settings."""
        return f"{self.config}/daemon.json"


def places() -> Places:
    """The places of the calling user. A relative XDG folder is ignored, as its specification demands."""
    if os.geteuid() == 0:
        return Places("/run/pyctr", "/var/lib/pyctr", "/etc/pyctr")
    home = os.path.expanduser("~")
    runtime = _folder("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return Places(f"{runtime}/pyctr", f"{_folder('XDG_DATA_HOME', f'{home}/.local/share')}/pyctr",
                  f"{_folder('XDG_CONFIG_HOME', f'{home}/.config')}/pyctr")  # fmt: skip


def _folder(name: str, default: str) -> str:
    """An XDG folder."""
    value = os.environ.get(name, "")
    return value.rstrip("/") if value.startswith("/") else default


def default_host() -> str:
    """The host that is used without -H and DOCKER_HOST, and the only one that is started on demand."""
    return f"unix://{places().socket}"
