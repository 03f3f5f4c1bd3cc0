"""Nothing of the runtime can be reached over a network, nor by a name that a container of the host's network has too."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.runtime import finish, track

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system
LIMIT_S = 60
# In a network namespace that has nothing in it: what is there at each step of a life, seen by the host and by the container.
LIFE = """
list() { echo "== $1"; tail -q -n +2 /proc/net/unix /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 /proc/net/raw; }
list before
"$@" create -b "$BUNDLE" "$ID" && list created
"$@" start "$ID" && list running
"$@" exec -d "$ID" sleep 600 && list entered
"$@" exec "$ID" tail -n +2 /proc/net/unix && echo "== inside"
"$@" delete --force "$ID" && list deleted
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_no_socket_has_a_name(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """S62, S63, CVE-2020-15257: on the host's network a container finds no socket of ours, abstract or listening."""
    bundle = make_bundle("sleep 600", {"hooks": {"createRuntime": [{"path": "/bin/true"}]}})
    name = runtime.new_id()
    env = {"BUNDLE": str(bundle.path), "ID": name, "PATH": os.environ["PATH"]}
    argv = ["unshare", "--net", "sh", "-eu", "-c", LIFE, "sh", *runtime.argv()]
    with (tmp_path / "said").open("w") as out:
        call = track(subprocess.Popen(argv, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out))
        assert finish(call, LIMIT_S) == 0
    said = (tmp_path / "said").read_text().splitlines()
    assert [line for line in said if line.startswith("== ")] == [
        f"== {step}" for step in ("before", "created", "running", "entered", "inside", "deleted")
    ]
    sockets = [line.split() for line in said if not line.startswith("== ")]
    assert [fields for fields in sockets if len(fields) > 7] == []  # a name, or an address
