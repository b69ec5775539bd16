"""Modules in the working folder, such as a user's torch.py, do not replace installed packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.tracking.ui import UiOptions, open_ui
from mem.workflow_process import WorkflowProcess
from tests.tracking.logs import mlflow_run, open_log, send, steps
from tests.waiting import wait

REPOSITORY = Path(__file__).parents[2]
MODULES = ("psutil", "torch", "yaml", "sqlalchemy", "mlflow", "uvicorn", "pydantic", "json", "signal", "mem")


def add_modules(folder: Path) -> None:
    """Add modules that write their names to a file when they are imported."""
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported.txt')!r}, 'a').write(__name__ + '\\n')\n")


def imported(folder: Path) -> str:
    path = folder / "imported.txt"
    return path.read_text() if path.exists() else ""


@pytest.mark.stage
def test_the_mirror_and_the_jobs_of_a_workflow_import_nothing_from_the_working_folder(root, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    add_modules(root)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    process = WorkflowProcess(root)
    process.start()
    process.stop()
    subprocess.run([sys.executable, "-m", "psutil"], cwd=root, stderr=subprocess.DEVNULL, check=False)  # as a job does
    assert process._lock is not None
    process._lock.close()
    assert imported(root) == ""
    assert steps(root, "pretrain") == [1]


@pytest.mark.stage
def test_the_ui_imports_nothing_from_the_working_folder_and_serves_the_artifacts_of_a_copy(root):
    (root / "table.md").write_text("| a |")
    open_log(root, "pretrain").event("artifact", path="table.md", to="report")
    send(root)
    copy = root / "copy #1?"
    copy.mkdir()
    shutil.move(root / "runs", copy / "runs")
    add_modules(copy)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "mem.cli", "track", "ui", "--port", str(port)]
    log = open(root / "ui.log", "wb")
    ui = subprocess.Popen(command, cwd=copy, stdout=log, stderr=log)
    log.close()
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert ui.poll() is None, (root / "ui.log").read_text()
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10).close()
        except OSError:
            return False
        return True

    try:
        wait(answers, seconds=180)
        run_id = mlflow_run(copy, "pretrain").info.run_id
        page = f"{address}/get-artifact?run_uuid={run_id}&path=report/table.md"
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert answer.read() == b"| a |"
    finally:
        ui.terminate()
        ui.wait(60)
    assert imported(copy) == ""


def test_the_ui_is_started_without_the_working_folder_on_the_module_path(root, monkeypatch):
    started = []

    def start(file, command, environment):
        started.append((command, environment))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "execve", start)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(KeyboardInterrupt):
        open_ui(root, UiOptions(port=port))
    command, environment = started[0]
    assert command[1] == "-P"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert Path(environment["UVICORN_APP_DIR"], "uvicorn").is_dir()


def test_child_processes_of_mem_do_not_search_the_working_folder(monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONSAFEPATH")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["PYTHONSAFEPATH"] == "1"


@pytest.mark.workflow
def test_snakemake_imports_nothing_from_the_working_folder(tmp_path):
    """The working folder is also the folder of the Snakefile, which Snakemake searches first."""
    for name in ("Snakefile", "workflow", "config"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    add_modules(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "-n", "--cores", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert imported(tmp_path) == ""
