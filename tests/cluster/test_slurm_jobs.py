"""Jobs on a real SLURM cluster: ranks, arrays, groups, failures and retries."""

from __future__ import annotations

import shutil
import time

import pytest

from cluster.throwaway import ThrowawaySlurm
from snakemake_suite import SubmititSuite
from workflow_runner import GLOO_SUM

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


@pytest.fixture
def on_slurm(slurm: ThrowawaySlurm, workflow):
    """A function that creates a workflow that runs on the throwaway SLURM cluster."""
    return lambda snakefile: workflow(snakefile, **slurm.environment())


def test_ranks_on_two_nodes_connect_over_gloo(on_slurm):
    flow = on_slurm(
        """
        rule sum:
            output: "sum.txt"
            log: "sum.log"
            resources: nodes=2, tasks_per_node=1, mem_mb=1000, runtime=5
            shell: "echo I am $RANK on $SLURMD_NODENAME; python gloo_sum.py"
        """
    )
    shutil.copy(GLOO_SUM, flow.folder)
    flow.run()
    assert flow.text("sum.txt") == "2 3.0"
    hosts = {flow.text(f"sum.log.ranks/rank{rank}.txt").split(" on ")[-1].split()[0] for rank in range(2)}
    assert len(hosts) == 2


def test_a_crashing_rank_ends_its_job_within_30_seconds_and_other_jobs_continue(on_slurm):
    flow = on_slurm(
        """
        rule all:
            input: "bad.txt", "good.txt"
        rule bad:
            output: "bad.txt"
            log: "bad.log"
            resources: nodes=2, tasks_per_node=1, mem_mb=100, runtime=10
            shell: "if [ $RANK = 1 ]; then date +%s > crashed; echo the disk is on fire; exit 3; fi; sleep 600"
        rule good:
            output: "good.txt"
            resources: mem_mb=100, runtime=10
            shell: "sleep 5; touch {output}"
        """
    )
    printed = flow.run("--keep-going", ok=False)
    assert time.time() - int(flow.text("crashed")) < 30
    assert "FAILED. First failure: rank 1 on " in printed
    assert "exit status 3" in printed
    assert "    the disk is on fire" in printed
    assert str(flow.path("bad.log.ranks/rank1.txt")) in printed
    assert flow.path("good.txt").exists()


def test_a_wrong_partition_or_account_fails_only_its_own_job(on_slurm):
    flow = on_slurm(
        """
        rule all:
            input: "partition.txt", "account.txt", "good.txt"
        rule partition:
            output: "partition.txt"
            resources: slurm_partition="nowhere", mem_mb=100
            shell: "touch {output}"
        rule account:
            output: "account.txt"
            resources: slurm_account="nobody", mem_mb=100
            shell: "touch {output}"
        rule good:
            output: "good.txt"
            resources: mem_mb=100
            shell: "touch {output}"
        """
    )
    printed = flow.run("--keep-going", ok=False)
    assert "slurm rejected this job: " in printed
    assert "invalid partition specified: nowhere" in printed
    assert "Invalid account or account/partition combination specified" in printed
    assert flow.path("good.txt").exists()


def test_a_job_that_runs_out_of_memory_is_resubmitted_with_more_memory(on_slurm):
    if not ThrowawaySlurm.reports_out_of_memory():
        pytest.skip("this machine cannot limit job memory: it has no writable cgroup v1 memory controller")
    flow = on_slurm(
        """
        rule big:
            output: "big.txt"
            resources: mem_mb=150, runtime=5
            shell: "python -c 'import time; x = bytearray(300 << 20); time.sleep(2)' && touch {output}"
        """
    )
    printed = flow.run("--submitit-memory-growth", "5")
    assert "ended with OUT_OF_MEMORY. It was resubmitted as job" in printed
    assert "with 750 MB per node instead of 150 (1 of at most 2)" in printed


def test_a_failure_of_the_code_is_not_retried(on_slurm, slurm):
    flow = on_slurm(
        """
        rule faulty:
            output: "faulty.txt"
            resources: mem_mb=100, runtime=5
            shell: "echo attempt >> attempts; exit 1"
        """
    )
    flow.run(ok=False)
    assert flow.text("attempts") == "attempt\n"


def test_60_similar_jobs_are_submitted_as_one_array(on_slurm):
    flow = on_slurm(
        """
        rule all:
            input: expand("{i}.txt", i=range(60))
        rule small:
            output: "{i}.txt"
            resources: mem_mb=50, runtime=5
            shell: "echo $SLURM_ARRAY_JOB_ID > {output}"
        """
    )
    flow.run("--jobs", "60", "--max-jobs-per-timespan", "1000/1s", timeout=220)
    assert len({flow.text(f"{i}.txt") for i in range(60)}) == 1


def test_scripts_and_benchmarks_run_in_an_inner_snakemake(on_slurm):
    flow = on_slurm(
        """
        rule all:
            input: "script.txt", "measured.txt"
        rule script:
            output: "script.txt"
            resources: mem_mb=300, runtime=5
            script: "s.py"
        rule measured:
            output: "measured.txt"
            benchmark: "benchmark.tsv"
            resources: mem_mb=300, runtime=5, tasks=2
            shell: "echo $WORLD_SIZE > {output}.$RANK; mv {output}.0 {output} || true"
        """
    )
    flow.path("s.py").write_text("open(snakemake.output[0], 'w').write('done')\n")
    flow.run()
    assert flow.text("script.txt") == "done"
    assert flow.text("measured.txt") == "2\n"
    assert flow.path("benchmark.tsv").exists()


@pytest.mark.usefixtures("slurm_variables")
class TestSnakemakesOwnSuite(SubmititSuite):
    __test__ = True
    cluster = "slurm"


@pytest.fixture
def slurm_variables(slurm: ThrowawaySlurm, monkeypatch):
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
