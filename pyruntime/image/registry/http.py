"""One HTTP exchange over urllib3: connections, TLS, proxies, and the cut that ends a blocked call at once.

No retry, no redirect, no authentication here: those are rules of registries (exchange.py). What the network does wrong
comes out as one of a few RegistryErrors, of which `Transient` is worth another try.

An `Operation` is what one caller does, in as many threads as it likes. Cancelling it shuts the sockets its threads
are waiting on; a thread that finds its connection broken asks the operation why. Until there is a connection, connect.py
asks it.
"""

from __future__ import annotations

import re
import ssl
import threading
from contextlib import contextmanager, suppress
from http.client import HTTPResponse as RawResponse
from socket import AF_INET, SHUT_RDWR, SOCK_STREAM, fromfd, gaierror, socket
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions as failures
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pyruntime.errors import Cancelled, RegistryError, UsageError
from pyruntime.image.registry.connect import reach
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3.response import HTTPResponse

    from pyruntime.image.registry.hosts import HostConfig, Tls

USER_AGENT = f"pyruntime/{VERSION}"
CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0  # between two packets, not for the whole
CHUNK = 128 << 10
ERRNO = re.compile(r"^\[Errno -?\d+\] ")
GIVEN_UP = "the transfer was cancelled"
DIGITS_MAX = 18  # of a number in a header; more than any size, and fewer than int() refuses
WATCH_S = 0.1  # how long a cancelled call may stay blocked


class Readable(Protocol):
    """A request body that is read while it is sent."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes, b"" at the end."""


class Transient(RegistryError):
    """A reset connection, a short body, a server that said nothing in time: the same call may work now."""


class NoTls(RegistryError):
    """The host does not speak TLS, or is not there on its port."""


class Operation:
    """What one caller does; `cancel` is its event. Use `check` between steps and `sleep` to wait."""

    def __init__(self, cancel: threading.Event | None = None) -> None:
        self.cancel = cancel or threading.Event()
        self._busy: dict[int, socket] = {}  # by thread: a descriptor of our own for the connection it waits on
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises Cancelled when the caller wants no more."""
        if self.cancel.is_set():
            raise Cancelled(GIVEN_UP)

    def sleep(self, seconds: float) -> None:
        """Waits; raises Cancelled as soon as it is."""
        if self.cancel.wait(seconds):
            raise Cancelled(GIVEN_UP)

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Inside, the lock is held; raises Cancelled while it waits for whoever has it."""
        while not lock.acquire(timeout=WATCH_S):
            self.check()
        try:
            yield
        finally:
            lock.release()

    def busy(self, found: socket) -> None:
        """This thread waits on the connection from now on, until `idle`.

        What is kept is a duplicate: urllib3 hands its sockets to TLS, to answers and to the next connection.
        """
        self.idle(thread := threading.get_ident())
        guard = fromfd(found.fileno(), AF_INET, SOCK_STREAM)
        with self._lock:
            self._busy[thread] = guard
        self.check()

    def idle(self, thread: int) -> None:
        """The thread is done with its connection, which others may get."""
        with self._lock:
            if guard := self._busy.pop(thread, None):
                guard.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While inside, cancelling ends blocked calls within WATCH_S."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), name="registry-cancel", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(WATCH_S):
            if self.cancel.is_set():
                with self._lock:
                    for guard in self._busy.values():
                        with suppress(OSError):
                            guard.shutdown(SHUT_RDWR)


class _Local(threading.local):
    operation: Operation | None = None


class Http:
    """Connection pools, one for each set of certificates and proxy. Thread-safe; `close` drops idle connections."""

    def __init__(self, hosts: HostConfig) -> None:
        self.hosts = hosts
        self._pools: dict[tuple[Any, ...], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._local = _Local()
        self._classes = _pool_classes(self._local)

    def send(self, operation: Operation, method: str, url: str, headers: Mapping[str, str], *,
             body: bytes | Readable | None = None) -> Answer:
        """The answer with its body unread; close it. Raises Transient, NoTls, RegistryError and Cancelled."""
        operation.check()
        thread = threading.get_ident()
        self._local.operation = operation
        try:
            response = self._pool(url).urlopen(
                method, url, body=body, headers={"User-Agent": USER_AGENT, **headers}, redirect=False, retries=False,
                preload_content=False, decode_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            )
        except (failures.HTTPError, OSError, ValueError) as error:
            operation.idle(thread)
            operation.check()
            raise translate(error, url) from error
        except BaseException:
            operation.idle(thread)
            raise
        finally:
            self._local.operation = None
        return Answer(operation, url, response, empty=method == "HEAD")

    def close(self) -> None:
        """Drops all connections that are not in use."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        tls = self.hosts.tls(parts.netloc) if parts.scheme == "https" else None
        proxy = self.hosts.proxy(parts.scheme, parts.netloc)
        key = (tls, proxy)
        with self._lock:
            if key not in self._pools:
                common: dict[str, Any] = {"num_pools": 32, "maxsize": 16}
                if tls is not None:
                    common["ssl_context"] = make_context(tls)
                if proxy is None:
                    made = urllib3.PoolManager(**common)
                else:
                    basic = f"{proxy.username}:{proxy.password}" if proxy.username else None
                    headers = urllib3.make_headers(proxy_basic_auth=basic)
                    made = urllib3.ProxyManager(proxy.url, proxy_headers=headers, **common)
                made.pool_classes_by_scheme = self._classes
                self._pools[key] = made
            return self._pools[key]


class Answer:
    """A response. Closing it gives the connection back when the body was read, and drops it otherwise."""

    def __init__(self, operation: Operation, url: str, response: urllib3.BaseHTTPResponse, *, empty: bool) -> None:
        self.operation, self.url, self._response = operation, url, response
        self._thread = threading.get_ident()
        self.status = response.status
        self.headers = response.headers
        self._empty = empty
        self.begun = self.ended = empty  # whether the body was touched, and read to its end

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the answer; a body of a few KiB that nobody read is read for the connection's sake.

        One to HEAD too: http.client takes no answer of the next request, another thread's, before this one is closed.
        """
        with suppress(failures.HTTPError, OSError):
            if self._empty or (not self.begun and 0 <= self.length <= 16384):
                self._response.read(16385, decode_content=False)
                self.ended = True
        self._response.release_conn() if self.ended else self._response.close()
        self.operation.idle(self._thread)

    @property
    def length(self) -> int:
        """Content-Length, -1 when it is not said."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else -1

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The body in pieces. Raises Transient for a body that ends early, Cancelled."""
        self.begun = True
        while True:
            try:
                data = self._response.read(size, decode_content=False)
            except (failures.HTTPError, OSError, ValueError) as error:
                self.operation.check()
                raise translate(error, self.url) from error
            self.operation.check()
            if not data:
                self.ended = True
                return
            yield data

    def read(self, limit: int) -> bytes:
        """The body, cut after `limit` + 1 bytes so that the caller sees that it is too long."""
        parts, left = [], limit + 1
        for data in self.chunks(min(CHUNK, max(left, 1))):
            parts.append(data[:left])
            left -= len(data)
            if left <= 0:
                break
        return b"".join(parts)


def make_context(tls: Tls) -> ssl.SSLContext:
    """A TLS context: the system's roots and the host's own; unverified only when `tls` says so. Raises UsageError."""
    context = ssl.create_default_context()
    path = ""
    try:
        for path in tls.authorities:
            context.load_verify_locations(cafile=path)
        for certificate, key in tls.pairs:
            path = certificate
            context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"cannot load {path}: {error.strerror or error}", field=path,
                         hint="certificates and keys are PEM files") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def translate(error: Exception, url: str) -> RegistryError:
    """What to say of a failure of the network; see the classes for which of them is worth another try."""
    parts = urlsplit(url)
    host = parts.netloc
    cause = str(error.__cause__ or error.__context__ or error)
    links = (error, error.__cause__, error.__context__)
    untrusted = next((link for link in links if isinstance(link, ssl.SSLCertVerificationError)), None)
    if isinstance(error, failures.NameResolutionError):
        return RegistryError(f"cannot resolve registry host {host}", value=host,
                             hint="check the name and the DNS settings")
    if untrusted is not None:
        return NoTls(f"the certificate of {host} cannot be verified: {untrusted.verify_message}", value=host,
                     hint=f"put its authority into certs.d/{host}/ca.crt")
    if isinstance(error, failures.ProxyError):
        return RegistryError(f"the proxy for {host} failed: {cause[:200]}", value=host,
                             hint="check HTTP_PROXY and HTTPS_PROXY")
    if isinstance(error, (failures.SSLError, ssl.SSLError)):
        return NoTls(f"no TLS connection to {host}: {cause[:200]}", value=host,
                     hint="is it a registry without TLS? list it as insecure")
    if isinstance(error, failures.NewConnectionError):
        reason = ERRNO.sub("", cause.rpartition(": ")[2])[:200].lower()
        return NoTls(f"cannot connect to {host}: {reason}", value=host,
                     hint="is the registry running?")
    if isinstance(error, failures.ConnectTimeoutError):
        return RegistryError(f"no connection to {host} within {CONNECT_TIMEOUT_S:g} s", value=host)
    if isinstance(error, failures.ReadTimeoutError):
        return Transient(f"{host} sent nothing for {READ_TIMEOUT_S:g} s", value=host)
    if isinstance(error, (failures.ProtocolError, failures.ClosedPoolError, OSError)):
        return Transient(f"the connection to {host} broke: {cause[:200]}", value=host)
    if not isinstance(error, failures.HTTPError):  # http.client shows the header it cannot send, which may be a secret
        return RegistryError(f"cannot ask {host}: the request holds characters that no request may hold", value=host)
    return RegistryError(f"cannot ask {host}: {cause[:200]}", value=host)


def _reach(connection: HTTPConnection, operation: Operation | None) -> socket:
    """What a connection of urllib3 calls for its socket: one that the operation's end does not wait for."""
    try:
        made = reach(connection._dns_host, connection.port, CONNECT_TIMEOUT_S, connection.socket_options or (),  # noqa: SLF001
                     operation.check if operation else lambda: None)
    except gaierror as error:
        raise failures.NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise failures.ConnectTimeoutError(connection, f"no connection to {connection.host}") from error
    except OSError as error:
        raise failures.NewConnectionError(connection, f"cannot connect: {error}") from error
    if operation is not None:
        try:
            operation.busy(made)
        except BaseException:
            made.close()
            raise
    return made


def _pool_classes(local: _Local) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools with connections that tell their thread's operation when it begins to wait on them."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket:
            return _reach(self, local.operation)

        def putrequest(self, *args: Any, **more: Any) -> None:
            if local.operation is not None and self.sock is not None:
                local.operation.busy(self.sock)
            super().putrequest(*args, **more)

        def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 has it
            """An answer that urllib3 refuses after http.client made it is dropped there: closed here, with its socket."""
            made: list[RawResponse] = []

            def keep(*args: Any, **more: Any) -> RawResponse:
                made.append(RawResponse(*args, **more))
                return made[-1]

            self.response_class = keep  # type: ignore[assignment] # it is only called
            try:
                return super().getresponse()
            except BaseException:
                for raw in made:
                    raw.close()
                raise

    class Tls(Plain, HTTPSConnection):  # what Plain says, then what TLS needs
        def connect(self) -> None:
            super().connect()
            self.is_verified = True  # urllib3's warning is not for those who listed the host as insecure

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}
