"""Calls of sbatch: failures after which jobs may have been accepted, site limits, and environment variables."""

from __future__ import annotations

import os

import pytest

from snakemake_executor_plugin_submitit import sbatch as module
from snakemake_executor_plugin_submitit.queries import QueryFailed
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.sbatch import (
    ArrayTooLarge,
    SubmissionRefused,
    SubmissionUnknown,
    SubmitLimitReached,
    sbatch,
)
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.slurm_environment import default_variables, ignored_variables
from snakemake_executor_plugin_submitit.work import Work
from workflow_runner import Workflow

pytestmark = pytest.mark.stage
POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def submit(find=lambda: None) -> str:
    return sbatch(["job.sh"], os.environ, find)


def test_the_number_is_found_between_other_lines(commands):
    commands.prints("sbatch", "Welcome to the cluster\n4711;physics\nHave fun\n")
    assert submit() == "4711"


def test_a_job_that_was_accepted_before_sbatch_failed_is_not_submitted_again(commands):
    commands.fails("sbatch", "Batch job submission failed: Socket timed out on send/recv operation")
    assert submit(find=lambda: "4711") == "4711"
    assert len(commands.calls("sbatch")) == 1


def test_a_job_that_the_controller_accepts_late_is_found_before_the_next_call(commands):
    commands.fails("sbatch", "Socket timed out on send/recv operation")
    answers = iter([None, None, "4711"])
    assert submit(find=lambda: next(answers)) == "4711"
    assert len(commands.calls("sbatch")) == 1


def test_a_temporary_failure_is_repeated_after_a_search(commands):
    commands.runs("sbatch", f"[ $(wc -l < {commands.folder}/calls) -lt 3 ] && echo 'Connection refused' >&2 || echo 12")
    searched = []
    assert submit(find=lambda: searched.append(1)) == "12"
    assert len(commands.calls("sbatch")) == 3
    assert len(searched) == 2


def test_a_rejected_job_is_not_submitted_again(commands):
    commands.fails("sbatch", "Batch job submission failed: invalid partition specified: nowhere")
    with pytest.raises(SubmissionRefused, match="invalid partition specified: nowhere"):
        submit()
    assert len(commands.calls("sbatch")) == 1


def test_a_failed_call_is_not_repeated_while_the_controller_does_not_answer(commands):
    commands.fails("sbatch", "Unable to contact slurm controller")

    def no_answer():
        raise QueryFailed("squeue: Unable to contact slurm controller")

    with pytest.raises(SubmissionUnknown, match="SLURM did not respond when asked whether it accepted the job"):
        submit(no_answer)
    assert len(commands.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("message", "expected", "certain"),
    [
        ("Batch job submission failed: Invalid job array specification", ArrayTooLarge, None),
        (f"AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}", SubmitLimitReached, True),
        (f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}", SubmitLimitReached, True),
        (POLICY, SubmitLimitReached, False),
    ],
)
def test_site_limits_are_recognized(commands, message, expected, certain):
    commands.runs("sbatch", f'echo "{message}" >&2; exit 1')
    with pytest.raises(expected) as raised:
        submit()
    assert getattr(raised.value, "certain", None) is certain


@pytest.fixture
def sent(commands, tmp_path, monkeypatch):
    """A function that submits a job with the given request, and returns sbatch's arguments and environment."""
    monkeypatch.chdir(tmp_path)
    commands.runs("sbatch", f"env > {tmp_path}/environment; echo 12")
    commands.fails("scontrol", "Unable to contact slurm controller")

    def send(request: Request) -> tuple[list[str], dict[str, str]]:
        slurm = Slurm(print, signal_delay_seconds=120)
        slurm.store(Work("rule x", None, ".", "true", None), "token-1", 0)  # type: ignore[arg-type]
        assert slurm.submit("token-1", 1, request, "x") == ["12"]
        lines = (tmp_path / "environment").read_text().splitlines()
        return commands.calls("sbatch")[-1].split(), dict(line.split("=", 1) for line in lines if "=" in line)

    return send


def test_the_users_variables_do_not_overrule_the_rules(sent, monkeypatch):
    for name in ("PARTITION", "TIMELIMIT", "NO_REQUEUE", "JOB_NAME", "EXPORT", "MEM_PER_NODE", "ARRAY_INX", "CLUSTERS"):
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    arguments, environment = sent(Request(partition="gpu", minutes=5, memory_mb=100))
    assert "--export=ALL" in arguments
    assert [name for name in environment if name.startswith(("SBATCH_", "SQUEUE_"))] == []
    assert environment["SLURM_CONF"] == "/etc/slurm.conf"


def test_the_users_variables_apply_where_a_rule_sets_nothing(sent, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    monkeypatch.setenv("SBATCH_GPU_BIND", "none")
    _, environment = sent(Request())
    assert environment["SBATCH_PARTITION"] == "gpu"
    assert environment["SBATCH_GPU_BIND"] == "none"


def test_a_submission_has_a_comment_with_its_token_unless_the_user_sets_one(sent, monkeypatch):
    assert "--comment=token-1" in sent(Request())[0]
    arguments, _ = sent(Request(extra=("--comment=project7",)))
    assert [word for word in arguments if "comment" in word] == ["--comment=project7"]
    monkeypatch.setenv("SBATCH_COMMENT", "project7")
    arguments, environment = sent(Request())
    assert not [word for word in arguments if "comment" in word]
    assert environment["SBATCH_COMMENT"] == "project7"


def test_variables_are_named_by_their_effect():
    environment = dict.fromkeys(("SBATCH_EXPORT", "SBATCH_PARTITION", "SQUEUE_USERS", "SLURM_CONF", "HOME"), "x")
    assert ignored_variables(environment) == ["SBATCH_EXPORT", "SQUEUE_USERS"]
    assert default_variables(environment) == ["SBATCH_PARTITION"]


@pytest.mark.parametrize("name", ["run%j", "%A", "50%5a", "back\\slash"])
def test_a_folder_whose_name_slurm_would_change_is_refused(workflow, commands, name):
    for command in ("sbatch", "srun", "scancel", "squeue"):
        commands.fails(command, "not called")
    first = workflow("rule a:\n    output: 'a.txt'\n    shell: 'touch {output}'\n")
    flow = Workflow(first.folder / name, first.snakefile, {"PATH": f"{commands.folder}:{first.environment['PATH']}"})
    printed = flow.run(ok=False)
    assert f"{name}: jobs cannot run on SLURM in a folder whose path contains" in printed
    assert commands.calls() == []
