"""Mount points that the image or a hostile neighbour leads elsewhere by symlinks: to the root, into procfs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.security.exchange import exchanging
from tests.system.bundle import MOUNTS
from tests.system.test_security import RACE_S
from tests.tree_facts import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system
LINKS = {"root": "/", "up": "../../..", "proc": "/proc", "fd": "/proc/self/fd", "chain": "up/proc"}
TARGETS = ("/root", "/up/.", "/proc/", "/proc/sys", "/fd/0", "/chain/sys/kernel", "/chain/self/attr")
DECOYS = "awk '{print $5}' /proc/self/mountinfo"


def mount(target: str, kind: str, folder: Path) -> dict[str, Any]:
    """A tmpfs, a bind of a folder, or a tmpfs with more data than the new calls take at once."""
    if kind == "bind":
        return {"destination": target, "type": "bind", "source": str(folder), "options": ["bind", "ro"]}
    options = ["size=1m", *(["x" * 300] if kind == "long" else [])]
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}


@pytest.mark.parametrize("kind", ["tmpfs", "bind", "long"])
@pytest.mark.parametrize("target", [f"/at{target}" for target in TARGETS])
def test_an_image_that_leads_a_mount_aside(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, target: str, kind: str
) -> None:
    """S22, S5, CVE-2019-16884, CVE-2019-19921: no decoy covers procfs, and no mount is made where nobody would see it."""
    bundle = make_bundle(DECOYS).add_mounts(mount(target, kind, tmp_path))
    (bundle.rootfs / "at").mkdir()
    for name, leads in LINKS.items():
        (bundle.rootfs / "at" / name).symlink_to(leads)
    result = runtime.run(bundle)
    assert (result.code, result.field.partition("/options")[0], result.out) == (1, "/mounts/3", ""), result


def test_what_is_listed_below_proc_is_mounted(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """S22: what lxcfs mounts there, and a procfs elsewhere that the configuration names itself."""
    (tmp_path / "uptime").write_text("1 1\n")
    uptime = {"type": "bind", "source": str(tmp_path / "uptime"), "options": ["bind"]}
    bundle = make_bundle("cat /proc/uptime /mnt/other/uptime").add_mounts(
        {"destination": "/proc/uptime", **uptime},
        {"destination": "/mnt/other", "type": "proc", "source": "proc"},
        {"destination": "/mnt/other/uptime", **uptime},
    )
    assert runtime.look(bundle) == "1 1\n1 1"


@pytest.mark.parametrize("live", [False, True])
def test_a_volume_that_becomes_a_link_to_proc(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, *, live: bool
) -> None:
    """S22, S24, CVE-2025-52881: a folder of a shared volume is exchanged for a link into procfs while mounts are made."""
    volume = tmp_path / "volume"
    (volume / "one/self/attr").mkdir(parents=True)
    (volume / "other").symlink_to("/proc")
    shared = {"destination": "/vol", "source": str(volume), "options": ["bind"]}
    inner = {"destination": "/vol/one/self/attr", "type": "tmpfs", "source": "decoy"}
    bundle = make_bundle("sleep 600" if live else DECOYS).add_mounts(shared, *([] if live else [inner]))
    listed = tmp_path / "mounts.json"
    listed.write_text(json.dumps([inner]))
    end, codes, last = time.monotonic() + RACE_S, set(), -1
    with exchanging(volume, "one", "other"):
        while time.monotonic() < end or last != 0:  # one at least is mounted where it should be
            if live:
                with runtime.container(bundle) as container:
                    last = runtime("mounts", "add", container.id, listed).code
                    seen = container.look(DECOYS)
            else:
                result = runtime.run(bundle)
                last, seen = result.code, result.out
            codes.add(last)
            assert [line for line in seen.split() if line.startswith("/proc/")] == []
    assert codes <= {0, 1}


@pytest.mark.parametrize("link", ["dev", "data"])
@pytest.mark.parametrize("covered", [False, True], ids=["no mount on /dev", "a tmpfs on /dev, then the volume"])
def test_devices_that_a_link_leads_into_a_volume(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, link: str, *, covered: bool
) -> None:
    """S20, CVE-2026-41579: the image's /dev is a link to where a folder of the host is mounted: no node is made in it."""
    volume = tmp_path / "volume"
    (volume / "pts").mkdir(parents=True)
    (volume / "keep").write_text("kept")
    before = describe(volume)
    shared = {"destination": "/vol", "source": str(volume), "options": ["bind"]}
    bundle = make_bundle("true", {"mounts": [*(MOUNTS if covered else MOUNTS[:1]), shared]})
    (bundle.rootfs / "vol").mkdir()
    if link == "dev":
        (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / link).symlink_to("/vol")
    bundle.change({"linux.devices": [{"path": f"/{link}/loot", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666}]})
    result = runtime.run(bundle)
    assert result.code == 1, result
    assert "hint: a symlink in the image leads into a folder of the host" in result.err
    assert describe(volume) == before


def test_devices_behind_a_link_of_the_image(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S20: a /dev that is a link to another folder of the image works, with a tmpfs on it and without."""
    bundle = make_bundle("ls -d /real/null /real/loot /real/fd")
    bundle.change({"linux.devices": [{"path": "/dev/loot", "type": "c", "major": 1, "minor": 5}]})
    (bundle.rootfs / "dev").rename(bundle.rootfs / "real")
    (bundle.rootfs / "dev").symlink_to("/real")
    for mounts in (MOUNTS, MOUNTS[:1]):
        bundle.change({"mounts": mounts})
        assert runtime.look(bundle).split() == ["/real/fd", "/real/loot", "/real/null"]
