"""README's commands parse, its library example runs, and its first screen says what it has to."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyruntime.cli.flags import GLOBAL, VERBS, records, verb
from pyruntime.cli.parse import check_count, parse_flags
from pyruntime.cli.pyctr import commands as pyctr
from pyruntime.cli.pyctr.main import count_problem
from pyruntime.cli.pyctr.words import parse_words
from tests.engine.registries import publish, small
from tests.registry_stand import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every `pyruntime …` after a prompt or in back-ticks that names a bundle or flags."""
    return re.findall(r"(?:^\$ |`)pyruntime ([a-z][^`\n]*)", README, re.MULTILINE)


@pytest.mark.parametrize("command", [text for text in commands() if "COMMAND" not in text])
def test_commands_parse(command: str) -> None:
    parsed = parse_flags(records(GLOBAL), shlex.split(command), stops=True)
    called = verb(parsed.rest[0])
    assert called is not None
    rest = parse_flags(called.flags, list(parsed.rest[1:]), stops=called.stops).rest
    check_count("pyruntime", called.name, rest, called.least, called.most)


@pytest.mark.parametrize("command", re.findall(r"(?:^\$ |`|\| )pyctr ([a-z][^`\n]* [^`\n]*)", README, re.MULTILINE))
def test_commands_of_the_engine_parse(command: str) -> None:
    called, words = pyctr.find(shlex.split(command))
    assert called is not None
    assert count_problem(called, len(parse_words(called.flags, words, stops=called.stops).rest)) == ""


def test_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    wanted = set(re.findall(r"make ([a-z]+)", README)) - {"and"}
    assert {"run", "test"} <= wanted
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in wanted), wanted


def test_every_verb_is_named() -> None:
    assert all(re.search(rf"\b{name}\b", README) for name in VERBS)


def test_the_first_screen() -> None:
    screen = "\n".join(README.splitlines()[:45])
    assert all(text in screen for text in ("make run", "make test", "pyruntime explain", "level=error", "hint:"))


@pytest.mark.system
def test_the_example_of_images(tmp_path: Path) -> None:
    """Against a registry on loopback, with paths of its own."""
    text = re.search(r"```python\n(from pyruntime.image.*?)```", README, re.DOTALL)
    assert text is not None
    with registry(tmp_path / "hub") as hub:
        name = publish(hub, "debian", "12", small("readme"))
        program = text[1].replace("registry.example/debian:12", name).replace("my-images", str(tmp_path / "images"))
        program = program.replace('"bundle"', repr(str(tmp_path / "bundle")))
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=REPOSITORY,
                                check=False)  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["config.json", "rootfs"]
    assert (tmp_path / "bundle/rootfs/etc/readme0").is_file()


@pytest.mark.system
def test_the_library_example(make_bundle: Callable[..., Bundle], own_host: None, tmp_path: Path) -> None:
    bundle = make_bundle("sleep 60")
    text = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert text is not None
    program = text[1].replace("/run/my-runtime", str(tmp_path / "root")).replace('"bundle"', repr(str(bundle.path)))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=REPOSITORY,
                            check=False)  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    status, code = result.stdout.splitlines()
    assert re.fullmatch(r"running \[\d+\]", status)
    assert code == "3"
