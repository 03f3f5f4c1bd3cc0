"""Imports inside the launcher's own interpreter, before it is fully initialised. Run by csrc/launcher_embed.c alone.

Globals given: `argv` and `dirs`, lists of str, and `dynload`, the folder of the interpreter's own extension modules.
Three finders follow the interpreter's own two (built-in, frozen):

  Image       modules of pyruntime, from the image file, unless their source has changed since
  Extensions  the few compiled modules that the fast verbs need, by path; our own has a light twin (native/light.py)
  Complete    anything else: finishes the initialisation, then leaves it to the usual path finder

`open` is not there before that either; a stand-in completes first. What is printed before goes nowhere, so the fast
verbs write to descriptors.
"""

from __future__ import annotations

import _imp
import builtins
import posix
import sys
from _frozen_importlib import ModuleSpec

import _pyruntime_launcher as launcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

    argv: list[str]
    dirs: list[str]
    dynload: str

FAST = ("create", "start", "run", "state", "kill", "delete", "exec")  # those with a set in the image
Module = type(sys)
OWN_EXTENSION = "pyruntime.native._ext"
EXTENSIONS = ("_json", "_cffi_backend")


class Image:
    """Finder and loader of what the image holds."""

    def __init__(self, code: CodeType, path: str) -> None:
        self.code = code
        self.path = path

    @classmethod
    def find_spec(cls, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """The module's spec, None when the image has no fresh module of that name."""
        if not name.startswith(("pyruntime", "encodings")):
            return None
        found = launcher.load(name)
        if found is None:
            return None
        code, path, is_package = found
        spec = ModuleSpec(name, cls(code, path), origin=path, is_package=bool(is_package))
        if is_package:
            spec.submodule_search_locations = [path.rpartition("/")[0]]
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """The usual module object."""

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's code."""
        module.__file__ = self.path
        exec(self.code, module.__dict__)


class Extensions:
    """Finder and loader of compiled modules, by their full path."""

    @classmethod
    def find_spec(cls, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """The spec of one of EXTENSIONS, None when its file is not there."""
        if name == OWN_EXTENSION:
            return ModuleSpec(name, Light)
        path = cls.path_of(name) if name in EXTENSIONS else ""
        return ModuleSpec(name, cls, origin=path) if path else None

    @staticmethod
    def path_of(name: str) -> str:
        """The file of a compiled module, "" without one."""
        folders = [f"{dirs[0]}/pyruntime/native"] if "." in name else [dynload, *dirs]
        for folder in folders:
            for suffix in _imp.extension_suffixes():
                path = f"{folder}/{name.rpartition('.')[2]}{suffix}"
                try:
                    posix.stat(path)
                except OSError:
                    continue
                return path
        return ""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """Loads the shared object."""
        return _imp.create_dynamic(spec)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Runs its second phase."""
        _imp.exec_dynamic(module)


class Light:
    """Loader that puts native/light.py in the place of our cffi extension."""

    @staticmethod
    def create_module(_spec: ModuleSpec) -> ModuleType:
        """The light module."""
        from pyruntime.native import light

        return light

    @staticmethod
    def exec_module(_module: ModuleType) -> None:
        """It has been run."""


def load_extension(name: str) -> ModuleType:
    """A compiled module itself, past the twin. Raises ImportError."""
    path = Extensions.path_of(name)
    if not path:
        raise ImportError(f"{name} is not built", name=name)
    return _imp.create_dynamic(ModuleSpec(name, None, origin=path))


class Complete:
    """The last finder: the first module that nobody else has brings the rest of the interpreter up."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """What the path finder says, after the initialisation is finished."""
        complete()
        return sys.meta_path[-1].find_spec(name, path, target)


def complete() -> None:
    """Finishes the initialisation once; argv is kept."""
    if Complete in sys.meta_path:
        sys.meta_path.remove(Complete)
        launcher.complete()
        sys.argv = argv


def open_completed(*args: Any, **kwargs: Any) -> Any:
    """builtins.open of the completed interpreter."""
    complete()
    return builtins.open(*args, **kwargs)


def preload() -> None:
    """Loads the modules of the verb that argv names, past the import system, which costs 20 us a module.

    The first word that is a fast verb's name decides; if that word is something else, too much is loaded, no more.
    """
    for word in argv[1:]:
        if word in FAST:
            break
    else:
        return
    loaded = sys.modules
    for name, is_package, code in launcher.load_set(word) or ():
        module = Module(name)
        names = module.__dict__
        path = f"{dirs[0]}/{code.co_filename}"
        names["__file__"] = path
        parent, _, last = name.rpartition(".")
        if is_package:
            names["__path__"] = [path.rpartition("/")[0]]
            names["__package__"] = name
        else:
            names["__package__"] = parent
        loaded[name] = module
        try:
            exec(code, names)
        except ImportError:  # a missing library: the verb's own import will say so in words
            del loaded[name]
            return
        if parent:
            setattr(loaded[parent], last, module)


launcher.load_extension = load_extension
sys.argv = argv
builtins.open = open_completed
sys.meta_path += (Image, Extensions, Complete)
preload()

from pyruntime.cli.main import entry

entry()
