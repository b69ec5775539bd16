"""Heads that a fork server runs: the same results, errors and signals as in a process that imports its modules."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mem.config import Study
from mem.jobs.fork.client import SERVER_VARIABLE
from mem.jobs.signals import SAVED_VARIABLE
from mem.jobs.workflow_signals import handles
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.conftest import REPOSITORY
from tests.stages.custom_studies import HEADS, feature_file_study
from tests.stages.running import find_run, run_study
from tests.waiting import wait

LONG = {"method": "crt", "training": HEADS["crt"]["training"] | {"epochs": 20_000}}
PROGRAM = """
import sys
from mem.cli.main import main
status = main(sys.argv[1:])
print("imported torch" if "torch" in sys.modules else "forked", flush=True)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, list[Run]]:
    """A study on feature files whose heads are trained by this process, and a head whose training takes minutes."""
    folder = tmp_path_factory.mktemp("forked")
    values = feature_file_study(folder)
    run_study(folder, values, ("features", "train_head"))
    values["heads"] = values["heads"] | {"long": LONG}
    runs = study_runs(Study.model_validate(values))
    write_configs(runs, Study.model_validate(values), folder)
    return folder, runs


class Owner:
    """A process that starts a fork server, and the environment of commands that use the server."""

    def __init__(self, folder: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from mem.jobs.fork.start import ForkServer\n"
            "server = ForkServer(Path(sys.argv[1])); print(server.variable, flush=True); sys.stdin.read()"
        )
        self.log = folder / "server.log"
        arguments = [sys.executable, "-c", program, str(self.log)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.variable = self.process.stdout.readline().strip()
        (self.server,) = psutil.Process(self.process.pid).children()

    def start(self, folder: Path, run: Run, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Start the command of a run."""
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, run.stage, "--config", f"{run.folder}/config.yaml", *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {SERVER_VARIABLE: self.variable} | environment,
        )

    def run(self, folder: Path, run: Run, *options: str, **environment: str) -> tuple[int, str]:
        """Run the command of a run. Return its status and its output."""
        process = self.start(folder, run, *options, **environment)
        output = process.communicate(timeout=300)[0]
        return process.returncode, output

    def stage_process(self) -> psutil.Process:
        """Return the forked process of the only run."""
        (found,) = (child for child in self.server.children() if child.status() != psutil.STATUS_ZOMBIE)
        return found


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> Iterator[Owner]:
    """A server that several tests use."""
    made = Owner(tmp_path_factory.mktemp("server"))
    yield made
    made.process.communicate(timeout=60)


def start_long(owner: Owner, folder: Path, runs: list[Run], **environment: str) -> subprocess.Popen[str]:
    """Start the training that takes minutes, and wait until it handles signals."""
    process = owner.start(folder, find_run(runs, "train_head", "long"), **environment)
    wait(lambda: handles(process.pid, signal.SIGUSR2), process)
    return process


def end_of_long(folder: Path, runs: list[Run]) -> dict:
    """Return the last event of the long training."""
    *_, last = read_events(RunFolder(folder / find_run(runs, "train_head", "long").folder).log)
    return last


def test_a_forked_head_equals_one_of_a_new_process(study, owner):
    folder, runs = study
    run = find_run(runs, "train_head", "crt")
    weights = folder / run.folder / "head.safetensors"
    before, _ = weights.read_bytes(), weights.unlink()
    status, output = owner.run(folder, run, "--log", "crt.log")
    assert (status, output.splitlines()[-1]) == (0, "forked"), output
    assert weights.read_bytes() == before
    assert "done in" in output and "done in" in (folder / "crt.log").read_text()
    status, output = owner.run(folder, find_run(runs, "evaluate", "crt"))
    assert (status, output.splitlines()[-1]) == (0, "forked"), output


def test_an_error_of_a_forked_stage_has_the_usual_message_and_status(study, owner):
    folder, runs = study
    run = find_run(runs, "train_head", "crt")
    status, output = owner.run(folder, run, "--head", "nowhere")
    assert status == 2 and "this run has no input head" in output
    status, output = owner.run(folder, run, "--unknown")
    assert status == 2 and "unrecognized arguments: --unknown" in output


def test_signals_of_the_command_reach_the_forked_stage(study, owner, tmp_path):
    folder, runs = study
    process = start_long(owner, folder, runs, **{SAVED_VARIABLE: str(tmp_path / "saved")})
    process.send_signal(signal.SIGUSR2)
    wait((tmp_path / "saved").exists, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "Run the same command to resume" in output
    assert end_of_long(folder, runs)["reason"] == "SIGTERM"
    process = start_long(owner, folder, runs)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "Resuming from the checkpoint" in output


def test_a_forked_stage_saves_and_ends_when_its_command_is_killed(study, owner):
    folder, runs = study
    process = start_long(owner, folder, runs)
    stage = owner.stage_process()
    process.kill()
    process.communicate()
    stage.wait(60)
    assert end_of_long(folder, runs)["status"] == "stopped"


def test_a_killed_stage_ends_its_command_and_no_other_run(study, owner):
    folder, runs = study
    process = start_long(owner, folder, runs)
    owner.stage_process().kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert owner.run(folder, find_run(runs, "train_head", "crt"))[0] == 0
    wait(lambda: owner.server.children() == [], seconds=30)  # no zombies


@pytest.mark.parametrize(
    "environment", [{"OMP_WAIT_POLICY": "active"}, {SERVER_VARIABLE: "mem-none host -"}, {"SLURM_JOB_ID": "7"}]
)
def test_a_command_that_differs_from_the_server_runs_by_itself(study, owner, environment):
    folder, runs = study
    owner.run(folder, find_run(runs, "train_head", "crt"))  # the server has imported its modules
    status, output = owner.run(folder, find_run(runs, "train_head", "crt"), **environment)
    assert (status, output.splitlines()[-1]) == (0, "imported torch"), output


def test_a_command_runs_by_itself_if_the_code_has_changed(study, monkeypatch):
    folder, runs = study
    package = folder / "code"
    shutil.copytree(REPOSITORY / "mem", package / "mem")
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    owner = Owner(folder)
    try:
        assert owner.run(folder, find_run(runs, "train_head", "crt"))[1].endswith("forked\n")
        (package / "mem" / "errors.py").touch()
        assert owner.run(folder, find_run(runs, "train_head", "crt"))[1].endswith("imported torch\n")
    finally:
        owner.process.communicate(timeout=60)
    assert "the code has changed" in owner.log.read_text()


def test_the_server_ends_with_its_owner_and_commands_then_run_by_themselves(study, tmp_path):
    folder, runs = study
    owner = Owner(tmp_path)
    owner.process.kill()
    owner.process.communicate()
    owner.server.wait(60)
    status, output = owner.run(folder, find_run(runs, "train_head", "crt"))
    assert (status, output.splitlines()[-1]) == (0, "imported torch"), output
