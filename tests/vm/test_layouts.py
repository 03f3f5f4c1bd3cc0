"""Tests of the system tier that say nothing of the host's cgroups, run again on cgroup v2 with each driver."""

from __future__ import annotations

import pytest

from tests.system.test_annotations import test_output_of_hooks_that_has_no_place
from tests.system.test_hooks import test_all_six, test_failing_hook_undoes_create
from tests.system.test_lifecycle import (
    running,
    test_a_whole_life,
    test_created_can_be_deleted,
    test_created_can_be_paused,
    test_delete_at_once,
    test_delete_force_is_idempotent,
    test_delete_force_without_leaving_children,
    test_ids_by_regex,
    test_kill_all,
    test_kill_paused_dies,
    test_kill_without_pid_namespace_kills_all,
    test_refused_while_paused,
    test_state_document,
)
from tests.system.test_namespaces import test_user_namespace_from_outside
from tests.system.test_run import (
    test_caller_death_leaves_container_alone,
    test_exit_code_of_signal,
    test_keep,
    test_orphans_end_without_pid_namespace,
)
from tests.vm.drivers import both_drivers

__all__ = [
    "both_drivers", "running", "test_a_whole_life", "test_all_six", "test_caller_death_leaves_container_alone",
    "test_created_can_be_deleted", "test_created_can_be_paused", "test_delete_at_once",
    "test_delete_force_is_idempotent", "test_delete_force_without_leaving_children", "test_exit_code_of_signal",
    "test_failing_hook_undoes_create", "test_ids_by_regex", "test_keep", "test_kill_all", "test_kill_paused_dies",
    "test_kill_without_pid_namespace_kills_all", "test_orphans_end_without_pid_namespace",
    "test_output_of_hooks_that_has_no_place", "test_refused_while_paused", "test_state_document",
    "test_user_namespace_from_outside",
]  # fmt: skip

pytestmark = pytest.mark.system
