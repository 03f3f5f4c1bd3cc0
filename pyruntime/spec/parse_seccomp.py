"""`linux.seccomp` of config.json (runtime-spec config-linux.md, Seccomp). Syscall names are kept as configured."""

from __future__ import annotations

from pyruntime.spec.document import quote
from pyruntime.spec.linux import Seccomp, SyscallArg, SyscallRule
from pyruntime.spec.reader import SECCOMP, UINT32, UINT64, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ACTIONS = frozenset({
    "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"})
ERRNO_ACTIONS = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})  # those that carry errnoRet
OPERATORS = frozenset({
    "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"})
ARCHITECTURES = frozenset("SCMP_ARCH_" + name for name in (
    "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL",
    "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "PARISC", "PARISC64",
    "RISCV64"))
FLAGS = frozenset("SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
MAX_ERRNO = 4095  # include/linux/err.h; seccomp(2) caps SECCOMP_RET_DATA of SECCOMP_RET_ERRNO there


def read_seccomp(reader: Reader, obj: dict[str, Any], at: str) -> Seccomp | None:
    """The filter, None when it asks for nothing: no default action and no rules (contract 4.9)."""
    action = reader.text(obj, "defaultAction", at)
    if not obj.get("defaultAction") and not obj.get("syscalls"):
        return None
    _check_action(reader, action, f"{at}/defaultAction")
    if action == "SCMP_ACT_NOTIFY":
        reader.error(SECCOMP, f"{at}/defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action", action,
                     "name the syscalls to notify of in syscalls")
    syscalls = _read_rules(reader, obj, at)
    flags = reader.texts(obj, "flags", at) if obj.get("flags") is not None else None
    for index, flag in enumerate(flags or ()):
        reader.one_of(flag, FLAGS, SECCOMP, f"{at}/flags/{index}", f"seccomp flag {quote(flag)} is not known")
    architectures = reader.texts(obj, "architectures", at)
    for index, name in enumerate(architectures):
        reader.one_of(name, ARCHITECTURES, SECCOMP, f"{at}/architectures/{index}",
                      f"string {_bare(name)} is not a valid arch for seccomp")
    listener, metadata = reader.text(obj, "listenerPath", at), reader.text(obj, "listenerMetadata", at)
    _check_listener(reader, syscalls, listener, metadata, at)
    return Seccomp(action, _read_errno(reader, obj, "defaultErrnoRet", at, action), architectures, flags, listener,
                   metadata, syscalls)


def _bare(name: str) -> str:
    """The name as the peers' sentences have it, without quotes, on one line and of bounded length."""
    return quote(name)[1:-1]


def _check_action(reader: Reader, action: str, pointer: str) -> None:
    if action not in ACTIONS:
        reader.one_of(action, ACTIONS, SECCOMP, pointer, f"string {_bare(action)} is not a valid action for seccomp")


def _read_errno(reader: Reader, obj: dict[str, Any], key: str, at: str, action: str) -> int | None:
    errno = reader.number(obj, key, at, UINT32)
    if errno is None:
        return None
    if action in ACTIONS and action not in ERRNO_ACTIONS:
        reader.error(SECCOMP, f"{at}/{key}", f"{key} is not used by {action}", errno,
                     "only SCMP_ACT_ERRNO and SCMP_ACT_TRACE carry one")
    limit = MAX_ERRNO if action == "SCMP_ACT_ERRNO" else 0xFFFF
    if errno > limit:
        reader.error(SECCOMP, f"{at}/{key}", f"{key} {errno} is out of range", errno, f"from 0 to {limit}")
    return errno


def _read_rules(reader: Reader, obj: dict[str, Any], at: str) -> tuple[SyscallRule, ...]:
    rules = []
    for index, row in reader.rows(obj, "syscalls", at):
        here = f"{at}/syscalls/{index}"
        action = reader.text(row, "action", here)
        _check_action(reader, action, f"{here}/action")
        names = reader.texts(row, "names", here)
        if not names and not row.get("names"):
            reader.refuse(f"{here}/names", "syscall rule names no syscall", hint='such as ["read", "write"]')
        if action == "SCMP_ACT_NOTIFY" and "write" in names:
            reader.error(SECCOMP, f"{here}/names", "SCMP_ACT_NOTIFY cannot be used for the write syscall", "write",
                         "the runtime itself writes after the filter is loaded")
        args = _read_args(reader, row, here) if row.get("args") else ()
        rules.append(SyscallRule(names, action, _read_errno(reader, row, "errnoRet", here, action), args))
    return tuple(rules)


def _read_args(reader: Reader, row: dict[str, Any], at: str) -> tuple[SyscallArg, ...]:
    args = []
    for index, arg in reader.rows(row, "args", at):
        here = f"{at}/args/{index}"
        op = reader.text(arg, "op", here)
        if op not in OPERATORS:
            reader.one_of(op, OPERATORS, SECCOMP, f"{here}/op",
                          f"string {_bare(op)} is not a valid operator for seccomp")
        position = reader.count(arg, "index", here, UINT32)
        if position > 5:
            reader.error(SECCOMP, f"{here}/index", f"syscall argument {position} does not exist", position,
                         "syscalls have arguments 0 to 5")
        args.append(SyscallArg(position, reader.count(arg, "value", here, UINT64), op,
                               reader.count(arg, "valueTwo", here, UINT64)))
    return tuple(args)


def _check_listener(reader: Reader, syscalls: tuple[SyscallRule, ...], listener: str, metadata: str, at: str) -> None:
    if listener:
        return
    if metadata:
        reader.error(SECCOMP, f"{at}/listenerMetadata", "listenerMetadata is set but listenerPath is not", metadata,
                     "listenerPath is the socket that gets the descriptor and the metadata")
    for index, rule in enumerate(syscalls):
        if rule.action == "SCMP_ACT_NOTIFY":
            reader.error(SECCOMP, f"{at}/listenerPath", "listenerPath is not set but a rule uses SCMP_ACT_NOTIFY",
                         hint=f"see {at}/syscalls/{index}: the listener needs a socket")
            return
