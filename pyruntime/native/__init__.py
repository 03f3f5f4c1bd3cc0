"""The native room: thin calls into the kernel, and the spawning of container-init.

`kernel.py` wraps the cffi extension (csrc/ext.c): each function is one system call and raises OSError with the
call's name and path. `init.py` knows the messages between the host and container-init (drawn in plan/opcodes.py)
and nothing of containers. `seccomp.py` turns rules into BPF. Nothing here changes the caller's working directory,
umask, environment, signals or descriptors 0-2 (DESIGN, runtime 3).
"""
