"""What is asked of the cluster, at first and after a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakemake_executor_plugin_submitit.resources import Request, ResourceFault, request_of
from snakemake_executor_plugin_submitit.retries import retry_of
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State

SETTINGS = ExecutorSettings(account="site", partition="usual", extra="--licenses=one")
REQUEST = Request(memory_mb=1000, minutes=60)


def failed(word: str, nodes: str = "n7") -> State:
    return State(Kind.FAILED, word, nodes)


def test_resources_go_before_the_sites_defaults():
    found = request_of(
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
def test_what_is_no_sensible_number_is_refused_by_name(value):
    with pytest.raises(ResourceFault, match=r"tasks_per_node=.*: expected a whole number of at least 1"):
        request_of({"tasks_per_node": value}, 1, SETTINGS)


def test_gpus_asked_for_twice_are_refused():
    with pytest.raises(ResourceFault, match="gres=gpu:2 and gpus_per_node=2 both ask for GPUs"):
        request_of({"gres": "gpu:2", "gpus_per_node": 2}, 1, SETTINGS)


def test_a_short_job_is_not_asked_to_save_as_soon_as_it_starts():
    assert replace(REQUEST, minutes=60).signal_delay_seconds(120) == 120
    assert replace(REQUEST, minutes=2).signal_delay_seconds(120) == 30
    assert replace(REQUEST, minutes=None).signal_delay_seconds(120) == 120


def test_there_is_always_memory_to_start_the_ranks():
    assert Request(memory_mb=5, tasks_per_node=3).with_room_to_start(100).memory_mb == 300
    assert Request(memory_mb=5000).with_room_to_start(100).memory_mb == 5000
    assert Request(memory_mb_per_cpu=5, cpus_per_task=8).with_room_to_start(100).memory_mb_per_cpu == 13
    assert Request().with_room_to_start(100) == Request()


def test_the_script_asks_for_what_was_asked(tmp_path):
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


def test_a_job_without_a_runtime_has_the_partitions(tmp_path):
    script = Slurm(print, signal_delay_seconds=120)._script(tmp_path, replace(REQUEST, minutes=None), "train", 1)
    assert "--time" not in script
    assert "--array" not in script


@pytest.mark.parametrize(
    ("request_", "word", "changed", "said"),
    [
        (REQUEST, "OUT_OF_MEMORY", {"memory_mb": 2000}, "2000 MB per node instead of 1000"),
        (
            Request(memory_mb_per_cpu=300),
            "OUT_OF_MEMORY",
            {"memory_mb_per_cpu": 600},
            "600 MB per core instead of 300",
        ),
        (REQUEST, "TIMEOUT", {"minutes": 120}, "120 minutes instead of 60"),
        (REQUEST, "NODE_FAIL", {"exclude": ("n7",)}, "without node n7"),
        (REQUEST, "PREEMPTED", {}, "to go on from what it saved"),
    ],
)
def test_what_a_retry_asks_for_depends_on_the_reason(request_, word, changed, said):
    retry = retry_of(request_, failed(word), "", SETTINGS)
    assert retry is not None
    assert retry.request == replace(request_, **changed)
    assert retry.change == said


@pytest.mark.parametrize("word", ["FAILED", "CANCELLED", "UNKNOWN"])
def test_a_fault_of_the_code_is_not_retried(word):
    assert retry_of(REQUEST, failed(word), "", SETTINGS) is None


def test_without_a_limit_there_is_nothing_to_grow():
    assert retry_of(Request(), failed("OUT_OF_MEMORY"), "", SETTINGS) is None
    assert retry_of(Request(), failed("TIMEOUT"), "", SETTINGS) is None


def test_a_job_that_may_not_requeue_itself_is_submitted_anew_without_using_up_a_retry():
    retry = retry_of(REQUEST, failed("FAILED"), "REQUEUE_REFUSED", SETTINGS)
    assert retry is not None
    assert retry.request == REQUEST
    assert not retry.counts


def test_of_several_failed_nodes_none_is_blamed():
    retry = retry_of(REQUEST, failed("NODE_FAIL", "n[7-8]"), "", SETTINGS)
    assert retry is not None
    assert retry.request.exclude == ()
