"""Failures of nodes in srun's output."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.step_errors import node_failed


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("submitit INFO\nsrun: error: Aborting, io error and missing step on node 1\n", True),
        ("srun: error: Node failure on n2\nsrun: Job step aborted\n", True),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-26T08:00:00 DUE TO NODE FAILURE ***\n", True),
        ("srun: error: Task launch for StepId=7.0 failed on node n2: Invalid job credential\n", True),
        ("srun: error: n1: task 0: Exited with exit code 1\n", False),
        ("srun: error: n2: task 1: Killed\nsrun: Terminating StepId=7.0\n", False),
        ("Traceback\nRuntimeError: node failure\n", False),
        ("", False),
    ],
)
def test_errors_of_nodes_are_told_from_those_of_programs(tmp_path, output, expected):
    path = tmp_path / "7_0_log.out"
    path.write_text(output)
    assert node_failed(path) is expected


def test_a_job_without_output_did_not_lose_a_node(tmp_path):
    assert not node_failed(tmp_path / "missing.out")
