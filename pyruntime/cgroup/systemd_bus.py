"""systemd over D-Bus by jeepney: start, change and stop the unit of a container. Loaded for the systemd driver alone.

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

JOB_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 25.0
MANAGER = "org.freedesktop.systemd1"
GONE = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitNotLoaded")
EXISTS = "org.freedesktop.systemd1.UnitExists"
HINT = "is systemd the init of this host, and its bus there? or leave --systemd-cgroup out"


class BusError(HostError):
    """systemd's refusal; `name` is the D-Bus error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text, hint="systemctl status UNIT and journalctl say more")
        self.name = name


class Manager:
    """A connection to the manager. A context manager."""

    def __init__(self) -> None:
        from jeepney import DBusAddress
        from jeepney.io.blocking import open_dbus_connection

        user = geteuid() != 0
        self.address = DBusAddress("/org/freedesktop/systemd1", MANAGER, f"{MANAGER}.Manager")
        try:
            self.bus = open_dbus_connection(_user_bus() if user else "SYSTEM", auth_timeout=CALL_TIMEOUT_S)
        except (OSError, KeyError, ValueError) as error:
            kind = "user" if user else "system"
            raise HostError(f"unable to connect to the {kind} instance of systemd: {error}", hint=HINT) from error

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def call(self, method: str, signature: str, *body: Any) -> tuple[Any, ...]:
        """The answer to a call of the manager. Raises BusError."""
        from jeepney import new_method_call

        return self._ask(new_method_call(self.address, method, signature or None, body))

    def _ask(self, message: Any) -> tuple[Any, ...]:
        from jeepney import HeaderFields, MessageType

        try:
            reply = self.bus.send_and_get_reply(message, timeout=CALL_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            raise HostError(f"systemd does not answer: {error}", hint=HINT) from error
        if reply.header.message_type == MessageType.error:
            text = str(reply.body[0]) if reply.body else "no reason given"
            raise BusError(str(reply.header.fields.get(HeaderFields.error_name, "")), text)
        return tuple(reply.body)

    def job(self, method: str, signature: str, *body: Any) -> str:
        """Call what returns a job, and wait for it: its result, "done" when all is well."""
        from jeepney import MatchRule, message_bus

        rule = MatchRule(type="signal", interface=f"{MANAGER}.Manager", member="JobRemoved")
        self._ask(message_bus.AddMatch(rule))
        self.call("Subscribe", "")
        with self.bus.filter(rule, bufsize=256) as queue:
            (job,) = self.call(method, signature, *body)
            try:
                while True:
                    signal = self.bus.recv_until_filtered(queue, timeout=JOB_TIMEOUT_S)
                    if signal.body[1] == job:
                        return str(signal.body[3])
            except TimeoutError:
                return f"timeout after {JOB_TIMEOUT_S:g} s"


def _user_bus() -> str:
    """The address of the caller's own bus."""
    address = environ.get(b"DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address.decode()
    return f"unix:path={environ[b'XDG_RUNTIME_DIR'].decode()}/bus"


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
    from jeepney import DBusAddress, Properties

    with Manager() as manager:
        properties = Properties(DBusAddress("/org/freedesktop/systemd1", MANAGER, f"{MANAGER}.Manager"))
        (answer,) = manager._ask(properties.get("ControlGroup"))  # noqa: SLF001 - of this module
        return str(answer[1])
