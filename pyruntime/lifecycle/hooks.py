"""Hooks in the runtime's namespaces: prestart, createRuntime, poststart, poststop (runtime.md, POSIX-platform Hooks).

A list of hooks is a small plan for container-init without namespaces: one `hook` step each. So timeouts, output and
descriptors are handled once, in C, and a hook's process group dies with the runtime. They stay in the runtime's cgroup:
the container's limits are in place by then, and Docker's network hook, a Go program, does not start below
`--pids-limit 7` or `--memory 6m`.
"""

from __future__ import annotations

from posix import environ, getcwd

from pyruntime.errors import RuntimeFailure
from pyruntime.lifecycle.drive import Drive, Job
from pyruntime.plan.process import output_steps
from pyruntime.plan.step import HostStep, Plan, Slots, Step
from pyruntime.spec import document
from pyruntime.spec.config import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.spec.config import Hook



def run_all(hooks: tuple[Hook, ...], kind: str, state: dict[str, Any], cwd: str, *, first: int = 0) -> None:
    """Run the hooks in order. Raises HookError at the first that fails, named `KIND hook #I`."""
    if not hooks:
        return
    text = document.dump(state)
    steps = [_step(hook, f"/hooks/{kind}/{first + index}", text, cwd) for index, hook in enumerate(hooks)]
    spec, slots = Spec("1.3.0", annotations=tuple(state.get("annotations", {}).items())), Slots()
    opens, output = output_steps(spec, slots)
    plan = Plan((*opens, HostStep("spawn", ()), *output, *steps), slots=slots.next)
    null = _open_null()
    job = Job(spec=spec, plan=plan, name=kind, stdio=(null, null, null))
    try:
        with Drive(job) as drive:
            drive.run()
            drive.finish(drive.stage0_pidfd, "hook runner")
    finally:
        _close(null)


def _step(hook: Hook, origin: str, state: str, cwd: str) -> Step:
    env = hook.env if hook.env is not None else own_environment()
    argv = hook.args or (hook.path,)
    return Step("hook", (hook.path, argv, env, (hook.timeout_s or 0) * 1000, (state,), cwd), origin)


def own_environment() -> tuple[str, ...]:
    """The runtime's environment, which a hook without `env` inherits (contract 1.10)."""
    return tuple(f"{_text(name)}={_text(value)}" for name, value in environ.items())


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _open_null() -> int:
    from posix import O_CLOEXEC, O_RDWR, open

    return open("/dev/null", O_RDWR | O_CLOEXEC)


def _close(fd: int) -> None:
    from posix import close

    close(fd)


def run_poststop(hooks: tuple[Hook, ...], state: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Every hook, whatever the others did; a failure is a warning (contract 3.2)."""
    for index, hook in enumerate(hooks):
        try:
            run_all((hook,), "poststop", state, getcwd(), first=index)
        except (RuntimeFailure, OSError) as failure:
            warn(str(failure))


