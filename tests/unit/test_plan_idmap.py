"""Id-mapped binds: where the mapping comes from, crun's spelling of it, and what is refused."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.lifecycle.host_steps import map_text
from pyruntime.plan.describe import describe
from pyruntime.plan.idmap import parse_option
from tests.plan_samples import ROOTLESS, only, ops, plan, user_ns, where

ONE = [{"containerID": 1000, "hostID": 7, "size": 1}]
CONTAINER = (((0, 0, 1), (1, 2, 1000)), ((0, 500, 10),))


def bind(*options: str, own: bool = False, changes=None, host=None):
    """A plan with one bind with these options, with mappings of its own when `own`."""
    mount = {"destination": "/d", "source": "/s", "options": ["bind", *options]}
    if own:
        mount |= {"uidMappings": ONE, "gidMappings": ONE}
    return plan((changes or {}) | {"mounts+": [mount]}, host=host or HostFacts())


@pytest.mark.parametrize(("found", "args"), [
    (bind(own=True), (0, ((1000, 7, 1),), ((1000, 7, 1),))),
    (bind("idmap", own=True), (0, ((1000, 7, 1),), ((1000, 7, 1),))),
    (bind("ridmap", own=True), (1, ((1000, 7, 1),), ((1000, 7, 1),))),
    (bind("idmap", changes=user_ns()), (0, ((0, 100000, 65536),), ((0, 100000, 65536),))),
    (bind("idmap=uids=0-1-10#10-20-5;gids=0-3-1"), (0, ((0, 1, 10), (10, 20, 5)), ((0, 3, 1),))),
    (bind("ridmap=gids=@0-3-1;uids=0-1-1", changes=user_ns()), (1, ((0, 1, 1),), ((0, 100003, 1),))),
], ids=["mappings alone", "option too", "recursive", "of the container", "crun", "relative"])  # fmt: skip
def test_where_the_mapping_comes_from(found, args):
    step = only(found, "idmap")
    assert step.args == ("/s", only(found, "open_tree").args[1], *args)
    assert where(found, "open_tree") < where(found, "idmap") < where(found, "spawn")  # before anybody sees the tree
    assert step.origin == "/mounts/1"


def test_a_plain_bind_has_no_mapping():
    assert "idmap" not in ops(bind("ro", changes=user_ns()))


def test_described():
    assert describe(only(bind("ridmap", own=True), "idmap")).endswith("[recursive] uids 1000->7+1 gids 1000->7+1")


def test_one_line_for_each_range():
    assert map_text(((0, 1, 2), (10, 20, 30))) == b"0 1 2\n10 20 30\n"


@pytest.mark.parametrize(("text", "expected"), [
    ("uids=@1-3-10;gids=0-0-1", (((1, 4, 10),), ((0, 0, 1),))),  # the example of crun.1
    ("uids=@5-0-1;gids=@0-9-1", (((5, 0, 1),), ((0, 509, 1),))),
    ("uids=0-4294967294-1;gids=0-0-1", (((0, 4294967294, 1),), ((0, 0, 1),))),
])  # fmt: skip
def test_cruns_option(text, expected):
    assert parse_option(text, CONTAINER, "/mounts/0/options") == expected


@pytest.mark.parametrize("text", [
    "uids=0-1", "uids=0-1-2-3;gids=0-0-1", "uids=a-1-2;gids=0-0-1", "pids=0-0-1", "uids=0-0-0;gids=0-0-1", "uids=;gids=",
    "uids=0-4294967295-1;gids=0-0-1", "uids=@0-900-200;gids=0-0-1", "uids=0-0-1", "uids=0-0-1;gids=@0-10-1",
    "uids=0-+1-1;gids=0-0-1", "uids=0-²-1;gids=0-0-1",
])  # fmt: skip
def test_cruns_option_refused(text):
    with pytest.raises(SpecError) as caught:
        parse_option(text, CONTAINER, "/mounts/0/options")
    assert caught.value.field == "/mounts/0/options"
    assert caught.value.hint


@pytest.mark.parametrize(("host", "own", "said", "field"), [
    (HostFacts(kernel=(5, 10)), True, "id-mapped mounts need Linux 5.12", "uidMappings"),
    (ROOTLESS, False, "id-mapped mounts are not supported for rootless containers", "options"),
], ids=str)  # fmt: skip
def test_not_on_this_host(host, own, said, field):
    with pytest.raises(SpecError, match=said) as caught:
        bind("idmap", own=own, changes=user_ns(), host=host)
    assert caught.value.field == f"/mounts/1/{field}"
