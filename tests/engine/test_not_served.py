"""Families of routes that later versions serve: until then there is no way in, whatever a request brings along."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from pyruntime.api.client.connection import ApiError
from tests.engine.stand import Daemon

TAR = bytes(1024)
REQUESTS = [
    ("GET", "/containers/x/archive?path=/etc/passwd", b"", 404),
    ("HEAD", "/containers/x/archive?path=/etc/passwd", b"", 404),
    ("PUT", "/containers/x/archive?path=/../../etc", TAR, 404),
    ("GET", "/containers/x/export", b"", 404),
    ("POST", "/containers/create?name=x", b'{"Image": "x", "HostConfig": {"PortBindings": {"80/tcp": [{}]}}}', 501),
    ("POST", "/networks/create", b'{"Name": "x"}', 501),
    ("POST", "/networks/bridge/connect", b'{"Container": "x"}', 404),
    ("POST", "/build?remote=https://localhost/x.git%23main:../..", b"", 501),
    ("POST", "/build?dockerfile=../../etc/passwd", TAR, 501),
    ("POST", "/session", b"", 501),
    ("POST", "/grpc", b"", 501),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS, ids=lambda value: str(value)[:40])
def test_there_is_no_way_in(engine: Daemon, method: str, path: str, body: bytes, status: int) -> None:
    """S60, S61, S63."""
    kind = "application/json" if body.startswith(b"{") else "application/x-tar"
    where, _, query = path.partition("?")
    with pytest.raises(ApiError) as refused:
        engine.client.request(method, where, dict(parse_qsl(query)), body=body, headers={"Content-Type": kind})
    assert refused.value.status == status
    assert engine.client.get("/images/json") == []
    assert engine.client.get("/containers/json", {"all": 1}) == []
