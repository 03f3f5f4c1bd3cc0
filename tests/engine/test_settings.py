"""Settings that registries see: certificates, insecure hosts, mirrors, reload; clients that share a pull or leave it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time

import pytest

from tests import small_images
from tests.engine.registries import publish, small
from tests.engine.stand import PYCTR, TIMEOUT_S, Tool, daemon
from tests.fault_proxy import Fault, fault_proxy
from tests.registry_stand import Authority, registry
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]


def test_a_mirror_serves_the_hub_s_names(tmp_path):
    made = small("mirror")
    with registry(tmp_path / "registry") as hub:
        publish(hub, "library/mirrored", "1", made)
        with daemon(tmp_path / "d", settings={"registry-mirrors": [f"http://{hub.host}"]}) as engine:
            for kind in ("pyctr", "docker20", "docker28"):
                tool = Tool(engine, kind)
                assert "Status: Downloaded newer image for mirrored:1" in tool("pull", "mirrored:1")
                assert tool("images", "--format", "{{.Repository}}:{{.Tag}}").strip() == "mirrored:1"
                assert tool("image", "inspect", "-f", "{{json .RepoTags}} {{json .RepoDigests}}", "mirrored:1").strip() == f'["mirrored:1"] ["mirrored@{made.digest}"]'
                assert f"http://{hub.host}/" in tool("info")
                assert tool("rmi", "docker.io/library/mirrored:1").startswith("Untagged: mirrored:1")


def test_certificates_beside_the_settings_and_reload(tmp_path):
    authority = Authority(tmp_path / "ca")
    made = small("tls")
    folder = tmp_path / "d"
    with registry(tmp_path / "registry", authority=authority) as hub, daemon(folder) as engine:
        publish(hub, "tls/image", "1", made)
        name = f"{hub.host}/tls/image:1"
        tool = Tool(engine, "pyctr")
        (folder / "certs.d" / hub.host).mkdir(parents=True)
        (folder / "certs.d" / hub.host / "ca.crt").write_bytes(Authority(tmp_path / "stranger", "stranger").path.read_bytes())
        assert "certificate" in tool.fails("pull", name)
        (folder / "certs.d" / hub.host / "ca.crt").write_bytes(authority.path.read_bytes())
        tool("pull", "-q", name)
        (folder / "daemon.json").write_text(json.dumps({"labels": ["a=b"], "insecure-registries": ["10.0.0.0/8"]}))
        engine.process.send_signal(signal.SIGHUP)
        until(lambda: tool("info", "-f", "{{json .Labels}}").strip() == '["a=b"]')
        assert "10.0.0.0/8" in tool("info")
        (folder / "daemon.json").write_text("{")
        engine.process.send_signal(signal.SIGHUP)
        until(lambda: "unable to configure the daemon with file" in engine.log.read_text())
        assert tool("info", "-f", "{{json .Labels}}").strip() == '["a=b"]'
        assert "daemon reload" in tool("events", "--since", "1h", "--until", "0s")


def test_equal_pulls_are_one_transfer_that_ends_with_its_last_client(tmp_path):
    made = small_images.image([{"big": b"x" * (8 << 20)}, {"second": b"y"}], level=0)
    with registry(tmp_path / "registry") as hub, fault_proxy(hub.host) as proxy, daemon(tmp_path / "d") as engine:
        publish(hub, "shared/image", "1", made)
        name = f"{proxy.host}/shared/image:1"
        gate = threading.Event()
        proxy.faults.append(Fault("GET", "/blobs/" + made.layers[0], gate=gate, times=-1))
        clients = [subprocess.Popen([PYCTR, "pull", name], env=engine.environment, stdout=subprocess.PIPE) for _ in range(3)]
        for client in clients:
            assert client.stdout.readline() == b"1: Pulling from shared/image\n"
        clients[0].terminate()
        clients[0].wait(TIMEOUT_S)
        until(lambda: "the client has gone" in engine.log.read_text())
        gate.set()
        assert [client.stdout.read().decode().split()[-1] for client in clients[1:]] == [name, name]
        assert [client.wait(TIMEOUT_S) for client in clients] == [-signal.SIGTERM, 0, 0]
        assert sum(made.layers[0] in seen.path for seen in proxy.seen) == 1
        for client in clients:
            client.stdout.close()


def test_a_pull_ends_when_its_only_client_leaves(tmp_path):
    made = small_images.image([{"big": b"x" * (8 << 20)}], level=0)
    with registry(tmp_path / "registry") as hub, fault_proxy(hub.host) as proxy:
        publish(hub, "left/image", "1", made)
        proxy.faults.append(Fault("GET", "/blobs/" + made.layers[0], slow_s=0.2, times=-1))
        with daemon(tmp_path / "d", "--idle-exit", "3") as engine:
            asked = {"fromImage": f"{proxy.host}/left/image", "tag": "1"}
            with engine.client.request("POST", "/images/create", asked):
                until(lambda: any(made.layers[0] in seen.path for seen in proxy.seen))
                time.sleep(4.5)
                engine.client.ping()  # a pull is work
            assert engine.process.wait(TIMEOUT_S) == 0  # idle: nothing works on
            assert "the client has gone" in engine.log.read_text()
