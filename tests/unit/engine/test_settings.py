"""Settings: daemon.json with dockerd's keys, flags beside it, and what is wrong with either."""

from __future__ import annotations

import pytest

from pyruntime.engine.settings import Settings, merge, read_file
from pyruntime.errors import UsageError


@pytest.mark.parametrize(("file", "flags", "found"), [
    ({}, {}, Settings()),
    ({"data-root": "/d", "debug": True, "labels": ["a=b"], "max-concurrent-downloads": 7}, {"hosts": ("unix:///x",)},
     Settings(data_root="/d", debug=True, labels=("a=b",), max_concurrent_downloads=7, hosts=("unix:///x",))),
    ({"proxies": {"http-proxy": "http://p", "no-proxy": "x"}}, {}, Settings(http_proxy="http://p", no_proxy="x")),
    ({"tlsverify": True, "tlscacert": "/ca"}, {}, Settings(tls_verify=True, tls_authority="/ca")),
], ids=str)
def test_merge(file, flags, found):
    assert merge("f", file, flags) == found


@pytest.mark.parametrize(("file", "flags", "message"), [
    ({"bogus": 1}, {}, "the following directives don't match any configuration option: bogus"),
    ({"debug": 1}, {}, "debug has to be true or false"), ({"hosts": "x"}, {}, "hosts has to be a list of strings"),
    ({"max-concurrent-uploads": True}, {}, "max-concurrent-uploads has to be a number"), ({"group": 1}, {}, "group has to be a string"),
    ({"max-concurrent-uploads": 0}, {}, "invalid max-concurrent-uploads: 0"), ({"proxies": {"ftp-proxy": "x"}}, {}, "proxies/ftp-proxy: known are"),
    ({"hosts": ["a"]}, {"hosts": ("b",)}, "specified both as a flag and in the configuration file: host: (from flag: ('b',), from file: ['a'])"),
], ids=str)
def test_wrong(file, flags, message):
    with pytest.raises(UsageError) as error:
        merge("/etc/daemon.json", file, flags)
    assert message in str(error.value)
    assert "/etc/daemon.json" in str(error.value)


def test_files(tmp_path):
    path = tmp_path / "daemon.json"
    assert read_file(str(path), required=False) == {}
    with pytest.raises(UsageError, match="no such file"):
        read_file(str(path), required=True)
    for text, message in (("{", "Expecting property name"), ("[]", "it has to be a JSON object"), ("x" * ((1 << 20) + 1), "it is over")):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_file(str(path), required=False)
    path.write_text("")
    assert read_file(str(path), required=True) == {}
