"""Weights of a hub at the start of a workflow: the commit is required, and files are downloaded before any job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.models.hub_fixtures import NAME, NEW, REPOSITORY, files, study_values
from tests.models.hub_server import HubServer, ServedRepository, running_hub
from tests.workflow.conftest import snakemake

OTHER_WIDTH = "test_vit2"


def write_study(folder: Path, values: dict[str, Any], initial: dict[str, str]) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(study_values(values, initial, OTHER_WIDTH)))


def run(folder: Path, server: HubServer) -> str:
    variables = {"HF_ENDPOINT": server.address, "HF_HOME": str(folder / "hub"), "MEM_WEIGHTS": str(folder / "weights")}
    done = snakemake(folder, "--cores", "2", "--config", "study=study.yaml", check=False, **variables)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout


def test_weights_need_a_commit_and_are_downloaded_and_checked_before_any_job(tmp_path, mini_values):
    with running_hub() as server:
        # The configuration names the study's network, but the tensors are those of another one.
        content = files(1)
        content["config.json"] = content["config.json"].replace(b'"test_vit"', f'"{OTHER_WIDTH}"'.encode())
        server.repositories[REPOSITORY] = ServedRepository({NEW: content})
        write_study(tmp_path, mini_values, {"weights": NAME})
        assert f"initial:\n  weights: {NAME}\n  revision: {NEW}\n" in run(tmp_path, server)
        write_study(tmp_path, mini_values, {"weights": NAME, "revision": NEW})
        output = run(tmp_path, server)
    assert f"{NAME} is authenticated by the full SHA-256" in output
    assert "The weights do not fit the model" in output
    assert not list(tmp_path.glob("runs/*/*/*/run.json"))
