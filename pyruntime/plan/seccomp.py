"""Compile `linux.seccomp` (runtime-spec config-linux.md, Seccomp) into rules that are ready for a compiler. Pure.

    Seccomp -> normalise() -> SeccompRules -> native.seccomp.compile_filter() -> BPF -> the plan's `seccomp` step

A start whose filter is cached needs only `cache_key()` (over the Seccomp record or the JSON it came from, whichever
is at hand) and `load_flags()`. Measured for Docker's default profile, in ms, best of many runs: cache_key over the
JSON 0.04, over the record 0.18; normalise 0.09.

What is decided here and not in libseccomp: rules that repeat the default action are left out; two conditions on the
same argument make every condition of that rule a rule of its own (contract 4.9); the native architecture is always
among those filtered, so that a profile for another one cannot open this one.
"""

from __future__ import annotations

from _blake2 import blake2b

from pyruntime.errors import SpecError
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import HostFacts
    from pyruntime.spec.linux import Seccomp, SyscallArg, SyscallRule

    Condition = tuple[int, int, int, int]  # argument index, SCMP_CMP_* number, value, value_two
    Conditions = tuple[Condition, ...]  # all must hold; () always holds
    # system call names, SECCOMP_RET_* with its data, alternatives of which one must hold
    RuleGroup = tuple[tuple[str, ...], int, tuple[Conditions, ...]]

FIELD = "/linux/seccomp"

# Names of the spec to SECCOMP_RET_* (linux/seccomp.h).
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,  # the same as KILL_THREAD
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
NOTIFY = "SCMP_ACT_NOTIFY"
EPERM = 1
ENOSYS = 38
MAX_DATA = 0xFFFF  # SECCOMP_RET_DATA

# Names of the spec to enum scmp_compare (seccomp_rule_add(3)).
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
MAX_ARGS = 6

ARCHITECTURES = (
    "SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64", "SCMP_ARCH_RISCV64", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
)  # fmt: skip
# uname -m to libseccomp's name, where the two differ
MACHINES = {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86", "armv6l": "arm", "armv7l": "arm",
            "armv8l": "arm"}  # fmt: skip

# Names of the spec to (SECCOMP_FILTER_FLAG_*, first kernel that has it); seccomp(2).
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": (1, (3, 17)),
    "SECCOMP_FILTER_FLAG_LOG": (2, (4, 14)),
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": (4, (4, 17)),
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": (32, (5, 19)),
}
FLAG_TSYNC = 1
FLAG_SPEC_ALLOW = 4
FLAG_NEW_LISTENER = 8
FLAG_WAIT_KILLABLE_RECV = 32


class SeccompRules(Record):
    """A profile without words of the spec; what a filter is compiled from.

    `architectures`: libseccomp's names ("x86_64"), the native one first. `groups`: in config order. `named`: system
    calls that occur only in rules equal to the default. `enosys`: system calls newer than the newest one named answer
    ENOSYS instead of the default action.
    """

    default_action: int
    architectures: tuple[str, ...]
    groups: tuple[RuleGroup, ...] = ()
    named: tuple[str, ...] = ()
    enosys: bool = False


def normalise(seccomp: Seccomp, host: HostFacts) -> SeccompRules | None:
    """The rules of a profile, or None when it has neither a default action nor rules: then no filter is loaded.

    Raises SpecError, with the pointer of the entry, for what no filter can express: an unknown action, operator or
    architecture, an errno for an action that has none, NOTIFY where it would stop the runtime itself.
    """
    if not seccomp.default_action and not seccomp.syscalls:
        return None
    if seccomp.default_action == NOTIFY:
        raise _refused(f"{NOTIFY} cannot be used as default action", "/defaultAction", seccomp.default_action)
    default = _action(seccomp.default_action, seccomp.default_errno_ret, "/defaultAction", "/defaultErrnoRet")
    groups: list[RuleGroup] = []
    named: list[str] = []
    for i, rule in enumerate(seccomp.syscalls):
        action = _rule_action(rule, seccomp.listener_path, f"/syscalls/{i}")
        if action == default:
            named += rule.names
        else:
            groups.append((rule.names, action, _alternatives(rule, f"/syscalls/{i}")))
    return SeccompRules(
        default_action=default,
        architectures=_architectures(seccomp.architectures, host.machine),
        groups=tuple(groups),
        named=tuple(named),
        enosys=_wants_enosys(seccomp.default_action, default),
    )


def load_flags(seccomp: Seccomp, host: HostFacts) -> int:
    """SECCOMP_FILTER_FLAG_* for the `seccomp` step. No flags in the config means SPEC_ALLOW; an empty list means none.

    TSYNC is accepted and left out: init has one thread, and the kernel refuses it beside a listener. NEW_LISTENER is
    added for NOTIFY, and WAIT_KILLABLE_RECV kept only then (the kernel refuses it alone). Raises SpecError for a flag
    that is unknown or that this kernel lacks.
    """
    flags = 0
    for i, name in enumerate(seccomp.flags or ()):
        value, since = FLAGS.get(name, (0, (0, 0)))
        if not value:
            raise SpecError(
                f"string {name} is not a valid flag for seccomp", field=f"{FIELD}/flags/{i}", value=name,
                hint="known are " + ", ".join(FLAGS),
            )  # fmt: skip
        if host.kernel < since:
            raise SpecError(
                f"seccomp flag {name} is not supported by this kernel", field=f"{FIELD}/flags/{i}", value=name,
                hint=f"it came with Linux {since[0]}.{since[1]}",
            )  # fmt: skip
        flags |= value
    if seccomp.flags is None:
        flags = FLAG_SPEC_ALLOW if host.kernel >= FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"][1] else 0
    flags &= ~FLAG_TSYNC
    return flags | FLAG_NEW_LISTENER if uses_notify(seccomp) else flags & ~FLAG_WAIT_KILLABLE_RECV


def uses_notify(seccomp: Seccomp) -> bool:
    """Whether loading the filter makes a listener that goes to listenerPath."""
    return any(rule.action == NOTIFY for rule in seccomp.syscalls)


def cache_key(source: object, *inputs: object) -> str:
    """40 hex digits that name the filter of `source` under `inputs`; equal only when all of them are equal.

    `source` is the Seccomp record or the JSON value it was parsed from; the two give different keys for the same
    profile, so a caller keeps to one. `inputs` is everything else that may change the result: the machine, our
    version, native.seccomp.kernel_inputs(). The library is not among them: a cache entry names the one it came from.
    """
    text = repr((source, inputs)).encode("utf-8", "backslashreplace")
    return blake2b(text, digest_size=20).hexdigest()


def _refused(message: str, pointer: str, value: str, hint: str = "") -> SpecError:
    """A profile that the runtime cannot load, in runc's words."""
    return SpecError(f"unable to init seccomp: {message}", field=FIELD + pointer, value=value, hint=hint)


def _action(name: str, errno_ret: int | None, pointer: str, errno_pointer: str) -> int:
    """SECCOMP_RET_* with its data; the errno of ERRNO and TRACE is EPERM when absent."""
    action = ACTIONS.get(name)
    if action is None:
        raise SpecError(
            f"string {name} is not a valid action for seccomp", field=FIELD + pointer, value=name,
            hint="known are " + ", ".join(ACTIONS),
        )  # fmt: skip
    if name in WITH_ERRNO:
        data = EPERM if errno_ret is None else errno_ret
        if 0 <= data <= MAX_DATA:
            return action | data
        raise _refused(f"errno {data} does not fit in 16 bits", errno_pointer, str(data))
    if errno_ret is not None:
        raise _refused(
            f"{name} takes no errno", errno_pointer, str(errno_ret),
            hint="an errno belongs to SCMP_ACT_ERRNO or SCMP_ACT_TRACE",
        )  # fmt: skip
    return action


def _rule_action(rule: SyscallRule, listener_path: str, pointer: str) -> int:
    """The action of one entry of `syscalls`, after the checks that concern the entry as a whole."""
    if "" in rule.names:
        raise _refused("empty string is not a valid syscall", f"{pointer}/names/{rule.names.index('')}", "")
    if rule.action == NOTIFY:
        if "write" in rule.names:
            # init reports the listener's descriptor number with write(2) when the filter is already active
            raise _refused(f"{NOTIFY} cannot be used for the write syscall", f"{pointer}/action", NOTIFY)
        if not listener_path:
            raise SpecError(
                "listenerPath is not set", field=f"{FIELD}/listenerPath",
                hint=f"{NOTIFY} sends its descriptor to a unix socket; name that socket",
            )  # fmt: skip
    return _action(rule.action, rule.errno_ret, f"{pointer}/action", f"{pointer}/errnoRet")


def _alternatives(rule: SyscallRule, pointer: str) -> tuple[Conditions, ...]:
    """The conditions of an entry: one set that must hold whole, or one set each when an index occurs twice."""
    if not rule.args:
        return ((),)
    conditions = tuple(_condition(arg, rule, f"{pointer}/args/{i}") for i, arg in enumerate(rule.args))
    if len({arg.index for arg in rule.args}) == len(conditions):
        return (conditions,)
    return tuple((condition,) for condition in conditions)


def _condition(arg: SyscallArg, rule: SyscallRule, pointer: str) -> Condition:
    """One comparison as libseccomp has it; for MASKED_EQ `value` is the mask and `value_two` the datum."""
    op = OPERATORS.get(arg.op)
    if op is None:
        raise SpecError(
            f"string {arg.op} is not a valid operator for seccomp", field=f"{FIELD}{pointer}/op", value=arg.op,
            hint="known are " + ", ".join(OPERATORS),
        )  # fmt: skip
    if not 0 <= arg.index < MAX_ARGS:
        raise _refused(
            f"error creating seccomp syscall condition for syscall {rule.names[0] if rule.names else ''}: "
            f"syscalls only have up to {MAX_ARGS} arguments ({arg.index + 1} given)",
            f"{pointer}/index", str(arg.index),
        )  # fmt: skip
    return (arg.index, op, arg.value, arg.value_two)


def _architectures(names: tuple[str, ...], machine: str) -> tuple[str, ...]:
    """libseccomp's names, the native one first, each once."""
    found = {MACHINES.get(machine, machine): None}
    for i, name in enumerate(names):
        if name not in ARCHITECTURES:
            raise SpecError(
                f"string {name} is not a valid arch for seccomp", field=f"{FIELD}/architectures/{i}", value=name,
                hint="known are " + ", ".join(ARCHITECTURES),
            )  # fmt: skip
        found[name[len("SCMP_ARCH_") :].lower()] = None
    return tuple(found)


def _wants_enosys(name: str, default: int) -> bool:
    """Whether unknown newer calls get ENOSYS: not where the default lets calls through or is ENOSYS already (S30)."""
    if name in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"):
        return False
    return default != ACTIONS["SCMP_ACT_ERRNO"] | ENOSYS
