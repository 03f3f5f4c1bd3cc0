"""Labels of AppArmor and SELinux: when they are written, how, and what is refused without the module."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.exec_plan import compile_exec
from pyruntime.plan.labels import CONTEXTS, MOUNT_CONTEXT_TYPE, mount_context
from pyruntime.plan.step import ExecOptions
from tests.plan_samples import only, ops, plan, spec

APPARMOR, SELINUX = HostFacts(apparmor=True), HostFacts(selinux=True)


def writes(found):
    return [(step.args[0], step.args[1]) for step in found.steps if step.op == "write_proc"]


def test_a_profile_is_given_to_execve():
    found = plan({"process.apparmorProfile": "docker-default"}, host=APPARMOR)
    assert writes(found) == [("thread-self/attr/apparmor/exec", b"exec docker-default")]
    step = only(found, "write_proc")
    assert [(other.args[0], other.on_errno) for other in step.alternatives] == [("thread-self/attr/exec", 2)]
    names = ops(found)
    assert names.index("close_from") < names.index("open_proc") < names.index("write_proc") < names.index("bounding")
    assert names.index("pivot_root") < names.index("open_proc")


def test_unconfined_is_a_profile_where_apparmor_runs():
    assert writes(plan({"process.apparmorProfile": "unconfined"}, host=APPARMOR)) == [
        ("thread-self/attr/apparmor/exec", b"exec unconfined"),
    ]
    assert writes(plan({"process.apparmorProfile": "unconfined"})) == []


def test_a_label_is_given_to_execve():
    label = "system_u:system_r:container_t:s0:c1,c2"
    assert writes(plan({"process.selinuxLabel": label}, host=SELINUX))[1:] == [("thread-self/attr/exec", label.encode())]


def test_the_handle_is_ours_or_verified():
    step = only(plan({"process.apparmorProfile": "p"}, host=APPARMOR), "open_proc")
    assert (step.args, [(other.args, other.on_errno) for other in step.alternatives]) == ((1,), [((0,), 1)])


def test_an_exec_has_its_own():
    saved = spec({"process.apparmorProfile": "one"})
    process = spec({"process.apparmorProfile": "two"}).process
    assert writes(compile_exec(process, saved, APPARMOR, ExecOptions(id="x"))) == [
        ("thread-self/attr/apparmor/exec", b"exec two"),
    ]


@pytest.mark.parametrize(("changes", "said", "field"), [
    ({"process.apparmorProfile": "p"}, "apparmor profile is specified in config, but", "/process/apparmorProfile"),
    ({"process.selinuxLabel": "l"}, "selinux label is specified in config, but", "/process/selinuxLabel"),
])  # fmt: skip
def test_refused_without_the_module(changes, said, field):
    with pytest.raises(SpecError, match=said) as caught:
        plan(changes)
    assert caught.value.field == field
    assert caught.value.hint


def test_file_systems_get_the_mount_label():
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    changes = {"linux.mountLabel": label, "mounts+": [
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
    ]}  # fmt: skip
    found = plan(changes, host=SELINUX)
    data = {step.args[2]: step.args[3] for step in found.steps if step.op == "mount"}
    assert data["/dev"] == ("mode=755", f"context={label}")
    assert data["/tmp"] == (f"context={label}",)
    assert data["/proc"] == data["/sys"] == ()
    assert not [text for _, text in found.warnings if "mountLabel" in text]


def test_the_keyring_has_the_label_of_the_process():
    found = plan({"process.selinuxLabel": "u:r:t:s0"}, host=SELINUX)
    assert writes(found) == [("thread-self/attr/keycreate", b"u:r:t:s0"), ("thread-self/attr/exec", b"u:r:t:s0")]
    names = ops(found)
    assert names.index("write_proc") + 2 == names.index("keyring")
    assert writes(plan({"process.selinuxLabel": "l"}, host=SELINUX, no_new_keyring=True)) == [("thread-self/attr/exec", b"l")]


@pytest.mark.parametrize("kind", CONTEXTS)
def test_the_annotation_says_which_context(kind):
    changes = {"linux.mountLabel": "l", "annotations": {MOUNT_CONTEXT_TYPE: kind},
               "mounts+": [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]}  # fmt: skip
    found = plan(changes, host=SELINUX)
    assert [step.args[3] for step in found.steps if step.op == "mount" and step.args[2] == "/dev"] == [(f"{kind}=l",)]


def test_another_context_is_refused():
    with pytest.raises(SpecError) as caught:
        plan({"annotations": {MOUNT_CONTEXT_TYPE: "selinux"}})
    assert (caught.value.field, caught.value.value) == ("/annotations/run.oci.mount_context_type", "selinux")
    assert caught.value.hint


def test_long_data_quotes_the_label():
    layers = "lowerdir=" + ":".join(f"/layers/{number:040}" for number in range(9))
    changes = {"linux.mountLabel": "t:s0:c1,c2",
               "mounts+": [{"destination": "/o", "type": "overlay", "source": "o", "options": [layers]}]}  # fmt: skip
    assert only(plan(changes, host=SELINUX), "classic_mount").args[4] == f'{layers},context="t:s0:c1,c2"'


def test_without_selinux_the_mount_label_is_a_warning():
    found = plan({"linux.mountLabel": "l"})
    assert [field for field, _ in found.warnings] == ["/linux/mountLabel"]
    assert mount_context("", "tmpfs") == mount_context("context=l", "proc") == ()


@pytest.mark.parametrize("field", ["process.selinuxLabel", "linux.mountLabel"])
def test_a_label_that_the_policy_does_not_have(field):
    with pytest.raises(SpecError, match="is not valid in the loaded policy") as caught:
        plan({field: "a:b:c"}, host=HostFacts(selinux=True, selinux_unknown=("a:b:c",)))
    assert (caught.value.field, caught.value.value) == ("/" + field.replace(".", "/"), "a:b:c")
    assert caught.value.hint
