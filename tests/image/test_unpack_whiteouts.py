"""Whiteouts, layers on layers, and what is settled in layer order: the overlay mount and the flat tree agree."""

from __future__ import annotations

import ctypes
import os
import random
import stat

import pytest

from pyruntime.errors import UnpackError
from pyruntime.image.unpack import LayerUnpack, overlay_options, settle
from pyruntime.image.unpack_report import implied_paths
from tests.image.trees import describe, differences, directory, file, hard_link, layer, symlink, unpack

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LIBC = ctypes.CDLL(None, use_errno=True)
OPAQUE = "trusted.overlay.opaque"


class Stack:
    """The same layers as an overlay mount and as one flat tree."""

    def __init__(self, folder, *tars: bytes, together: bool = True) -> None:
        self.folder = folder
        self.layers = [folder / f"layer{number}" for number in range(len(tars))]
        results = [unpack(data, path) for data, path in zip(tars, self.layers)]
        if together:
            self.warnings = settle([(str(path), result) for path, result in zip(self.layers, results)])
        self.results = results
        for data in tars:
            unpack(data, folder / "flat", mode="flat")

    def merged(self):
        """What a mount of the layers shows."""
        lowers = [str(path) for path in reversed(self.layers)]
        if len(lowers) == 1:
            lowers.append(str(self.folder / "empty"))
            (self.folder / "empty").mkdir(exist_ok=True)
        target = self.folder / "merged"
        target.mkdir(exist_ok=True)
        if LIBC.mount(b"overlay", os.fsencode(target), b"overlay", 1, os.fsencode(overlay_options(lowers))) < 0:
            raise OSError(ctypes.get_errno(), "mounting overlay")
        try:
            return describe(target)
        finally:
            assert LIBC.umount2(os.fsencode(target), 0) == 0

    def check(self):
        """The merged view, after comparing it with the flat tree."""
        told, flat = self.merged(), describe(self.folder / "flat")
        for tree in (told, flat):
            for facts in tree.values():
                facts.pop("same_as", None)  # a link into a lower layer is a copy there
        assert differences(told, flat) == []
        return told


def names(told) -> list[str]:
    return sorted(name for name in told if name != ".")


ROOT = directory(".", mtime=1)
BASE = layer(ROOT, directory("d", mode=0o750, uid=5, mtime=9), file("d/a", b"a"), file("d/b", b"b"), directory("d/sub"),
             file("d/sub/x", b"x"), file("top", b"t"), symlink("l", "d"))  # fmt: skip


def test_a_whiteout_hides_a_file_and_a_tree(tmp_path) -> None:
    stack = Stack(tmp_path, BASE, layer(ROOT, file("d/.wh.a"), file("d/.wh.sub"), file(".wh.l")))
    assert names(stack.check()) == ["d", "d/b", "top"]
    made = (stack.layers[1] / "d" / "a").lstat()
    assert (stat.S_IFMT(made.st_mode), made.st_rdev) == (stat.S_IFCHR, 0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_opaque_directory_hides_all_wherever_its_mark_stands(tmp_path, at) -> None:
    entries = [directory("d", mtime=3), file("d/new", b"n")]
    entries.insert(at, file("d/.wh..wh..opq"))
    stack = Stack(tmp_path, BASE, layer(ROOT, *entries))
    assert names(stack.check()) == ["d", "d/new", "l", "top"]
    assert os.getxattr(stack.layers[1] / "d", OPAQUE) == b"y"


@pytest.mark.parametrize("order", [0, 1])
def test_a_whiteout_never_hides_what_its_own_layer_adds(tmp_path, order) -> None:
    entries = [file("d/.wh.a"), file("d/a", b"own")]
    stack = Stack(tmp_path, BASE, layer(ROOT, directory("d", mtime=3), *(entries if order else reversed(entries))))
    assert stack.check()["d/a"]["content"][0] == 3


@pytest.mark.parametrize("order", [0, 1])
def test_a_whiteout_and_a_directory_are_an_opaque_directory(tmp_path, order) -> None:
    entries = [[file("d/.wh.sub")], [directory("d/sub", mtime=4), file("d/sub/own")]]
    if order:
        entries.reverse()
    stack = Stack(tmp_path, BASE, layer(ROOT, directory("d", mtime=3), *entries[0], *entries[1]))
    assert [name for name in names(stack.check()) if "sub" in name] == ["d/sub", "d/sub/own"]
    assert os.getxattr(stack.layers[1] / "d" / "sub", OPAQUE) == b"y"


def test_a_whiteout_and_an_implied_directory(tmp_path) -> None:
    stack = Stack(tmp_path, BASE, layer(ROOT, directory("d", mtime=3), file("d/.wh.sub"), file("d/sub/own")))
    assert "d/sub/x" not in stack.merged()


@pytest.mark.parametrize("order", [0, 1])
def test_no_whiteout_shows_in_an_opaque_directory(tmp_path, order) -> None:
    entries = [file("d/.wh.a"), file("d/.wh..wh..opq")]
    stack = Stack(tmp_path, BASE, layer(ROOT, directory("d", mtime=3), *(entries if order else reversed(entries))))
    assert names(stack.check()) == ["d", "l", "top"]
    assert os.listdir(stack.layers[1] / "d") == []


def test_a_whiteout_with_nothing_to_hide_does_not_show(tmp_path) -> None:
    data = layer(ROOT, file(".wh.gone"), directory("n", mtime=3), file("n/.wh.gone"), directory("d", mtime=3), file("d/.wh.none"),
                 file("top/.wh.x"))  # fmt: skip
    assert "n/gone" not in names(Stack(tmp_path / "one", data).merged())
    told = names(Stack(tmp_path / "two", BASE, data).merged())
    assert not {"n/gone", "d/none", "gone", "top/x"} & set(told)


def test_aufs_metadata_are_skipped(tmp_path) -> None:
    data = layer(file(".wh..wh.aufs"), directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), directory(".wh..wh.orph"), file("f"))
    unpack(data, tmp_path / "t")
    assert os.listdir(tmp_path / "t") == ["f"]


def test_a_whiteout_may_be_a_hard_link(tmp_path) -> None:
    stack = Stack(tmp_path, BASE, layer(ROOT, directory("d", mtime=3), hard_link("d/.wh.a", ".wh..wh.aufs")))
    assert "d/a" not in stack.check()


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/f"])
def test_whiteouts_of_nothing_are_refused(tmp_path, name) -> None:
    """Numbered escapes 5 and 6: `..` and `.` cannot be whited out, nor can nothing."""
    for mode in ("overlay", "flat"):
        (tmp_path / mode / "t").mkdir(parents=True)
        with pytest.raises(UnpackError, match="bad whiteout"):
            unpack(layer(file(name)), tmp_path / mode / "t", mode=mode)
        assert os.listdir(tmp_path / mode) == ["t"]


def test_a_directory_or_link_named_as_a_whiteout_is_refused(tmp_path) -> None:
    """Numbered escape 7."""
    for entry in (directory(".wh.d"), symlink(".wh.d", "x"), symlink(".wh..wh..opq", "/")):
        with pytest.raises(UnpackError, match="bad whiteout"):
            unpack(layer(entry), tmp_path / "t")


def test_implied_parents_take_the_lower_directorys_attributes(tmp_path) -> None:
    stack = Stack(tmp_path, BASE, layer(file("d/sub/new"), file("fresh/f")))
    assert implied_paths(stack.results[1]) == [b"", b"d", b"d/sub", b"fresh"]
    told = stack.merged()
    assert (told["d"]["mode"], told["d"]["owner"], told["d"]["mtime"]) == ("0o40750", (5, 0), 9 * 10**9)
    assert (told["fresh"]["mode"], told["fresh"]["owner"]) == ("0o40755", (0, 0))
    flat = describe(tmp_path / "flat")
    assert (flat["d"]["mtime"], flat["."]["mtime"], flat["d/sub"]) == (9 * 10**9, 10**9, told["d/sub"])


def test_a_lower_link_or_file_is_hidden_by_a_directory_with_a_warning(tmp_path) -> None:
    stack = Stack(tmp_path, BASE, layer(ROOT, file("l/f"), file("top/f")))
    told = stack.merged()
    assert (told["l"]["mode"], told["top"]["mode"]) == ("0o40755", "0o40755")
    assert [text for text in stack.warnings if "'l'" in text and stack.results[1].diff_id[:19] in text]
    assert len(stack.warnings) == 2


def test_links_into_lower_layers_are_copies_with_all_metadata(tmp_path) -> None:
    base = layer(ROOT, directory("usr", mtime=4), directory("usr/lib", mtime=2), symlink("lib", "usr/lib"), file("usr/lib/f", b"f" * 9000, uid=7, mode=0o4711),
                 symlink("s", "where"))  # fmt: skip
    stack = Stack(tmp_path, base, layer(ROOT, hard_link("one", "lib/f"), hard_link("two", "one"), hard_link("s2", "s"),
                                        directory("d", mtime=3), hard_link("d/late", "lib/f"), file("d/late", b"wins")))  # fmt: skip
    told = stack.check()
    assert told["one"] == told["two"] == told["usr/lib/f"]
    assert stack.merged()["two"]["same_as"] == stack.merged()["one"]["same_as"]
    assert (told["d/late"]["content"][0], told["s2"]["target"]) == (4, "where")


@pytest.mark.parametrize("entries", [
    [hard_link("x", "nothing")],
    [file("d/.wh.a"), hard_link("x", "d/a")],
    [hard_link("x", "d/a"), file("d/.wh.a")],
    [file(".wh.d"), hard_link("x", "d/a")],
    [directory("d"), file("d/.wh..wh..opq"), hard_link("x", "d/a")],
    [hard_link("x", "d")],
    [hard_link("x", "top/a")],
], ids=lambda entries: " ".join(entry.name for entry in entries))  # fmt: skip
def test_links_to_nothing_are_errors(tmp_path, entries) -> None:
    """Numbered escape 4: also where the layer itself has hidden the target, before or after."""
    unpack(BASE, tmp_path / "base")
    path = tmp_path / "above"
    with pytest.raises(UnpackError, match="hard link to"):
        settle([(str(path), unpack(layer(*entries), path))], [str(tmp_path / "base")])


def test_links_to_one_file_below_are_one_file(tmp_path) -> None:
    """One copy, or ten thousand links would fill the disk with ten thousand."""
    stack = Stack(tmp_path, BASE, layer(directory("x"), hard_link("one", "d/a"), hard_link("x/two", "d/a"), hard_link("three", "one")))
    stack.check()
    assert len({os.stat(stack.layers[1] / name).st_ino for name in ("one", "x/two", "three")}) == 1
    assert os.stat(stack.layers[1] / "one").st_nlink == 3


def test_implied_parents_that_may_not_be_entered(tmp_path) -> None:
    """Children have their turn before a directory gets the mode that closes it; branches and depth make no difference."""
    base = layer(*(directory("a/" * depth, mode=0o000 if depth % 2 else 0o100, mtime=depth) for depth in range(1, 40)),
                 directory("a/b", mode=0o711, uid=3), directory("a/b/c", uid=4))  # fmt: skip
    stack = Stack(tmp_path, base, layer(file("a/" * 39 + "f"), file("a/b/c/f"), file("a/a/new/f"), file("a/z")))
    told = stack.merged()
    for depth in range(1, 40):
        assert told["/".join("a" * depth)]["mode"] == oct(0o40000 | (0o000 if depth % 2 else 0o100))
        assert told["/".join("a" * depth)]["mtime"] == depth * 10**9
    assert (told["a/b"]["owner"][0], told["a/b/c"]["owner"][0], told["a/a/new"]["mode"]) == (3, 4, "0o40755")


def test_lowers_given_are_settled_against_at_once(tmp_path) -> None:
    unpack(BASE, tmp_path / "base")
    (tmp_path / "t").mkdir()
    with LayerUnpack(str(tmp_path / "t"), lowers=[str(tmp_path / "base")]) as one:
        one.write(layer(hard_link("copy", "d/a"), file("d/n")))
        result = one.finish()
    assert (result.links, result.implied, (tmp_path / "t" / "copy").read_bytes()) == ((), (), b"a")
    assert stat.S_IMODE((tmp_path / "t" / "d").stat().st_mode) == 0o750


def test_a_mount_takes_odd_paths(tmp_path) -> None:
    folder = tmp_path / "a:b,c\\d"
    folder.mkdir()
    assert "top" in Stack(folder, BASE, layer(file("new"))).merged()


def random_layer(draw: random.Random) -> bytes:
    """Entries over few names, so that they meet."""
    entries = [ROOT]
    for _ in range(draw.randrange(1, 12)):
        folder = draw.choice(["", "a/", "b/", "a/b/", "b/a/"])
        name = folder + draw.choice("abc")
        kind = draw.randrange(7)
        if kind < 2:
            entries.append(directory(name, mode=draw.choice([0o755, 0o700]), mtime=draw.randrange(1, 99)))
        elif kind < 4:
            entries.append(file(name, draw.randbytes(3)))
        elif kind == 4:
            entries.append(symlink(name, draw.choice(["a", "../b", "/b/c", "nowhere"])))
        elif kind == 5:
            entries.append(file(folder + ".wh." + draw.choice("abc")))
        else:
            entries.append(file(folder + ".wh..wh..opq"))
    return layer(*unlike(entries))


def unlike(entries):
    """Without entries of one name, which the specification forbids, and without names below a non-directory of the layer."""
    kept = {}
    for entry in entries:
        kept.setdefault(entry.name, entry)
    solid = {name for name, entry in kept.items() if not entry.isdir()}
    return [entry for name, entry in kept.items() if not any(name.startswith(other + "/") for other in solid)]


@pytest.mark.parametrize("seed", range(16))
def test_any_layers_give_the_same_mounted_and_flat(tmp_path, seed) -> None:
    draw = random.Random(seed)
    tars = [random_layer(draw) for _ in range(4)]
    stack = Stack(tmp_path, *tars)
    told, flat = stack.merged(), describe(tmp_path / "flat")
    implied = {os.fsdecode(path) or "." for result in stack.results for path in implied_paths(result)}
    for tree in (told, flat):
        for name in implied & tree.keys():
            if tree[name]["mode"].startswith("0o4"):
                # as old as its making where no lower layer has it; and one that its own layer hides is new in a mount
                tree[name] = {"mode": "directory"}
    assert differences(told, flat) == []
