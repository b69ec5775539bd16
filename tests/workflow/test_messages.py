"""Messages of the workflow: user errors without tracebacks, and paths that are valid where the user stands."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import ENVIRONMENT, snakemake

STUDY = ("--config", f"study={REPOSITORY / 'tests' / 'mini.yaml'}")
CONVERT = ("--cores", "1", "--until", "convert", *STUDY)


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose lock this process holds, as another workflow process would."""
    (tmp_path / ".snakemake").mkdir()
    with open(tmp_path / ".snakemake" / "mem-head.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 17 on here, since today")
        lock.flush()
        yield tmp_path


def assert_only_message(done: subprocess.CompletedProcess, message: str) -> None:
    """Check that the output ends with one message, without names of source files."""
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("mem: ")]
    assert message in line
    for text in ("Traceback", 'File "', " in file ", "UserError", "Finished runs"):
        assert text not in done.stdout, done.stdout


def test_a_refused_workflow_process_prints_only_the_message_and_leaves_the_lock(locked_folder):
    done = snakemake(locked_folder, *CONVERT, check=False)
    assert_only_message(
        done, "Another workflow process is running in this folder: process 17 on here, since today. Two processes"
    )
    assert (locked_folder / ".snakemake" / "mem-head.lock").read_text() == "process 17 on here, since today"
    assert not (locked_folder / "logs").exists()


def test_an_unknown_run_is_reported_without_a_traceback(tmp_path):
    done = snakemake(tmp_path, "--cores", "1", "runs/a/b/pretrain-000000000000/run.json", *STUDY, check=False)
    assert_only_message(done, "Study mini has no run with the key 000000000000. `mem runs STUDY` lists its runs.")


@pytest.mark.parametrize("name", ["logs", "runs"])
def test_a_file_in_the_place_of_a_folder_is_reported_without_a_traceback(tmp_path, name):
    (tmp_path / name).touch()
    assert_only_message(snakemake(tmp_path, *CONVERT, check=False), name)


@pytest.mark.parametrize("absolute", [False, True])
def test_paths_are_valid_in_the_folder_in_which_snakemake_was_started(tmp_path, absolute):
    directory = str(tmp_path / "a b") if absolute else "a b"
    report = tmp_path / "a b" / "results" / "mini" / "report" / "index.html"
    report.parent.mkdir(parents=True)
    report.touch()
    output = snakemake(tmp_path, "--directory", directory, *CONVERT).stdout
    report_line = f"Report: {directory}/results/mini/report/index.html"
    assert f"{report_line}    MLflow UI: cd '{directory}' && mem track ui mini" in output
    command = "--directory", directory, "--dry-run", "--printshellcmds", "table1", *STUDY
    assert f"mem results mini table1 --directory '{tmp_path}/a b' | tee" in snakemake(tmp_path, *command).stdout


def test_mem_results_prints_paths_relative_to_the_current_folder(tmp_path):
    missing = subprocess.run(
        ["mem", "results", "mini", "--directory", "demo"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2
    assert missing.stderr.startswith("mem: demo/results/mini/report/results.csv does not exist")
