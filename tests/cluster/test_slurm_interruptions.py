"""Nothing is lost on a real SLURM: preemption, time limits, dying nodes, daemons and heads."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from cluster.throwaway import ThrowawaySlurm
from tests.cluster.running import Workflow
from tests.waiting import wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
TRAINER = Path(__file__).parent / "trainer.py"


@pytest.fixture
def training(slurm: ThrowawaySlurm, workflow):
    """Makes a workflow that trains for some steps."""

    def make(
        steps: int, *, pause: float = 0.1, resources: str = "mem_mb=100, runtime=10", before: str = ""
    ) -> Workflow:
        flow = workflow(
            f"""
            rule train:
                output: "trained.txt"
                log: "train.log"
                resources: {resources}
                shell: "{before}exec python trainer.py {steps} {pause} {{output}}"
            """,
            **slurm.environment(),
        )
        shutil.copy(TRAINER, flow.folder)
        return flow

    return make


def starts(flow: Workflow, rank: int = 0) -> list[int]:
    """The steps at which the training was started."""
    path = flow.path(f"trained.starts{rank}")
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def jobs_of(flow: Workflow) -> set[str]:
    """The SLURM jobs in which the training was started."""
    return {line.split()[1] for line in flow.text("trained.starts0").splitlines()}


def test_a_preempted_training_saves_and_goes_on_on_both_nodes(slurm, training):
    flow = training(150, resources="nodes=2, tasks_per_node=1, mem_mb=100, runtime=10")
    head = flow.start()
    wait(lambda: starts(flow) and starts(flow, 1), head)
    urgent = slurm.run(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300"
    ).strip()
    wait(lambda: "RUNNING" in slurm.run("squeue", "-h", "-j", urgent, "-o", "%T"), head)
    slurm.run("scancel", urgent)
    said = head.communicate(timeout=120)[0]
    assert head.returncode == 0, said
    assert flow.text("trained.txt") == "150"
    assert "was requeued, preempted; its work is saved (requeue 1 of at most 50)" in said
    first, second = starts(flow)
    assert first == 0
    assert second > 0
    assert len(jobs_of(flow)) == 1


def test_a_training_longer_than_its_time_limit_ends_in_several_goes(training):
    flow = training(90, pause=1.0, resources="mem_mb=100, runtime=1")
    said = flow.run(timeout=280)
    assert flow.text("trained.txt") == "90"
    assert "was requeued, near its time limit; its work is saved" in said
    assert len(starts(flow)) > 1
    assert starts(flow) == sorted(set(starts(flow)))
    assert len(jobs_of(flow)) == 1


def test_a_program_that_is_still_starting_is_asked_once_it_listens(slurm, training):
    flow = training(60, before="echo $SLURM_JOB_ID > starting; sleep 4; ")
    head = flow.start()
    wait(lambda: flow.path("starting").exists() and flow.text("starting"), head)
    slurm.run("scancel", "--signal=USR2", flow.text("starting").strip())
    assert starts(flow) == []
    said = head.communicate(timeout=120)[0]
    assert head.returncode == 0, said
    assert "its work is saved (requeue 1 of at most 50)" in said
    assert len(starts(flow)) == 2


def test_requeues_are_bounded(slurm, training):
    flow = training(3000)
    head = flow.start("--submitit-max-requeues", "1")
    wait(lambda: starts(flow), head)
    for expected in (2, 3):
        slurm.run("scancel", "--signal=USR2", next(iter(jobs_of(flow))))
        if expected == 2:
            wait(lambda: len(starts(flow)) == 2, head)
    said = head.communicate(timeout=60)[0]
    assert head.returncode != 0
    assert "REQUEUES_SPENT, it was requeued as often as is allowed" in said
    assert "requeue 1 of at most 1" in said


def test_a_killed_node_costs_a_restart_and_no_job(slurm, training):
    flow = training(100)
    head = flow.start()
    wait(lambda: starts(flow), head)
    node = slurm.run("squeue", "-h", "-j", next(iter(jobs_of(flow))), "-o", "%N").strip()
    slurm.kill_slurmd(node)
    try:
        wait(lambda: len(starts(flow)) == 2, head, seconds=90)
        said = head.communicate(timeout=60)[0]
    finally:
        slurm.start_slurmd(node)
    assert head.returncode == 0, said
    assert flow.text("trained.txt") == "100"


def test_the_head_lives_through_a_restart_of_slurmctld_and_a_stop_of_slurmdbd(slurm, training):
    flow = training(150)
    head = flow.start()
    wait(lambda: starts(flow), head)
    slurm.stop_slurmdbd()
    try:
        slurm.restart_slurmctld()
        said = head.communicate(timeout=120)[0]
    finally:
        slurm.start_slurmdbd()
    assert head.returncode == 0, said
    assert "No states from SLURM's sacct: " in said
    assert len(starts(flow)) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_head_that_is_gone_is_followed_by_one_that_takes_up_its_job(slurm, training, number):
    flow = training(3000)
    head = flow.start()
    wait(lambda: starts(flow), head)
    head.send_signal(number)
    left = head.communicate(timeout=60)[0]
    assert number == signal.SIGKILL or "Detached: 1 SLURM jobs go on." in left
    second = flow.start()
    wait(lambda: logged(flow, r"SLURM job \d+ of a former run does this already \(\w+\); it is taken up"), second)
    flow.path("enough").touch()
    said = second.communicate(timeout=60)[0]
    assert second.returncode == 0, said
    assert flow.path("trained.txt").exists()
    assert len(starts(flow)) == 1
    # The database hears of jobs behind the controller, by many seconds on a busy machine.
    wait(lambda: str(flow.folder) in slurm.run("sacct", "-nX", "--name=train", "-o", "WorkDir%300").split())
    assert slurm.run("sacct", "-nX", "--name=train", "-o", "WorkDir%300").split().count(str(flow.folder)) == 1


def logged(flow: Workflow, pattern: str) -> bool:
    """Whether a head wrote such a line into its log."""
    return any(re.search(pattern, path.read_text()) for path in flow.folder.glob(".snakemake/log/*.log"))


def orphaned_job(flow: Workflow) -> str:
    """Start a head and kill it once its training runs; the SLURM job that is left."""
    head = flow.start()
    wait(lambda: starts(flow), head)
    head.kill()
    head.communicate()
    (job,) = jobs_of(flow)
    return job


def test_a_job_that_ended_while_no_head_lived_is_not_run_again(slurm, training):
    flow = training(30)
    job = orphaned_job(flow)
    wait(lambda: "COMPLETED" in slurm.run("sacct", "-nX", "-j", job, "-o", "State"))
    said = flow.run()
    assert "does this already (COMPLETED); it is taken up" in said
    assert len(starts(flow)) == 1


def test_a_former_job_with_another_command_is_cancelled_first(slurm, training):
    flow = training(3000)
    former = orphaned_job(flow)
    flow.path("Snakefile").write_text(flow.text("Snakefile").replace("trainer.py 3000", "trainer.py 10"))
    said = flow.run()
    assert f"SLURM job {former} of a former run makes the same outputs with another command; it is cancelled" in said
    wait(lambda: "CANCELLED" in slurm.run("sacct", "-nX", "-j", former, "-o", "State"))


def test_ctrl_c_leaves_no_job(slurm, workflow):
    flow = workflow(
        """
        rule all:
            input: expand("{i}.txt", i=range(12)), "many.txt"
        rule small:
            output: "{i}.txt"
            resources: mem_mb=50, runtime=5
            shell: "touch started; sleep 600"
        rule many:
            output: "many.txt"
            resources: mem_mb=50, runtime=5, nodes=2, tasks_per_node=2
            shell: "sleep 600"
        """,
        **slurm.environment(),
    )
    head = flow.start()
    wait(lambda: flow.path("started").exists(), head)
    os.killpg(head.pid, signal.SIGINT)  # as on the terminal
    head.communicate(timeout=60)
    wait(lambda: not slurm.run("squeue", "-h", "--name=small,many"), seconds=30)
    assert not list(flow.folder.glob(".snakemake/submitit/registry/*"))
