"""pyruntime: an OCI container runtime that can be called, imported and read.

    import pyruntime

    runtime = pyruntime.Runtime(root="/run/my-runtime")
    with runtime.create("web", "/bundles/web") as web:
        web.start()
        print(web.status, web.processes())
        code = web.exec(["sh", "-c", "echo hello"]).wait()
        web.kill("TERM")
        web.wait()
        web.delete()

`Runtime`, `Container`, `Process`, `explain` and `validate` are documented in pyruntime/library.py, errors in
pyruntime/errors.py. Names are loaded when they are first used, so importing the package costs nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.errors import (
        ExistsError,
        HookError,
        HostError,
        InitError,
        NotFoundError,
        ProgramError,
        RuntimeFailure,
        SpecError,
        StateError,
        UsageError,
        Violation,
    )
    from pyruntime.library import Container, Process, Runtime, explain, plan, validate

__all__ = ["Container", "ExistsError", "HookError", "HostError", "InitError", "NotFoundError", "Process",
           "ProgramError", "Runtime", "RuntimeFailure", "SpecError", "StateError", "UsageError", "Violation",
           "explain", "plan", "validate"]  # fmt: skip

_LIBRARY = ("Container", "Process", "Runtime", "explain", "plan", "validate")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pyruntime' has no attribute {name!r}")
    if name in _LIBRARY:
        from pyruntime import library as source
    else:
        from pyruntime import errors as source  # type: ignore[no-redef]
    value = getattr(source, name)
    globals()[name] = value
    return value
