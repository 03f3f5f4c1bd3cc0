"""The lifecycle room: one module per verb, over a table of states, a store of containers and a driver of plans.

    create   prepare: config.json -> Spec -> facts -> Plan      (prepare.py, pure but for the probing)
             store.claim: directory, lock, identity              (store.py; the order of DESIGN, runtime 5)
             drive: host steps in order, container-init beside   (drive.py, host_steps.py)
             state.json, then init is released from `ready`
    start    one byte into exec.fifo, the answer from exec.err   (start.py)
    run      create, start, and stay until the end               (run.py, foreground.py)

Invariants: status is derived from the kernel each time, never stored; a container is its pid and start time, never a
pid alone; what a call made it undoes when it fails, and nothing else; no call waits without bound on anything that a
container controls; nothing of the caller's process is changed.
"""
