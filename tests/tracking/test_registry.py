"""The mirror registers the best head of a study, MLflow serves it, and `mem predict` loads it by name."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from mlflow.tracking import MlflowClient

from mem.cli.main import main
from mem.config.load import load_study
from mem.export.best_head import best_head
from mem.export.exported_model import open_model
from mem.export.predict import predict_files
from mem.runs.dag import Run
from mem.tracking import server
from mem.tracking.log import JsonLines, read_events
from mem.tracking.mirror import Mirror
from tests.stages.running import MINI_VALUES, run_study
from tests.tracking.test_server_failures import free_port

pytestmark = pytest.mark.stage
HEADS = {name: MINI_VALUES["heads"][name] for name in ("ce", "mem")}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, list[Run]]:
    """A folder with a finished study whose MEM head is registered, and the runs of the study."""
    folder = tmp_path_factory.mktemp("registered")
    runs = run_study(
        folder, MINI_VALUES | {"pretrain": None, "finetune": MINI_VALUES["finetune"] | {"epochs": 2}, "heads": HEADS}
    )
    before = Path.cwd()
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        assert main(["register", "study.yaml", "--head", "mem"]) == 0
    finally:
        os.chdir(before)
    return folder, runs


@pytest.fixture
def image_file(tmp_path) -> Path:
    image = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    return tmp_path / "image.png"


def head_run(runs: list[Run], variant: str) -> Run:
    return next(run for run in runs if run.stage == "train_head" and run.labels["variant"] == variant)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(server.tracking_uri(folder))


def test_the_alias_points_to_the_model_of_the_registered_head(study):
    folder, runs = study
    version = client(folder).get_model_version_by_alias("mini", "best")
    run = client(folder).get_run(version.run_id)
    assert run.data.tags["config_digest"] == head_run(runs, "mem").key == version.tags["mem.key"]
    assert {a.path for a in client(folder).list_artifacts(run.info.run_id, "model")} >= {"model/MLmodel", "model/data"}
    assert version.tags["chosen"].startswith("mem, selected with --head")


def test_every_run_that_uses_images_has_its_data_set(study):
    folder, runs = study
    images = next(run for run in runs if run.stage == "convert")
    mlflow_client = client(folder)
    found = {
        run.data.tags["stage"]: run
        for run in mlflow_client.search_runs([mlflow_client.get_experiment_by_name("mini_digits").experiment_id])
    }
    for stage in ("finetune", "features", "train_head"):
        (used,) = found[stage].inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("mini_digits", images.key)
        assert '"train": 489' in used.dataset.profile
    assert not found["convert"].inputs.dataset_inputs


def test_registering_a_head_again_changes_nothing_and_another_head_is_a_new_version(study, monkeypatch):
    folder, runs = study
    monkeypatch.chdir(folder)
    path = head_run(runs, "mem").folder
    (request,) = [event for event in read_events(path / "log.jsonl") if event["event"] == "model"]
    with JsonLines(path / "log.jsonl") as log:
        log.event(**{"kind": "model", **{k: v for k, v in request.items() if k not in ("event", "time")}})
    Mirror(folder, server.tracking_uri(folder)).send_new()
    assert len(client(folder).search_model_versions("name = 'mini'")) == 1
    with JsonLines(head_run(runs, "ce").folder / "log.jsonl") as log:
        log.event(
            "model",
            **{k: request[k] for k in ("path", "tags")},
            name="mini",
            alias="other",
            key=head_run(runs, "ce").key,
        )
    Mirror(folder, server.tracking_uri(folder)).send_new()
    versions = {alias: client(folder).get_model_version_by_alias("mini", alias).version for alias in ("best", "other")}
    assert (int(versions["best"]), int(versions["other"])) == (1, 2)


def test_a_registered_model_predicts_by_its_name_and_an_unknown_one_is_reported(study, image_file, capsys, monkeypatch):
    folder, runs = study
    monkeypatch.chdir(folder)
    assert main(["predict", str(image_file), "--model", "models:/mini@best"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    (expected,) = predict_files(open_model(head_run(runs, "mem").folder), [str(image_file)], 1)
    assert row["class"] == expected.classes[0][0]
    assert float(row["probability"]) == pytest.approx(expected.classes[0][1], abs=1e-5)
    assert main(["predict", str(image_file), "--model", "models:/mini@worst"]) == 2
    assert "models:/mini@worst: cannot be downloaded" in (message := capsys.readouterr().err)
    assert "mini@best" in message


def test_without_a_name_the_best_head_on_val_is_selected(study):
    folder, _ = study
    selected = best_head(load_study([folder / "study.yaml"]), folder)
    assert "the best of 2" in selected.reason


@pytest.mark.timeout(400)
def test_mlflow_serves_the_model_and_predicts_an_image(study, image_file):
    folder, runs = study
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/mini@best", "--env-manager", "local"]
    # MLflow starts uvicorn by name, so uvicorn must be on PATH, as in an activated environment.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": server.tracking_uri(folder), "PATH": path}
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/ping", timeout=10).ok:
                    break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "serve.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        content = base64.b64encode(image_file.read_bytes()).decode()
        response = requests.post(
            f"http://127.0.0.1:{port}/invocations", json={"dataframe_records": [{"image": content}]}, timeout=60
        )
        (row,) = response.json()["predictions"]
        (expected,) = predict_files(open_model(folder / head_run(runs, "mem").folder), [str(image_file)], 1)
        assert row["class"] == expected.classes[0][0]
        for name, probability in expected.classes:
            assert row[f"probability.{name}"] == pytest.approx(probability, abs=1e-5)
        assert row["group_norm.few"] == pytest.approx((expected.group_norms or {})["few"], rel=1e-5)
        refused = requests.post(
            f"http://127.0.0.1:{port}/invocations", json={"dataframe_records": [{"image": content[:40]}]}, timeout=60
        )
        assert refused.status_code == 400
        assert refused.json()["message"].startswith("Image of row 0 ")
        assert "stack_trace" not in refused.json()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
