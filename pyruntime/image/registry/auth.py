"""Authorization for one endpoint: basic, bearer tokens of a token server, identity and registry tokens.

A registry is first asked without credentials; its 401 says which way to go, and is remembered. Tokens are kept by
realm, service and scopes until they expire; threads that need the same one wait for one request. A token server gets
the credentials of the registry that named it (that is the protocol), so its realm must be as safe as the registry:
a realm on plain http for an https registry is refused.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from pyruntime.errors import RegistryError
from pyruntime.image.registry import exchange
from pyruntime.image.registry.challenge import parse_challenges
from pyruntime.image.registry.credentials import ANONYMOUS
from pyruntime.record import Record

if TYPE_CHECKING:
    from pyruntime.image.registry.challenge import Challenge
    from pyruntime.image.registry.credentials import Credentials, Lookup
    from pyruntime.image.registry.exchange import RetryPolicy
    from pyruntime.image.registry.http import Answer, Http, Operation

CLIENT_ID = "pyruntime"
EXPIRES_S = 60  # of a token whose server does not say (distribution, token specification)
MARGIN_S = 5.0  # a token this close to its end is not used any more; a tenth of its life when that is less
TOKEN_LIMIT = 1 << 20
LASTS_MAX_S = 365 * 86400.0  # whatever the server says
SCOPES_MAX = 16  # that a registry's challenges may add up to


class Token(Record):
    """An access token, used `until` that value of time.monotonic; `refresh` is an identity token that came along, or ""."""

    value: str
    until: float
    refresh: str = ""

    def __repr__(self) -> str:
        return "Token(…)"


class Authorizer:
    """What one endpoint wants to see. Thread-safe."""

    def __init__(self, http: Http, policy: RetryPolicy, server: str, lookup: Lookup) -> None:
        self._http, self._policy, self._server, self._lookup = http, policy, server, lookup
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._tokens: dict[tuple[str, str, frozenset[str]], Token] = {}
        self._wider: dict[tuple[str, ...], tuple[str, ...]] = {}

    @property
    def anonymous(self) -> bool:
        """Whether there are no credentials for the server."""
        return self._known() == ANONYMOUS

    def header(self, operation: Operation, scopes: tuple[str, ...]) -> str:
        """The value of Authorization for a request of these scopes, "" before the registry has asked for one."""
        with operation.holding(self._lock):
            return self._header(operation, scopes)

    def challenged(self, answer: Answer, scopes: tuple[str, ...], sent: str) -> bool:
        """Takes in a 401; True when asking again may help. `sent` is the Authorization that was not enough."""
        challenge = choose(parse_challenges(answer.headers.getlist("WWW-Authenticate")))
        if challenge is None:
            return False
        with answer.operation.holding(self._lock):
            if challenge.scheme == "basic":
                self._challenge = challenge
                return not sent and bool(self._known().username)
            realm, service = challenge.get("realm"), challenge.get("service")
            self._check_realm(realm, answer.url)
            wider = self._wider.get(scopes, scopes)
            extra = tuple(word for word in challenge.get("scope").split() if not covered(word, wider))
            dropped = self._drop(realm, service, wider, sent)
            self._challenge = challenge
            if len(wider) + len(extra) > SCOPES_MAX:
                return False
            if sent and not extra and (not dropped or challenge.get("error") == "insufficient_scope"):
                return False  # a token of these scopes was refused, and another would be no better
            self._wider[scopes] = (*wider, *extra)
            return True

    def login(self, operation: Operation, answer: Answer) -> str:
        """The identity token a token server gives for name and password, "" when there is none. Raises RegistryError.

        `answer` is the 401 of `GET /v2/`; with basic authentication nothing is asked here.
        """
        challenge = choose(parse_challenges(answer.headers.getlist("WWW-Authenticate")))
        if challenge is None or challenge.scheme != "bearer":
            return ""
        self._check_realm(challenge.get("realm"), answer.url)
        return self._fetch(operation, challenge, (), offline=True).refresh

    def _known(self) -> Credentials:
        if self._credentials is None:
            self._credentials = self._lookup(self._server)
        return self._credentials

    def _header(self, operation: Operation, scopes: tuple[str, ...]) -> str:
        known = self._known()
        if known.registry_token:
            if not (known.registry_token.isascii() and known.registry_token.isprintable()):
                raise RegistryError(f"the registry token for {self._server} has characters that no header may hold",
                                    value=self._server, hint="is there a line end in it?")
            return f"Bearer {known.registry_token}"
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "basic":
            return basic(known) if known.username else ""
        wanted = self._wider.get(scopes, scopes)
        key = (self._challenge.get("realm"), self._challenge.get("service"), frozenset(wanted))
        token = self._tokens.get(key)
        if token is None or token.until < time.monotonic():
            token = self._tokens[key] = self._fetch(operation, self._challenge, wanted)
        return f"Bearer {token.value}"

    def _drop(self, realm: str, service: str, scopes: tuple[str, ...], sent: str) -> bool:
        """Forgets the token that was refused; True when it was old, so that a new one may do better."""
        key = (realm, service, frozenset(scopes))
        token = self._tokens.get(key)
        if token is None:
            return False
        if sent != f"Bearer {token.value}":
            return True  # another thread has fetched a newer one meanwhile
        del self._tokens[key]
        return True

    def _check_realm(self, realm: str, url: str) -> None:
        scheme = exchange.origin(realm)[0]
        if scheme == "http" and urlsplit(url).scheme == "https":
            raise RegistryError(f"token server {urlsplit(realm).netloc} of {urlsplit(url).netloc} is on plain http: refused",
                                value=realm[:200], hint="credentials would cross the network in the clear")

    def _fetch(self, operation: Operation, challenge: Challenge, scopes: tuple[str, ...], *, offline: bool = False) -> Token:
        known, realm = self._known(), challenge.get("realm")
        service = challenge.get("service")
        asked = [("service", service)] * bool(service) + [("scope", scope) for scope in scopes]
        headers = {"Accept": "application/json"}
        if known.username and not known.identity_token:
            headers["Authorization"] = basic(known)
            asked.append(("account", known.username))
        if offline:
            asked += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}"

        def ask() -> Answer:
            if known.identity_token:
                answer = self._refresh(operation, realm, asked, known.identity_token)
            else:
                answer = exchange.send_retrying(
                    operation, self._policy, lambda: exchange.follow(self._http, operation, "GET", url, headers)
                )
            if answer.status != 200:
                raise exchange.refusal(answer)
            return answer

        _, raw = exchange.read_whole(operation, self._policy, ask, TOKEN_LIMIT)
        return read_token(raw, urlsplit(realm).netloc)

    def _refresh(self, operation: Operation, realm: str, asked: list[tuple[str, str]], identity: str) -> Answer:
        """An access token for an identity token (distribution, OAuth2 specification)."""
        scope = " ".join(value for name, value in asked if name == "scope")
        form = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": CLIENT_ID, "access_type": "offline",
                **{name: value for name, value in asked if name == "service"}, **({"scope": scope} if scope else {})}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        body = urlencode(form).encode()
        return exchange.send_retrying(
            operation, self._policy, lambda: self._http.send(operation, "POST", realm, headers, body=body)
        )


def choose(challenges: tuple[Challenge, ...]) -> Challenge | None:
    """The one to answer: a bearer challenge with a realm, else basic; None when no known scheme is offered."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.get("realm")):
                return challenge
    return None


def basic(credentials: Credentials) -> str:
    """The Authorization of a name and password."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def covered(word: str, scopes: tuple[str, ...]) -> bool:
    """Whether a scope `type:name:actions` asks for nothing that `scopes` do not ask for already."""
    place, _, actions = word.rpartition(":")
    have: set[str] = set()
    for scope in scopes:
        if scope.rpartition(":")[0] == place:
            have |= set(scope.rpartition(":")[2].split(","))
    return word in scopes or (bool(place) and set(actions.split(",")) <= have)


def read_token(raw: bytes, host: str) -> Token:
    """A token server's answer. Raises RegistryError."""
    try:
        document: Any = json.loads(raw)
        value = document.get("token") or document.get("access_token")
        refresh = document.get("refresh_token") or ""
        lasts = document.get("expires_in") or EXPIRES_S
        issued = document.get("issued_at") or ""
        lasts = min(max(1.0, float(lasts)), LASTS_MAX_S)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        value = None
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()) or not isinstance(refresh, str):
        raise RegistryError(f"token server {host} answered without a token", value=host)
    left = lasts - min(_age(issued), lasts - 1.0)
    return Token(value, time.monotonic() + left - min(MARGIN_S, left / 10), refresh)


def _age(issued: object) -> float:
    """Seconds since a token was issued; 0 when that is not said, or lies in the future because clocks differ."""
    try:
        when = datetime.fromisoformat(str(issued))
        return max(0.0, (datetime.now(UTC) - when.astimezone(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
