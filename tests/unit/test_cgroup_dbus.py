"""cgroup/dbus.py: values as bytes and back, beside jeepney's; a connection to a bus of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyruntime.cgroup import dbus
from pyruntime.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit
VALUES: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    ("ybnqiuxtd", (255, True, -2, 65535, -70000, 70000, -(1 << 40), 1 << 63, 0.5)),
    ("sog", ("ä", "/a/b", "a(sv)")),
    ("ayas", (b"\x01\x02\x03", ["", "two"])),
    ("yat", (1, [])),
    ("(ii)a(iiay)", ((1, 2), [(3, 4, b"x")])),
    ("sba(sv)", ("u.scope", True, [("MemoryMax", ("t", 5)), ("PIDs", ("au", [7])), ("Slice", ("s", "a.slice"))])),
    ("ssa(sv)a(sa(sv))", ("u", "replace", [("A", ("as", ["x"]))], [])),
    ("av", ([("y", 1), ("(ss)", ("a", "b")), ("v", ("u", 9))],)),
]


@pytest.mark.parametrize(("signature", "values"), VALUES, ids=lambda value: value if isinstance(value, str) else "")
def test_values_there_and_back(signature: str, values: tuple[Any, ...]) -> None:
    data = bytes(dbus.marshal(bytearray(), signature, values))
    found, end = dbus.unmarshal(data, signature)
    assert end == len(data)
    assert _plain(found) == _plain(values)


def _plain(value: Any) -> Any:
    """Lists and tuples alike, bytes as numbers."""
    if isinstance(value, list | tuple | bytes):
        return [_plain(each) for each in value]
    return value


@pytest.mark.parametrize(("signature", "values"), VALUES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_call_is_what_jeepney_reads(signature: str, values: tuple[Any, ...]) -> None:
    """And the other way round: an independent implementation is the judge."""
    low_level = pytest.importorskip("jeepney.low_level", reason="needs jeepney")
    fields = ((dbus.PATH, "o", "/p"), (dbus.INTERFACE, "s", "i.f"), (dbus.MEMBER, "s", "M"), (dbus.DESTINATION, "s", ""))
    data = dbus.call_bytes(7, fields, signature, values)
    parser = low_level.Parser()
    parser.add_data(data)
    message = parser.get_next_message()
    assert message.header.serial == 7
    assert message.header.fields[low_level.HeaderFields.member] == "M"
    assert low_level.HeaderFields.destination not in message.header.fields
    assert _plain(message.body) == _plain(values)
    theirs = message.serialise(serial=9)
    assert dbus.message_size(theirs[:16]) == len(theirs)
    again = dbus.parse_message(theirs)
    assert (again.kind, again.fields[dbus.MEMBER], _plain(again.body)) == (dbus.CALL, "M", _plain(values))


@pytest.mark.parametrize("data", [b"x" * 16, b"l" + b"\xff" * 15], ids=["order", "size"])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        dbus.message_size(data)


def test_a_message_that_is_cut() -> None:
    with pytest.raises(ValueError, match="cut"):
        dbus.unmarshal(b"\x08\x00\x00\x00", "at")
    with pytest.raises(ValueError, match="cut"):
        dbus.unmarshal(b"\x08\x00", "u")


@pytest.mark.parametrize(("address", "path"), [
    ("unix:path=/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"),
    ("tcp:host=localhost,port=1;unix:guid=1,path=/a%20b", "/a b"),
    ("unix:abstract=/tmp/dbus-x,guid=00", "\0/tmp/dbus-x"),
])  # fmt: skip
def test_addresses(address: str, path: str) -> None:
    assert dbus.socket_path(address) == path


def test_an_address_without_a_socket() -> None:
    with pytest.raises(ValueError, match="no socket"):
        dbus.socket_path("tcp:host=localhost,port=1")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """The address of a bus."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon (Debian: dbus)")
    config = tmp_path / "bus.conf"
    config.write_text(f"""<busconfig><type>session</type><listen>unix:path={tmp_path}/bus</listen>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>""")
    call = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"],
                            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)  # fmt: skip
    assert call.stdout is not None
    yield call.stdout.readline().strip()
    call.kill()
    call.wait()
    call.stdout.close()


def test_a_real_bus(bus: str) -> None:
    """Calls in one write, an error, a signal that is asked for."""
    name = "org.freedesktop.DBus"
    with dbus.Bus(bus) as found:
        match = found.send(name, "/", name, "AddMatch", "s", "type='signal',member='NameOwnerChanged'")
        take = found.send(name, "/", name, "RequestName", "su", "a.test.Name", 0)
        wrong = found.send(name, "/", name, "NoSuchMethod")
        assert found.reply(wrong).fields[dbus.ERROR_NAME] == "org.freedesktop.DBus.Error.UnknownMethod"
        assert found.reply(take).body == [1]
        assert found.reply(match).kind == dbus.REPLY
        signal = found.signal(60000)
        while signal is not None and signal.body[0] != "a.test.Name":
            signal = found.signal(60000)
        assert signal is not None


def test_a_bus_that_hangs_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "bus"))
        server.listen()
        with dbus.Bus(f"unix:path={tmp_path}/bus") as found:
            serial = found.send("a.b", "/", "a.b", "C")
            server.accept()[0].close()
            with pytest.raises((HostError, OSError)):
                found.reply(serial)
