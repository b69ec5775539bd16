"""The doctor on the throwaway SLURM cluster."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from cluster.throwaway import ThrowawaySlurm
from snakemake_executor_plugin_submitit.doctor.__main__ import main
from tests.cluster.test_doctor import BANNER, GOOD, VARIABLES, disk_with

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


class TestOnTheRealSlurm:
    """Tests on the throwaway SLURM cluster."""

    @pytest.fixture(autouse=True)
    def _environment(self, slurm: ThrowawaySlurm, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in slurm.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(shutil, "disk_usage", disk_with(500e9))

    def test_every_check_passes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        status = main(["--folder", str(tmp_path), "--account", ThrowawaySlurm.account, "--wait", "60", "--json"])
        report = json.loads(capsys.readouterr().out)
        assert status == 0 and report["ok"], report
        assert {finding["status"] for finding in report["findings"]} == {"OK"}
        checks = {finding["check"] for finding in report["findings"]}
        assert checks >= {"accounting", "job", "signal", "requeue", "nodes", "folder", "rendezvous"}
        assert os.listdir(tmp_path) == []

    def test_every_check_passes_with_misleading_variables_and_banner_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        wrappers = tmp_path / "wrappers"
        wrappers.mkdir()
        for name in GOOD:
            (wrappers / name).write_text(f'#!/bin/sh\n{BANNER}\nexec {shutil.which(name)} "$@"\n')
            (wrappers / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrappers}:{os.environ['PATH']}")
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)
        status = main(["--folder", str(tmp_path), "--wait", "60", "--json"])
        report = json.loads(capsys.readouterr().out)
        assert status == 0, report
        assert [finding["check"] for finding in report["findings"] if finding["status"] != "OK"] == ["environment"]

    def test_gpus_that_slurm_allocates_but_torch_does_not_detect_are_a_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has real GPUs")
        assert main(["--folder", str(tmp_path), "--gpus", "1", "--wait", "60"]) == 1
        gpus = next(line for line in capsys.readouterr().out.splitlines() if " gpus " in line)
        assert gpus.startswith("FAIL") and "1 GPUs requested" in gpus
