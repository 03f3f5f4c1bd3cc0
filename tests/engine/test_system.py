"""ping, version, info, events, and what is not there, by every client."""

from __future__ import annotations

import json
import socket

import pytest

from pyruntime.version import VERSION
from tests.engine.stand import are_quick, echo, seconds

pytestmark = pytest.mark.system


def test_version(tool):
    assert VERSION in tool("version")
    assert json.loads(tool("version", "--format", "{{json .Server}}"))["ApiVersion"] == "1.51"


def test_info(tool, engine):
    assert str(engine.root) in tool("info")
    assert tool("info", "--format", "{{.ServerVersion}} {{.OSType}} {{.Driver}} {{.Containers}}").split() == [VERSION, "linux", "overlay2", "0"]
    assert tool("system", "info", "--format", "{{json .Swarm.LocalNodeState}}").strip() == '"inactive"'


def test_the_sdk(sdk):
    assert sdk.ping()
    assert sdk.version()["Version"] == VERSION
    assert sdk.info()["Containers"] == 0
    assert sdk.api._version == "1.51"
    assert sdk.containers.list(all=True) == []
    assert sdk.volumes.list() == []
    assert sdk.images.list() == []
    assert sdk.df()["Images"] == []


@pytest.mark.parametrize(("words", "message"), [
    (("events", "--since", "1m", "--until", "0s"), ""),
    (("events", "--filter", "nope=x", "--until", "0s"), "Error response from daemon: invalid filter 'nope'"),
])
def test_events_end_and_refuse(tool, words, message):
    code, _, errors = tool.both(*words)
    assert (code, errors.strip()) == (int(bool(message)), message)


@pytest.mark.parametrize("tool", ["docker20", pytest.param("docker28", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize(("words", "message"), [
    (("ps", "-a", "-q"), ""),
    (("volume", "ls", "-q"), ""),
    (("container", "inspect", "x"), "No such container: x"),
    (("inspect", "x"), "Error: No such object: x"),
    (("logs", "x"), "No such container: x"),
    (("rm", "x"), "No such container: x"),
    (("commit", "x"), "No such container: x"),
    (("volume", "inspect", "x"), "no such volume"),
    (("volume", "rm", "-f", "x"), ""),
    (("network", "inspect", "x"), "network"),
    (("network", "ls"), "networks are not implemented"),
    (("volume", "create", "x"), "volumes are not implemented"),
    (("service", "ls"), "This node is not a swarm manager."),
    (("plugin", "inspect", "x"), "plugin"),
    (("exec", "x", "true"), "No such container: x"),
    (("container", "prune", "-f"), ""),
    (("system", "prune", "-f"), ""),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_families_of_other_versions(tool, words, message):
    code, _, errors = tool.both(*words)
    assert code == int(bool(message)), errors
    assert message.lower() in errors.lower()


def test_an_object_that_is_not_there(tool):
    code, out, errors = tool.both("inspect", "nope")
    assert (code, json.loads(out)) == (1, [])
    assert "Error: No such object: nope" in errors.replace("error: no such", "Error: No such")


@pytest.mark.parametrize("target", ["/_ping", "/v1.24/_ping", "/v1.51/version", "/version"])
def test_with_and_without_prefix(engine, target):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(engine.socket))
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = raw.makefile("rb").read().partition(b"\r\n\r\n")[0].decode()
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert {"Api-Version: 1.51", "Docker-Experimental: false", "Ostype: linux", f"Server: Docker/{VERSION} (linux)"} <= set(lines)
    if "_ping" in target:
        assert {"Builder-Version: 1", "Swarm: inactive", "Pragma: no-cache", "Content-Type: text/plain; charset=utf-8",
                "Cache-Control: no-cache, no-store, must-revalidate"} <= set(lines)


def test_a_hundred_pings_are_quick(engine, tmp_path):
    took, beside = [], []
    with echo(tmp_path) as exchange:
        for _ in range(100):
            beside.append(seconds(exchange))
            took.append(seconds(engine.client.ping))
    assert are_quick(took, beside, 0.98)
