"""Rules above a single exchange: when to try again, where a redirect may lead, what a refusal says."""

from __future__ import annotations

import json
import random
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pyruntime.errors import RegistryError
from pyruntime.image.registry.hosts import PORTS
from pyruntime.image.registry.http import Transient
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyruntime.image.registry.http import Answer, Http, Operation

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX = 5
ERROR_LIMIT = 64 << 10
WARNING_LIMIT = 1000  # characters


class RetryPolicy(Record):
    """How often and how long to wait in between: full jitter below a bound that doubles.

    A server that asks for more than `patience_s` by Retry-After is not waited for.
    """

    attempts: int = 6
    base_s: float = 0.5
    cap_s: float = 15.0
    patience_s: float = 120.0

    def delay(self, attempt: int, asked_s: float = 0.0) -> float:
        """Seconds to wait after the attempt of this number, the first is 0; never less than the server asked for."""
        return asked_s + random.uniform(0, min(self.cap_s, self.base_s * 2.0**attempt))  # noqa: S311 # no secret


def send_retrying(operation: Operation, policy: RetryPolicy, send: Callable[[], Answer]) -> Answer:
    """The first answer that is final. What `send` does must be safe to do twice."""
    for attempt in range(policy.attempts):
        last = attempt + 1 == policy.attempts
        try:
            answer = send()
        except Transient:
            if last:
                raise
            asked_s = 0.0
        else:
            if answer.status not in RETRIED or last:
                return answer
            asked_s = retry_after(answer.headers.get("Retry-After", ""))
            if asked_s > policy.patience_s:
                return answer
            answer.close()
        operation.sleep(policy.delay(attempt, asked_s))
    raise AssertionError


def read_whole(operation: Operation, policy: RetryPolicy, ask: Callable[[], Answer], limit: int) -> tuple[Answer, bytes]:
    """(the closed answer, its body cut after `limit` + 1 bytes); one whose body breaks is asked for again."""
    for attempt in range(policy.attempts):
        with ask() as answer:
            try:
                return answer, answer.read(limit)
            except Transient:
                if attempt + 1 == policy.attempts:
                    raise
        operation.sleep(policy.delay(attempt))
    raise AssertionError


def retry_after(text: str) -> float:
    """Seconds a `Retry-After` asks for, as a number or a date; 0 for none, or for one that cannot be read."""
    text = text[:1000].strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL: what credentials belong to. Raises RegistryError for no http(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
        raise RegistryError(f"the registry names an invalid URL {url[:200]!r}", value=url[:200])
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme]


def join(base: str, location: str) -> str:
    """The URL of a reference in an answer to `base`. Raises RegistryError."""
    try:
        return urljoin(base, location)
    except ValueError:
        raise RegistryError(f"the registry names an invalid URL {location[:200]!r}", value=location[:200]) from None


def resolve(base: str, location: str) -> str:
    """The URL of a Location header. Raises RegistryError when it leaves https for http."""
    url = join(base, location)
    if origin(url)[0] == "http" and origin(base)[0] == "https":
        raise RegistryError(f"redirect from https to http refused: {urlsplit(base).netloc} to {urlsplit(url).netloc}",
                            value=urlsplit(url).netloc, hint="the registry's own address is set wrong, or its proxy")
    return url


def follow(http: Http, operation: Operation, method: str, url: str, headers: Mapping[str, str]) -> Answer:
    """The answer to a GET or HEAD behind redirects. `Authorization` goes to the first URL's origin alone."""
    first = origin(url)
    for _ in range(REDIRECTS_MAX + 1):
        sent = {name: value for name, value in headers.items() if name != "Authorization" or origin(url) == first}
        answer = http.send(operation, method, url, sent)
        if answer.status not in REDIRECTS or not answer.headers.get("Location"):
            return answer
        answer.close()
        url = resolve(url, answer.headers["Location"])
    raise RegistryError(f"more than {REDIRECTS_MAX} redirects from {first[1]}", value=first[1])


def refusal(answer: Answer, context: str = "") -> RegistryError:
    """The error of an answer, closed by this: the registry's own words, else what its status means."""
    with answer:
        try:
            raw = answer.read(ERROR_LIMIT)
        except RegistryError:
            raw = b""
    code, said = parse_errors(raw)
    host = urlsplit(answer.url).netloc
    if not code and answer.status in {401, 403}:
        code = "UNAUTHORIZED" if answer.status == 401 else "DENIED"
    words = code.lower().replace("_", " ") if code else f"{host} answered {answer.status}"
    message = ": ".join(part for part in (context, words, said) if part)
    return RegistryError(message, http_status=answer.status, code=code, value=host, hint=_hint(answer, code))


def parse_errors(raw: bytes) -> tuple[str, str]:
    """(code, text) of the first error of a body, ("", "") when it is none of a registry or token server. One line."""
    try:
        document = json.loads(raw[:ERROR_LIMIT])
        first = document["errors"][0] if "errors" in document else document
        code = first.get("code", "")
        said = first.get("message") or document.get("details") or document.get("error_description") or ""
        if not isinstance(said, str):
            said = ""
        detail = first.get("detail")
        if code and isinstance(detail, str) and detail and detail not in said:
            said = f"{said}: {detail}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "", ""
    code = code if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,64}", code) else ""
    return code, "".join(letter if letter.isprintable() else " " for letter in said[:300]).strip()


def _hint(answer: Answer, code: str) -> str:
    if answer.status == 429 or code == "TOOMANYREQUESTS":
        asked = retry_after(answer.headers.get("Retry-After", ""))
        return f"try again in {asked:.0f} s" if asked else "the registry limits the rate: try again later, or log in"
    if answer.status in {401, 403}:
        return f"log in to {urlsplit(answer.url).netloc}, or check that the account may do this"
    return "the registry itself is in trouble: try again later" if answer.status >= 500 else ""


def warnings_of(headers: Any) -> list[str]:
    """Texts of `Warning: 299 - "text"` headers; others are not for users."""
    found = []
    for field in headers.getlist("Warning"):
        match = re.match(r'299\s+\S+\s+"((?:[^"\\]|\\.)*)"', field)
        if match:
            text = re.sub(r"\\(.)", r"\1", match[1])
            found.append("".join(letter for letter in text[:WARNING_LIMIT] if letter.isprintable()))
    return found
