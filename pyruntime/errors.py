"""Everything a user can be shown, as one exception tree.

RuntimeFailure                 base: message, field, value, hint
├── UsageError                 the call's words are wrong (flags, argument counts, ids)
├── SpecError                  config.json breaks a rule; `violations` holds all that were found
├── NotFoundError              no container of that id
├── ExistsError                the id is taken
├── StateError                 the container is in the wrong state for the verb
├── HostError                  the kernel or the host refused; `errno` says with what
│   └── InitError              container-init reported (step, errno)
├── Interrupted                a signal ended the call, what it had made is undone
├── HookError                  a hook failed or ran past its time
├── ProgramError               the container's program cannot be run (missing, not executable, bad format)
├── EngineError                the engine refuses a request; `status` is its HTTP status
└── ImageError                 anything of images and registries; `status` is the code of the engine's API
    ├── ImageNotFound          404: no image of that name or ID, no manifest for the platform
    ├── ImageConflict          409: in use, or named more than once
    ├── InvalidReference       400: the text is no reference, or an ID prefix of several images
    ├── InvalidImage           a manifest, index, config or descriptor breaks a rule; `field` points into it
    ├── RegistryError          a registry refused; `http_status` and `code` are its answer, 0 and "" when there is none
    ├── DigestMismatch         bytes are not what their digest or size says
    ├── UnpackError            a layer cannot be unpacked; `entry` is the path in it, `layer` its digest
    └── StoreError             the store on disk refuses: format, damage, space

`str(error)` is line 1, in the peers' shape (callers match its text). `field` is a JSON pointer into
config.json, `value` what stood there, `hint` what to do; the command line prints them on lines of
their own (`details()`). A hint holds no text that callers match unless line 1 holds it too.
"""

from __future__ import annotations


class RuntimeFailure(Exception):
    """Base of everything a user can see. `field` is a JSON pointer into config.json, or ""."""

    def __init__(self, message: str, *, field: str = "", value: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.late = False  # after the program was let go: a foreground run ends with 255 (contract 1.5)
        self.message = message
        self.field = field
        self.value = value
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def details(self) -> list[str]:
        """The lines below line 1: field, value, hint, each only when known and on one line of printable text."""
        pairs = (("field", self.field), ("value", self.value), ("hint", self.hint))
        return [f"  {name}: {text if text.isprintable() else ascii(text)[1:-1]}" for name, text in pairs if text]

    def within(self, context: str) -> RuntimeFailure:
        """The same error with `context: ` before its message; returns itself, so that it can be raised."""
        self.message = f"{context}: {self.message}"
        self.args = (self.message,)
        return self


class UsageError(RuntimeFailure):
    """A flag, argument or id that no call may have."""


class Violation(tuple[str, str, str, str]):
    """One broken rule: (pointer, message, value, hint), in that order; see the properties."""

    __slots__ = ()

    def __new__(cls, field: str, message: str, value: str = "", hint: str = "") -> Violation:  # noqa: D102
        return tuple.__new__(cls, (field, message, value, hint))

    field = property(lambda self: self[0])
    message = property(lambda self: self[1])
    value = property(lambda self: self[2])
    hint = property(lambda self: self[3])


class SpecError(RuntimeFailure):
    """config.json breaks a rule. Line 1 is the first violation in the peers' order (contract 4.13)."""

    def __init__(self, message: str, *, field: str = "", value: str = "", hint: str = "",
                 violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(message, field=field, value=value, hint=hint)
        self.violations = violations or (Violation(field, message, value, hint),)


class NotFoundError(RuntimeFailure):
    """No container of that id."""


class ExistsError(RuntimeFailure):
    """The id is taken."""


class StateError(RuntimeFailure):
    """The verb is not allowed in the state the container is in."""


class HostError(RuntimeFailure):
    """The kernel or the host refused. `errno` is its answer, 0 when there is none."""

    def __init__(self, message: str, *, errno: int = 0, field: str = "", value: str = "", hint: str = "") -> None:
        super().__init__(message, field=field, value=value, hint=hint)
        self.errno = errno


class InitError(HostError):
    """container-init failed at a step of the plan; `step` is its number as `explain` prints it."""

    def __init__(self, message: str, *, errno: int = 0, step: int = -1, field: str = "", value: str = "",
                 hint: str = "") -> None:
        super().__init__(message, errno=errno, field=field, value=value, hint=hint)
        self.step = step


class Interrupted(RuntimeFailure):
    """A signal ended the call; everything it had made is undone. `exit_code` is 128 + its number."""

    def __init__(self, number: int) -> None:
        name = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 15: "SIGTERM"}.get(number, f"signal {number}")
        super().__init__(f"interrupted by {name}", hint="what was made so far has been undone")
        self.exit_code = 128 + number


class HookError(RuntimeFailure):
    """A hook failed; the message carries its name, number, status and output."""


class ProgramError(HostError):
    """The container's program cannot be executed."""


class ImageError(RuntimeFailure):
    """Base of what images can fail with. `status` is the HTTP code of the engine's API for the class."""

    status = 500


class ImageNotFound(ImageError):
    """No image of that name or ID, or no manifest for the platform asked for."""

    status = 404


class ImageConflict(ImageError):
    """The image is in use, or named more than once, and the call was not forced."""

    status = 409


class InvalidReference(ImageError):
    """A text that is no image reference, platform or unique prefix of an ID."""

    status = 400


class InvalidImage(ImageError):
    """A manifest, index, config or descriptor that breaks a rule; `field` is a JSON pointer into that document."""

    status = 400


class RegistryError(ImageError):
    """A registry refused or could not be reached. `http_status` 0 and `code` "" when it gave no answer."""

    def __init__(self, message: str, *, http_status: int = 0, code: str = "", field: str = "", value: str = "",
                 hint: str = "") -> None:
        super().__init__(message, field=field, value=value, hint=hint)
        self.http_status = http_status
        self.code = code

    @property
    def unauthorized(self) -> bool:
        """Credentials are missing or not good enough."""
        return self.http_status in {401, 403} or self.code in {"UNAUTHORIZED", "DENIED"}


class DigestMismatch(ImageError):
    """Bytes that are not what their digest or size says; nothing of them was kept."""


class UnpackError(ImageError):
    """A layer that cannot be unpacked. `entry` is the path inside it, `layer` its digest; "" when not known."""

    def __init__(self, message: str, *, entry: str = "", layer: str = "", field: str = "", value: str = "",
                 hint: str = "") -> None:
        super().__init__(message, field=field, value=value, hint=hint)
        self.entry = entry
        self.layer = layer


class StoreError(ImageError):
    """The store on disk refuses: its format, damage, no space, no rights."""


class Cancelled(ImageError):
    """The caller gave a transfer up; what had arrived is kept for the next one."""


class EngineError(RuntimeFailure):
    """The engine refuses what it was asked. `status` is the HTTP status that its API answers."""

    def __init__(self, message: str, *, status: int, field: str = "", value: str = "", hint: str = "") -> None:
        super().__init__(message, field=field, value=value, hint=hint)
        self.status = status
