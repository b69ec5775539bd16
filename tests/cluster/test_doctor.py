"""The doctor reports a site's problems and how to fix them.

Shell scripts replace the SLURM commands, except in `TestOnTheRealSlurm`.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.doctor import login_checks
from snakemake_executor_plugin_submitit.doctor.__main__ import main

pytestmark = pytest.mark.stage

GOOD = {
    "sbatch": 'case "$*" in *--version*) echo slurm 23.11.4;; *) echo 7;; esac',
    "srun": "true",
    "sacct": "true",
    "scancel": "true",
    "squeue": "echo '7|RUNNING|None'",
    "sacctmgr": 'for word in "$@"; do case $word in user=*) user=${word#user=};; esac; done\n'
    'for account in physics biology; do echo "$user|$account"; done',
    "scontrol": """case "$*" in
        *ping*) echo 'Slurmctld(primary) at login is UP';;
        *partition*) echo 'PartitionName=cpu Default=YES State=UP TotalNodes=4 MaxTime=2-00:00:00'
                     echo 'PartitionName=gpu Default=NO State=DOWN TotalNodes=2 MaxTime=04:00:00';;
        *config*) echo 'MinJobAge = 300 sec'; echo 'MaxArraySize = 1001'; echo 'AuthInfo = (null)';;
        *job*) echo 'JobId=7 Restarts=1';;
    esac""",
}
"""Shell scripts that simulate the SLURM commands of a working site."""
REPORT = {"node": "c1", "token": {"text": "", "seconds": 0.1}, "gpus": {"error": "none"}}
RENDEZVOUS = {"address": "c1", "resolved": "10.0.0.1", "port": 20001}

SLURM_PREFIXES = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SLURM_")
BANNER = "echo '=== NOTICE: storage=slow DOWN on Monday, 1.5 TB are free | see https://site/?a=b ==='"
"""Shell command of a site's wrapper that prints a notice before the output of a SLURM command."""
VARIABLES = {
    "SBATCH_EXPORT": "NONE",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_NO_REQUEUE": "1",
    "SACCT_FORMAT": "User",
    "SCANCEL_STATE": "PENDING",
    "SQUEUE_FORMAT": "%u",
    "SQUEUE_STATES": "PENDING",
}
"""Variables that would change the doctor's commands and the plugin's jobs."""

Site = Callable[..., None]


def disk_with(free: float) -> Callable[[Path], object]:
    """Return a stand-in for `shutil.disk_usage` that reports `free` bytes, however full this machine is."""
    return lambda _: namedtuple("Usage", "free")(free)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A simulated working site. Tests can replace its commands, or remove a command by replacing it with None."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for tool in ("cat", "sed", "touch", "sh", "sleep", "head"):
        (commands / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(commands))
    for name in os.environ:
        if name.startswith(("MLFLOW_TRACKING_URI", *SLURM_PREFIXES)):
            monkeypatch.delenv(name)
    monkeypatch.setattr(shutil, "disk_usage", disk_with(500e9))
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.jobs._FILE_SECONDS", 1.0)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.jobs._END_SECONDS", 0.0)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.job_checks._SIGNAL_SECONDS", 1.0)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.job_checks._REQUEUE_SECONDS", 1.0)

    def simulate(**changed: str | None) -> None:
        for name, body in {**GOOD, **changed}.items():
            if body is not None:
                (commands / name).write_text(f"#!/bin/sh\n{body}\n")
                (commands / name).chmod(0o755)

    return simulate


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, str]]]:
    """A function that runs the doctor and returns its exit status and the line that each check printed."""

    def run(*arguments: str) -> tuple[int, dict[str, str]]:
        status = main(["--folder", str(tmp_path), "--wait", "1", *arguments])
        lines = capsys.readouterr().out.splitlines()
        return status, {line.split()[1]: line for line in lines}

    return run


def test_without_slurm_the_doctor_reports_it_and_checks_everything_else(tmp_path, monkeypatch, doctor):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, lines = doctor()
    assert status == 1
    assert lines["commands"].startswith("FAIL")
    assert "has no SLURM" in lines["commands"] and "login node" in lines["commands"]
    assert set(lines) == {"commands", "tracking", "disk"}


def test_a_working_site_passes(site, doctor):
    site()
    status, lines = doctor("--no-jobs")
    assert status == 0
    assert {line.split()[0] for line in lines.values()} == {"OK"}
    assert "cpu: 4 nodes, time limit 2-00:00:00" in lines["partition"]
    assert "a requeued job waits 120 s" in lines["limits"]


@pytest.mark.parametrize(
    ("changed", "arguments", "check", "expected"),
    [
        ({"srun": None}, (), "commands", ["FAIL", "not on PATH: srun"]),
        ({"sbatch": "echo slurm 19.05.1"}, (), "version", ["WARN", "19.05.1"]),
        ({"scontrol": "echo 'Slurmctld(primary) at login is DOWN'"}, (), "controller", ["FAIL", "DOWN", "SLURM_CONF"]),
        (
            {"sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1"},
            (),
            "accounting",
            ["WARN", "storage is disabled", "MinJobAge (300 sec)"],
        ),
        ({}, ("--partition", "gpux"), "partition", ["FAIL", "partition gpux does not exist", "cpu, gpu"]),
        ({}, ("--partition", "gpu"), "partition", ["FAIL", "state DOWN"]),
        (
            {"sbatch": "echo 'sbatch: error: Invalid account' >&2; exit 1"},
            ("--account", "chemistry"),
            "submission",
            ["FAIL", "--account=chemistry", "Invalid account", "biology, physics"],
        ),
        ({"sacct": "sleep 5"}, (), "accounting", ["WARN", "did not finish within"]),
    ],
)
def test_a_problem_is_reported_with_its_fix(site, doctor, monkeypatch, changed, arguments, check, expected):
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.site.run_command.__defaults__", None)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.doctor.site.run_command.__kwdefaults__", {"seconds": 2.0})
    site(**changed)
    status, lines = doctor("--no-jobs", *arguments)
    assert status == (1 if expected[0] == "FAIL" else 0), lines
    for words in expected:
        assert words in lines[check]


def test_options_default_to_the_plugins_environment_variables(site, doctor, monkeypatch):
    site(sbatch='echo "sbatch: error: got $*" >&2; exit 1')
    monkeypatch.setenv("SNAKEMAKE_SUBMITIT_ACCOUNT", "physics")
    _, lines = doctor("--no-jobs", "--qos", "long")
    assert "--account=physics --qos=long" in lines["submission"]


def test_the_doctor_works_inside_a_slurm_job(site, doctor, monkeypatch):
    leak = '[ -z "$SLURM_JOB_ID" ] || { echo "sbatch: error: in job $SLURM_JOB_ID" >&2; exit 1; }'
    site(sbatch=f"{leak}; echo slurm 23.11.4")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert doctor("--no-jobs")[0] == 0


def test_banner_lines_in_the_output_of_slurms_commands_are_passed_over(site, doctor):
    site(**{name: f"{BANNER}; {BANNER} >&2\n{body}" for name, body in GOOD.items()})
    _, before = doctor("--no-jobs")
    site()
    assert doctor("--no-jobs")[1] == before
    assert {line.split()[0] for line in before.values()} == {"OK"}


def test_an_error_message_is_found_among_banner_lines(site, doctor):
    refusal = f"{BANNER} >&2; echo 'sbatch: error: Invalid qos' >&2; {BANNER} >&2; exit 1"
    site(sbatch=refusal, sacctmgr=f"{BANNER}\n{GOOD['sacctmgr']}")
    line = doctor("--no-jobs")[1]["submission"]
    assert "no further options: Invalid qos ->" in line
    assert "(your accounts: biology, physics)" in line


def test_a_job_is_found_among_banner_lines(site, doctor):
    site(squeue=f"{BANNER}\necho '7|PENDING|Priority'", sbatch=f"{BANNER}\n{GOOD['sbatch']}")
    assert "job 7 is PENDING (Priority)" in doctor()[1]["job"]


def test_a_job_does_not_count_as_ended_while_squeue_fails(site, doctor):
    site(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert "job 7 is UNKNOWN (slurm_load_jobs error: Unable to contact" in doctor()[1]["job"]


def test_an_sbatch_that_prints_no_job_id_is_reported(site, doctor):
    site(sbatch="echo slurm 23.11.4; echo queued")
    assert "sbatch printed no job id" in doctor()[1]["job"]


def test_a_site_with_one_of_two_controllers_passes(site, doctor):
    site(scontrol=f"echo 'Slurmctld(primary) at a is DOWN'; echo 'Slurmctld(backup) at b is UP'\n{GOOD['scontrol']}")
    status, lines = doctor("--no-jobs")
    assert status == 0
    assert "Slurmctld(backup) at b is UP" in lines["controller"]


def test_variables_that_change_slurms_commands_are_named(site, doctor, monkeypatch):
    site()
    for name, value in {**VARIABLES, "SBATCH_PARTITION": "cpu"}.items():
        monkeypatch.setenv(name, value)
    status, lines = doctor("--no-jobs")
    assert status == 0
    assert lines["environment"].startswith("WARN")
    assert "SBATCH_PARTITION applies to every job that does not set the same option itself" in lines["environment"]
    assert f"the plugin ignores {', '.join(sorted(VARIABLES))}" in lines["environment"]
    assert {line.split()[0] for check, line in lines.items() if check != "environment"} == {"OK"}


def test_commands_run_without_variables_that_would_mislead_them(site, doctor, monkeypatch):
    leak = """[ -z "$SBATCH_EXPORT$SBATCH_JOB_NAME$SBATCH_NO_REQUEUE$SACCT_FORMAT$SCANCEL_STATE$SQUEUE_FORMAT" ] || {
        echo misled >&2; exit 1; }"""
    site(**{name: f"{leak}\n{body}" for name, body in GOOD.items()})
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert doctor("--no-jobs")[0] == 0


def test_a_partition_from_the_environment_is_checked_like_one_from_the_command_line(site, doctor, monkeypatch):
    site(sbatch='case "$*" in *--version*) echo slurm 23.11.4;; *) [ "$SBATCH_PARTITION" = gpux ];; esac')
    monkeypatch.setenv("SBATCH_PARTITION", "gpux")
    _, lines = doctor("--no-jobs")
    assert "partition gpux does not exist" in lines["partition"]
    assert lines["submission"].startswith("OK")


@pytest.fixture
def server() -> Iterator[str]:
    """A server whose health check succeeds under /good and fails at every other path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/good/health" else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expected"), [("/good", "OK"), ("/bad", "WARN"), (None, "WARN")], ids=["healthy", "failing", "unreachable"]
)
def test_the_health_of_the_tracking_server_is_checked(site, doctor, monkeypatch, server, path, expected):
    site()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9" if path is None else f"{server}{path}")
    status, lines = doctor("--no-jobs")
    assert status == 0
    assert lines["tracking"].startswith(expected)


@pytest.mark.parametrize(
    "uri",
    [
        "http://name:password@127.0.0.1:9/mlflow?token=password",
        "http://password@127.0.0.1:9",
        "postgresql://name:password@host/mlflow",
    ],
)
def test_passwords_in_the_address_of_the_tracking_server_are_not_printed(site, doctor, monkeypatch, uri):
    site()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _, lines = doctor("--no-jobs")
    assert "password" not in lines["tracking"]
    assert "127.0.0.1:9" in lines["tracking"] or "host/mlflow" in lines["tracking"]


@pytest.mark.parametrize(("free", "expected"), [(500e9, "OK"), (5e9, "WARN"), (1e8, "FAIL")])
def test_a_full_disk_is_reported(site, doctor, monkeypatch, free, expected):
    site()
    monkeypatch.setattr(shutil, "disk_usage", disk_with(free))
    assert doctor("--no-jobs")[1]["disk"].startswith(expected)


def test_a_folder_that_is_not_writable_is_a_failure(site, doctor, monkeypatch):
    site()
    monkeypatch.setattr(login_checks.os, "access", lambda *_: False)
    status, lines = doctor()
    assert status == 1 and "is not writable" in lines["disk"]
    assert "job" not in lines


def job_that(*actions: str) -> str:
    """Return an sbatch script that runs the job's actions immediately, with the job's folder in $folder."""
    return f"""case "$*" in
        *--version*) echo slurm 23.11.4; exit;;
        *--test-only*) exit;;
    esac
    for word in "$@"; do case $word in --output=*) file=${{word#--output=}}; folder=${{file%/*}};; esac; done
    {"; ".join(actions)}
    echo 7"""


def test_a_pending_job_is_reported_with_the_reason(site, doctor, tmp_path):
    site(squeue="echo '7|PENDING|Priority'")
    status, lines = doctor()
    assert status == 1
    assert "job 7 is PENDING (Priority)" in lines["job"] and "--start" in lines["job"]
    assert not list(tmp_path.glob(".doctor*"))


def test_the_output_of_a_job_that_ends_immediately_is_shown(site, doctor):
    site(squeue="true", sbatch=job_that('echo "srun: command not found" > $folder/output.txt'))
    assert "srun: command not found" in doctor()[1]["job"]


def test_a_signal_that_does_not_arrive_is_a_failure(site, doctor):
    site(sbatch=job_that("touch $folder/ready"))
    status, lines = doctor()
    assert status == 1
    assert lines["job"].startswith("OK")
    assert "USR2 did not reach the job's step" in lines["signal"]


def test_a_refused_requeue_is_a_warning(site, doctor):
    refusal = '[ "$1" != requeue ] || { echo "slurm_requeue error: Access denied" >&2; exit 1; }'
    refusing = f"{refusal}\n{GOOD['scontrol']}"
    site(sbatch=job_that("touch $folder/ready $folder/signal"), scontrol=refusing)
    lines = doctor()[1]
    assert lines["signal"].startswith("OK")
    assert lines["requeue"].startswith("WARN")
    assert "Access denied" in lines["requeue"] and "no-requeue.md" in lines["requeue"]


@pytest.mark.parametrize(
    ("changed", "check", "expected"),
    [
        ({}, "rendezvous", ["OK", "2 ranks connected at c1 (10.0.0.1), port 20001"]),
        ({}, "folder", ["OK", "is shared"]),
        ({"token": {"error": "token.txt does not exist"}}, "folder", ["FAIL", "c1 cannot read", "--directory"]),
        ({"token": {"seconds": 20.0}}, "folder", ["WARN", "takes 20 s", "latency-wait"]),
        (
            {"rendezvous": {"error": "the name c1 does not resolve on c2"}},
            "rendezvous",
            ["FAIL", "does not resolve", "--submitit-ports"],
        ),
        (
            {"gpus": {"count": 0, "torch": "2.14", "cuda": "13.0"}},
            "gpus",
            ["FAIL", "1 GPUs requested", "(CUDA 13.0) detects"],
        ),
        ({"gpus": {"count": 1, "torch": "2.14", "names": ["H100"]}}, "gpus", ["OK", "can use H100"]),
    ],
)
def test_the_reports_of_the_nodes_are_evaluated(site, doctor, tmp_path, changed, check, expected):
    report = {**REPORT, "rendezvous": RENDEZVOUS, **changed}
    report["token"] = {**REPORT["token"], **report["token"], "text": "TOKEN"}
    template = tmp_path / "report.json"
    template.write_text(json.dumps(report))
    write = 'sed "s/TOKEN/$(cat $folder/token.txt)/" ' + str(template)
    is_nodes_job = "[ -e $folder/token.txt ] || exit 1"
    site(
        squeue='case "$*" in *7*) exit;; esac',
        sbatch=job_that(is_nodes_job, f"{write} > $folder/rank0.json", f"{write} > $folder/rank1.json"),
    )
    _, lines = doctor("--gpus", "1")
    for words in expected:
        assert words in lines[check]
