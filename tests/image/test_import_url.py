"""Import of a URL with secrets in it: used for its host alone, and in no history and no error (S64)."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from pyruntime.errors import ImageError, UsageError
from pyruntime.image.importing import import_rootfs, open_url, without_secrets
from tests.fault_proxy import answer
from tests.image_samples import layer

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
TAR = layer({"a": b"1"})
BASIC = f"Basic {base64.b64encode(b'anna:s3:cret').decode()}"


@contextlib.contextmanager
def served(status: int = 200, **headers: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(host, requests as (path, Authorization)) of a server of TAR."""
    asked: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            answer(self, status, headers, TAR)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_secrets_of_a_url_are_used_and_not_told(store) -> None:
    with served() as (host, asked):
        url = f"http://anna:s3%3Acret@{host}/r.tar?signature=hidden#part"
        with open_url(url) as read:
            image = import_rootfs(store, read, source=url)
    assert asked == [("/r.tar?signature=hidden", BASIC)]
    assert image.config.document["history"][0]["comment"] == f"Imported from http://{host}/r.tar"
    assert b"cret" not in image.config.raw
    assert b"hidden" not in image.config.raw


def test_they_stay_behind_when_it_leads_elsewhere() -> None:
    with served() as (host, asked), served(302, Location=f"http://{host}/there") as (first, begun):
        with open_url(f"http://anna:s3%3Acret@{first}/r.tar") as read:
            assert read(len(TAR)) == TAR
        assert begun == [("/r.tar", BASIC)]
        assert asked == [("/there", "")]


@pytest.mark.parametrize("url", [
    "http://anna:s3cret@127.0.0.1:1/x?key=s3cret", "http://anna:s3cret@[::/x?key=s3cret", "http://anna:s3cret@nowhere.invalid/?s3cret",
    "http://anna:s3cret@host:99999/", "file://anna:s3cret@host/x", "http://anna:s3cret@" + "x" * 300 + "/", "http://anna:s3cret@\u2603..x/",
], ids=range(7))  # fmt: skip
def test_no_error_has_them(url) -> None:
    with pytest.raises((ImageError, UsageError)) as caught, open_url(url):
        pass
    assert "s3cret" not in f"{caught.value!r} {caught.value} {caught.value.details()}"


@pytest.mark.parametrize(("url", "text"), [
    ("http://127.0.0.1:1/x", "reading http://127.0.0.1:1/x: connection refused"),
    ("http://nowhere.invalid/", "reading http://nowhere.invalid/: failed to resolve 'nowhere.invalid' ("),
], ids=str)
def test_an_error_is_in_plain_words(url: str, text: str) -> None:
    with pytest.raises(ImageError) as caught, open_url(url):
        pass
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(("text", "shown"), [
    ("-", "-"), ("a@b?c", "a@b?c"), ("https://h/a@b", "https://h/a@b"), ("https://u@h", "https://h"), ("https://u:p@q@h/x?y#z", "https://h/x"),
])
def test_what_is_shown(text, shown) -> None:
    assert without_secrets(text) == shown
