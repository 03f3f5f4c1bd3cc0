"""A caller who has had enough does not wait: not for a connection, a handshake, headers, a body, or a take-back."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyruntime.errors import Cancelled, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import RegistryClient
from pyruntime.image.registry.upload import TAKE_BACK_S
from tests.fault_proxy import Fault
from tests.registry_stand import QUICK, put
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
SIZE = 3 << 20
SOON_S = 10.0  # of WATCH_S on a busy machine, and far less than what would end a call by itself
SLOW_S = 120.0
LATER_S = 0.3  # when the caller has had enough


@pytest.fixture(scope="module")
def content(plain):
    """Content that the registry has in the repository `x`."""
    data = os.urandom(SIZE)
    put(RegistryClient(policy=QUICK), f"{plain.host}/x", data)
    return data


@contextmanager
def full_backlog() -> Iterator[str]:
    """A port that takes no more connections: the kernel drops what asks for one."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        dropped = 0
        for _ in range(64):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.3)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                dropped += 1
            if dropped == 2:
                break
        else:
            pytest.skip("needs a kernel that drops connections past the backlog")
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def seconds_until_it_ends(client: RegistryClient, host: str) -> float:
    """How long a call goes on after its cancel."""
    cancel, cancelled = threading.Event(), []

    def give_up() -> None:
        cancelled.append(time.monotonic())
        cancel.set()

    timer = threading.Timer(LATER_S, give_up)
    timer.start()
    with client.operation(cancel) as own, pytest.raises(Cancelled):
        own.manifest(parse_reference(f"{host}/x:v1"))
    ended = time.monotonic()
    timer.join()
    return ended - cancelled[0]


@pytest.mark.parametrize("place", [full_backlog, silent], ids=["connect", "handshake"])
def test_no_waiting_for_a_connection(client, place) -> None:
    with place() as host:
        assert 0 <= seconds_until_it_ends(client, host) < SOON_S


def test_no_waiting_for_a_name(client, monkeypatch) -> None:
    """A look-up cannot be interrupted: it is left behind. No real name server is slow on demand."""
    gate, real = threading.Event(), socket.getaddrinfo

    def slow(host: str, *words: object, **more: object) -> object:
        if host == "registry.invalid" and not more.get("flags"):
            gate.wait(SLOW_S)
        return real(host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        assert 0 <= seconds_until_it_ends(client, "registry.invalid:5000") < SOON_S
    finally:
        gate.set()


def test_no_waiting_for_who_waits(client) -> None:
    """Two callers of one client: the second one waits until the first has found out how to speak to the host."""
    first = threading.Event()
    with full_backlog() as host, client.operation(first) as own:

        def call() -> None:
            with pytest.raises(Cancelled):
                own.manifest(parse_reference(f"{host}/x:v1"))

        caller = threading.Thread(target=call)
        caller.start()
        try:
            assert 0 <= seconds_until_it_ends(client, host) < SOON_S
        finally:
            first.set()
            caller.join()


def test_a_connection_that_is_refused_and_a_name_that_is_not_there(client) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(RegistryError, match="(?i)cannot connect to 127.0.0.1:.*connection refused"):
            client.ping(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(RegistryError, match=r"cannot resolve registry host nowhere\.invalid"):
        client.ping("nowhere.invalid")


def test_a_host_that_does_not_answer_is_given_up(client, monkeypatch) -> None:
    monkeypatch.setattr("pyruntime.image.registry.http.CONNECT_TIMEOUT_S", 0.5)
    with full_backlog() as host, pytest.raises(RegistryError, match=r"no connection to .* within 0\.5 s"):
        client.ping(host)


@pytest.mark.parametrize("close", [False, True], ids=["kept", "closed"])
@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_cancelled_call_ends_at_once(proxy, client, content, where, close) -> None:
    cancel, gate = threading.Event(), threading.Event()
    headers = {"Connection": "close"} if close else {}
    # the first pieces come, the next one after minutes
    proxy.faults.append(Fault("GET", "/blobs/", **{"gate": gate} if where == "headers" else {"slow_s": SLOW_S, "headers": headers}))
    ended = threading.Event()

    def call() -> None:
        with client.operation(cancel) as own, pytest.raises(Cancelled):
            list(own.blob(f"{proxy.host}/x", digest_of(content), SIZE))
        ended.set()

    caller = threading.Thread(target=call)
    caller.start()
    try:
        until(lambda: proxy.count("GET", "/blobs/"))
        time.sleep(0.2)
        assert not ended.is_set()
        cancel.set()
        assert ended.wait(SOON_S)
    finally:
        gate.set()
        cancel.set()
        caller.join()
    # the client itself goes on
    assert b"".join(client.blob(f"{proxy.host}/x", digest_of(content), SIZE)) == content


def test_a_cancelled_upload_is_taken_back(plain, proxy, client, monkeypatch) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 1 << 20)
    cancel, data = threading.Event(), os.urandom(6 << 20)
    with tempfile.TemporaryFile() as file, client.operation(cancel) as own:
        file.write(data)
        file.flush()
        with pytest.raises(Cancelled):
            own.upload_blob(f"{proxy.host}/up", digest_of(data), file.fileno(), len(data),
                            sent=lambda at: cancel.set() if at > 3 << 20 else None)
    # what came of the last piece may be seen after what came later, on another connection
    assert proxy.count("DELETE", "/uploads/") == 1
    assert plain.get(f"/v2/up/blobs/{digest_of(data)}")[0] == 404


def test_a_take_back_is_not_waited_for_long(proxy, client) -> None:
    gate, cancel, data = threading.Event(), threading.Event(), os.urandom(1000)
    proxy.faults += [Fault("DELETE", "/uploads/", gate=gate), Fault("PUT", "/uploads/", gate=gate)]
    cancelled: list[float] = []

    def give_up() -> None:
        until(lambda: proxy.count("PUT", "/uploads/"))
        cancelled.append(time.monotonic())
        cancel.set()

    giver = threading.Thread(target=give_up)
    giver.start()
    try:
        with client.operation(cancel) as own, pytest.raises(Cancelled):
            put(own, f"{proxy.host}/up", data)
        giver.join()
        assert time.monotonic() - cancelled[0] < TAKE_BACK_S + SOON_S
        assert proxy.count("DELETE", "/uploads/") == 1
    finally:
        gate.set()
