"""One endpoint as the protocol's rows see it: a call goes out with authorization, retries and redirects taken care of."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyruntime.image.registry import exchange
from pyruntime.image.registry.auth import Authorizer
from pyruntime.image.registry.credentials import HUB_HOSTS
from pyruntime.image.registry.http import NoTls, Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyruntime.image.registry.credentials import Lookup
    from pyruntime.image.registry.exchange import RetryPolicy
    from pyruntime.image.registry.hosts import Endpoint
    from pyruntime.image.registry.http import Answer, Http, Operation, Readable

    Body = Callable[[], bytes | Readable] | None  # made anew for each attempt

ROUNDS = 3  # without authorization, with it, with a token that was fetched anew


class Site:
    """Thread-safe; remembers the scheme that worked and what authorization the endpoint wants."""

    def __init__(self, http: Http, endpoint: Endpoint, lookup: Lookup, policy: RetryPolicy,
                 warn: Callable[[str], None]) -> None:
        self.endpoint, self.http, self.policy = endpoint, http, policy
        self.auth = Authorizer(http, policy, "docker.io" if endpoint.host in HUB_HOSTS else endpoint.host, lookup)
        self._warn = warn
        self._lock = threading.Lock()
        self._settled = not endpoint.plain_allowed or endpoint.scheme == "http"

    @property
    def url(self) -> str:
        """`https://host`, or http for a host that was found to speak nothing else."""
        return self.endpoint.url

    def call(self, operation: Operation, method: str, target: str, *, scopes: tuple[str, ...] = (),
             headers: Mapping[str, str] | None = None, body: Body = None, retry: bool = True) -> Answer:
        """The final answer, whatever its status. `target` is a path, or a URL that an answer of this endpoint named.

        Redirects are followed for GET and HEAD. With `retry` the call is one that may be done twice. Raises
        RegistryError when there is no answer, Cancelled.
        """
        self._settle(operation)
        url = f"{self.url}{target}" if target.startswith("/") else target
        for left in reversed(range(ROUNDS)):
            sent = self.auth.header(operation, scopes) if self._is_own(url) else ""
            given = {**(headers or {}), **({"Authorization": sent} if sent else {})}
            answer = self._send(operation, method, url, given, body, retry=retry)
            # a 401 from another host, behind a redirect, is none of our credentials' business
            if answer.status != 401 or not left or not self._is_own(answer.url):
                break
            try:
                again = self.auth.challenged(answer, scopes, sent)
            except BaseException:
                answer.close()
                raise
            if not again:
                break
            answer.close()
        for text in exchange.warnings_of(answer.headers):
            self._warn(text)
        return answer

    def unauthorized(self, operation: Operation) -> Answer:
        """What the endpoint says to somebody without credentials: 200, or 401 with its challenges."""
        self._settle(operation)
        return exchange.send_retrying(
            operation, self.policy, lambda: self.http.send(operation, "GET", f"{self.url}/v2/", {})
        )

    def _send(self, operation: Operation, method: str, url: str, headers: dict[str, str], body: Body, *,
              retry: bool) -> Answer:
        def once() -> Answer:
            if method in {"GET", "HEAD"}:
                return exchange.follow(self.http, operation, method, url, headers)
            return self.http.send(operation, method, url, headers, body=body() if body else None)

        return exchange.send_retrying(operation, self.policy, once) if retry else once()

    def _is_own(self, url: str) -> bool:
        return exchange.origin(url) == exchange.origin(self.url)

    def _settle(self, operation: Operation) -> None:
        """Finds out, once, whether a host that may be asked in the clear has to be."""
        with operation.holding(self._lock):
            if self._settled:
                return
            try:
                self.http.send(operation, "GET", f"{self.url}/v2/", {}).close()
            except (NoTls, Transient):
                self.endpoint = self.endpoint.replace(scheme="http")
            self._settled = True
