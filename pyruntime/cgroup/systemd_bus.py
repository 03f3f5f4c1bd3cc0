"""systemd over D-Bus: start, change and stop the unit of a container. Loaded for the systemd driver alone.

Root talks to the system instance, everybody else to their own user instance (DBUS_SESSION_BUS_ADDRESS, else the bus
below XDG_RUNTIME_DIR). A job is waited for by its JobRemoved signal, at most half a minute (contract 4.7).
"""

from __future__ import annotations

from posix import environ, geteuid

from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroup.systemd import Property

JOB_TIMEOUT_MS = 30_000
SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
MANAGER, OBJECT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
GONE = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitNotLoaded")
EXISTS = "org.freedesktop.systemd1.UnitExists"
HINT = "is systemd the init of this host, and its bus there? or leave --systemd-cgroup out"


class BusError(HostError):
    """systemd's refusal; `name` is the D-Bus error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text, hint="systemctl status UNIT and journalctl say more")
        self.name = name


class NoSystemd(HostError):
    """There is no manager to talk to."""


class Manager:
    """A connection to the manager. A context manager."""

    def __init__(self) -> None:
        from pyruntime.cgroup.dbus import Bus

        user = geteuid() != 0
        self.subscribed = False
        try:
            self.bus = Bus(_user_bus() if user else _text(environ.get(b"DBUS_SYSTEM_BUS_ADDRESS")) or SYSTEM_BUS)
        except (OSError, KeyError, ValueError) as error:
            kind = "user" if user else "system"
            raise NoSystemd(f"unable to connect to the {kind} instance of systemd: {_reason(error)}", hint=HINT) from error

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.__exit__()

    def send(self, method: str, signature: str, *body: Any) -> int:
        """Put a call of the manager into the next write."""
        return self.bus.send(MANAGER, OBJECT, f"{MANAGER}.Manager", method, signature, *body)

    def answer(self, serial: int) -> list[Any]:
        """The answer to that call. Raises BusError."""
        from pyruntime.cgroup.dbus import ERROR, ERROR_NAME

        try:
            reply = self.bus.reply(serial)
        except (OSError, ValueError) as error:
            raise HostError(f"systemd does not answer: {error}", hint=HINT) from error
        if reply.kind == ERROR:
            text = str(reply.body[0]) if reply.body else "no reason given"
            raise BusError(str(reply.fields.get(ERROR_NAME, "")), text)
        return reply.body

    def call(self, method: str, signature: str, *body: Any) -> list[Any]:
        """The answer to a call of the manager. Raises BusError."""
        return self.answer(self.send(method, signature, *body))

    def job(self, method: str, signature: str, *body: Any) -> str:
        """Call what returns a job, and wait for it: its result, "done" when all is well."""
        rule = f"type='signal',sender='{MANAGER}',interface='{MANAGER}.Manager',member='JobRemoved'"
        bus = "org.freedesktop.DBus"
        before = () if self.subscribed else (
            self.bus.send(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", rule), self.send("Subscribe", ""))
        self.subscribed = True
        wanted = self.send(method, signature, *body)
        for serial in before:
            self.answer(serial)
        (job,) = self.answer(wanted)
        while True:
            signal = self.bus.signal(JOB_TIMEOUT_MS)
            if signal is None:
                return f"timeout after {JOB_TIMEOUT_MS / 1000:g} s"
            if len(signal.body) == 4 and signal.body[1] == job:
                return str(signal.body[3])


def _user_bus() -> str:
    """The address of the caller's own bus."""
    return _text(environ.get(b"DBUS_SESSION_BUS_ADDRESS")) or f"unix:path={_text(environ[b'XDG_RUNTIME_DIR'])}/bus"


def _reason(error: Exception) -> str:
    """Why there is no connection, in a few words."""
    if isinstance(error, KeyError):
        return "XDG_RUNTIME_DIR is not set"
    return (isinstance(error, OSError) and (error.strerror or "").lower()) or str(error)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")


def start_unit(unit: str, properties: tuple[Property, ...], pid: int) -> None:
    """Make the transient unit with process `pid` in it (a slice has none). Raises HostError.

    A unit of that name that has failed before is forgotten once, as it holds nothing.
    """
    given = [(name, (signature, value)) for name, signature, value in properties]
    if unit.endswith(".scope"):
        given.append(("PIDs", ("au", [pid])))
    with Manager() as manager:
        for last in (False, True):
            try:
                result = manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", given, [])
            except BusError as error:
                if error.name == EXISTS and not last:
                    manager.call("ResetFailedUnit", "s", unit)
                    continue
                raise HostError(f'unable to start unit "{unit}": {error.message}', field="/linux/cgroupsPath",
                                value=unit, hint=error.hint) from error
            if result != "done":
                raise HostError(f'unable to start unit "{unit}": its job ended with {result}', value=unit,
                                hint="systemctl status UNIT and journalctl say more")
            return


def set_properties(unit: str, properties: list[Property]) -> None:
    """Change a unit until the next boot. Raises HostError."""
    if not properties:
        return
    with Manager() as manager:
        try:
            given = [(name, (kind, value)) for name, kind, value in properties]
            manager.call("SetUnitProperties", "sba(sv)", unit, True, given)
        except BusError as error:
            raise HostError(f'unable to set properties of unit "{unit}": {error.message}', value=unit) from error


def stop_unit(unit: str) -> None:
    """End a unit and forget it, also one that has failed; one that is gone is fine. Raises HostError."""
    with Manager() as manager:
        for method, words in (("StopUnit", ("ss", unit, "replace")), ("ResetFailedUnit", ("s", unit))):
            try:
                if method == "StopUnit":
                    manager.job(method, *words)
                else:
                    manager.call(method, *words)
            except BusError as error:
                if error.name not in GONE:
                    raise HostError(f'unable to stop unit "{unit}": {error.message}', value=unit) from error


def control_group() -> str:
    """The cgroup of the manager itself, below which its slices lie: "" for the system instance."""
    with Manager() as manager:
        serial = manager.bus.send(MANAGER, OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", f"{MANAGER}.Manager",
                                  "ControlGroup")  # fmt: skip
        (answer,) = manager.answer(serial)
        return str(answer[1])
