"""Runs a command under ptrace(2) and makes one of its system calls fail, or kills the caller there.

    python3 -I -S inject.py RESULT ACTION TRACEE NUMBER -- ARGV...

TRACEE counts the threads and processes of the command in the order of their appearance, from 0; NUMBER counts the
system calls of that one, from 0. ACTION is

    record   run to the end; RESULT lists (tracee, system call number) in order
    fail     the call is not made and returns an errno that it is documented to return (ERRNO_OF)
    kill     SIGKILL to the caller at the entry of the call

RESULT is JSON: exit (as a shell has it), hit (the system call's number or -1), calls. stdio is the command's. When
the command has ended, what it left running goes on without us. x86-64 alone: errno and number are set by register.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys

PTRACE_POKEUSER, PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL = 6, 7, 17, 24
PTRACE_GETEVENTMSG, PTRACE_SEIZE, PTRACE_GET_SYSCALL_INFO, PTRACE_LISTEN = 0x4201, 0x4206, 0x420E, 0x4208
OPTIONS = 1 | 2 | 4 | 8 | 16  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC
EVENT_EXEC, EVENT_STOP = 4, 128
RAX, ORIG_RAX = 10 * 8, 15 * 8  # offsets in struct user, sys/user.h
WALL = 0x40000000
ENTRY, EXIT = 1, 2

# Calls that no failure is made for, by number: those that cannot fail, and those whose failure ends any libc.
SPARED = {
    3: "close",  # releases the descriptor whatever it returns (close(2)); an injected failure would not
    12: "brk",
    15: "rt_sigreturn",
    39: "getpid",
    60: "exit",
    95: "umask",
    102: "getuid",
    104: "getgid",
    107: "geteuid",
    108: "getegid",
    110: "getppid",
    158: "arch_prctl",
    186: "gettid",
    202: "futex",
    218: "set_tid_address",
    219: "restart_syscall",
    231: "exit_group",
    273: "set_robust_list",
    334: "rseq",
}
ERRNO_OF = {
    0: errno.EIO,  # read
    1: errno.ENOSPC,  # write
    2: errno.EMFILE,  # open
    7: errno.EINTR,  # poll
    9: errno.ENOMEM,  # mmap
    41: errno.EMFILE,  # socket
    53: errno.EMFILE,  # socketpair
    56: errno.EAGAIN,  # clone
    58: errno.EAGAIN,  # vfork
    59: errno.EACCES,  # execve
    73: errno.ENOLCK,  # flock
    83: errno.ENOSPC,  # mkdir
    133: errno.EPERM,  # mknod
    155: errno.EPERM,  # pivot_root
    165: errno.EPERM,  # mount
    257: errno.EMFILE,  # openat
    258: errno.ENOSPC,  # mkdirat
    259: errno.EPERM,  # mknodat
    264: errno.EIO,  # renameat
    316: errno.EIO,  # renameat2
    434: errno.EMFILE,  # pidfd_open
    435: errno.EAGAIN,  # clone3
    437: errno.EMFILE,  # openat2
}

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, addr: int = 0, data: int = 0) -> None:
    """ptrace(2); a tracee that died meanwhile is not an error: waitpid tells of it."""
    if libc.ptrace(request, pid, addr, data) < 0 and ctypes.get_errno() != errno.ESRCH:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def is_foreign(pid: int) -> bool:
    """Whether what it has just executed is no memory file of the runtime's; one that is killed meanwhile has none."""
    try:
        return not os.readlink(f"/proc/{pid}/exe").startswith("/memfd:")
    except FileNotFoundError:
        return False


class Tracer:
    """One run of a command."""

    def __init__(self, action: str, tracee: int, number: int) -> None:
        self.action, self.target, self.number = action, tracee, number
        self.order: dict[int, int] = {}
        self.count: dict[int, int] = {}
        self.calls: list[tuple[int, int]] = []
        self.hit = -1
        self.failing = 0  # the tracee whose call was taken from it
        self.buffer = ctypes.create_string_buffer(96)

    def spawn(self, argv: list[str]) -> int:
        """The pid of the command, seized and about to execute."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            try:
                os.execv(argv[0], argv)
            finally:
                os._exit(127)
        os.close(read_end)
        ptrace(PTRACE_SEIZE, pid, 0, OPTIONS)
        os.write(write_end, b"x")
        os.close(write_end)
        return pid

    def run(self, argv: list[str]) -> int:
        """The command's exit code as a shell has it."""
        main = self.spawn(argv)
        self.order[main] = 0
        while True:
            pid, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                self.stopped(pid, status)
            elif pid == main:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

    def stopped(self, pid: int, status: int) -> None:
        """Handle one stop and let the tracee go on."""
        number, event = os.WSTOPSIG(status), status >> 16
        if pid not in self.order:
            self.order[pid] = len(self.order)
        if number == signal.SIGTRAP | 0x80:
            self.syscall(pid)
        elif event == EVENT_EXEC and self.order[pid] != 0 and is_foreign(pid):
            ptrace(PTRACE_DETACH, pid)  # a program of its own from here, not ours to test
            return
        elif event == 0:
            ptrace(self.going(), pid, 0, number)
            return
        elif event == EVENT_STOP and number != signal.SIGTRAP:
            ptrace(PTRACE_LISTEN, pid)
            return
        ptrace(self.going(), pid)

    def going(self) -> int:
        """How a tracee goes on: without stops once the deed is done."""
        return PTRACE_CONT if self.hit >= 0 and not self.failing else PTRACE_SYSCALL

    def syscall(self, pid: int) -> None:
        """One stop at the entry or exit of a system call."""
        if libc.ptrace(PTRACE_GET_SYSCALL_INFO, pid, len(self.buffer), ctypes.addressof(self.buffer)) < 0:
            return
        operation = self.buffer.raw[0]
        if operation == EXIT and pid == self.failing:
            self.failing = 0
            ptrace(PTRACE_POKEUSER, pid, RAX, -ERRNO_OF.get(self.hit, errno.ENOMEM))
        if operation != ENTRY or self.hit >= 0:
            return
        nr = int(struct.unpack_from("<Q", self.buffer.raw, 24)[0])
        at = self.count.get(pid, 0)
        self.count[pid] = at + 1
        if self.action == "record":
            self.calls.append((self.order[pid], nr))
        elif (self.order[pid], at) == (self.target, self.number):
            self.strike(pid, nr)

    def strike(self, pid: int, nr: int) -> None:
        """The deed."""
        if self.action == "kill":
            self.hit = nr
            os.kill(pid, signal.SIGKILL)
        elif nr not in SPARED:
            self.hit, self.failing = nr, pid
            ptrace(PTRACE_POKEUSER, pid, ORIG_RAX, -1)


def main(words: list[str]) -> None:
    """See the module's docstring."""
    result, action, tracee, number = words[:4]
    tracer = Tracer(action, int(tracee), int(number))
    code = tracer.run(words[5:])
    told = json.dumps({"exit": code, "hit": tracer.hit, "calls": tracer.calls})
    with open(result, "w", encoding="ascii") as file:
        file.write(told)


if __name__ == "__main__":
    main(sys.argv[1:])
