"""Interrupted jobs on a real SLURM cluster: preemption, time limits, failing nodes, daemons and workflow processes."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest

from cluster.throwaway import ThrowawaySlurm
from workflow_runner import TRAINER, Workflow, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture
def training(slurm: ThrowawaySlurm, workflow):
    """A function that creates a workflow with a training job of a given number of steps."""

    def make(
        steps: int, *, step_seconds: float = 0.1, resources: str = "mem_mb=100, runtime=10", before: str = ""
    ) -> Workflow:
        flow = workflow(
            f"""
            rule train:
                output: "trained.txt"
                log: "train.log"
                resources: {resources}
                shell: "{before}exec python trainer.py {steps} {step_seconds} {{output}}"
            """,
            **slurm.environment(),
        )
        shutil.copy(TRAINER, flow.folder)
        return flow

    return make


def starts(flow: Workflow, rank: int = 0) -> list[int]:
    """Return the step at which each attempt of the training program started."""
    path = flow.path(f"trained.starts{rank}")
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def jobs_of(flow: Workflow) -> set[str]:
    """Return the ids of the SLURM jobs in which the training program ran."""
    return {line.split()[1] for line in flow.text("trained.starts0").splitlines()}


def test_a_preempted_training_job_saves_and_resumes_on_both_nodes(slurm, training):
    flow = training(100, resources="nodes=2, tasks_per_node=1, mem_mb=100, runtime=10")
    process = flow.start()
    wait(lambda: starts(flow) and starts(flow, 1), process)
    urgent = slurm.run(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300"
    ).strip()
    wait(lambda: "RUNNING" in slurm.run("squeue", "-h", "-j", urgent, "-o", "%T"), process)
    slurm.run("scancel", urgent)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert flow.text("trained.txt") == "100"
    assert "was requeued (preempted); its progress is saved (requeue 1 of at most 50)" in printed
    first, second = starts(flow)
    assert first == 0
    assert second > 0
    assert len(jobs_of(flow)) == 1


def test_a_training_job_longer_than_its_time_limit_is_requeued_until_it_completes(training):
    flow = training(65, step_seconds=1.0, resources="mem_mb=100, runtime=1")
    printed = flow.run(timeout=280)
    assert flow.text("trained.txt") == "65"
    assert "was requeued (near its time limit); its progress is saved" in printed
    assert len(starts(flow)) > 1
    assert starts(flow) == sorted(set(starts(flow)))
    assert len(jobs_of(flow)) == 1


def test_a_program_is_signalled_to_save_once_it_has_installed_its_handler(slurm, training):
    flow = training(60, before="echo $SLURM_JOB_ID > starting; sleep 4; ")
    process = flow.start()
    wait(lambda: flow.path("starting").exists() and flow.text("starting"), process)
    slurm.run("scancel", "--signal=USR2", flow.text("starting").strip())
    assert starts(flow) == []
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert "was requeued (received SIGUSR2); its progress is saved (requeue 1 of at most 50)" in printed
    assert len(starts(flow)) == 2


def test_requeues_are_limited(slurm, training):
    flow = training(3000)
    process = flow.start("--submitit-max-requeues", "1")
    wait(lambda: starts(flow), process)
    for expected in (2, 3):
        slurm.run("scancel", "--signal=USR2", next(iter(jobs_of(flow))))
        if expected == 2:
            wait(lambda: len(starts(flow)) == 2, process)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "REQUEUES_SPENT, it reached the maximum number of requeues" in printed
    assert "requeue 1 of at most 1" in printed


def test_a_job_restarts_after_its_node_failed(slurm, training):
    flow = training(60)
    process = flow.start()
    wait(lambda: starts(flow), process)
    node = slurm.run("squeue", "-h", "-j", next(iter(jobs_of(flow))), "-o", "%N").strip()
    slurm.kill_slurmd(node)
    try:
        wait(lambda: len(starts(flow)) == 2, process, seconds=90)
        printed = process.communicate(timeout=60)[0]
    finally:
        slurm.start_slurmd(node)
    assert process.returncode == 0, printed
    assert flow.text("trained.txt") == "60"


def test_a_workflow_survives_a_restart_of_slurmctld_and_a_stop_of_slurmdbd(slurm, training):
    flow = training(150)
    process = flow.start()
    wait(lambda: starts(flow), process)
    slurm.stop_slurmdbd()
    try:
        slurm.restart_slurmctld()
        printed = process.communicate(timeout=120)[0]
    finally:
        slurm.start_slurmdbd()
    assert process.returncode == 0, printed
    assert "Cannot query job states with SLURM's sacct: " in printed
    assert len(starts(flow)) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_new_workflow_process_reattaches_to_the_job_of_an_earlier_one(slurm, training, number):
    flow = training(3000)
    process = flow.start()
    wait(lambda: starts(flow), process)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    assert number == signal.SIGKILL or "Detached: 1 SLURM jobs continue." in printed
    second = flow.start()
    wait(lambda: logged(flow, r"Re-attached to SLURM job \d+ of an earlier run \(\w+\)\."), second)
    flow.path("enough").touch()
    printed = second.communicate(timeout=60)[0]
    assert second.returncode == 0, printed
    assert flow.path("trained.txt").exists()
    assert len(starts(flow)) == 1
    # On a busy machine, a job may appear in the database many seconds after the controller lists it.
    wait(lambda: str(flow.folder) in slurm.run("sacct", "-nX", "--name=train", "-o", "WorkDir%300").split())
    assert slurm.run("sacct", "-nX", "--name=train", "-o", "WorkDir%300").split().count(str(flow.folder)) == 1


def logged(flow: Workflow, pattern: str) -> bool:
    """Return whether a workflow process logged a line that matches the pattern."""
    return any(re.search(pattern, path.read_text()) for path in flow.folder.glob(".snakemake/log/*.log"))


def orphaned_job(flow: Workflow) -> str:
    """Start a workflow process, kill it while its training job runs, and return the id of that job."""
    process = flow.start()
    wait(lambda: starts(flow), process)
    process.kill()
    process.communicate()
    (job,) = jobs_of(flow)
    return job


def test_a_job_that_ended_without_a_workflow_process_is_not_run_again(slurm, training):
    flow = training(30)
    job = orphaned_job(flow)
    wait(lambda: "COMPLETED" in slurm.run("sacct", "-nX", "-j", job, "-o", "State"))
    printed = flow.run()
    assert f"Re-attached to SLURM job {job} of an earlier run (COMPLETED)." in printed
    assert len(starts(flow)) == 1


def test_an_earlier_job_with_a_different_command_is_cancelled_first(slurm, training):
    flow = training(3000)
    earlier = orphaned_job(flow)
    flow.path("Snakefile").write_text(flow.text("Snakefile").replace("trainer.py 3000", "trainer.py 10"))
    printed = flow.run()
    assert f"Cancelling SLURM job {earlier} of an earlier run" in printed
    wait(lambda: "CANCELLED" in slurm.run("sacct", "-nX", "-j", earlier, "-o", "State"))


def test_ctrl_c_cancels_all_jobs(slurm, workflow):
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
    process = flow.start()
    wait(lambda: flow.path("started").exists(), process)
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C in a terminal
    process.communicate(timeout=60)
    wait(lambda: not slurm.run("squeue", "-h", "--name=small,many"), seconds=30)
    assert not list(flow.folder.glob(".snakemake/submitit/registry/*"))


def test_a_training_job_that_is_stopped_from_outside_is_resubmitted_and_resumes(slurm, training):
    flow = training(100, resources="nodes=2, tasks_per_node=1, mem_mb=100, runtime=10")
    process = flow.start()
    wait(lambda: starts(flow) and starts(flow, 1), process)
    slurm.run("scancel", "--signal=TERM", next(iter(jobs_of(flow))))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert "ended with TERMINATED. It was resubmitted as job" in printed
    first, second = starts(flow)
    assert first == 0
    assert second > 0
    assert len(jobs_of(flow)) == 2


@pytest.mark.parametrize("started", [True, False])
def test_a_cancelled_job_is_not_resubmitted(slurm, training, started):
    flow = training(3000, resources="mem_mb=100, runtime=10" + ("" if started else ", slurm_extra='--hold'"))
    process = flow.start()
    wait(lambda: starts(flow) or not started, process)
    wait(lambda: job_in(slurm, flow), process)
    slurm.run("scancel", job_in(slurm, flow))
    printed = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "CANCELLED, it was cancelled" in printed
    assert "resubmitted" not in printed
    assert ("The job ended before its ranks started." in printed) is not started
    assert len(starts(flow)) == started


def job_in(slurm: ThrowawaySlurm, flow: Workflow) -> str:
    """Return the id of the SLURM job whose working directory is the workflow's folder, or an empty string."""
    lines = slurm.run("squeue", "-h", "-o", "%i %Z").splitlines()
    return next((line.split()[0] for line in lines if line.split()[-1] == str(flow.folder)), "")


def test_a_failure_is_reported_although_srun_stops_the_other_rank(slurm, workflow):
    flow = workflow(
        """
        rule train:
            output: "trained.txt"
            log: "train.log"
            resources: nodes=2, tasks_per_node=1, mem_mb=100, runtime=10
            shell: "if [ $RANK = 1 ]; then until [ -e trained.starts0 ]; do sleep 0.1; done; exit 3; fi; "
                   "exec python trainer.py 3000 0.1 {output}"
        """,
        **slurm.environment(),
    )
    shutil.copy(TRAINER, flow.folder)
    printed = flow.run(ok=False)
    assert "FAILED. First failure: rank 1 on " in printed
    assert "exit status 3" in printed
    assert len(starts(flow)) == 1


def test_a_job_that_scontrol_does_not_requeue_in_time_is_resubmitted(slurm, training):
    flow = training(180)  # the training must not complete while scontrol hangs for 10 seconds
    fake = flow.path("bin/scontrol")
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n[ "$SLURM_JOB_ID" ] && exec sleep 600\nexec {shutil.which("scontrol")} "$@"\n')
    fake.chmod(0o755)
    flow.environment["PATH"] = f"{fake.parent}:{flow.environment['PATH']}"
    process = flow.start()
    wait(lambda: starts(flow), process)
    slurm.run("scancel", "--signal=USR2", next(iter(jobs_of(flow))))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert "ended with REQUEUE_REFUSED. It was resubmitted as job" in printed
    assert starts(flow)[1] > 0
