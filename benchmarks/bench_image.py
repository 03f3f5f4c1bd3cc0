"""Pull and unpack beside docker, podman, skopeo with umoci, containerd's ctr, and the floor: curl | igzip -dc | tar.

Usage: bench_image.py [--rounds 5] [--files 20000] [--mib 300] [--images 1,6,1+zstd] [--peers a,b] [--shares N] [--json FILE]

Everybody pulls the same images from one warm registry on loopback, in turn, each from an empty store on an ext4 made
anew in a file: on one that has just lost as many inodes, ext4 looks at every one of them before it makes the next
(ialloc.c, recently_deleted), which costs GNU tar four times its own time. The sync is a phase of its own and no part of the time: ours is inside of the pull and taken off, after the
others one is made and shown. Processor time is that of daemon and helpers; memory is the highest sum of theirs that is
no page cache. `--shares` gives the measured ones weight on a machine that others use (v1 cpu controller).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import image_sample
from benchmarks.image_peers import ALL, Floor, Group, Peer, version_of
from tests.registry_stand import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOOR_AIM = 1.3  # x the floor's time
SAMPLE_S = 0.05
DISK_BYTES = 4 << 30


def parse_args() -> argparse.Namespace:
    """The command's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--mib", type=int, default=300)
    parser.add_argument("--images", default="1,6,1+zstd", help="layers of each, gzip or as said")
    parser.add_argument("--peers", default=",".join(peer.name for peer in ALL))
    parser.add_argument("--shares", type=int, default=0)
    parser.add_argument("--folder", default="/var/tmp", help="where the file systems and the registry lie")
    parser.add_argument("--json", default="")
    return parser.parse_args()


class Watch(threading.Thread):
    """The highest memory of a group while it runs."""

    def __init__(self, group: Group) -> None:
        super().__init__(daemon=True)
        self.group, self.highest, self.stop = group, 0.0, threading.Event()

    def run(self) -> None:
        """Looks every SAMPLE_S."""
        while not self.stop.wait(SAMPLE_S):
            self.highest = max(self.highest, self.group.memory_mib())


def measure(peer: Peer) -> dict[str, float]:
    """One round of one peer, times in seconds, memory in MiB."""
    peer.prepare()
    try:
        os.sync()
        watch = Watch(peer.group)
        watch.start()
        cpu, began = peer.group.cpu_s(), time.monotonic()
        try:
            own = peer.run()
            wall = time.monotonic() - began - own
        finally:
            watch.stop.set()
            watch.join()
        cpu = peer.group.cpu_s() - cpu
        began = time.monotonic()
        subprocess.run(["sync", "-f", str(peer.folder)], check=False)
        return {"wall": wall, "cpu": cpu, "memory": watch.highest, "sync": own + time.monotonic() - began}
    finally:
        peer.finish()


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """An empty ext4 in a file below `folder`: its mount point."""
    image, place = folder / "disk", folder / "m"  # short: podman takes 50 characters
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    place.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink()


def push(registry: Registry, folder: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The sample in each form, in the registry; what it is."""
    paths = image_sample.pick(args.files, args.mib << 20)
    made: dict[str, dict[str, Any]] = {}
    for form in args.images.split(","):
        layers, _, pack = form.partition("+")
        pack = pack or "gzip"
        layout = folder / "layout"
        made[form] = {**image_sample.make(layout, paths, int(layers), pack), "pack": pack}
        path = f"bench/{pack}{layers}"
        target = f"{registry.host}/{path}:t"
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:t", f"docker://{target}"], check=True)
        top = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        manifest = json.loads((layout / "blobs/sha256" / top[7:]).read_text())
        made[form]["urls"] = tuple(f"http://{registry.host}/v2/{path}/blobs/{row['digest']}" for row in manifest["layers"])
        made[form]["reference"] = target
        shutil.rmtree(layout)
    return made


def rounds(args: argparse.Namespace, folder: Path, kinds: list[type[Peer]], image: dict[str, Any],
           failed: dict[str, str]) -> dict[str, list[dict[str, float]]]:  # fmt: skip
    """All samples of one image, peers in turn."""
    samples: dict[str, list[dict[str, float]]] = {}
    for number in range(args.rounds):
        for kind in kinds:
            if kind.name in failed or image["pack"] not in kind.packs:
                continue
            group = Group(f"pyruntime-bench-image-{os.getpid()}")
            if args.shares:
                group.weigh(args.shares)
            try:
                with disk(folder) as place:
                    peer = kind(place / "p", group, image["reference"])
                    if isinstance(peer, Floor):
                        peer.layers, peer.pack = image["urls"], image["pack"]
                    samples.setdefault(kind.name, []).append(measure(peer))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                failed[kind.name] = str(error)
            finally:
                group.close()
            print(f"  round {number + 1} {kind.name}: {(samples.get(kind.name) or ['failed'])[-1]}", file=sys.stderr, flush=True)
    return samples


def table(samples: dict[str, list[dict[str, float]]]) -> list[str]:
    """Medians by peer, and ours against the floor and the fastest peer."""
    medians = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in samples.items() if rows}
    lines = [f"  {'':<14}{'wall s':>9}{'cpu s':>9}{'MiB':>8}{'sync s':>9}"]
    for name, row in sorted(medians.items(), key=lambda item: item[1]["wall"]):
        lines.append(f"  {name:<14}{row['wall']:>9.2f}{row['cpu']:>9.2f}{row['memory']:>8.0f}{row['sync']:>9.2f}")
    ours, floor = medians.get("pyruntime"), medians.get("floor")
    peers = {name: row for name, row in medians.items() if name not in {"pyruntime", "floor"}}
    if ours and floor:
        ratio = ours["wall"] / floor["wall"]
        lines.append(f"  to the floor: {ratio:.2f} (aim {FLOOR_AIM}: {'met' if ratio <= FLOOR_AIM else 'missed'})")
    if ours and peers:
        best = min(peers, key=lambda name: peers[name]["wall"])
        ratio = ours["wall"] / peers[best]["wall"]
        lines.append(f"  to the fastest peer, {best}: {ratio:.2f} (aim 1.0: {'met' if ratio <= 1 else 'missed'})")
    return lines


def main() -> int:
    """Prints the tables; 0 when all was measured."""
    args = parse_args()
    if os.geteuid() != 0:
        print("needs root: peers mount and keep owners")
        return 2
    chosen = args.peers.split(",")
    failed = {kind.name: f"needs {need}" for kind in ALL for need in kind.needs if kind.name in chosen and not shutil.which(need)}
    kinds = [kind for kind in ALL if kind.name in chosen and kind.name not in failed]
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # by exception, so that all is taken back
    folder = Path(tempfile.mkdtemp(prefix="pyruntime-bench-", dir=args.folder))
    registry = Registry(folder / "registry")
    results = {}
    try:
        for form, image in push(registry, folder, args).items():
            print(f"==> {form} layer(s): {image['files']} files, {image['tar'] >> 20} MiB of tar, {image['blobs'] >> 20} MiB of {image['pack']}")
            samples = rounds(args, folder, kinds, image, failed)
            results[form] = samples
            print("\n".join(table(samples)), flush=True)
    finally:
        registry.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for kind in kinds:
        print(f"  {kind.name}: {version_of(kind.name)}")
    for name, why in failed.items():
        print(f"  {name} not measured: {why}")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
