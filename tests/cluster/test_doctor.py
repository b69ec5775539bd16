"""The doctor names what is wrong with a site, and what to do; SLURM's commands are pretended here, but for the end."""

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

from cluster.doctor import head
from cluster.doctor.__main__ import main
from cluster.throwaway import ThrowawaySlurm

GOOD = {
    "sbatch": 'case "$*" in *--version*) echo slurm 23.11.4;; *) echo 7;; esac',
    "srun": "true",
    "sacct": "true",
    "scancel": "true",
    "squeue": "echo RUNNING None",
    "sacctmgr": "echo physics; echo biology",
    "scontrol": """case "$*" in
        *ping*) echo 'Slurmctld(primary) at head is UP';;
        *partition*) echo 'PartitionName=cpu Default=YES State=UP TotalNodes=4 MaxTime=2-00:00:00'
                     echo 'PartitionName=gpu Default=NO State=DOWN TotalNodes=2 MaxTime=04:00:00';;
        *config*) echo 'MinJobAge = 300 sec'; echo 'MaxArraySize = 1001'; echo 'AuthInfo = (null)';;
        *job*) echo 'JobId=7 Restarts=1';;
    esac""",
}
"""A site where all is well, as shell scripts."""
SEEN = {"node": "c1", "question": {"text": "", "seconds": 0.1}, "gpus": {"error": "none"}}
MET = {"address": "c1", "resolved": "10.0.0.1", "port": 20001}

Site = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Pretend a site: all is well but for the commands given; None takes one away."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for tool in ("cat", "sed", "touch", "sh", "sleep", "head"):
        (commands / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("cluster.doctor.jobs._FILE_SECONDS", 1.0)
    monkeypatch.setattr("cluster.doctor.jobs._END_SECONDS", 0.0)
    monkeypatch.setattr("cluster.doctor.trials._SIGNAL_SECONDS", 1.0)
    monkeypatch.setattr("cluster.doctor.trials._REQUEUE_SECONDS", 1.0)

    def pretend(**changed: str | None) -> None:
        for name, body in {**GOOD, **changed}.items():
            if body is not None:
                (commands / name).write_text(f"#!/bin/sh\n{body}\n")
                (commands / name).chmod(0o755)

    return pretend


@pytest.fixture
def examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, str]]]:
    """Run the doctor: its exit status, and its line of each check."""

    def examine(*arguments: str) -> tuple[int, dict[str, str]]:
        status = main(["--folder", str(tmp_path), "--wait", "1", *arguments])
        lines = capsys.readouterr().out.splitlines()
        return status, {line.split()[1]: line for line in lines}

    return examine


def test_without_slurm_it_says_so_and_still_looks_at_the_rest(tmp_path, monkeypatch, examined):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, lines = examined()
    assert status == 1
    assert lines["commands"].startswith("FAIL")
    assert "has no SLURM" in lines["commands"] and "login node" in lines["commands"]
    assert set(lines) == {"commands", "tracking", "disk"}


def test_a_site_where_all_is_well_passes(site, examined):
    site()
    status, lines = examined("--no-jobs")
    assert status == 0
    assert {line.split()[0] for line in lines.values()} == {"OK"}
    assert "cpu: 4 nodes, at most 2-00:00:00" in lines["partition"]
    assert "a requeued job waits 120 s" in lines["limits"]


@pytest.mark.parametrize(
    ("changed", "arguments", "check", "expected"),
    [
        ({"srun": None}, (), "commands", ["FAIL", "not on PATH: srun"]),
        ({"sbatch": "echo slurm 19.05.1"}, (), "version", ["WARN", "19.05.1"]),
        ({"scontrol": "echo 'Slurmctld(primary) at head is DOWN'"}, (), "controller", ["FAIL", "DOWN", "SLURM_CONF"]),
        (
            {"sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1"},
            (),
            "accounting",
            ["WARN", "storage is disabled", "MinJobAge (300 sec)"],
        ),
        ({}, ("--partition", "gpux"), "partition", ["FAIL", "no partition gpux", "cpu, gpu"]),
        ({}, ("--partition", "gpu"), "partition", ["FAIL", "state DOWN"]),
        (
            {"sbatch": "echo 'sbatch: error: Invalid account' >&2; exit 1"},
            ("--account", "chemistry"),
            "submission",
            ["FAIL", "--account=chemistry", "Invalid account", "biology, physics"],
        ),
        (
            {"scontrol": GOOD["scontrol"].replace("1001", "101")},
            (),
            "arrays",
            ["WARN", "MaxArraySize is 101", "--submitit-array-size 100"],
        ),
        ({"sacct": "sleep 5"}, (), "accounting", ["WARN", "no answer within"]),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(site, examined, monkeypatch, changed, arguments, check, expected):
    monkeypatch.setattr("cluster.doctor.site.ask.__defaults__", None)
    monkeypatch.setattr("cluster.doctor.site.ask.__kwdefaults__", {"seconds": 2.0})
    site(**changed)
    status, lines = examined("--no-jobs", *arguments)
    assert status == (1 if expected[0] == "FAIL" else 0), lines
    for words in expected:
        assert words in lines[check]


def test_options_come_from_the_plugins_environment_variables(site, examined, monkeypatch):
    site(sbatch='echo "sbatch: error: got $*" >&2; exit 1')
    monkeypatch.setenv("SNAKEMAKE_SUBMITIT_ACCOUNT", "physics")
    _, lines = examined("--no-jobs", "--qos", "long")
    assert "--account=physics --qos=long" in lines["submission"]


def test_the_doctor_may_run_in_a_job_of_its_own(site, examined, monkeypatch):
    site(sbatch='[ -z "$SLURM_JOB_ID" ] || { echo "sbatch: error: in job $SLURM_JOB_ID" >&2; exit 1; }; echo 23.11.4')
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert examined("--no-jobs")[0] == 0


@pytest.fixture
def server() -> Iterator[str]:
    """A server that is well under /good, and ill elsewhere."""

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
    ("path", "expected"), [("/good", "OK"), ("/bad", "WARN"), (None, "WARN")], ids=["good", "ill", "away"]
)
def test_the_tracking_server_is_asked_how_it_is(site, examined, monkeypatch, server, path, expected):
    site()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9" if path is None else f"{server}{path}")
    status, lines = examined("--no-jobs")
    assert status == 0
    assert lines["tracking"].startswith(expected)


@pytest.mark.parametrize(("free", "expected"), [(500e9, "OK"), (5e9, "WARN"), (1e8, "FAIL")])
def test_a_full_disk_is_seen_before_the_run(site, examined, monkeypatch, free, expected):
    site()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(free))
    assert examined("--no-jobs")[1]["disk"].startswith(expected)


def test_a_folder_that_cannot_be_written_to_is_a_failure(site, examined, monkeypatch):
    site()
    monkeypatch.setattr(head.os, "access", lambda *_: False)
    status, lines = examined()
    assert status == 1 and "cannot be written to" in lines["disk"]
    assert "job" not in lines


def job_that(*actions: str) -> str:
    """An sbatch whose job does something in its folder at once."""
    return f"""case "$*" in
        *--version*) echo 23.11.4; exit;;
        *--test-only*) exit;;
    esac
    for word in "$@"; do case $word in --output=*) file=${{word#--output=}}; folder=${{file%/*}};; esac; done
    {"; ".join(actions)}
    echo 7"""


def test_a_job_that_waits_in_the_queue_is_named_with_the_reason(site, examined, tmp_path):
    site(squeue="echo PENDING Priority")
    status, lines = examined()
    assert status == 1
    assert "job 7 is PENDING (Priority)" in lines["job"] and "--start" in lines["job"]
    assert not list(tmp_path.glob(".doctor*"))


def test_a_job_that_ends_at_once_shows_its_last_words(site, examined):
    site(squeue="true", sbatch=job_that('echo "srun: command not found" > $folder/output.txt'))
    assert "srun: command not found" in examined()[1]["job"]


def test_a_signal_that_does_not_arrive_is_a_failure(site, examined):
    site(sbatch=job_that("touch $folder/ready"))
    status, lines = examined()
    assert status == 1
    assert lines["job"].startswith("OK")
    assert "USR2 does not reach" in lines["signal"]


def test_without_the_right_to_requeue_there_is_a_warning(site, examined):
    refusal = '[ "$1" != requeue ] || { echo "slurm_requeue error: Access denied" >&2; exit 1; }'
    refusing = f"{refusal}\n{GOOD['scontrol']}"
    site(sbatch=job_that("touch $folder/ready $folder/signal"), scontrol=refusing)
    lines = examined()[1]
    assert lines["signal"].startswith("OK")
    assert lines["requeue"].startswith("WARN")
    assert "Access denied" in lines["requeue"] and "no-requeue.md" in lines["requeue"]


@pytest.mark.parametrize(
    ("changed", "check", "expected"),
    [
        ({}, "rendezvous", ["OK", "2 ranks met at c1 (10.0.0.1), port 20001"]),
        ({}, "folder", ["OK", "is shared"]),
        ({"question": {"error": "question.txt is not there"}}, "folder", ["FAIL", "c1 does not see", "--directory"]),
        ({"question": {"seconds": 20.0}}, "folder", ["WARN", "takes 20 s", "latency-wait"]),
        (
            {"meeting": {"error": "the name c1 does not resolve on c2"}},
            "rendezvous",
            ["FAIL", "does not resolve", "--submitit-ports"],
        ),
        (
            {"gpus": {"count": 0, "torch": "2.14", "cuda": "13.0"}},
            "gpus",
            ["FAIL", "asked for 1", "(CUDA 13.0) sees"],
        ),
        ({"gpus": {"count": 1, "torch": "2.14", "names": ["H100"]}}, "gpus", ["OK", "computes on H100"]),
    ],
)
def test_what_the_nodes_saw_is_told(site, examined, tmp_path, changed, check, expected):
    seen = {**SEEN, "meeting": MET, **changed}
    template = tmp_path / "seen.json"
    seen["question"] = {**SEEN["question"], **seen["question"], "text": "QUESTION"}
    template.write_text(json.dumps(seen))
    answer = 'sed "s/QUESTION/$(cat $folder/question.txt)/" ' + str(template)
    is_meeting = "[ -e $folder/question.txt ] || exit 1"
    site(
        squeue='case "$*" in *7*) exit;; esac',
        sbatch=job_that(is_meeting, f"{answer} > $folder/rank0.json", f"{answer} > $folder/rank1.json"),
    )
    _, lines = examined("--gpus", "1")
    for words in expected:
        assert words in lines[check]


@pytest.mark.slurm
@pytest.mark.timeout(180)
class TestOnTheRealSlurm:
    """The throw-away one."""

    @pytest.fixture(autouse=True)
    def _known(self, slurm: ThrowawaySlurm, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in slurm.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def test_all_is_well(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        status = main(["--folder", str(tmp_path), "--account", ThrowawaySlurm.account, "--wait", "60", "--json"])
        report = json.loads(capsys.readouterr().out)
        assert status == 0 and report["ok"], report
        assert {finding["status"] for finding in report["findings"]} == {"OK"}
        checks = {finding["check"] for finding in report["findings"]}
        assert checks >= {"accounting", "job", "signal", "requeue", "nodes", "folder", "rendezvous"}
        assert os.listdir(tmp_path) == []

    def test_gpus_that_slurm_has_and_torch_does_not_see_are_a_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has real GPUs")
        assert main(["--folder", str(tmp_path), "--gpus", "1", "--wait", "60"]) == 1
        gpus = next(line for line in capsys.readouterr().out.splitlines() if " gpus " in line)
        assert gpus.startswith("FAIL") and "asked for 1 GPUs" in gpus
