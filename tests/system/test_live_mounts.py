"""mounts add and mounts remove, seen from inside and from the host (contract 1.3, 7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system


def file(tmp_path: Path, *mounts: dict[str, Any]) -> Path:
    path = tmp_path / "mounts.json"
    path.write_text(json.dumps(mounts))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_text("of the host\n")
    return folder


def bind(source: Path, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "source": str(source), "options": ["rbind", *options]}


def points(container: Any) -> list[str]:
    return [line.split()[4] for line in container.exec("cat", "/proc/self/mountinfo").out.splitlines()]


def test_added_and_removed(runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path) -> None:
    mounts = file(tmp_path, bind(source, "/mnt/data", "ro"), {"destination": "/mnt/tmp", "type": "tmpfs", "options": ["size=64k"]})
    host = Path("/proc/self/mountinfo").read_text()
    with runtime.container(make_bundle("sleep 600")) as container:
        before = points(container)
        assert runtime("mounts", "add", container.id, mounts).code == 0
        assert points(container) == [*before, "/mnt/data", "/mnt/tmp"]
        assert container.exec("cat", "/mnt/data/file").out == "of the host\n"
        assert container.exec("touch", "/mnt/data/new").code != 0
        assert container.exec("touch", "/mnt/tmp/new").code == 0
        assert Path("/proc/self/mountinfo").read_text() == host  # nothing of it is mounted on the host
        (source / "later").touch()
        assert container.exec("ls", "/mnt/data").out.split() == ["file", "later"]
        assert runtime("mounts", "remove", container.id, mounts).code == 0
        assert points(container) == before


def test_in_a_user_namespace(runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path) -> None:
    bundle = owned(make_bundle("sleep 600", USER))
    with runtime.container(bundle) as container:
        result = runtime("mounts", "add", container.id, file(tmp_path, bind(source, "/mnt")))
        assert result.code == 0, result
        assert container.exec("cat", "/mnt/file").out == "of the host\n"


@pytest.mark.parametrize(("options", "name"), [(("ro",), "new"), (("rro",), "below/new")], ids=str)
def test_read_only_from_the_first_moment(
    runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    """A program that tries all the time does not get a file into it (S25)."""
    (source / "below").mkdir()
    script = f"mkdir -p /mnt/v; echo ready; while ! [ -e /stop ]; do touch /mnt/v/{name} 2>/dev/null && [ -e /mnt/v/file ] && echo in; done"
    document = file(tmp_path, bind(source, "/mnt/v", *options))
    with runtime.container(make_bundle(script)) as container:
        container.wait_output("ready")
        for _ in range(5):
            assert runtime("mounts", "add", container.id, document).code == 0
            assert runtime("mounts", "remove", container.id, document).code == 0
        assert not (source / name).exists()


def test_the_root_stays(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    with runtime.container(make_bundle("sleep 600")) as container:
        result = runtime("mounts", "remove", container.id, file(tmp_path, {"destination": "/./", "type": "tmpfs"}))
        assert (result.code, result.field) == (1, "/mounts/0/destination"), result
        assert "  hint: " in result.err
        assert container.look("echo here") == "here"


def test_copied_symlink(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/else/where")
    mount = {"destination": "/srv/link", "source": str(tmp_path / "link"), "options": ["bind", "copy-symlink"]}
    with runtime.container(make_bundle("sleep 600")) as container:
        assert runtime("mounts", "add", container.id, file(tmp_path, mount)).code == 0
        assert container.look("readlink /srv/link") == "/else/where"


def test_all_or_none(runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path) -> None:
    mounts = file(tmp_path, bind(source, "/mnt"), bind(tmp_path / "missing", "/srv"))
    with runtime.container(make_bundle("sleep 600")) as container:
        before = points(container)
        result = runtime("mounts", "add", container.id, mounts)
        assert (result.code, result.field) == (1, "/mounts/1"), result
        assert points(container) == before


def test_a_link_of_the_image_leads_nowhere_else(
    runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path
) -> None:
    """The target is resolved below the container's root (S1)."""
    with runtime.container(make_bundle("ln -s ../../../../etc /escape; echo ready; sleep 600")) as container:
        container.wait_output("ready")
        result = runtime("mounts", "add", container.id, file(tmp_path, bind(source, "/escape/inner")))
        assert result.code == 0, result
        assert not Path("/etc/inner").exists()
        assert "/etc/inner" in points(container)


@pytest.mark.parametrize(
    ("text", "said", "field"),
    [
        ("[]", "no mounts to work on", "/mounts"),
        ("{}", "no mounts to work on", "/mounts"),
        ('[{"destination": 5}]', "", "/mounts/0/destination"),
        ("[", "", ""),
        ('[{"destination": "/mnt", "type": "no-such-type"}]', "no such device", "/mounts/0"),
    ],
)
def test_refused(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, text: str, said: str, field: str
) -> None:
    path = tmp_path / "mounts.json"
    path.write_text(text)
    with runtime.container(make_bundle("sleep 600")) as container:
        before = points(container)
        result = runtime("mounts", "add", container.id, path)
        assert (result.code, result.field) == (1, field), result
        assert said in result.message
        assert points(container) == before


def test_remove_what_is_not_mounted(runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path) -> None:
    with runtime.container(make_bundle("mkdir -p /mnt; sleep 600")) as container:
        result = runtime("mounts", "remove", container.id, file(tmp_path, bind(source, "/mnt")))
        assert (result.code, result.field) == (1, "/mounts/0"), result


def test_only_while_it_runs(runtime: Runtime, make_bundle: MakeBundle, source: Path, tmp_path: Path) -> None:
    mounts = file(tmp_path, bind(source, "/mnt"))
    with runtime.container(make_bundle("sleep 600"), start=False) as container:
        result = runtime("mounts", "add", container.id, mounts)
        assert (result.code, "container not running" in result.message) == (1, True), result
    assert "does not exist" in runtime("mounts", "add", "no-such-id", mounts).message
    assert "no such command" in runtime("mounts", "move", "x", mounts).message
