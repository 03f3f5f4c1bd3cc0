"""Settings: what holds for every verb of one caller, the global flags of the command line."""

from __future__ import annotations

from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def ignore(_: str) -> None:
    """The default receiver of warnings."""


class Settings(Record):
    """`root` is the absolute state root. `warn` gets one line for every grant that could not be given.

    `cache` holds compiled seccomp filters, 0700. It lies beside the default root whatever root is used, so that a
    caller's folder of states holds states only.
    """

    root: str = "/run/pyruntime"
    cache: str = "/run/pyruntime-cache"
    cgroup_manager: str = "cgroupfs"  # cgroupfs, systemd, disabled
    rootless: str = "auto"  # true, false, auto
    debug: bool = False
    warn: Callable[[str], None] = ignore
