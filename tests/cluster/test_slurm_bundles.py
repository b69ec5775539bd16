"""Bundles of jobs on a real SLURM cluster: one SLURM job runs several Snakemake jobs."""

from __future__ import annotations

import pytest

from cluster.throwaway import ThrowawaySlurm
from workflow_runner import wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

SNAKEFILE = """
rule all:
    input: expand("head{number}.txt", number=range(5))
rule head:
    output: "head{number}.txt"
    log: "head{number}.log"
    resources: mem_mb=100, runtime=5, bundle=3
    shell:
        "echo {wildcards.number} $SLURM_JOB_ID >> started; "
        "if [ {wildcards.number} = 1 ] && [ ! -e corrected ]; then echo broken; exit 3; fi; "
        "if [ -e slow ] && [ {wildcards.number} = 2 ]; then touch waiting; sleep 100; fi; touch {output}"
"""


@pytest.fixture
def flow(slurm: ThrowawaySlurm, workflow):
    return workflow(SNAKEFILE, **slurm.environment())


def started(flow) -> list[int]:
    """Return the numbers of the heads that were started, in order of their numbers."""
    return sorted(int(line.split()[0]) for line in flow.text("started").splitlines())


def test_a_failed_job_does_not_affect_its_bundle_and_is_the_only_one_that_is_repeated(flow):
    printed = flow.run("--keep-going", ok=False)
    assert "First failure: rank 0 on " in printed and "exit status 3" in printed and "    broken" in printed
    assert [flow.path(f"head{number}.txt").exists() for number in range(5)] == [True, False, True, True, True]
    assert started(flow) == [0, 1, 2, 3, 4]
    assert len({line.split()[1] for line in flow.text("started").splitlines()}) == 2
    flow.path("corrected").touch()
    flow.run()
    assert started(flow) == [0, 1, 1, 2, 3, 4]


def test_a_requeued_bundle_repeats_only_the_job_that_was_running(flow, slurm):
    flow.path("slow").touch()
    flow.path("corrected").touch()
    process = flow.start()
    wait(flow.path("waiting").exists, process)
    (job,) = {line.split()[1] for line in flow.text("started").splitlines() if line.startswith("2 ")}
    before = started(flow)
    flow.path("slow").unlink()
    slurm.run("scontrol", "requeue", job)
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    assert process.wait(200) == 0
    assert started(flow) == sorted([*before, 2, *({0, 1, 2, 3, 4} - set(before))])


def test_a_later_workflow_process_attaches_to_a_bundle(flow):
    flow.path("slow").touch()
    flow.path("corrected").touch()
    process = flow.start()
    wait(flow.path("waiting").exists, process)
    process.kill()
    process.communicate()
    printed = flow.start()
    wait(lambda: flow.path("head4.txt").exists(), printed)
    flow.path("slow").unlink()
    for sleeping in flow.job_processes():
        if sleeping.name() == "sleep":
            sleeping.kill()
    output = printed.communicate(timeout=200)[0]
    assert "Re-attached to SLURM job" in output
    assert [number for number in started(flow) if number != 2] == [0, 1, 3, 4]
