"""The opcodes of container-init: the one source for Python and C.

`python -m pyruntime.plan.opcodes TREE` writes TREE/csrc/opcodes.h and TREE/pyruntime/plan/layout.py (LAYOUT_HASH); both
are committed and a test holds them against this file. The hash covers names, numbers, argument kinds and the record
layout, and a binary refuses a plan with another hash.

Bytes of a plan, little endian, all offsets from the start of the plan:

    header   u32 magic "PRTP"  u32 header_size  u64 layout_hash  u32 steps  u32 steps_offset
             u32 pool_offset  u32 pool_size  u32 slots  u32 fd_base  u32 flags  u32 reserved           48 bytes
    step     u16 op  u8 alternatives  u8 on_errno  u8 tolerate[4]  i64 arg[6]                           56 bytes
    pool     whatever arguments point to

Argument kinds (a step's arg[] in the order of OPS):
    int   the value itself, two's complement
    slot  number of a descriptor slot; -1 none
    str   offset of bytes ending in NUL
    blob  offset of u32 length, bytes
    strv  offset of u32 count, count times u32 offset of a str
Offset 0 is never valid in the pool and means "not given" for str, blob and strv.

Alternatives: a step with alternatives N is followed by N steps that run only instead of it: when the step's own
errno E is not tolerated and one of the N has on_errno E, that one runs. RETRY (bit 7 of the alternative's own
`alternatives` byte, whose other bits are 0) means: run it, then run the main step once more.
`tolerate` holds up to four errnos that count as success; 0 fills up.

Slots: a plan of S slots has descriptors 0..S-1. Slot 0 is the root (set by attach_root, chroot_root or use_root),
slot 1 the procfs handle (open_proc). The host sends others with the plan; the init side keeps all of them at
or above fd_base (3 + LISTEN_FDS + preserved) with O_CLOEXEC, so that place_fd never meets one.

The socket (SOCK_SEQPACKET, inherited as descriptor 3), one message a record:

    host                                                    container-init
      | -- PLAN: value = number of fds; fds = plan memfd, slots -> |   stage 0; more fds follow in FDS messages
      |    payload: u32 slot number for each fd after the memfd    |
      | <- BARRIER joined                                          |   stage 0 waits to be put in its cgroup
      | -- RELEASE joined ---------------------------------------> |
      | <- BARRIER mapped (a fresh user namespace only)            |   host writes uid_map, gid_map
      | -- RELEASE mapped ---------------------------------------> |
      | <- PID: value = pid of init                                |   stage 0 has cloned init and exits 0
      | <- BARRIER recorded                                        |   init waits until its pid is in `identity`
      | -- RELEASE recorded -------------------------------------> |
      | <- BARRIER mounted (prestart/createRuntime hooks only)     |   limits are set, host hooks run
      | -- RELEASE mounted --------------------------------------> |
      | <- BARRIER ready                                           |   rlimits set, state saved
      | -- RELEASE ready ----------------------------------------> |   init closes the socket and waits for start
    at any time  <- ERROR step, errno, detail   (then init exits 1)
                 <- WARN step, errno, value     (e.g. an ambient capability refused)
                 <- ALT  payload: u32 index of each alternative that ran since the last ALT, in order; step = the last
                 <- LISTENER value = descriptor of the seccomp listener, for pidfd_getfd; init waits for
                    RELEASE listener

    message  u32 type  i32 step  i32 errno  i32 value  payload...            (16 bytes + payload, at most 8 KiB)

On exec.err a byte "x" comes first, right before execve: EOF without it means that init was killed before.

EOF on the socket at a barrier means that the host is gone: init exits and touches nothing. After `ready`, a failure
is one message of the same form (ERROR) on the exec.err FIFO (slot of wait_start) or, for exec, on the socket;
the success of execve closes both. `step` is always the index in the init lane, alternatives counted.
"""

from __future__ import annotations

MAGIC = 0x50545250  # "PRTP"
HEADER_SIZE = 48
STEP_SIZE = 56
MAX_ARGS = 6
RETRY = 0x80
MAX_MESSAGE = 8192

SLOT_ROOT = 0
SLOT_PROC = 1
FIRST_FREE_SLOT = 2

MESSAGES = {"PLAN": 1, "FDS": 2, "RELEASE": 3, "BARRIER": 16, "PID": 17, "ERROR": 18, "WARN": 19, "ALT": 20, "LISTENER": 21}

BARRIERS = {"joined": 1, "mapped": 2, "recorded": 3, "mounted": 4, "ready": 5, "listener": 6}

# Flags that change how an op behaves, by op; the names appear in `explain`.
OP_FLAGS = {
    "TARGET_NO_SYMLINK": 1,  # no component of the target may be a symlink (proc, sysfs: S23)
    "INHERIT_MODE": 2,  # tmpfs: take mode= of the directory that is covered, unless data says otherwise
    "RECURSIVE": 4,
    "REPLACE": 8,  # symlink: an existing name is removed first
    "MAKE_FILE": 16,  # make_path: the last component is a file
    "LIKE_SLOT": 32,  # make_path: file or directory as the descriptor in the slot is
    "NEW_ONLY": 64,  # chdir: skip when an earlier chdir succeeded
    "MOUNT_CONSOLE": 128,  # console: bind the slave on /dev/console
    "TARGET_NO_FOLLOW": 256,  # the last component is not followed
    "PROCFS_ONLY": 512,  # move_mount: the tree must be procfs (S22)
    "COVER_LINK": 1024,  # with TARGET_NO_FOLLOW: the last component may be a symlink, and is the target itself
}

# By name: the number, then each argument with its kind.
OPS: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    "barrier": (1, (("name", "int"),)),
    "setns": (2, (("slot", "slot"), ("nstype", "int"))),  # CLONE_NEW*; slot may be a pidfd with several bits
    "set_dumpable": (3, (("value", "int"),)),
    "unshare": (4, (("flags", "int"),)),
    "set_ids": (5, (("uid", "int"), ("gid", "int"))),  # setresgid, setresuid; in a fresh user namespace
    "write_proc": (6, (("path", "str"), ("data", "blob"))),  # below slot 1, no links, verified procfs
    "clone": (7, (("flags", "int"),)),  # CLONE_PARENT | flags; the parent reports PID and exits 0
    "open_proc": (8, (("private", "int"),)),  # 1: fsopen("proc") of our own; 0: the verified /proc -> slot 1
    "keyring": (9, (("name", "str"), ("perm_and", "int"), ("perm_or", "int"))),  # join, then permissions
    "link_up": (10, (("name", "str"),)),  # SIOCSIFFLAGS IFF_UP
    "propagation": (11, (("path", "str"), ("flags", "int"))),  # host path before pivot; MS_SHARED.. | MS_REC
    "attach_root": (12, (("slot", "slot"), ("path", "str"))),  # move the detached rootfs to a host path -> slot 0
    "use_root": (13, (("path", "str"),)),  # open an existing directory as slot 0 (no mount namespace)
    "make_path": (14, (("path", "str"), ("mode", "int"), ("flags", "int"), ("slot", "slot"))),
    "mount": (
        15,
        (("fstype", "str"), ("source", "str"), ("target", "str"), ("data", "strv"), ("attrs", "int"), ("flags", "int")),
    ),
    "move_mount": (16, (("slot", "slot"), ("target", "str"), ("flags", "int"))),
    "mount_setattr": (
        17,
        (("target", "str"), ("attr_set", "int"), ("attr_clr", "int"), ("propagation", "int"), ("flags", "int")),
    ),
    "remount": (18, (("target", "str"), ("flags", "int"), ("data", "str"))),  # mount(2) MS_REMOUNT, by /proc/self/fd
    "mknod": (19, (("path", "str"), ("mode", "int"), ("dev", "int"), ("uid", "int"), ("gid", "int"))),
    "symlink": (20, (("text", "str"), ("path", "str"), ("flags", "int"))),
    "mask": (21, (("path", "str"),)),  # file: the verified null device; directory: a read-only empty tmpfs
    "readonly": (22, (("path", "str"),)),  # recursive bind on itself, read-only
    "hook": (
        23,
        # state: the JSON before and after our own pid, or one whole JSON; timeout 0: none. Output is captured
        (("path", "str"), ("argv", "strv"), ("env", "strv"), ("timeout_ms", "int"), ("state", "strv"), ("cwd", "str")),
    ),
    "hook_output": (64, (("stdout", "slot"), ("stderr", "slot"))),  # of the hooks that follow; -1: captured
    "pivot_root": (24, ()),
    "move_root": (25, ()),  # MS_MOVE and chroot, for --no-pivot
    "chroot": (26, ()),
    "umount": (27, (("path", "str"), ("flags", "int"))),  # a host path, before the root is changed
    "sethostname": (28, (("name", "str"),)),
    "setdomainname": (29, (("name", "str"),)),
    "console": (30, (("slot", "slot"), ("height", "int"), ("width", "int"), ("flags", "int"))),
    "setsid": (31, ()),
    "reopen_null": (32, ()),  # stdio that is the host's null device becomes the container's
    "chown_stdio": (33, (("uid", "int"),)),  # pipes and ptys only (S19)
    "umask": (34, (("mask", "int"),)),
    "personality": (35, (("persona", "int"),)),
    "no_new_privs": (36, ()),
    "bounding": (37, (("mask", "int"), ("last_cap", "int"))),  # drop every capability that is not in mask
    "keepcaps": (38, (("value", "int"),)),
    "setgroups": (39, (("groups", "blob"),)),  # u32 each
    "setgid": (40, (("gid", "int"),)),
    "setuid": (41, (("uid", "int"),)),
    "capset": (42, (("effective", "int"), ("permitted", "int"), ("inheritable", "int"))),
    "ambient": (43, (("mask", "int"),)),  # clear all, raise each; a refusal is a WARN with value = capability
    "seccomp": (44, (("filter", "blob"), ("flags", "int"), ("slot", "slot"))),  # slot: receives a listener, or -1
    "chdir": (45, (("path", "str"), ("flags", "int"))),  # then getcwd must be inside (S14)
    "find_program": (46, (("name", "str"), ("env", "strv"))),  # PATH of env; remembered for execve
    "home": (47, (("uid", "int"), ("env", "strv"))),  # HOME from the container's /etc/passwd when env has none
    "wait_start": (48, (("fifo", "slot"), ("err", "slot"))),
    "close_slot": (49, (("slot", "slot"),)),
    "place_fd": (50, (("slot", "slot"), ("number", "int"))),
    "close_from": (51, (("first", "int"),)),  # close_range(first, ~0, CLOSE_RANGE_CLOEXEC)
    "execve": (52, (("argv", "strv"), ("env", "strv"))),
    "affinity": (53, (("mask", "blob"),)),
    "copy_up": (55, (("target", "str"), ("slot", "slot"))),  # tmpcopyup, next
    "oom_score_adj": (56, (("value", "int"),)),
    # a bind source opened by init itself, where the caller may not; mode and dev: only that device node
    "clone_tree": (
        62,
        (("slot", "slot"), ("path", "str"), ("flags", "int"), ("propagation", "int"), ("mode", "int"), ("dev", "int")),
    ),
    # mount(2) on a target below the root: for data that fsconfig does not take, and kernels before mount_setattr
    "classic_mount": (57, (("fstype", "str"), ("source", "str"), ("target", "str"), ("flags", "int"), ("data", "str"))),
    "cover": (58, (("path", "str"),)),  # a read-only empty tmpfs over a host path, before the root is changed
    "scheduler": (59, (("attr", "blob"),)),  # struct sched_attr
    "io_priority": (60, (("value", "int"),)),  # of the process group
    "net_device": (54, (("index", "int"), ("addresses", "blob"))),  # RTM_NEWADDR messages, then IFF_UP
    "rlimit": (63, (("type", "int"), ("soft", "int"), ("hard", "int"))),  # of init itself; -1 is RLIM_INFINITY
    "memory_policy": (61, (("mode", "int"), ("nodes", "blob"))),  # the mode with its flags; nodes in longs
}

PROCEDURES = ("make_path", "copy_up", "console", "hook", "find_program", "home", "wait_start")


def layout_text() -> str:
    """Everything both sides must agree on, as text; what LAYOUT_HASH is computed from."""
    lines = [f"{MAGIC:x} {HEADER_SIZE} {STEP_SIZE} {MAX_ARGS} {RETRY} {MAX_MESSAGE}"]
    lines += [f"{name}={number}" for table in (MESSAGES, BARRIERS, OP_FLAGS) for name, number in table.items()]
    lines += [f"{name}:{number}:{','.join(f'{a}/{k}' for a, k in args)}" for name, (number, args) in OPS.items()]
    return "\n".join(lines)


def fnv1a64(text: str) -> int:
    """FNV-1a, 64 bits; short enough to need no import (draft-eastlake-fnv)."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def c_header() -> str:
    """The text of csrc/opcodes.h."""
    out = ["/* Generated by pyruntime/plan/opcodes.py; do not edit. */", "#ifndef OPCODES_H", "#define OPCODES_H", ""]
    out += [f"#define PLAN_MAGIC 0x{MAGIC:08x}u", f"#define PLAN_LAYOUT_HASH 0x{fnv1a64(layout_text()):016x}ull"]
    out += [f"#define PLAN_HEADER_SIZE {HEADER_SIZE}", f"#define PLAN_STEP_SIZE {STEP_SIZE}"]
    out += [f"#define PLAN_MAX_ARGS {MAX_ARGS}", f"#define PLAN_RETRY 0x{RETRY:02x}", f"#define MAX_MESSAGE {MAX_MESSAGE}"]
    out += [f"#define SLOT_ROOT {SLOT_ROOT}", f"#define SLOT_PROC {SLOT_PROC}", ""]
    out += [f"#define MSG_{name} {number}" for name, number in MESSAGES.items()]
    out += [f"#define BARRIER_{name.upper()} {number}" for name, number in BARRIERS.items()]
    out += [f"#define F_{name} {number}" for name, number in OP_FLAGS.items()]
    out += ["", "enum arg_kind { ARG_NONE, ARG_INT, ARG_SLOT, ARG_STR, ARG_BLOB, ARG_STRV };", "", "enum op {"]
    out += [f"    OP_{name.upper()} = {number}," for name, (number, _) in OPS.items()]
    out += ["};", "", "/* X(NAME, kind of arg[0], ... arg[5]) */", "#define FOR_EACH_OP(X) \\"]
    for name, (_, args) in OPS.items():
        kinds = [f"ARG_{kind.upper()}" for _, kind in args] + ["ARG_NONE"] * (MAX_ARGS - len(args))
        out.append(f"    X({name.upper()}, {', '.join(kinds)}) \\")
    return "\n".join([*out, "", "#endif", ""])


def main(tree: str) -> None:
    """Write the two generated files below `tree`."""
    layout = f'"""Generated by opcodes.py; do not edit."""\n\nLAYOUT_HASH = 0x{fnv1a64(layout_text()):016x}\n'
    for name, text in (("csrc/opcodes.h", c_header()), ("pyruntime/plan/layout.py", layout)):
        with open(f"{tree}/{name}", "w", encoding="ascii") as out:
            out.write(text)


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
