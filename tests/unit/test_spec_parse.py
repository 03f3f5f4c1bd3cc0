"""config.json to records: values, texts that callers match, and which violation comes first."""

from __future__ import annotations

import copy

import pytest

from pyruntime.errors import SpecError, Violation
from pyruntime.spec.config import Capabilities, Hook, Mount, Process, Rlimit, User
from pyruntime.spec.linux import (
    CPU,
    Device,
    DeviceRule,
    IDMapping,
    Memory,
    Namespace,
    Resources,
    SyscallArg,
    TimeOffset,
)
from pyruntime.spec.parse import check, inspect, parse_process, parse_resources, parse_spec
from pyruntime.spec.parse_rare import parse_number_list
from pyruntime.spec.reader import Reader
from pyruntime.spec.rules import clean_path, sysctl_name, sysctl_path

BASE = {"ociVersion": "1.3.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": ["sh"]}}
ABSENT = object()


def config(changes=()):
    """BASE with `changes`: dotted path -> value, ABSENT removes."""
    document = copy.deepcopy(BASE)
    for path, value in dict(changes).items():
        *steps, last = path.split("/")
        place = document
        for step in steps:
            place = place.setdefault(step, {})
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    return document


def spaces(*kinds):
    return [{"type": kind} for kind in kinds]


# what the command line's callers see on line 1: contract 1.7 and chapter 4
TEXTS = [
    ({"process": ABSENT}, "/process", "process property must not be empty"),
    ({"process": None}, "/process", "process property must not be empty"),
    ({"process/args": []}, "/process/args", "args must not be empty"),
    ({"process/args": ABSENT}, "/process/args", "args must not be empty"),
    ({"process/cwd": ""}, "/process/cwd", "Cwd property must not be empty"),
    ({"process/cwd": "x"}, "/process/cwd", "Cwd must be an absolute path"),
    ({"root": ABSENT}, "/root", "root must be specified"),
    ({"root": {"path": ""}}, "/root/path", "invalid rootfs: path is empty"),
    ({"hostname": "a"}, "/hostname", "unable to set hostname without a private UTS namespace"),
    ({"domainname": "a"}, "/domainname", "unable to set domainname without a private UTS namespace"),
    ({"process/env": ["A"]}, "/process/env/0", "invalid environment variable: missing '='"),
    ({"process/rlimits": [{"type": "X", "soft": 1, "hard": 1}]}, "/process/rlimits/0/type", "wrong rlimit value: X"),
    ({"process/execCPUAffinity": {"initial": "a"}}, "/process/execCPUAffinity/initial",
     'bad CPUAffinity.Initial: "a" is no number and no range'),
    ({"linux/namespaces": spaces("foo")}, "/linux/namespaces/0/type", 'namespace {"foo" ""} does not exist'),
    ({"linux/namespaces": [{"type": "pid"}, {"type": "pid", "path": "/x"}]}, "/linux/namespaces/1",
     'malformed spec file: duplicated ns {"pid" "/x"}'),
    ({"linux/namespaces": spaces("user")}, "/linux/namespaces/0",
     "user namespaces enabled, but no namespace path to join nor mappings to apply specified"),
    ({"linux/seccomp": {"defaultAction": "X"}}, "/linux/seccomp/defaultAction",
     "string X is not a valid action for seccomp"),
    ({"linux/resources": {"memory": {"swap": 5}}}, "/linux/resources/memory/swap",
     "unable to set swap limit without memory limit"),
    ({"linux/resources": {"memory": {"limit": -1, "swap": 5}}}, "/linux/resources/memory/swap",
     "unable to set swap limit without memory limit"),
    ({"linux/resources": {"devices": [{"allow": True}]}}, "/linux/resources/devices/0/access",
     "device access at 0 field cannot be empty"),
    ({"linux/sysctl": {"vm.swappiness": "1"}}, "/linux/sysctl/vm.swappiness",
     'sysctl "vm.swappiness" is not in a separate kernel namespace'),
    ({"mounts": [{"destination": "/proc/sys", "type": "bind", "source": "/x"}]}, "/mounts/0/destination",
     '"/proc/sys" cannot be mounted because it is inside /proc'),
    ({"mounts": [{"destination": "/x", "options": ["bind"], "uidMappings": [
        {"containerID": 0, "hostID": 0, "size": 1}]}]}, "/mounts/0/gidMappings",
     "id-mapped mounts must have both uid and gid mappings specified"),
    ({"process/user": {"uid": "0"}}, "/process/user/uid",
     "cannot unmarshal string into field process.user.uid of type uint32"),
    ({"process/user": {"uid": 1 << 32}}, "/process/user/uid",
     "cannot unmarshal number 4294967296 into field process.user.uid of type uint32"),
    ({"process/user": {"uid": 1.0}}, "/process/user/uid",
     "cannot unmarshal number 1.0 into field process.user.uid of type uint32"),
    ({"process/terminal": 1}, "/process/terminal", "cannot unmarshal number into field process.terminal of type bool"),
    ({"mounts": {}}, "/mounts", "cannot unmarshal object into field mounts of type array"),
    ({"process/args": [None]}, "/process/args/0", "cannot unmarshal null into field process.args.0 of type string"),
]


@pytest.mark.parametrize(("changes", "pointer", "text"), TEXTS, ids=lambda value: value if type(value) is str else "")
def test_line_one(changes, pointer, text):
    with pytest.raises(SpecError) as caught:
        parse_spec(config(changes))
    assert str(caught.value) == text
    assert caught.value.field == pointer
    assert caught.value.violations[0][:2] == (pointer, text)


# each row breaks the rules of all rows below it as well; contract 4.13
ORDER = [
    ("/hostname", {"hostname": 5}),
    ("/process/cwd", {"process/cwd": "x"}),
    ("/mounts/0/destination", {"mounts": [{"destination": ""}]}),
    ("/linux/devices/0/type", {"linux/devices": [{"path": "/x", "type": "z"}]}),
    ("/linux/resources/pids/limit", {"linux/resources": {"pids": {"limit": -7}}}),
    ("/linux/rootfsPropagation", {"linux/rootfsPropagation": "x"}),
    ("/linux/namespaces/0/type", {"linux/namespaces": spaces("x")}),
    ("/linux/gidMappings/0/size", {"linux/gidMappings": [{"containerID": 0, "hostID": 0, "size": 0}]}),
    ("/linux/seccomp/defaultAction", {"linux/seccomp": {"defaultAction": "x"}}),
    ("/linux/personality/domain", {"linux/personality": {"domain": "x"}}),
    ("/process/execCPUAffinity/final", {"process/execCPUAffinity": {"final": "x"}}),
    ("/root", {"root": ABSENT}),
    ("/linux/netDevices/a~1b", {"linux/netDevices": {"a/b": {}}}),
    ("/domainname", {"domainname": "x"}),
    ("/linux/maskedPaths", {"linux/maskedPaths": ["/x"]}),
    ("/linux/timeOffsets", {"linux/timeOffsets": {"boottime": {"secs": 1}}}),
    ("/linux/sysctl/a", {"linux/sysctl": {"a": "b"}}),
    ("/linux/intelRdt/closID", {"linux/intelRdt": {"closID": ".."}}),
    ("/process/scheduler/policy", {"process/scheduler": {"policy": "x"}}),
    ("/process/ioPriority/class", {"process/ioPriority": {"class": "x"}}),
    ("/process/env/0", {"process/env": ["x"]}),
]


@pytest.mark.parametrize("first", range(len(ORDER)), ids=[pointer for pointer, _ in ORDER])
def test_the_first_violation_is_the_peers_first(first):
    changes = {}
    for _, change in ORDER[first:]:
        changes.update(change)
    with pytest.raises(SpecError) as caught:
        parse_spec(config(changes))
    assert caught.value.field == ORDER[first][0]
    assert {pointer for pointer, _ in ORDER[first:]} <= {violation.field for violation in caught.value.violations}


def test_minimal_spec_has_defaults():
    spec = parse_spec(config())
    assert spec.process == Process("/", ("sh",))
    assert (spec.hostname, spec.mounts, spec.annotations, spec.linux.namespaces) == ("", (), (), ())
    assert spec.linux.seccomp is None


PROCESS = [
    ({}, Process("/", ("sh",))),
    ({"capabilities": {}}, Process("/", ("sh",), capabilities=Capabilities())),
    ({"capabilities": {"ambient": ["CAP_X"]}}, Process("/", ("sh",), capabilities=Capabilities(ambient=("CAP_X",)))),
    ({"user": {"uid": 1, "gid": 2, "umask": 0, "additionalGids": [3]}},
     Process("/", ("sh",), user=User(1, 2, 0, (3,)))),
    ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": (1 << 64) - 1}]},
     Process("/", ("sh",), rlimits=(Rlimit("RLIMIT_CPU", 1, (1 << 64) - 1),))),
    ({"oomScoreAdj": 0}, Process("/", ("sh",), oom_score_adj=0)),
    ({"env": None, "user": None, "terminal": None, "rlimits": None}, Process("/", ("sh",))),
    ({"cwd": "/x", "terminal": True, "noNewPrivileges": True, "env": ["A=", "A=b"]},
     Process("/x", ("sh",), terminal=True, no_new_privileges=True, env=("A=", "A=b"))),
]


@pytest.mark.parametrize(("changes", "process"), PROCESS, ids=repr)
def test_process(changes, process):
    assert parse_process({"cwd": "/", "args": ["sh"], **changes}) == process


def test_process_pointers_begin_where_the_caller_says():
    with pytest.raises(SpecError) as caught:
        parse_process({"args": ["x"]}, "/process")
    assert caught.value.field == "/process/cwd"
    with pytest.raises(SpecError) as caught:
        parse_process({"args": ["x"]})
    assert caught.value.field == "/cwd"


RESOURCES = [
    ({}, Resources()),
    ({"memory": {}, "cpu": None}, Resources()),
    ({"memory": {"swap": 10}}, Resources(memory=Memory(swap=10))),  # update: the limit is known elsewhere
    ({"cpu": {"shares": 5, "cpus": "0-1"}, "pids": {"limit": 0}},
     Resources(cpu=CPU(shares=5, cpus="0-1"), pids_limit=0)),
    ({"devices": [{"allow": True, "type": "c", "major": -1, "minor": 0, "access": "rw"},
                  {"allow": False, "access": "m"}]},
     Resources(devices=(DeviceRule(True, "c", None, 0, "rw"), DeviceRule(False, "a", None, None, "m")))),
    ({"unified": {"memory.high": "1"}}, Resources(unified=(("memory.high", "1"),))),
]


@pytest.mark.parametrize(("document", "resources"), RESOURCES, ids=repr)
def test_resources(document, resources):
    assert parse_resources(document) == resources


LINUX = [
    ({"namespaces": [{"type": "network", "path": "/run/n"}]}, "namespaces", (Namespace("network", "/run/n"),)),
    ({"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 0o20640, "uid": 0}]}, "devices",
     (Device("/dev/x", "c", 1, 2, 0o640, 0, None),)),
    ({"namespaces": spaces("time"), "timeOffsets": {"monotonic": {"secs": -1}}}, "time_offsets",
     (TimeOffset("monotonic", -1, 0),)),
    ({"seccomp": {}}, "seccomp", None),
    ({"seccomp": {"defaultAction": "", "syscalls": []}}, "seccomp", None),
    ({"namespaces": spaces("user"), "uidMappings": [{"containerID": 0, "hostID": 5, "size": 1}],
      "gidMappings": [{"containerID": 0, "hostID": 6, "size": 1}]}, "uid_mappings", (IDMapping(0, 5, 1),)),
]


@pytest.mark.parametrize(("document", "field", "value"), LINUX, ids=repr)
def test_linux(document, field, value):
    assert getattr(parse_spec(config({"linux": document})).linux, field) == value


@pytest.mark.parametrize(("flags", "value"), [(None, None), ([], ()), (["SECCOMP_FILTER_FLAG_LOG"],) * 2])
def test_seccomp_flags_absent_is_not_empty(flags, value):
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_LOG",
         "args": [{"index": 5, "value": (1 << 64) - 1, "op": "SCMP_CMP_EQ"}]}]}
    parsed = parse_spec(config({"linux": {"seccomp": seccomp}})).linux.seccomp
    assert parsed.flags == (tuple(value) if value else value)
    assert parsed.syscalls[0].args == (SyscallArg(5, (1 << 64) - 1, "SCMP_CMP_EQ"),)


def test_mounts_and_hooks():
    spec = parse_spec(config({
        "mounts": [{"destination": "/a", "type": "tmpfs", "source": "t", "options": ["ro"]}],
        "hooks": {"startContainer": [{"path": "/x", "timeout": 3, "env": []}, {"path": "/y"}]},
        "annotations": {"b": "1", "a": "2"}}))
    assert spec.mounts == (Mount("/a", "tmpfs", "t", ("ro",)),)
    assert spec.hooks.start_container == (Hook("/x", (), (), 3), Hook("/y"))
    assert spec.annotations == (("b", "1"), ("a", "2"))


def test_a_document_without_process_passes_check_but_not_create():
    document = {"ociVersion": "1.0.0", "linux": {"netDevices": {"eth0": {}}}}
    spec, errors = check(document)
    assert (spec.process, spec.root, errors) == (None, None, ())
    assert {note.field for note in inspect(document).warnings} == {"/process", "/root", "/linux/netDevices"}
    with pytest.raises(SpecError, match="process property must not be empty"):
        parse_spec(document)


@pytest.mark.parametrize(("changes", "place"), [
    ({"ociVersion": ABSENT}, "strict"), ({"ociVersion": "x"}, "strict"), ({"ociVersion": "1.0"}, "strict"),
    ({"ociVersion": "01.0.0"}, "strict"), ({"ociVersion": "2.0.0"}, "strict"), ({"ociVersion": "1.0.0-"}, "strict"),
    ({"ociVersion": "1.0.0-01"}, "strict"), ({"ociVersion": "1.0.0+"}, "strict"),
    ({"ociVersion": "0.5.0-dev"}, "warnings"),
    ({"ociVersion": "1.0.2-dev+build.5-x"}, ""), ({"ociVersion": "1.99.0-rc.1"}, ""),
    ({"mounts": [{"destination": "data"}]}, "warnings"),
    ({"process/capabilities": {"bounding": ["CAP_FOO"]}}, "warnings"),
    ({"process/capabilities": {"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]}}, ""),
    ({"process/capabilities": None}, "warnings"),
    ({"linux/personality": {"domain": "LINUX", "flags": ["X"]}}, "warnings"),
    ({"zos": {}}, "strict"), ({"zos": {}, "linux": {}}, ""),
], ids=repr)
def test_what_only_validate_says(changes, place):
    document = config({"process/capabilities": {}, **changes})
    findings = inspect(document)
    assert findings.errors == ()
    assert [name for name in ("strict", "warnings") if getattr(findings, name)] == ([place] if place else [])


def test_create_gets_the_same_as_notes():
    notes: list[Violation] = []
    parse_spec(config({"ociVersion": "9.9.9", "mounts": [{"destination": "data"}]}), notes=notes)
    assert [note.field for note in notes] == ["/ociVersion", "/mounts/0/destination"]


@pytest.mark.parametrize(("key", "name", "path"), [
    ("net.ipv4.ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
    ("net/ipv4/ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
    ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x", "net/ipv4/conf/eth0.1/x"),
    ("net.ipv4.conf.eth0/1.x", "net.ipv4.conf.eth0/1.x", "net/ipv4/conf/eth0.1/x"),
    ("plain", "plain", "plain"), ("", "", ""),
])
def test_sysctl_separators(key, name, path):
    assert (sysctl_name(key), sysctl_path(key)) == (name, path)


@pytest.mark.parametrize(("path", "clean"), [
    ("/", "/"), ("", "/"), ("//proc//", "/proc"), ("/a/../../proc/./x", "/proc/x"), ("proc", "/proc"), ("/..", "/"),
    ("/proc/...", "/proc/..."),
])
def test_clean_path(path, clean):
    assert clean_path(path) == clean


@pytest.mark.parametrize(("text", "numbers"), [
    ("", ()), ("0", (0,)), ("0-2,7", (0, 1, 2, 7)), (" 1 , 0 - 1 ,,", (0, 1)), ("3,3", (3,)),
])
def test_number_list(text, numbers):
    assert parse_number_list(text, 9) == numbers


@pytest.mark.parametrize("text", ["a", "1-", "-1", "2-1", "10", "0-10", "1;2", "1\n", "\u0661", "0x1", "-", "9" * 20, "0-9," * 10_000])
def test_number_list_refuses(text):
    with pytest.raises(ValueError, match=r"no number|backwards|above|too long"):
        parse_number_list(text, 9)


def test_text_of_any_length_and_letters_stays_one_short_line():
    nasty = "\n\x1b[31m" + "x" * 100_000
    for changes in ({"linux/namespaces": spaces(nasty)}, {"linux/sysctl": {nasty: 5}}, {"linux/sysctl": {nasty: "5"}},
                    {"process/rlimits": [{"type": nasty}]}, {"linux/seccomp": {"defaultAction": nasty}},
                    {"linux/rootfsPropagation": nasty}, {"mounts": [{"destination": "/proc/" + nasty}]},
                    {"process/execCPUAffinity": {"initial": nasty}}, {"process/cwd": nasty},
                    {"process/user": {"uid": 10 ** 4000}}):
        with pytest.raises(SpecError) as caught:
            parse_spec(config(changes))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000
        assert caught.value.value.isprintable()
        assert caught.value.hint.isprintable()


def test_details_are_one_printable_line_each():
    with pytest.raises(SpecError) as caught:
        parse_spec(config({"linux/sysctl": {"a\nb\x1b": "1"}}))
    assert caught.value.details()[:2] == ["  field: /linux/sysctl/a\\nb\\x1b", '  value: "a\\nb\\u001b"']


def test_a_reader_keeps_document_order_within_a_rank():
    reader = Reader()
    for rank, pointer in ((2, "/b"), (1, "/z"), (2, "/a"), (1, "/y")):
        reader.error(rank, pointer, "x")
    assert [violation.field for violation in reader.sorted_errors()] == ["/z", "/y", "/b", "/a"]
