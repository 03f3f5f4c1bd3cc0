"""What this host is: `facts.py` is the record that planning reads, `probe.py` fills it from the running kernel.

Facts are probed only when a Spec needs them (`facts.needs(spec)` is pure and says which), because every file
read at start-up is time before the container. A test writes HostFacts by hand, so a v1 plan is tested on a
v2 host and a rootless plan as root.
"""
