"""The plugin on this machine: ranks, failures, interruptions."""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.waiting import wait

pytestmark = pytest.mark.timeout(150)
LOCAL = ("--submitit-cluster", "local")

GLOO = """\
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
if dist.get_rank() == 0:
    open("sum.txt", "w").write(f"{dist.get_world_size()} {total.item()}")
dist.destroy_process_group()
"""


def test_ranks_of_one_job_meet_over_gloo_and_each_has_a_log_beside_the_rules(workflow):
    flow = workflow(
        """
        rule sum:
            output: "sum.txt"
            log: "logs/sum.log"
            resources: nodes=2, tasks_per_node=1
            shell: "echo I am $RANK of $WORLD_SIZE; python gloo.py"
        """,
        MASTER_PORT="1", RANK="7", WORLD_SIZE="9",
    )  # fmt: skip
    flow.path("gloo.py").write_text(GLOO)
    flow.run(*LOCAL)
    assert flow.text("sum.txt") == "2 3.0"
    for rank in range(2):
        assert f"I am {rank} of 2" in flow.text(f"logs/sum.log.ranks/rank{rank}.txt")


def test_a_single_process_has_no_torch_environment(workflow):
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


def test_a_crashing_rank_ends_its_job_at_once_and_the_others_go_on(workflow):
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
    said = flow.run(*LOCAL, "--keep-going", ok=False)
    assert time.monotonic() - began < 30
    assert "First to fail: rank 1" in said
    assert "exit status 3" in said
    assert "    the disk is on fire" in said
    assert str(flow.path("bad.log.ranks/rank1.txt")) in said
    assert flow.path("good.txt").exists()
    assert not flow.path("bad.txt").exists()
    assert flow.processes() == []


def test_a_failure_is_explained_where_snakemake_is_told_to_be_quiet_about_rules(workflow):
    flow = workflow(
        """
        rule bad:
            output: "bad.txt"
            shell: "echo the disk is on fire; exit 3"
        """
    )
    said = flow.run(*LOCAL, "--quiet", "rules", ok=False)
    assert said.count("Error in rule bad: ") == 1
    assert "    the disk is on fire" in said


SLEEPERS = """
rule all:
    input: "a.txt", "b.txt"
rule sleeper:
    output: "{name}.txt"
    resources: tasks_per_node=2
    threads: 1
    shell: "touch started-{wildcards.name}-$RANK; sleep 600; touch {output}"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_jobs_of_this_machine_end_with_their_head(workflow, number):
    flow = workflow(SLEEPERS)
    head = flow.start(*LOCAL)
    wait(lambda: any(flow.folder.glob("started-*-0")) and any(flow.folder.glob("started-*-1")), head)
    if number == signal.SIGINT:
        os.killpg(head.pid, number)  # as Ctrl-C on the terminal does
    else:
        head.send_signal(number)
    head.communicate(timeout=60)
    wait(lambda: not flow.processes(), seconds=30)


def test_as_many_jobs_run_at_a_time_as_there_are_cores(workflow):
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
def test_with_ranks_per_gpu_each_visible_gpu_gets_a_rank_and_a_machine_without_one_process(workflow, visible, expected):
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


def test_more_gpus_than_the_machine_has_are_refused(workflow):
    flow = workflow(
        """
        rule train:
            output: "trained.txt"
            resources: gpus_per_node=2
            shell: "touch {output}"
        """,
        CUDA_VISIBLE_DEVICES="0",
    )
    assert "2 GPUs are asked for, and this machine shows 1" in flow.run(*LOCAL, ok=False)


def test_debug_runs_jobs_in_the_head_and_shows_their_failure(workflow):
    flow = workflow(
        """
        rule all:
            input: "a.txt", "b.txt"
        rule a:
            output: "a.txt"
            shell: "echo said on the terminal; touch {output}"
        rule b:
            output: "b.txt"
            shell: "exit 4"
        """
    )
    said = flow.run("--submitit-cluster", "debug", "--keep-going", ok=False)
    assert "said on the terminal" in said
    assert "exit status 4" in said
    assert flow.path("a.txt").exists()
