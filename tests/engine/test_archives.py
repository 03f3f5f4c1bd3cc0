"""save, load, import, bundle by every client: what one writes the others read."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import small_images
from tests.engine.registries import publish, small
from tests.engine.stand import PYCTR, Daemon, Tool, daemon
from tests.image.made import tar_of

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second engine."""
    with daemon(tmp_path_factory.mktemp("other")) as found:
        yield found


def test_save_and_load(tool: Tool, other: Daemon, hub) -> None:
    made = small(f"save{tool.name}")
    name = publish(hub, f"save/{tool.name}", "1", made)
    tool("pull", "-q", name)
    tool("tag", name, f"second{tool.name}:x")
    tool("save", "-o", f"{tool.name}.tar", name, f"second{tool.name}:x")
    path = tool.daemon.folder / f"{tool.name}.tar"
    with tarfile.open(path) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))
    assert {"oci-layout", "index.json", "manifest.json", "repositories"} <= set(names)
    assert sorted(manifest[0]["RepoTags"]) == sorted([name, f"second{tool.name}:x"])
    reader = Tool(other, tool.name)
    out = reader("load", "-i", str(path))
    assert {f"Loaded image: {name}", f"Loaded image: second{tool.name}:x"} <= set(out.splitlines())
    assert reader("inspect", "-f", "{{.Id}}", f"second{tool.name}:x").strip() == made.config_digest
    streamed = tool.daemon.run(tool.program, "save", made.config_digest).stdout
    reader("rmi", name, f"second{tool.name}:x")
    assert reader("load", stdin=streamed).strip() == f"Loaded image ID: {made.config_digest}"
    reader("rmi", made.config_digest)


def test_load_of_what_is_no_archive(tool: Tool) -> None:
    assert "neither a manifest.json nor an index.json" in tool.fails("load", stdin=tar_of({"a": b"b"}))
    assert tool.fails("load", stdin=b"nonsense" * 1000)
    assert tool.fails("load", stdin=os.urandom(3 << 20))
    tool("images")


def test_import(tool: Tool) -> None:
    name = f"imported{tool.name}:1"
    out = tool("import", "--change", "CMD [\"/bin/x\"]", "--change", "ENV A=b", "-m", "a note", "-", name, stdin=tar_of({f"etc/{tool.name}": b"x" * 5000}))
    found = json.loads(tool("image", "inspect", name))[0]
    assert out.strip() == found["Id"]
    assert (found["Config"]["Cmd"], found["Config"]["Env"], found["Comment"]) == (["/bin/x"], ["A=b"], "a note")
    assert tool("history", "--format", "{{.Comment}}", name).strip() == "a note"
    path = tool.daemon.folder / "rootfs.tar"
    path.write_bytes(tar_of({f"etc/{tool.name}2": b"x"}))
    assert tool("import", str(path)).startswith("sha256:")
    assert tool.fails("import", "http://127.0.0.1:1/none.tar")
    tool("rmi", name)


def test_the_long_names_of_commands(tool: Tool, hub) -> None:
    """`image ls` and its like are the commands that have a short name as well."""
    made = small(f"long{tool.name}")
    name = publish(hub, f"long/{tool.name}", "1", made)
    tool("image", "pull", "-q", name)
    tool("image", "tag", name, f"{hub.host}/long/{tool.name}:2")
    assert "digest: sha256:" in tool("image", "push", f"{hub.host}/long/{tool.name}:2")
    assert tool("image", "ls", "-q", name).strip() == made.config_digest[7:19]
    assert tool("image", "inspect", "-f", "{{.Id}}", name).strip() == made.config_digest
    assert tool("image", "history", "-q", name).split()[0] == made.config_digest[7:19]
    tool("image", "save", "-o", f"long{tool.name}.tar", name)
    assert tool("image", "rm", name).startswith("Untagged: ")
    assert f"Loaded image: {name}" in tool("image", "load", "-i", f"long{tool.name}.tar")
    assert tool("image", "import", "-", f"long{tool.name}:1", stdin=tar_of({f"{tool.name}": b"x"})).startswith("sha256:")
    assert "Total reclaimed space" in tool("image", "prune", "-f")
    tool("image", "rm", name, f"{hub.host}/long/{tool.name}:2", f"long{tool.name}:1")


def test_the_sdk(sdk, engine: Daemon, hub) -> None:
    made = small("sdksave")
    name = publish(hub, "sdk/save", "1", made)
    image = sdk.images.pull(name.rpartition(":")[0], tag="1")
    data = b"".join(image.save(named=True))
    sdk.images.remove(name)
    assert [found.id for found in sdk.images.load(data)] == [made.config_digest]
    assert sdk.images.get(name).id == made.config_digest
    assert "sha256:" in sdk.api.import_image_from_data(tar_of({"x": b"y"}), repository="sdkimport", tag="1")
    assert sdk.images.get("sdkimport:1").attrs["Os"] == "linux"


def test_a_bundle_runs(pyctr: Tool, hub, program: str, tmp_path: Path) -> None:
    made = small_images.image([small_images.busybox_layer(), {"etc/greeting": b"hello from a bundle\n"}],
                              config={"Cmd": ["/bin/cat", "/etc/greeting"]})
    name = publish(hub, "run/busybox", "1", made)
    pyctr("pull", "-q", name)
    pyctr("bundle", name, str(tmp_path / "bundle"))
    assert sorted(os.listdir(tmp_path / "bundle")) == ["config.json", "rootfs"]
    done = subprocess.run([program, "--root", str(tmp_path / "state"), "run", "-b", str(tmp_path / "bundle"), f"engine{os.getpid()}"], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "hello from a bundle\n"), done.stderr
    assert "is not an empty folder" in pyctr.fails("bundle", name, str(tmp_path / "bundle"))
    assert "No such image: nope" in pyctr.fails("bundle", "nope", str(tmp_path / "two"))
    assert not (tmp_path / "two").exists()
    assert "the folder above it must be there" in pyctr.fails("bundle", name, "/nonexistent/x")


def test_a_bundle_of_a_command(pyctr: Tool, hub, program: str, tmp_path: Path) -> None:
    """An image that names no command gets one, whose flags are its own."""
    name = publish(hub, "run/bare", "1", small_images.image([small_images.busybox_layer()], config={"Cmd": None}))
    pyctr("pull", "-q", name)
    assert "no command specified" in pyctr.fails("bundle", name, str(tmp_path / "none"))
    pyctr("bundle", name, str(tmp_path / "bundle"), "--platform", f"linux/{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}",
          "/bin/sh", "-c", "echo -t $0", "-t")
    done = subprocess.run([program, "--root", str(tmp_path / "state"), "run", "-b", str(tmp_path / "bundle"), f"bare{os.getpid()}"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "-t -t\n"), done.stderr
    pyctr("bundle", "--tty", name, str(tmp_path / "tty"), "/bin/sh")
    assert json.loads((tmp_path / "tty/config.json").read_text())["process"]["terminal"] is True


def test_output_is_whole_or_absent(pyctr: Tool, hub) -> None:
    name = publish(hub, "save/whole", "1", small("whole"))
    pyctr("pull", "-q", name)
    assert "directory" in pyctr.fails("save", "-o", "/nonexistent/x.tar", name)
    assert "No such image" in pyctr.fails("save", "-o", "whole.tar", name, "nope")
    assert [path for path in os.listdir(pyctr.daemon.folder) if "whole" in path or path.startswith(".pyctr")] == []
    assert pyctr.fails("nope", code=1).startswith("pyctr: unknown command: pyctr nope\n\nRun ")
    assert "Traceback" in (told := pyctr.fails("--debug", "tag", "nope", "x"))
    assert told.endswith("Error response from daemon: No such image: nope:latest\n")
    assert "Did you mean 'pyctr pull'?" in pyctr.fails("pul", "x")
    assert "Did you mean 'pyctr image ls'?" in pyctr.fails("image", "lss")
    assert "'pyctr bundle IMAGE DIR' and 'pyruntime run DIR/'" in pyctr.fails("run", "x")
    assert subprocess.run([PYCTR, "save"], capture_output=True, check=False).returncode == 1
