"""Stage 0 is started inside of its cgroups (csrc/ext_spawn.c): no pid is written, unless the kernel refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.runtime import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    pytest.mark.skipif(not Path("/sys/fs/cgroup/pids/tasks").exists(), reason="needs cgroup v1"),
]
CALLS = "trace=openat,clone,clone3,write,execveat"
PIDS_WRITTEN = re.compile(r'openat\(AT_FDCWD, "([^"]*/cgroup\.procs)", O_WRONLY')


def traced(runtime: Runtime, trace: Path, verb: list[Any], *options: str) -> list[str]:
    """The files that pids were written to by one verb under strace with these options."""
    argv = ["strace", "-qq", "-e", CALLS, "-o", str(trace), *options, *map(str, runtime.argv(*verb))]
    call = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert finish(call) == 0
    return PIDS_WRITTEN.findall(trace.read_text())


@pytest.mark.parametrize(("options", "written"), [
    ((), 0),
    (("-e", "inject=clone3:error=ENOSYS"), 1),  # a filter around us, or a kernel before 5.7: the unified tree's
], ids=["born", "clone3 is refused"])  # fmt: skip
def test_create_and_exec(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, options: tuple[str, ...],
                         written: int) -> None:  # fmt: skip
    bundle = make_bundle("exec sleep 600")
    name = runtime.new_id()
    written = written if Path("/sys/fs/cgroup/unified/cgroup.procs").exists() else 0
    try:
        found = traced(runtime, tmp_path / "create", ["create", "-b", bundle.path, name], *options)
        assert len(found) == written, found
        state = json.loads((runtime.root / name / "state.json").read_text())
        assert len(state["cgroup_paths"]) > 1
        for place in state["cgroup_paths"].values():
            assert str(state["init_process_pid"]) in Path(place, "cgroup.procs").read_text().split()
        assert runtime("start", name).code == 0
        found = traced(runtime, tmp_path / "exec", ["exec", "-d", name, "sleep", "600"], *options)
        assert len(found) == written, found
        for place in state["cgroup_paths"].values():
            assert len(Path(place, "cgroup.procs").read_text().split()) == 2
    finally:
        runtime("delete", "--force", name)
