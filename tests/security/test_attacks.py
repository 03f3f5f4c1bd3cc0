"""Attacks of published vulnerabilities, carried out whole by a hostile image or a hostile process inside."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.bundle import MOUNTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

# Waits for processes that enter, and writes over what they run from, by every name that procfs has for it.
OVERWRITE = """
for round in $(seq 400); do
  for pid in /proc/[0-9]*; do
    [ "$pid" = /proc/1 ] && continue
    ( echo OVERWRITTEN > $pid/exe ) 2>/dev/null && echo "wrote $pid/exe"
    for fd in $pid/fd/*; do
      case "$(readlink $fd)" in *container-init*|*pyruntime*) ( echo OVERWRITTEN > $fd ) 2>/dev/null && echo "wrote $fd";; esac
    done
  done
done
echo done
"""


def programs(runtime: Runtime) -> dict[str, str]:
    """Digest of every file that the runtime executes or loads from its package."""
    import pyruntime

    package = Path(pyruntime.__file__).parent / "native"
    files = [Path(runtime.program).resolve(), *(path for path in package.iterdir() if path.is_file())]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("word", ["/proc/self/exe", "/bin/evil", "/bin/linked"])
def test_image_that_executes_the_runtime(runtime: Runtime, make_bundle: MakeBundle, word: str) -> None:
    """S10, S11, CVE-2019-5736: the image's program is the runtime itself, by path, by `#!` and by a link."""
    bundle = make_bundle("sleep 600")
    bundle.file("bin/evil", "#!/proc/self/exe\n", 0o755)
    bundle.replace("bin/linked", "/proc/self/exe")
    before = programs(runtime)
    with runtime.container(bundle) as container:
        assert container.exec(word).code != 0
    bundle.change({"process.args": [word]})
    assert runtime.run(bundle).code != 0
    assert programs(runtime) == before


def test_process_that_overwrites_what_enters(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S10, S12, S13: root inside, with all capabilities that a container has, writes over entering processes."""
    capabilities = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]
    bundle = make_bundle(
        OVERWRITE,
        {f"process.capabilities.{name}": capabilities for name in ("bounding", "effective", "permitted")},
    )
    before = programs(runtime)
    with runtime.container(bundle) as container:
        for _ in range(10):
            container.exec("true")
        assert "OVERWRITTEN" not in container.errors()
    assert programs(runtime) == before


@pytest.mark.parametrize("number", range(3, 12))
def test_cwd_by_a_descriptor(runtime: Runtime, make_bundle: MakeBundle, number: int) -> None:
    """S13, S14, CVE-2024-21626: a cwd of /proc/self/fd/N leads to no folder of the host, in run and in exec."""
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(here, True)
    bundle = make_bundle("ls ..", {"process.cwd": f"/proc/self/fd/{number}"})
    inside = set(os.listdir(bundle.rootfs))
    try:
        with runtime.container(make_bundle("sleep 600"), close_fds=False) as container:
            for result in (
                runtime.run(bundle, close_fds=False),
                container.exec("ls", "..", flags=("--cwd", f"/proc/self/fd/{number}"), close_fds=False),
            ):
                assert result.code != 0 or set(result.out.split()) <= inside, result
    finally:
        os.close(here)


def test_decoys_in_place_of_procfs(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S2, S21: without a /proc mount, files of the image that look like procfs are neither written nor believed."""
    decoys = ("self/oom_score_adj", "thread-self/attr/exec", "self/setgroups", "sys/net/ipv4/ip_forward", "1/uid_map")
    bundle = make_bundle("sleep 600", {"mounts": MOUNTS[1:], "process.oomScoreAdj": 321, "process.noNewPrivileges": True})
    for name in decoys:
        bundle.file(f"proc/{name}", "decoy")
    with runtime.container(bundle) as container:
        assert Path(f"/proc/{container.pid}/oom_score_adj").read_text().strip() == "321"
    for name in decoys:
        assert (bundle.rootfs / "proc" / name).read_text() == "decoy", name


def test_null_device_of_the_image_is_no_mask(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S2, S16: a mask in a container without /dev of its own is not the file that the image calls /dev/null."""
    bundle = make_bundle("cat /etc/shadow", {"mounts": MOUNTS[:1], "linux.maskedPaths": ["/etc/shadow"]})
    bundle.file("etc/shadow", "secret")
    bundle.file("dev/null", "the image's")
    result = runtime.run(bundle)
    assert "secret" not in result.out
    assert "the image's" not in result.out
    assert (bundle.rootfs / "etc/shadow").read_text() == "secret"
