"""The plan room: (Spec, BundleFacts, HostFacts, Options) to a Plan. Pure: no file, no clock, no environment.

A Plan is one numbered list of steps in two lanes. `host` steps run in Python (lifecycle), `init` steps in the C
program container-init; they meet only at named barriers. Each step has an `origin`, a JSON pointer into config.json
("" when the runtime itself wants it). `order.py` is the only place that knows the order and why; `mounts.py`,
`namespaces.py`, `devices.py`, `process.py`, `security.py` each turn one subject into steps; `exec_plan.py` makes the
plan of an exec from the same steps; `encode.py` packs the init lane into bytes; `explain.py` prints both lanes.
"""
