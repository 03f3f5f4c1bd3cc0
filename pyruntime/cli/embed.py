"""Imports inside the launcher's own interpreter, before it is fully initialised. Run by csrc/launcher_embed.c alone.

Globals given: `argv` and `dirs`, lists of str, `dynload`, the folder of the interpreter's own extension modules, and
`making`: whether this run makes a snapshot (csrc/launcher_snapshot.c), from which resume() will start.
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
    making: bool

FAST = ("create", "start", "run", "state", "kill", "delete", "exec")  # those with a set in the image
Module = type(sys)
OWN_EXTENSION = "pyruntime.native._ext"
EXTENSIONS = ("_json", "_cffi_backend")


def spec_of(name: str, loader: Any, path: str | None = None, *, package: bool = False) -> ModuleSpec:
    """A spec; as loader importlib takes whatever has the two methods, the stubs only classes of their own."""
    return ModuleSpec(name, loader, origin=path, is_package=package)


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
        spec = spec_of(name, cls(code, path), path, package=bool(is_package))
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
        if making and name == "_json":
            return spec_of(name, Later)
        if name == OWN_EXTENSION:
            return spec_of(name, Light)
        path = cls.path_of(name) if name in EXTENSIONS else ""
        return spec_of(name, cls, path) if path else None

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


class Later:
    """A thing of _json that a snapshot cannot hold, and the loader of a _json made of such."""

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """A module of placeholders."""
        module = Module(spec.name)
        for name in ("encode_basestring", "encode_basestring_ascii", "make_encoder", "make_scanner"):
            setattr(module, name, Later(name))
        return module

    @staticmethod
    def exec_module(_module: ModuleType) -> None:
        """It has no code."""


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
    module = _imp.create_dynamic(spec_of(name, None, path))
    _imp.exec_dynamic(module)
    return module


class Complete:
    """The last finder: the first module that nobody else has brings the rest of the interpreter up."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """What the path finder says, after the initialisation is finished."""
        if making:
            raise ImportError(f"{name} is not for a snapshot", name=name)
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
    """Loads the modules of the verb that argv names.

    The first word that is a fast verb's name decides; if that word is something else, too much is loaded, no more.
    """
    for word in argv[1:]:
        if word in FAST:
            load_set(word)
            return


def load_set(verb: str) -> None:
    """Loads the modules of a verb past the import system, which costs 20 us a module."""
    loaded = sys.modules
    rows = launcher.load_set(verb)
    if rows is None and making:
        raise ImportError("the image is older than a source")
    for name, is_package, code in rows or ():
        if name in loaded:
            continue
        module = Module(name)
        names = module.__dict__
        names["__file__"] = path = f"{dirs[0]}/{code.co_filename}"
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
            if making:
                raise
            del loaded[name]
            return
        if parent:
            setattr(loaded[parent], last, module)


def load_all() -> None:
    """Everything that a fast verb loads, for a snapshot, but for _json: no shared object may be in it."""
    load_set("all")
    int("10")  # the first conversion asks libm for logarithms and keeps them
    if not Extensions.path_of("_json"):
        raise ImportError("a snapshot needs _json")
    for name, module in sys.modules.items():
        names = module.__dict__
        if name.startswith(("pyruntime", "encodings")):
            sources.append(names["__file__"])
            postponed.extend([(names, key, thing.name) for key, thing in names.items() if type(thing) is Later])


def resume(words: list[str]) -> None:
    """Runs a command in the memory of a snapshot: what load_all() had to leave out comes first."""
    global argv, making
    sys.argv = argv = words
    making = False
    try:
        sys.modules["_json"] = json = load_extension("_json")
    except Exception:  # noqa: BLE001 - whatever is short here, the plain interpreter may still do it
        launcher.plain()
    for names, key, name in postponed:
        names[key] = getattr(json, name)
    start()


def start() -> None:
    """Runs the command of sys.argv; in a plain interpreter when its modules cannot be loaded here."""
    try:
        from pyruntime.cli.main import entry
    except Exception:  # noqa: BLE001 - the plain interpreter gets to say what is wrong
        launcher.plain()
    entry()


launcher.load_extension = load_extension
sys.argv = argv
builtins.open = open_completed
sys.meta_path += (Image, Extensions, Complete)
sources: list[str] = []  # files that a snapshot was made of
postponed: list[tuple[dict[str, Any], str, str]] = []  # (names of a module, name there, name in _json)
if making:
    load_all()
else:
    try:
        preload()
    except Exception:  # noqa: BLE001 - as in start()
        launcher.plain()
    start()
