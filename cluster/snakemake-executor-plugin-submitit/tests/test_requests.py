"""Requests to the cluster: parsed resources, the job script, and changes after a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakemake_executor_plugin_submitit.resources import Request, ResourceError, parse_request
from snakemake_executor_plugin_submitit.retries import plan_retry
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State

SETTINGS = ExecutorSettings(account="site", partition="usual", extra="--licenses=one")
REQUEST = Request(memory_mb=1000, minutes=60)


def failed(name: str, nodes: str = "n7") -> State:
    return State(Kind.FAILED, name, nodes)


def test_resources_take_precedence_over_the_sites_defaults():
    found = parse_request(
        {
            "slurm_partition": "gpu", "runtime": 90, "mem_mb": 4000, "nodes": 2, "tasks": 8, "gpu": 8,
            "gpu_model": "a100",
            "constraint": "ib", "qos": "long", "slurm_extra": "--hint='no multithread'", "disk_mb": 5, "tmpdir": "/tmp",
        },
        threads=6,
        settings=SETTINGS,
    )  # fmt: skip
    assert found == Request(
        nodes=2, tasks_per_node=4, cpus_per_task=6, gpus_per_node=4, gpu_model="a100", memory_mb=4000, minutes=90,
        partition="gpu", account="site", qos="long", constraint="ib",
        extra=("--licenses=one", "--hint=no multithread"),
    )  # fmt: skip


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_the_error_for_a_malformed_number_contains_its_name(value):
    with pytest.raises(ResourceError, match=r"tasks_per_node=.*: expected an integer of at least 1"):
        parse_request({"tasks_per_node": value}, 1, SETTINGS)


def test_gpus_requested_twice_are_refused():
    with pytest.raises(ResourceError, match="gres=gpu:2 and gpus_per_node=2 both request GPUs"):
        parse_request({"gres": "gpu:2", "gpus_per_node": 2}, 1, SETTINGS)


def test_a_short_job_is_signalled_to_save_in_its_last_quarter():
    assert replace(REQUEST, minutes=60).signal_delay_seconds(120) == 120
    assert replace(REQUEST, minutes=2).signal_delay_seconds(120) == 30
    assert replace(REQUEST, minutes=None).signal_delay_seconds(120) == 120


def test_a_request_has_enough_memory_to_start_the_ranks():
    assert Request(memory_mb=5, tasks_per_node=3).with_startup_memory(100).memory_mb == 300
    assert Request(memory_mb=5000).with_startup_memory(100).memory_mb == 5000
    assert Request(memory_mb_per_cpu=5, cpus_per_task=8).with_startup_memory(100).memory_mb_per_cpu == 13
    assert Request().with_startup_memory(100) == Request()


def test_the_job_script_contains_the_options_of_the_request(tmp_path):
    slurm = Slurm(print, signal_delay_seconds=120)
    request = replace(REQUEST, nodes=2, tasks_per_node=4, cpus_per_task=3, gpus_per_node=4, gpu_model="a100")
    lines = slurm._script(tmp_path, replace(request, exclude=("n7",)), "train", 3).splitlines()
    for flag in (
        "array=0-2%3", "nodes=2", "ntasks-per-node=4", "cpus-per-task=3", "gpus-per-node=a100:4", "mem=1000M",
        "time=60", "signal=USR2@120", "exclude=n7", "job-name=train", "open-mode=append", "requeue",
    ):  # fmt: skip
        assert f"#SBATCH --{flag}" in lines
    assert not [line for line in lines if "wckey" in line]
    (step,) = [line for line in lines if line.startswith("srun")]
    assert "--kill-on-bad-exit=1" in step
    assert "--cpus-per-task=3" in step
    assert """sh -c 'trap "" TERM USR2; exec "$0" "$@"'""" in step


def test_a_job_without_a_runtime_gets_the_partitions_time_limit(tmp_path):
    script = Slurm(print, signal_delay_seconds=120)._script(tmp_path, replace(REQUEST, minutes=None), "train", 1)
    assert "--time" not in script
    assert "--array" not in script


@pytest.mark.parametrize(
    ("request_", "state", "changed", "description"),
    [
        (REQUEST, "OUT_OF_MEMORY", {"memory_mb": 2000}, "with 2000 MB per node instead of 1000"),
        (
            Request(memory_mb_per_cpu=300),
            "OUT_OF_MEMORY",
            {"memory_mb_per_cpu": 600},
            "with 600 MB per core instead of 300",
        ),
        (REQUEST, "TIMEOUT", {"minutes": 120}, "with 120 minutes instead of 60"),
        (REQUEST, "NODE_FAIL", {"exclude": ("n7",)}, "without node n7"),
        (REQUEST, "PREEMPTED", {}, "to resume from its saved state"),
    ],
)
def test_a_retry_changes_the_request_according_to_the_reason(request_, state, changed, description):
    retry = plan_retry(request_, failed(state), "", SETTINGS)
    assert retry is not None
    assert retry.request == replace(request_, **changed)
    assert retry.change == description


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "UNKNOWN"])
def test_a_failure_of_the_code_is_not_retried(state):
    assert plan_retry(REQUEST, failed(state), "", SETTINGS) is None


def test_a_request_without_a_limit_is_not_retried():
    assert plan_retry(Request(), failed("OUT_OF_MEMORY"), "", SETTINGS) is None
    assert plan_retry(Request(), failed("TIMEOUT"), "", SETTINGS) is None


def test_resubmission_after_a_refused_requeue_does_not_count_as_a_retry():
    retry = plan_retry(REQUEST, failed("FAILED"), "REQUEUE_REFUSED", SETTINGS)
    assert retry is not None
    assert retry.request == REQUEST
    assert not retry.counts


def test_no_node_is_excluded_if_several_may_have_failed():
    retry = plan_retry(REQUEST, failed("NODE_FAIL", "n[7-8]"), "", SETTINGS)
    assert retry is not None
    assert retry.request.exclude == ()
