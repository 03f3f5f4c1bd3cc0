"""Mounts: the option table, and the steps of each kind of mount."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    EBUSY,
    ENOENT,
    ENOSYS,
    EPERM,
    MS_BIND,
    MS_NOATIME,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_UNBINDABLE,
)
from pyruntime.plan.mounts import (
    ATTRIBUTES,
    PROPAGATION,
    RECURSIVE_ATTRIBUTES,
    SUPERBLOCK,
    WITHOUT_EFFECT,
    Split,
    clean,
    split_data,
    split_options,
    to_ms,
)
from pyruntime.plan.opcodes import OP_FLAGS
from tests.plan_samples import CGROUPS, HYBRID, V1, V2, namespaces, only, ops, plan, steps, user_ns, where

CLONE = MS_SLAVE | MS_REC

# contract 4.3: plain options, recursive ones, propagation
PLAIN = """
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow rbind relatime remount ro rw silent
    strictatime suid symfollow sync
""".split()
RECURSIVE = """
    rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime ratime
    rstrictatime rnostrictatime rnosymfollow rsymfollow
""".split()
CRUN = ["rsync", "rasync", "rdirsync", "rmand", "rnomand"]


@pytest.mark.parametrize("option", PLAIN + RECURSIVE + CRUN + list(PROPAGATION))
def test_no_option_of_the_contract_is_data(option):
    assert split_options((option,)).data == ()


def test_no_option_beyond_the_contract():
    known = {"bind", "rbind", "remount", *ATTRIBUTES, *RECURSIVE_ATTRIBUTES, *SUPERBLOCK, *WITHOUT_EFFECT, *PROPAGATION}
    assert known == {*PLAIN, *RECURSIVE, *CRUN, *PROPAGATION}


@pytest.mark.parametrize(("options", "expected"), [
    ((), Split()),
    (("ro",), Split(attr_set=ATTR_RDONLY)),
    (("ro", "rw"), Split(attr_clr=ATTR_RDONLY)),  # the last one wins
    (("rw", "ro"), Split(attr_set=ATTR_RDONLY)),
    (("nosuid", "nodev", "noexec", "nosymfollow"),
     Split(attr_set=ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_NOSYMFOLLOW)),
    (("noatime",), Split(attr_set=ATTR_NOATIME, attr_clr=ATTR_ATIME)),
    (("noatime", "strictatime"), Split(attr_set=ATTR_STRICTATIME, attr_clr=ATTR_ATIME)),
    (("noatime", "relatime"), Split(attr_clr=ATTR_ATIME)),
    (("noatime", "atime"), Split(attr_clr=ATTR_ATIME)),
    (("relatime", "nodiratime"), Split(attr_set=ATTR_NODIRATIME, attr_clr=ATTR_ATIME)),
    (("rbind", "rprivate", "shared"),
     Split(kind=MS_BIND | MS_REC, propagation=(MS_PRIVATE | MS_REC, MS_SHARED))),
    (("rro", "rnoatime"), Split(rec_set=ATTR_RDONLY | ATTR_NOATIME, rec_clr=ATTR_ATIME)),
    (("rro", "rrw"), Split(rec_clr=ATTR_RDONLY)),
    (("sync", "lazytime", "defaults", "silent"), Split(superblock=("sync", "lazytime"))),
    (("mode=755", "size=64k"), Split(data=("mode=755", "size=64k"))),
    (("lowerdir=/a:/b,upperdir=/c",), Split(data=("lowerdir=/a:/b", "upperdir=/c"))),
    (("idmap", "tmpcopyup", "src-nofollow"), Split(other=("idmap", "tmpcopyup", "src-nofollow"))),
    (("idmap=uids=0-1-10",), Split(other=("idmap=uids=0-1-10",))),
    (("RO",), Split(data=("RO",))),  # names are case-exact
], ids=str)  # fmt: skip
def test_split_options(options, expected):
    assert split_options(options) == expected


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("a=1", ["a=1"]),
        ("a=1,b,,c=", ["a=1", "b", "c="]),
        ('context="a,b",c', ['context="a,b"', "c"]),
        ("lowerdir=/a\\,b,c", ["lowerdir=/a\\,b", "c"]),
        ("x=\\\\,y", ["x=\\\\", "y"]),
    ],
    ids=str,
)
def test_split_data(text, keys):
    assert split_data(text) == keys


@pytest.mark.parametrize(("path", "expected"), [
    ("/a", "/a"), ("a", "/a"), ("/", "/"), ("", "/"), ("//a//b/", "/a/b"), ("/a/./b", "/a/b"), ("/a/../b", "/b"),
    ("../../x", "/x"), ("/..a/.b", "/..a/.b"),
])  # fmt: skip
def test_clean(path, expected):
    assert clean(path) == expected


@pytest.mark.parametrize(
    ("attrs", "cleared", "flags"),
    [
        (0, 0, 0),
        (ATTR_RDONLY | ATTR_NOSUID, 0, MS_RDONLY | MS_NOSUID),
        (0, ATTR_ATIME, MS_RELATIME),
        (ATTR_NOATIME, ATTR_ATIME, MS_NOATIME),
        (ATTR_STRICTATIME, ATTR_ATIME, MS_STRICTATIME),
    ],
)
def test_to_ms(attrs, cleared, flags):
    assert to_ms(attrs, cleared) == flags


def mount(destination="/d", kind="none", source="/s", options=(), **changes):
    """The plan of a container with one mount."""
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    host = changes.pop("host", HostFacts(cgroup=V1))
    cgroup = changes.pop("cgroup", CGROUPS)
    return plan({"mounts": [entry]} | changes, host=host, cgroup=cgroup)


def mine(found):
    """Steps of the mount: (op, args), in order."""
    return [(step.op, step.args) for step in found.steps if step.origin.startswith("/mounts/0")]


@pytest.mark.parametrize(("options", "expected"), [
    (["bind"], [("open_tree", ("/s", 3, 0, CLONE, 1)), ("move_mount", (3, "/d", 0))]),
    (["rbind"], [("open_tree", ("/s", 3, 1, CLONE, 1)), ("move_mount", (3, "/d", 0))]),
    (["rbind", "rprivate"],
     [("open_tree", ("/s", 3, 1, MS_PRIVATE | MS_REC, 1)), ("move_mount", (3, "/d", 0))]),
    (["rbind", "private"],  # the clone would still be shared below its top: cut off whole, then the top
     [("open_tree", ("/s", 3, 1, CLONE, 1)), ("move_mount", (3, "/d", 0)),
      ("mount_setattr", ("/d", 0, 0, MS_PRIVATE, 0))]),
    (["bind", "rshared"],
     [("open_tree", ("/s", 3, 0, CLONE, 1)), ("move_mount", (3, "/d", 0)),
      ("mount_setattr", ("/d", 0, 0, MS_SHARED, OP_FLAGS["RECURSIVE"]))]),
    (["bind", "rslave", "unbindable"],
     [("open_tree", ("/s", 3, 0, CLONE, 1)), ("move_mount", (3, "/d", 0)),
      ("mount_setattr", ("/d", 0, 0, MS_UNBINDABLE, 0))]),
    (["bind", "ro", "suid"],
     [("open_tree", ("/s", 3, 0, CLONE, 1)), ("move_mount", (3, "/d", 0)),
      ("mount_setattr", ("/d", ATTR_RDONLY, ATTR_NOSUID, 0, 0))]),
    (["rbind", "rro", "rnoatime"],
     [("open_tree", ("/s", 3, 1, CLONE, 1)), ("move_mount", (3, "/d", 0)),
      ("mount_setattr", ("/d", ATTR_RDONLY | ATTR_NOATIME, ATTR_ATIME, 0, OP_FLAGS["RECURSIVE"]))]),
    (["bind", "src-nofollow", "dest-nofollow"],
     [("open_tree", ("/s", 3, 0, CLONE, 0)), ("move_mount", (3, "/d", OP_FLAGS["TARGET_NO_FOLLOW"] | OP_FLAGS["COVER_LINK"]))]),
    (["remount", "bind", "ro"], [("mount_setattr", ("/d", ATTR_RDONLY, 0, 0, 0))]),
    (["remount", "size=1m", "noexec"],
     [("mount_setattr", ("/d", ATTR_NOEXEC, 0, 0, 0)), ("remount", ("/d", MS_REMOUNT | 8, "size=1m"))]),
], ids=str)  # fmt: skip
def test_binds_and_remounts(options, expected):
    assert mine(mount(options=options)) == expected


def test_type_bind_needs_no_option():
    assert mine(mount(kind="bind"))[0] == ("open_tree", ("/s", 3, 0, CLONE, 1))


@pytest.mark.parametrize(("wanted", "handed"), [("", CLONE), ("rslave", CLONE), ("rshared", MS_SHARED | MS_REC)])
def test_a_tree_stays_the_hosts_peer_only_below_a_shared_rootfs(wanted, handed):
    found = mount(options=["rbind", "rshared"], **{"linux.rootfsPropagation": wanted})
    assert only(found, "open_tree").args[3] == handed


def test_relative_source_is_the_bundles():
    assert only(mount(source="etc/hosts", options=["bind"]), "open_tree").args[0] == "/b/etc/hosts"


def test_missing_target_of_a_bind_is_made_like_its_source():
    (made,) = only(mount(options=["bind"]), "move_mount").alternatives
    assert (made.op, made.args, made.on_errno, made.retry) == (
        "make_path", ("/d", 0o755, OP_FLAGS["LIKE_SLOT"], 3), ENOENT, True)  # fmt: skip


def test_attributes_have_an_older_way():
    (older,) = only(mount(options=["bind", "ro", "noatime"]), "mount_setattr").alternatives
    assert (older.op, older.on_errno) == ("remount", ENOSYS)
    assert older.args == ("/d", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOATIME, "")


def test_recursive_attributes_have_none():
    assert only(mount(options=["rbind", "rro"]), "mount_setattr").alternatives == ()


@pytest.mark.parametrize(("kind", "options", "expected"), [
    ("proc", [], ("proc", "/s", "/d", (), 0, OP_FLAGS["TARGET_NO_SYMLINK"])),
    ("proc", ["ro", "hidepid=2"],
     ("proc", "/s", "/d", ("hidepid=2",), ATTR_RDONLY, OP_FLAGS["TARGET_NO_SYMLINK"])),
    ("sysfs", ["nosuid", "ro"], ("sysfs", "/s", "/d", (), ATTR_RDONLY | ATTR_NOSUID, OP_FLAGS["TARGET_NO_SYMLINK"])),
    ("mqueue", ["nodev"], ("mqueue", "/s", "/d", (), ATTR_NODEV, 0)),
    ("devpts", ["gid=5", "ro"], ("devpts", "/s", "/d", ("gid=5",), ATTR_RDONLY, 0)),
    ("tmpfs", ["size=1m"], ("tmpfs", "/s", "/d", ("size=1m",), 0, OP_FLAGS["INHERIT_MODE"])),
    ("tmpfs", ["mode=700", "strictatime"], ("tmpfs", "/s", "/d", ("mode=700",), ATTR_STRICTATIME, 0)),
    ("overlay", ["lowerdir=/a:/b", "noatime"], ("overlay", "/s", "/d", ("lowerdir=/a:/b",), ATTR_NOATIME, 0)),
    ("ext4", ["ro", "sync"], ("ext4", "/s", "/d", ("ro", "sync"), ATTR_RDONLY, 0)),  # never opened for writing
], ids=str)  # fmt: skip
def test_file_systems(kind, options, expected):
    found = mount(kind=kind, options=options)
    step = only(found, "mount")
    assert step.args == expected
    made = step.alternatives[0]
    assert (made.op, made.args[0], made.on_errno, made.retry) == ("make_path", "/d", ENOENT, True)


def test_source_defaults_to_the_type():
    entry = [{"destination": "/d", "type": "tmpfs"}]
    assert only(plan({"mounts": entry}), "mount").args[:2] == ("tmpfs", "tmpfs")


@pytest.mark.parametrize(("kind", "destination"), [("tmpfs", "/d"), ("tmpfs", "/dev"), ("devtmpfs", "/dev")])
def test_what_must_be_filled_becomes_read_only_late(kind, destination):
    found = mount(destination, kind, options=["ro"])
    assert not only(found, "mount").args[4] & ATTR_RDONLY
    assert "ro" not in only(found, "mount").args[3]
    late = only(found, "mount_setattr")
    assert late.args == (destination, ATTR_RDONLY, 0, 0, 0)
    assert where(found, "symlink" if destination != "/dev" else "mount_setattr") > where(found, "mount")
    assert where(found, "mount_setattr") < where(found, "pivot_root")


def test_a_read_only_bind_on_dev_is_late_too():
    found = mount("/dev", options=["rbind", "ro", "nosuid"])
    assert where(found, "mount_setattr") == where(found, "pivot_root") - 1


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("none", ["bind", "size=1"], "bind mounts cannot have any filesystem-specific options applied"),
        ("none", ["bind", "idmap"], "id-mapped mounts must have both uid and gid mappings specified"),
        ("none", ["bind", "idmap=uids=0-1-2"], "id-mapped mounts must have both uid and gid mappings specified"),
        ("none", ["bind", "tmpcopyup"], "tmpcopyup is only allowed for tmpfs mounts"),
        ("ext4", ["tmpcopyup"], "tmpcopyup is only allowed for tmpfs mounts"),
        ("tmpfs", ["copy-symlink"], "copy-symlink is only allowed for bind mounts"),
    ],
    ids=str,
)
def test_refused(kind, options, said):
    with pytest.raises(SpecError) as caught:
        mount(kind=kind, options=options)
    assert (str(caught.value), caught.value.field) == (said, "/mounts/0/options")


def test_tmpcopyup_follows_its_mount_before_it_is_read_only():
    found = mount(kind="tmpfs", options=["tmpcopyup", "ro"])
    at = where(found, "mount")
    assert [step.op for step in found.steps[at - 1 : at + 2]] == ["make_path", "mount", "copy_up"]
    assert only(found, "mount").alternatives == ()  # the next step by number is the copy
    assert only(found, "copy_up").args == ("/d", -1)
    assert where(found, "mount_setattr") > at + 1


# --- sysfs and cgroup -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kinds", "borrowed"), [((), True), (("network",), False)], ids=str)
def test_sysfs_in_a_user_namespace(kinds, borrowed):
    found = mount("/sys", "sysfs", "sysfs", ["nosuid", "ro"], **user_ns(*kinds))
    others = [(other.op, other.on_errno) for other in only(found, "mount").alternatives]
    assert (("move_mount", EPERM) in others) == borrowed
    assert [step.args[0] for step in steps(found, "open_tree")] == (["/sys"] if borrowed else [])
    assert bool(found.warnings) == borrowed
    if borrowed:  # the host's tree must be as read-only as the config wants its own, with all that is mounted in it
        flags = (ATTR_NOSUID | ATTR_RDONLY, 0, 0, OP_FLAGS["RECURSIVE"])
        assert only(found, "mount_setattr").args == ("/sys", *flags)


def cgroup_steps(*, cgroup_ns, host, options=("ro", "nosuid")):
    kinds = ("pid", "mount", "cgroup") if cgroup_ns else ("pid", "mount")
    changes = {"linux.namespaces": namespaces(*kinds)}
    return mount("/sys/fs/cgroup", "cgroup", "cgroup", options, host=host, **changes)


def test_cgroup_v1_binds_the_containers_directories():
    found = cgroup_steps(cgroup_ns=False, host=HostFacts(cgroup=V1))
    assert [step.args[0] for step in steps(found, "open_tree")] == [
        "/sys/fs/cgroup/cpu,cpuacct/c1", "/sys/fs/cgroup/memory/c1", "/sys/fs/cgroup/systemd/c1"]  # fmt: skip
    assert [step.args[1] for step in steps(found, "move_mount")] == [
        "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd"]  # fmt: skip
    assert only(found, "mount").args[:4] == ("tmpfs", "tmpfs", "/sys/fs/cgroup", ("mode=755",))


def test_cgroup_v1_merged_names_are_links():
    found = cgroup_steps(cgroup_ns=False, host=HostFacts(cgroup=V1))
    links = [step.args for step in steps(found, "symlink") if step.origin]
    assert links == [("cpu,cpuacct", "/sys/fs/cgroup/cpu", 0), ("cpu,cpuacct", "/sys/fs/cgroup/cpuacct", 0)]


def test_cgroup_v1_in_a_cgroup_namespace_mounts_each_hierarchy():
    found = cgroup_steps(cgroup_ns=True, host=HostFacts(cgroup=HYBRID))
    assert [step.args[:4] for step in steps(found, "mount")][1:] == [
        ("cgroup", "cgroup", "/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct")),
        ("cgroup", "cgroup", "/sys/fs/cgroup/memory", ("memory",)),
        ("cgroup", "systemd", "/sys/fs/cgroup/systemd", ("none", "name=systemd")),
        ("cgroup2", "cgroup", "/sys/fs/cgroup/unified", ()),
    ]
    assert all(step.args[4] == ATTR_RDONLY | ATTR_NOSUID for step in steps(found, "mount")[1:])


@pytest.mark.parametrize("cgroup_ns", [False, True])
def test_cgroup_is_as_writable_as_the_config_says(cgroup_ns):
    for options, readonly in ((["ro"], True), ([], False)):
        found = cgroup_steps(cgroup_ns=cgroup_ns, host=HostFacts(cgroup=HYBRID), options=options)
        targets = {step.args[0] for step in steps(found, "mount_setattr") if step.args[1] & ATTR_RDONLY}
        targets |= {step.args[2] for step in steps(found, "mount") if step.args[4] & ATTR_RDONLY}
        names = ("", "/cpu,cpuacct", "/memory", "/systemd", "/unified")
        assert targets == ({f"/sys/fs/cgroup{name}" for name in names} if readonly else set())


def test_cgroup_v2_is_one_mount():
    found = cgroup_steps(cgroup_ns=True, host=HostFacts(cgroup=V2))
    assert only(found, "mount").args == ("cgroup2", "cgroup", "/sys/fs/cgroup", (), ATTR_RDONLY | ATTR_NOSUID, 0)


@pytest.mark.parametrize(("kinds", "source"), [((), "/sys/fs/cgroup"), (("cgroup",), "/sys/fs/cgroup/unified/c1")])
def test_cgroup_v2_refused_in_a_user_namespace_is_bound(kinds, source):
    host = HostFacts(cgroup=V2)
    found = mount("/sys/fs/cgroup", "cgroup", "cgroup", ["ro"], host=host, **user_ns(*kinds))
    assert [step.args[0] for step in steps(found, "open_tree")] == [source]
    assert [other.on_errno for other in only(found, "mount").alternatives] == [ENOENT, EPERM, EBUSY]
    assert only(found, "mount_setattr").args[:2] == ("/sys/fs/cgroup", ATTR_RDONLY)  # the bind is read-only as well


def test_mounts_keep_the_configs_order():
    entries = [{"destination": f"/{name}", "type": "tmpfs"} for name in "bac"]
    found = plan({"mounts": entries})
    assert [step.args[2] for step in steps(found, "mount")] == ["/b", "/a", "/c"]
    assert ops(found).index("mknod") > where(found, "mount")
