"""The messages of Kubernetes' Container Runtime Interface v1 that the tests use, as schemas for `protobuf`.

Numbers and names are those of k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from conformance.callers.protobuf import MAP, Schema

POD, CONTAINER, NODE, TARGET = range(4)  # NamespaceMode
READY, NOT_READY = range(2)  # PodSandboxState
CREATED, RUNNING, EXITED = range(3)  # ContainerState
RUNTIME_DEFAULT, UNCONFINED = range(2)  # SecurityProfile.ProfileType

NUMBER: Schema = {"value": (1, int)}
METADATA: Schema = {"name": (1, str), "uid": (2, str), "namespace": (3, str), "attempt": (4, int)}
NAMESPACES: Schema = {"network": (1, int), "pid": (2, int), "ipc": (3, int), "target_id": (4, str)}
PROFILE: Schema = {"profile_type": (1, int), "localhost_ref": (2, str)}
RESOURCES: Schema = {
    "cpu_period": (1, int), "cpu_quota": (2, int), "cpu_shares": (3, int), "memory_limit_in_bytes": (4, int),
    "oom_score_adj": (5, int), "cpuset_cpus": (6, str), "cpuset_mems": (7, str),
}  # fmt: skip
POD_SECURITY: Schema = {
    "namespace_options": (1, NAMESPACES), "run_as_user": (3, NUMBER), "readonly_rootfs": (4, bool), "privileged": (6, bool),
    "seccomp": (9, PROFILE),
}  # fmt: skip
POD_CONFIG: Schema = {
    "metadata": (1, METADATA), "hostname": (2, str), "log_directory": (3, str), "labels": (6, MAP), "annotations": (7, MAP),
    "linux": (8, {"cgroup_parent": (1, str), "security_context": (2, POD_SECURITY), "sysctls": (3, MAP)}),
}  # fmt: skip
SECURITY: Schema = {
    "capabilities": (1, {"add": (1, [str]), "drop": (2, [str])}), "privileged": (2, bool), "namespace_options": (3, NAMESPACES),
    "run_as_user": (5, NUMBER), "readonly_rootfs": (7, bool), "supplemental_groups": (8, [int]), "no_new_privs": (11, bool),
    "run_as_group": (12, NUMBER), "masked_paths": (13, [str]), "readonly_paths": (14, [str]), "seccomp": (15, PROFILE),
}  # fmt: skip
CONTAINER_CONFIG: Schema = {
    "metadata": (1, {"name": (1, str), "attempt": (2, int)}), "image": (2, {"image": (1, str)}), "command": (3, [str]),
    "args": (4, [str]), "working_dir": (5, str), "envs": (6, [{"key": (1, str), "value": (2, str)}]),
    "mounts": (7, [{"container_path": (1, str), "host_path": (2, str), "readonly": (3, bool), "propagation": (5, int)}]),
    "devices": (8, [{"container_path": (1, str), "host_path": (2, str), "permissions": (3, str)}]),
    "log_path": (11, str), "stdin": (12, bool), "stdin_once": (13, bool), "tty": (14, bool),
    "linux": (15, {"resources": (1, RESOURCES), "security_context": (2, SECURITY)}),
}  # fmt: skip
CONTAINER_STATUS: Schema = {
    "id": (1, str), "state": (3, int), "started_at": (5, int), "finished_at": (6, int), "exit_code": (7, int),
    "reason": (10, str), "message": (11, str), "log_path": (15, str),
}  # fmt: skip
CPU: Schema = {"timestamp": (1, int), "usage_core_nano_seconds": (2, NUMBER)}
MEMORY: Schema = {"timestamp": (1, int), "working_set_bytes": (2, NUMBER)}
STATS: Schema = {"attributes": (1, {"id": (1, str)}), "cpu": (2, CPU), "memory": (3, MEMORY)}
POD_ID: Schema = {"pod_sandbox_id": (1, str)}
CONTAINER_ID: Schema = {"container_id": (1, str)}
URL: Schema = {"url": (1, str)}

# Method: (request, response).
METHODS: dict[str, tuple[Schema, Schema]] = {
    "Version": ({"version": (1, str)}, {"runtime_name": (2, str), "runtime_api_version": (4, str)}),
    "Status": ({}, {"status": (1, {"conditions": (1, [{"type": (1, str), "status": (2, bool), "message": (4, str)}])})}),
    "RunPodSandbox": ({"config": (1, POD_CONFIG), "runtime_handler": (2, str)}, POD_ID),
    "StopPodSandbox": (POD_ID, {}),
    "RemovePodSandbox": (POD_ID, {}),
    "PodSandboxStatus": (
        {"pod_sandbox_id": (1, str), "verbose": (2, bool)},
        {
            "status": (1, {"id": (1, str), "state": (3, int), "network": (5, {"ip": (1, str)}), "runtime_handler": (9, str)}),
            "info": (2, MAP),
        },
    ),
    "ListPodSandbox": ({}, {"items": (1, [{"id": (1, str), "state": (3, int), "runtime_handler": (7, str)}])}),
    "PodSandboxStats": (
        POD_ID, {"stats": (1, {"linux": (2, {"cpu": (1, CPU), "memory": (2, MEMORY), "process": (4, {"process_count": (2, NUMBER)})})})}
    ),
    "CreateContainer": ({"pod_sandbox_id": (1, str), "config": (2, CONTAINER_CONFIG), "sandbox_config": (3, POD_CONFIG)}, CONTAINER_ID),
    "StartContainer": (CONTAINER_ID, {}),
    "StopContainer": ({"container_id": (1, str), "timeout": (2, int)}, {}),
    "RemoveContainer": (CONTAINER_ID, {}),
    "ContainerStatus": (CONTAINER_ID, {"status": (1, CONTAINER_STATUS)}),
    "ListContainers": ({}, {"containers": (1, [{"id": (1, str), "pod_sandbox_id": (2, str), "state": (6, int)}])}),
    "UpdateContainerResources": ({"container_id": (1, str), "linux": (2, RESOURCES)}, {}),
    "ReopenContainerLog": (CONTAINER_ID, {}),
    "ExecSync": (
        {"container_id": (1, str), "cmd": (2, [str]), "timeout": (3, int)},
        {"stdout": (1, bytes), "stderr": (2, bytes), "exit_code": (3, int)},
    ),
    "Exec": (
        {"container_id": (1, str), "cmd": (2, [str]), "tty": (3, bool), "stdin": (4, bool), "stdout": (5, bool), "stderr": (6, bool)},
        URL,
    ),
    "Attach": ({"container_id": (1, str), "stdin": (2, bool), "tty": (3, bool), "stdout": (4, bool), "stderr": (5, bool)}, URL),
    "ContainerStats": (CONTAINER_ID, {"stats": (1, STATS)}),
    "ListContainerStats": ({}, {"stats": (1, [STATS])}),
}  # fmt: skip
