"""The local cluster: ranks, failures and interruptions."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time

import pytest

from workflow_runner import GLOO_SUM, wait

pytestmark = [pytest.mark.stage, pytest.mark.timeout(150)]
LOCAL = ("--submitit-cluster", "local")


def test_ranks_of_one_job_connect_over_gloo_and_each_writes_a_log_next_to_the_rules_log(workflow):
    pytest.importorskip("torch")
    flow = workflow(
        """
        rule sum:
            output: "sum.txt"
            log: "logs/sum.log"
            resources: nodes=2, tasks_per_node=1
            shell: "echo I am $RANK of $WORLD_SIZE; python gloo_sum.py"
        """,
        MASTER_PORT="1", RANK="7", WORLD_SIZE="9",
    )  # fmt: skip
    shutil.copy(GLOO_SUM, flow.folder)
    flow.run(*LOCAL)
    assert flow.text("sum.txt") == "2 3.0"
    for rank in range(2):
        assert f"I am {rank} of 2" in flow.text(f"logs/sum.log.ranks/rank{rank}.txt")


def test_a_single_process_gets_no_torch_variables(workflow):
    flow = workflow(
        """
        rule one:
            output: "one.txt"
            shell: "echo ${{WORLD_SIZE:-none}} ${{MASTER_PORT:-none}} > {output}"
        """,
        WORLD_SIZE="9",
        MASTER_PORT="1",
    )
    flow.run(*LOCAL)
    assert flow.text("one.txt") == "none none\n"


def test_a_crashing_rank_ends_its_job_quickly_and_other_jobs_continue(workflow):
    flow = workflow(
        """
        rule all:
            input: "bad.txt", "good.txt"
        rule bad:
            output: "bad.txt"
            log: "bad.log"
            resources: tasks_per_node=3
            shell: "if [ $RANK = 1 ]; then sleep 1; echo the disk is on fire; exit 3; fi; sleep 600; touch {output}"
        rule good:
            output: "good.txt"
            shell: "sleep 2; touch {output}"
        """
    )
    began = time.monotonic()
    printed = flow.run(*LOCAL, "--keep-going", ok=False)
    assert time.monotonic() - began < 30
    assert "First failure: rank 1" in printed
    assert "exit status 3" in printed
    assert "    the disk is on fire" in printed
    assert str(flow.path("bad.log.ranks/rank1.txt")) in printed
    assert flow.path("good.txt").exists()
    assert not flow.path("bad.txt").exists()
    assert flow.job_processes() == []


def test_a_failure_is_reported_with_quiet_rules(workflow):
    flow = workflow(
        """
        rule bad:
            output: "bad.txt"
            shell: "echo the disk is on fire; exit 3"
        """
    )
    printed = flow.run(*LOCAL, "--quiet", "rules", ok=False)
    assert printed.count("Error in rule bad: ") == 1
    assert "    the disk is on fire" in printed


SLEEPERS = """
rule all:
    input: "a.txt", "b.txt"
rule sleeper:
    output: "{name}.txt"
    resources: tasks_per_node=2
    threads: 1
    shell: "touch started-{wildcards.name}-$RANK; sleep 600; touch {output}"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_local_jobs_end_with_their_workflow_process(workflow, number):
    flow = workflow(SLEEPERS)
    process = flow.start(*LOCAL)
    wait(lambda: any(flow.folder.glob("started-*-0")) and any(flow.folder.glob("started-*-1")), process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # like Ctrl-C in a terminal
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    wait(lambda: not flow.job_processes(), seconds=30)


def test_jobs_run_concurrently_only_while_cores_are_free(workflow):
    cores = len(os.sched_getaffinity(0))
    flow = workflow(
        f"""
        rule all:
            input: expand("{{i}}.txt", i=range(3))
        rule whole_machine:
            output: "{{i}}.txt"
            threads: {cores}
            shell: "date +%s.%N > {{output}}; sleep 1; date +%s.%N >> {{output}}"
        """
    )
    flow.run(*LOCAL)
    spans = sorted(tuple(map(float, flow.text(f"{i}.txt").split())) for i in range(3))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(("visible", "expected"), [("", ["1 "]), ("4,7", ["2 4", "2 7"])])
def test_local_ranks_gpus_starts_one_rank_per_visible_gpu_or_a_single_process(workflow, visible, expected):
    flow = workflow(
        """
        rule train:
            output: touch("trained.txt")
            resources: nodes=3, gpus_per_node=8, tasks_per_node=8
            shell: "echo ${{WORLD_SIZE:-1}} $CUDA_VISIBLE_DEVICES > devices-${{RANK:-0}}.txt"
        """,
        CUDA_VISIBLE_DEVICES=visible,
    )
    flow.run(*LOCAL, "--submitit-local-ranks", "gpus")
    assert [flow.text(f"devices-{rank}.txt").rstrip("\n") for rank in range(len(expected))] == [
        line.rstrip() for line in expected
    ]


def test_a_job_that_requests_more_gpus_than_are_visible_is_refused(workflow):
    flow = workflow(
        """
        rule train:
            output: "trained.txt"
            resources: gpus_per_node=2
            shell: "touch {output}"
        """,
        CUDA_VISIBLE_DEVICES="0",
    )
    assert "the job requests 2 GPUs, more than the 1 visible on this machine" in flow.run(*LOCAL, ok=False)


def test_debug_runs_jobs_in_the_workflow_process_and_shows_their_failure(workflow):
    flow = workflow(
        """
        rule all:
            input: "a.txt", "b.txt"
        rule a:
            output: "a.txt"
            shell: "echo printed on the terminal; touch {output}"
        rule b:
            output: "b.txt"
            shell: "exit 4"
        """
    )
    printed = flow.run("--submitit-cluster", "debug", "--keep-going", ok=False)
    assert "printed on the terminal" in printed
    assert "exit status 4" in printed
    assert flow.path("a.txt").exists()
