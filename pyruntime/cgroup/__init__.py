"""Control groups: where a container's processes are counted and limited.

What flows in is spec's Resources and host's CgroupFacts, what flows out is data first: `writes` and `devices` turn
resources into (file, value) writes for v1 and for v2, `plan` places the container in every hierarchy and orders
them as host steps, `update` computes the writes from one set of limits to another and back. Only `manager` (make,
write, join, kill, freeze, remove), `stats` and `events` touch cgroupfs.

Invariants: a cgroup that existed before the container is never removed; nothing here waits without a limit, because
everything below the container's cgroup may be the work of a hostile process (deep, many, frozen sub-cgroups); a
limit that cannot be set is an error. On a hybrid host a controller is used where it is mounted: v1 if it is there,
else in the unified tree, in which every container has a directory too, so that one write to cgroup.kill ends it.
"""
