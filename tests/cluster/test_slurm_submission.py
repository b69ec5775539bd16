"""Submission to a real SLURM cluster while disks, commands, limits or the user's variables interfere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.throwaway import ThrowawaySlurm
from fake_commands import FakeCommands
from snakemake_executor_plugin_submitit import queries
from workflow_runner import Workflow, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
COUNTED = """
rule all:
    input: expand("{{i}}.txt", i=range({count}))
rule count:
    output: "{{i}}.txt"
    resources: mem_mb=50, runtime=5
    shell: "echo $SLURM_JOB_ID >> made.{{wildcards.i}}; sleep {seconds}; touch {{output}}"
"""


@pytest.fixture
def counted(slurm: ThrowawaySlurm, workflow):
    """A function that creates a workflow whose jobs record each of their executions."""

    def make(count: int, seconds: int = 0, **environment: str) -> Workflow:
        return workflow(COUNTED.format(count=count, seconds=seconds), **slurm.environment(), **environment)

    return make


def executions(flow: Workflow) -> list[int]:
    """Return how often each job was executed."""
    return [len(path.read_text().splitlines()) for path in sorted(flow.folder.glob("made.*"))]


def wrap(flow: Workflow, folder, name: str, script: str) -> FakeCommands:
    """Replace a SLURM command by a script, in which $REAL is the path of the real command."""
    commands = FakeCommands(folder / "wrapped")
    commands.runs(name, f"REAL={shutil.which(name)}\n{script}")
    flow.environment["PATH"] = f"{commands.folder}:{flow.environment['PATH']}"
    return commands


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], Path]]:
    """A function that mounts a small file system at a path, and returns a file that fills it when it is written."""
    mounted: list[Path] = []

    def mount(path: Path) -> Path:
        path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting is not permitted")
        mounted.append(path)
        return path / "filler"

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_job_whose_files_cannot_be_written_fails_alone(slurm, workflow, small_disk):
    flow = workflow(
        """
        localrules: all, prepare
        rule all:
            input: "running.txt", "unlucky.txt", "later.txt"
        rule running:
            output: "running.txt"
            resources: mem_mb=50, runtime=5
            shell: "touch started; until [ -e freed ]; do sleep 0.2; done; touch {output}"
        rule later:
            input: "running.txt"
            output: "later.txt"
            resources: mem_mb=50, runtime=5
            shell: "touch {output}"
        rule prepare:
            output: "prepared.txt"
            shell: "until [ -e full ]; do sleep 0.2; done; touch {output}"
        rule unlucky:
            input: "prepared.txt"
            output: "unlucky.txt"
            resources: mem_mb=50, runtime=5
            shell: "touch {output}"
        """,
        **slurm.environment(),
    )
    submissions = flow.path(".snakemake/submitit/submissions")
    filler = small_disk(submissions)
    process = flow.start("--keep-going")
    wait(flow.path("started").exists, process)
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    flow.path("full").touch()
    wait(lambda: logged(flow, "This job was not submitted"), process)
    filler.unlink()
    flow.path("freed").touch()
    printed = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert re.search(r"its files cannot be written: .*No space left on device", printed)
    assert str(submissions.parent) in printed
    assert flow.path("later.txt").exists()
    assert not flow.path("unlucky.txt").exists()


def logged(flow: Workflow, text: str) -> bool:
    """Return whether a workflow process logged a text."""
    return any(text in path.read_text() for path in flow.folder.glob(".snakemake/log/*.log"))


def test_no_job_runs_twice_if_the_workflow_process_is_killed_during_sbatch(counted, slurm, tmp_path):
    flow = counted(20, seconds=5)
    wrap(flow, tmp_path, "sbatch", '"$REAL" "$@"; kill -9 $PPID')
    process = flow.start()
    process.communicate(timeout=60)
    assert process.returncode == -9
    shutil.rmtree(tmp_path / "wrapped")
    printed = flow.run()
    assert 1 <= printed.count("Re-attached to SLURM job") <= 20  # on a busy machine, some jobs have already ended
    assert executions(flow) == [1] * 20
    assert not list(flow.folder.glob(".snakemake/submitit/registry/*"))
    assert not list(flow.folder.glob(".snakemake/submitit/submissions/*"))
    assert not list(flow.folder.glob(".snakemake/submitit/jobs/*"))


def test_no_job_runs_twice_if_sbatch_fails_after_slurm_accepted_the_job(counted, tmp_path):
    flow = counted(5)
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    commands = wrap(flow, tmp_path, "sbatch", f'"$REAL" "$@" > /dev/null; echo "{error}" >&2; exit 1')
    flow.run()
    assert len(commands.calls("sbatch")) == 1
    assert executions(flow) == [1] * 5


def test_the_users_variables_do_not_overrule_the_rules(counted):
    variables = {
        "SBATCH_TIMELIMIT": "2-00:00:00", "SBATCH_EXPORT": "NONE", "SBATCH_NO_REQUEUE": "1", "SBATCH_JOB_NAME": "mine",
        "SBATCH_MEM_PER_NODE": "1000000", "SBATCH_OUTPUT": "/nowhere/%j", "SBATCH_WAIT": "1",
        "SQUEUE_STATES": "SUSPENDED", "SQUEUE_FORMAT": "%j", "SACCT_FORMAT": "JobName", "SCANCEL_NAME": "nothing",
    }  # fmt: skip
    flow = counted(2, seconds=2, **variables)
    flow.run()
    assert executions(flow) == [1, 1]


def test_notices_on_the_output_of_slurms_commands_are_ignored(counted, tmp_path):
    flow = counted(2)
    for name in ("sbatch", "squeue", "sacct"):
        wrap(flow, tmp_path, name, 'echo "*** Maintenance on Friday | 18:00 ***"; exec "$REAL" "$@"')
    flow.run()
    assert executions(flow) == [1, 1]


def test_jobs_over_the_submit_limit_wait_in_the_workflow_process(counted, slurm):
    flow = counted(9, seconds=1)

    def set_limit(jobs: int) -> None:
        slurm.run("sacctmgr", "--immediate", "modify", "user", "where", "name=root", "set", f"MaxSubmitJobs={jobs}")

    set_limit(3)
    try:
        printed = flow.run()
    finally:
        set_limit(-1)
    assert re.search(r"SLURM's submit limit is reached \(AssocMaxSubmitJobLimit.*6 jobs wait in this process", printed)
    assert "All jobs that waited for SLURM's submit limit were submitted." in printed
    assert executions(flow) == [1] * 9


def test_arrays_respect_the_sites_largest_array(counted, tmp_path):
    flow = counted(7)
    wrap(flow, tmp_path, "scontrol", '"$REAL" "$@" | sed "s/^MaxArraySize .*/MaxArraySize = 4/"')
    commands = wrap(flow, tmp_path, "sbatch", 'exec "$REAL" "$@"')
    flow.run()
    assert len(commands.calls("sbatch")) == 2
    assert executions(flow) == [1] * 7


def test_a_foreign_job_with_the_recorded_number_is_left_alone(counted, slurm):
    flow = counted(1, seconds=2)
    foreign = slurm.run("sbatch", "--parsable", "--mem=50", "--output=/dev/null", "--wrap", "sleep 300").strip()
    process = flow.start()
    wait(lambda: list(flow.folder.glob("made.*")), process)
    process.kill()
    process.communicate()
    (own,) = {path.read_text().strip() for path in flow.folder.glob("made.*")}
    (record,) = flow.folder.glob(".snakemake/submitit/registry/*")
    record.write_text(record.read_text().replace(f'"number": "{own}"', f'"number": "{foreign}"'))
    slurm.run("scancel", own)
    wait(lambda: not slurm.run("squeue", "-h", "-t", "R,CG", "-j", own))
    printed = flow.run()
    try:
        assert "Re-attached" not in printed
        assert slurm.run("squeue", "-h", "-j", foreign, "-o", "%T").strip() == "RUNNING"
    finally:
        slurm.run("scancel", foreign)


def test_squeue_reports_why_a_job_does_not_start(slurm, monkeypatch):
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    submit = ("sbatch", "--parsable", "--mem=50", "--output=/dev/null", "--wrap=true")
    jobs = {"PartitionTimeLimit": slurm.run(*submit, "--time=3-0").strip()}
    jobs["JobHeldUser"] = slurm.run(*submit, "--hold").strip()
    try:
        wait(lambda: queries.from_squeue(jobs.values())[jobs["PartitionTimeLimit"]].reason == "PartitionTimeLimit")
        states = queries.from_squeue(jobs.values())
        assert {states[job].reason: job for job in jobs.values()} == jobs
    finally:
        slurm.run("scancel", *jobs.values())
