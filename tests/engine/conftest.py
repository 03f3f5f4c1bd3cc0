"""One daemon for the tests of a module, and each client of it."""

from __future__ import annotations

import os
import warnings

import pytest

from tests.engine.stand import TOOLS, Daemon, Tool, daemon
from tests.registry_stand import registry


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    with daemon(tmp_path_factory.mktemp("engine")) as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A registry that asks nobody who they are."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


# the newer docker is no package of Debian's: `make test-all` runs it where it is
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name == "docker28" else name for name in TOOLS])
def tool(engine: Daemon, request: pytest.FixtureRequest) -> Tool:
    return Tool(engine, request.param)


@pytest.fixture
def pyctr(engine: Daemon) -> Tool:
    return Tool(engine, "pyctr")


@pytest.fixture
def sdk(engine: Daemon):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        docker = pytest.importorskip("docker", reason="needs docker (PyPI)")
    client = docker.DockerClient(base_url=engine.host, timeout=60)
    yield client
    client.close()


