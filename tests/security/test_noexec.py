"""Where the kernel executes no memory files (vm.memfd_noexec=2, a setting of a pid namespace): DESIGN, S10 and S11.

container-init then runs from a file that has no name, through a read-only mount, and never from the installed one.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.plain_user import AS_NOBODY, need_readable_checkout
from tests.security.test_attacks import OVERWRITE, programs
from tests.system.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

SETTING = "/proc/sys/vm/memfd_noexec"
ROOM = f"mount --make-rprivate / && echo 2 > {SETTING} && {{}} echo ready && exec sleep 3600"


class Confined(Runtime):
    """The program, called in a pid namespace that refuses."""

    def __init__(self, program: str, root: Path, more: str = "") -> None:
        super().__init__(program, root)
        command = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", ROOM.format(more)]
        self.room = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.room.stdout is not None
        if self.room.stdout.readline() != "ready\n":
            self.close()
            pytest.fail("the room was not made")
        self.inner = int(Path(f"/proc/{self.room.pid}/task/{self.room.pid}/children").read_text())

    def argv(self, *args: Any) -> list[str]:
        """By nsenter."""
        return ["nsenter", "-t", str(self.inner), "-p", "-m", "--", *super().argv(*args)]

    def close(self) -> None:
        """Ends the room and all in it."""
        self.room.kill()
        self.room.wait()
        if self.room.stdout is not None:
            self.room.stdout.close()


@pytest.fixture
def rooms(runtime: Runtime) -> Iterator[Callable[..., Confined]]:
    """`rooms(more)`: a confined runtime; `more` is a shell text that ends in `&&`, run in the room first."""
    if not os.path.exists(SETTING):
        pytest.skip("needs vm.memfd_noexec (Linux 6.3)")
    made: list[Confined] = []

    def make(more: str = "") -> Confined:
        made.append(Confined(runtime.program, runtime.root, more))
        return made[-1]

    yield make
    for room in made:
        room.close()


def written(fd: int) -> str:
    """The name of the error of opening that file again to write."""
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


@pytest.mark.parametrize("folders", ["", "mount -t tmpfs -o noexec tmpfs /run &&", "mount -o bind,ro /run /run &&"],
                         ids=["as it is", "noexec", "read-only"])  # fmt: skip
def test_a_life_without_memory_files(rooms: Callable[..., Confined], make_bundle: MakeBundle, folders: str) -> None:
    """S10: create, start, exec, hooks' group and a filter that has to be compiled, with /run as machines have it."""
    room = rooms(folders)
    bundle = make_bundle("sleep 600", {"linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}})
    before = programs(room)
    with room.container(bundle, start=False) as container:
        held = os.open(f"/proc/{room.inner}/root/proc/{container.pid}/exe", os.O_PATH)
        name = os.readlink(f"/proc/self/fd/{held}")
        assert name.endswith(" (deleted)")
        assert "container-init" not in name
        assert os.fstat(held).st_nlink == 0
        assert written(held) == "ETXTBSY"
        container.ok("start")
        assert container.exec("echo", "inside").out == "inside\n"
    assert written(held) == "EROFS"  # nobody runs it any more
    os.close(held)
    assert room.run(make_bundle("exit 9")).code == 9
    assert programs(room) == before


def test_entering_processes_are_overwritten_in_vain(rooms: Callable[..., Confined], make_bundle: MakeBundle) -> None:
    """S10, S12, S13: as with memory files, root inside reaches nothing that runs again."""
    room = rooms()
    capabilities = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]
    bundle = make_bundle(OVERWRITE, {f"process.capabilities.{name}": capabilities for name in ("bounding", "effective", "permitted")})
    before = programs(room)
    with room.container(bundle) as container:
        for _ in range(10):
            container.exec("true")
        assert "wrote" not in container.output()
    assert programs(room) == before


def test_no_folder_holds_it(runtime: Runtime, rooms: Callable[..., Confined], make_bundle: MakeBundle) -> None:
    """DESIGN, runtime 16: refused in one line that says why, with nothing left; the installed file is no way out."""
    closed = " ".join(f"mount -t tmpfs -o ro tmpfs {folder} &&" for folder in ("/run", "/dev/shm", "/var/tmp"))
    mine = runtime.root.parent.parent
    room = rooms(f"mount --bind /tmp /tmp && mount --bind {mine} {mine} && mount -o remount,bind,ro /tmp && {closed}")
    result = room.run(make_bundle("true"))
    assert result.code == 1
    assert "vm.memfd_noexec" in result.err


def test_without_the_right_to_mount() -> None:
    """Rootless: the file without a name runs; it is read-only while it does."""
    script = "import os; from pyruntime.native import unlinked; fd = unlinked.program(open('/bin/true', 'rb').read()); os.execve(fd, ['true'], {})"
    need_readable_checkout()
    command = [*AS_NOBODY, "/usr/bin/python3", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0, done.stderr
