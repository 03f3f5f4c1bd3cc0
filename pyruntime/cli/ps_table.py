"""The table of `ps`: the host's ps(1), cut to the container's processes."""

from __future__ import annotations

import posix

from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def ps_table(pids: Sequence[int], options: Sequence[str]) -> str:
    """Header and rows of `ps OPTIONS` whose PID is one of `pids`. Raises HostError when ps fails or prints no PID."""
    lines = _run(["ps", *options]).splitlines()
    header = lines[0].split() if lines else []
    if "PID" not in header:
        raise HostError("couldn't find PID field in ps output")
    column, wanted = header.index("PID"), set(pids)
    rows = [line for line in lines[1:] if _number(line.split(), column) in wanted]
    return "\n".join([lines[0], *rows]) + "\n"


def _number(fields: list[str], column: int) -> int:
    """The number in `column`, -1 when there is none."""
    return int(fields[column]) if column < len(fields) and fields[column].isdigit() else -1


def _run(argv: list[str]) -> str:
    """What the program prints. Raises HostError when it is missing or fails."""
    reading, writing = posix.pipe2(posix.O_CLOEXEC)
    actions = [(posix.POSIX_SPAWN_DUP2, writing, 1)]
    try:
        pid = _spawn(argv, actions)
    except OSError as error:
        posix.close(reading)
        raise HostError(f"ps: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        hint="install procps, or use --format json") from None  # fmt: skip
    finally:
        posix.close(writing)
    parts = []
    while part := posix.read(reading, 1 << 16):
        parts.append(part)
    posix.close(reading)
    status = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    if status:
        raise HostError(f"ps exited with status {status}")
    return text


def _spawn(argv: list[str], actions: list[tuple[int, int, int]]) -> int:
    """posix_spawnp with our environment."""
    return posix.posix_spawnp(argv[0], argv, posix.environ, file_actions=actions)
