"""linux.resources.rdma with a device of the kernel's software driver: the limits, another device's, an unknown one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system


@pytest.fixture
def device() -> Iterator[str]:
    """A device of rdma_rxe on a dummy network device."""
    if subprocess.run(["modprobe", "--quiet", "rdma_rxe"], check=False).returncode:
        pytest.skip("needs the module rdma_rxe, which Debian's cloud kernel is built without: make test-vm ARGS=-2")
    subprocess.run(["ip", "link", "add", "ptdummy", "type", "dummy"], check=True)
    try:
        subprocess.run(["ip", "link", "set", "ptdummy", "up"], check=True)
        subprocess.run(["rdma", "link", "add", "ptrxe", "type", "rxe", "netdev", "ptdummy"], check=True)
        yield "ptrxe"
        subprocess.run(["rdma", "link", "delete", "ptrxe"], check=True)
    finally:
        subprocess.run(["ip", "link", "delete", "ptdummy"], check=True)


@pytest.mark.parametrize("manager", ["cgroupfs", "systemd"])
def test_limits_of_a_device(runtime: Runtime, make_bundle: MakeBundle, device: str, manager: str) -> None:
    before = runtime.argv
    runtime.argv = lambda *args: [before()[0], "--cgroup-manager", manager, *before(*args)[1:]]  # type: ignore[method-assign]
    limits = {device: {"hcaHandles": 3, "hcaObjects": 2000}}
    with runtime.container(make_bundle(["sleep", "1000"], {"linux.resources": {"rdma": limits}})) as container:
        path = Path(container.saved()["cgroup_paths"][""])
        assert (path / "rdma.max").read_text() == f"{device} hca_handle=3 hca_object=2000 \n"
        one = '{"rdma": {"ptrxe": {"hcaObjects": 7}}}'
        assert runtime("update", "--resources", "-", container.id, stdin=one).code == 0
        assert "hca_object=7" in (path / "rdma.max").read_text()
    assert not path.exists()


def test_a_device_that_is_not_there(runtime: Runtime, make_bundle: MakeBundle, device: str) -> None:
    limits = {"none0": {"hcaHandles": 3}}
    result = runtime.run(make_bundle("true", {"linux.resources": {"rdma": limits}}))
    assert (result.code, result.field) == (1, "/linux/resources/rdma/none0"), result
    assert runtime.ids() == []
