"""Where a registry's name leads: mirrors, insecure hosts, certificates, proxies. No connection is made here.

A pull asks the endpoints of a domain one after the other, mirrors first and the origin last; a push asks the origin
alone. A loopback address, and a host that is listed insecure, may be spoken to without a valid certificate and, when
it does not know TLS, in the clear; a folder of certificates for the host takes that back, because then somebody has
said which certificate is right.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pyruntime.errors import UsageError
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

CERTS_FOLDERS = ("/etc/pyctr/certs.d", "/etc/docker/certs.d")
HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Tls(Record):
    """What a TLS connection needs beside the system's roots."""

    verify: bool = True
    authorities: tuple[str, ...] = ()  # files in PEM
    pairs: tuple[tuple[str, str], ...] = ()  # (certificate, key) of the client


class Endpoint(Record):
    """One place that answers for a domain. `host` may have a port."""

    host: str
    scheme: str = "https"
    mirror: bool = False
    plain_allowed: bool = False  # a host that does not speak TLS is asked again over http

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"{self.scheme}://{self.host}"


class Proxy(Record):
    """An HTTP proxy; `url` holds no credentials."""

    url: str
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Proxy(url={self.url!r})"


class HostConfig(Record):
    """Settings of the one who runs the client. `mirrors` has URLs or hosts by domain, in the order they are asked."""

    mirrors: tuple[tuple[str, tuple[str, ...]], ...] = ()
    insecure: tuple[str, ...] = ()  # hosts with or without a port, addresses, CIDR blocks
    certs_folders: tuple[str, ...] = CERTS_FOLDERS
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def __repr__(self) -> str:
        proxies = tuple(masked(text) for text in (self.http_proxy, self.https_proxy))
        return f"HostConfig(mirrors={self.mirrors}, insecure={self.insecure}, proxies={proxies})"

    def endpoints(self, domain: str, *, push: bool = False) -> tuple[Endpoint, ...]:
        """Mirrors and then the origin; for a push the origin alone. Raises UsageError for a mirror that is no URL."""
        mirrors = () if push else dict(self.mirrors).get(domain, ())
        return (*(self._mirror(text) for text in mirrors), self.endpoint(HUB_HOST if domain == HUB else domain))

    def endpoint(self, host: str, *, mirror: bool = False) -> Endpoint:
        """The endpoint of one host."""
        lax = self.is_insecure(host) and not self.certificates(host)
        return Endpoint(host, mirror=mirror, plain_allowed=lax)

    def _mirror(self, text: str) -> Endpoint:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        if parts.scheme not in PORTS or not _HOST.fullmatch(parts.netloc) or parts.path.strip("/") or parts.query:
            raise UsageError(f"invalid mirror {text!r}: not http:// or https:// and a host", field="registry-mirrors",
                             value=text, hint="write https://HOST or https://HOST:PORT, without path or credentials")
        endpoint = self.endpoint(parts.netloc, mirror=True)
        # Whoever writes http:// in the settings has listed that mirror as insecure by that.
        return endpoint if "://" not in text else endpoint.replace(scheme=parts.scheme)

    def is_insecure(self, host: str) -> bool:
        """Whether the host is loopback, or listed by name, by name and port, by address or by a block it is in."""
        name = bare(host)
        if is_loopback(name) or {host, name} & set(self.insecure):
            return True
        return any(_in_block(name, block) for block in self.insecure)

    def tls(self, host: str) -> Tls:
        """Certificates for a host; a lax host without a folder of them is not verified."""
        folder = self.certificates(host)
        if not folder:
            return Tls(verify=not self.is_insecure(host))
        names = sorted(os.listdir(folder))
        pairs = []
        for name in names:
            if name.endswith(".cert"):
                key = f"{name[:-5]}.key"
                if key not in names:
                    raise UsageError(f"missing key {key} for the client certificate {folder}/{name}", field=folder,
                                     hint="a client certificate is a pair NAME.cert and NAME.key")
                pairs.append((f"{folder}/{name}", f"{folder}/{key}"))
        return Tls(authorities=tuple(f"{folder}/{name}" for name in names if name.endswith(".crt")), pairs=tuple(pairs))

    def certificates(self, host: str) -> str:
        """The first folder named after the host, with its port as written, that exists; else ""."""
        if not _HOST.fullmatch(host) or host.startswith("."):
            return ""
        return next((path for top in self.certs_folders if os.path.isdir(path := f"{top}/{host}")), "")

    def proxy(self, scheme: str, host: str) -> Proxy | None:
        """The proxy for a URL's scheme and host, None for none. Loopback is never proxied.

        Raises UsageError for a proxy that is no http:// or https:// URL.
        """
        text = self.https_proxy if scheme == "https" else self.http_proxy
        if not text or self._is_direct(host, PORTS[scheme]):
            return None
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme not in PORTS or not parts.hostname:
            raise UsageError(f"invalid proxy for {scheme}: only http:// and https:// proxies are known",
                             field=f"{scheme.upper()}_PROXY", hint="write http://HOST:PORT")
        place = parts.netloc.rpartition("@")[2]
        return Proxy(f"{parts.scheme}://{place}", unquote(parts.username or ""), unquote(parts.password or ""))

    def _is_direct(self, host: str, port: int) -> bool:
        """NO_PROXY: names with their subdomains, `.name` for subdomains alone, addresses, CIDR, `*`; any with a port."""
        name = bare(host)
        own_port = port_of(host) or str(port)
        if is_loopback(name):
            return True
        for word in re.split(r"[,\s]+", self.no_proxy.lower()):
            if port_of(word) not in {"", own_port}:
                continue
            if word == "*" or _in_block(name, word) or _below(name, bare(word)):
                return True
        return False


def _below(name: str, entry: str) -> bool:
    entry = entry.removeprefix("*")
    return bool(entry) and (name == entry or name.endswith(entry if entry.startswith(".") else f".{entry}"))


def from_environment(environ: Mapping[str, str], **settings: object) -> HostConfig:
    """A HostConfig with the proxies of the environment, upper case before lower; `settings` are its other fields."""

    def value(name: str) -> str:
        return environ.get(name.upper(), "") or environ.get(name, "")

    return HostConfig(http_proxy=value("http_proxy"), https_proxy=value("https_proxy"), no_proxy=value("no_proxy"),
                      **settings)  # type: ignore[arg-type]


def masked(url: str) -> str:
    """A proxy's URL for people to read: `xxxxx` for name and password, as Docker shows it."""
    before, at, place = url.rpartition("@")
    scheme, slashes, _ = before.rpartition("://")
    return f"{scheme}{slashes}xxxxx:xxxxx@{place}" if at else url


def bare(host: str) -> str:
    """The host in lower case, without port and without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, colon, _ = host.partition(":")
    return (name if colon and host.count(":") == 1 else host).lower()


def port_of(host: str) -> str:
    """The port of a host as it is written, "" without one."""
    match = _HOST.fullmatch(host)
    return (match[2] or "")[1:] if match else ""


def is_loopback(name: str) -> bool:
    """localhost, 127.0.0.0/8 and ::1."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _in_block(name: str, block: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False
