"""An exported head says of an image what the evaluation said of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mem.cli.main import main
from mem.config import Digits
from mem.config.load import load_study
from mem.data.datasets import read_dataset
from mem.data.features.files import open_split
from mem.errors import UserError
from mem.export.choice import best_head
from mem.export.folder import export_head, load_export, opened
from mem.export.served import Served
from mem.heads.build import load_head
from mem.heads.mem.head import MemHead
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import read_predictions
from mem.runs.dag import Run
from tests.export.conftest import VARIANTS, run_of

IMAGES = 40


def images_of(runs: list[Run]) -> list[np.ndarray]:
    """The test images as they were before the conversion."""
    dataset = run_of(runs, "convert").settings["dataset"]
    assert isinstance(dataset, Digits)
    test = read_dataset(dataset, 0).test
    pixels = [test.read(i) for i in range(IMAGES)]
    assert all(isinstance(image, np.ndarray) for image in pixels)
    return pixels  # type: ignore[return-value]


def evaluated(folder: Path, runs: list[Run], variant: str) -> dict[str, np.ndarray]:
    """What the head makes of the features of the same images: what the stage `evaluate` predicts from."""
    head = load_head(folder / run_of(runs, "train_head", variant).folder)
    split = open_split(folder / run_of(runs, "features").folder, "test")
    tokens = variant == "mem_on_crt"
    with torch.no_grad():
        inputs = split.inputs(0, np.arange(IMAGES), tokens=tokens)
        if not isinstance(head, MemHead):
            return {"probability": head(inputs).softmax(dim=1).numpy()}
        logits, weights, norms = (values.numpy() for values in head.modulate(inputs))
    return {
        "probability": torch.from_numpy(logits).softmax(dim=1).numpy(),
        "group_weight": weights,
        "group_norm": norms,
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", ["vit", "cnn"])
def test_an_export_says_what_the_evaluation_said(backbone, variant, request, tmp_path):
    folder, runs = request.getfixturevalue(backbone)
    exported = export_head(folder / run_of(runs, "train_head", variant).folder, tmp_path / "out")
    table = Served(exported).predict(pd.DataFrame({"image": images_of(runs)}))
    expected = evaluated(folder, runs, variant)
    names = {"probability": exported.classes, "group_weight": SHOT_NAMES, "group_norm": SHOT_NAMES}
    for kind, values in expected.items():
        columns = [f"{kind}.{name}" for name in names[kind]]
        np.testing.assert_allclose(table[columns].to_numpy(), values, atol=1e-5, rtol=1e-5)
    assert len(table.columns) == 2 + sum(values.shape[1] for values in expected.values())
    _, saved = read_predictions(folder / run_of(runs, "evaluate", variant).folder / "predictions.parquet")
    assert table["class"].tolist() == [exported.classes[c] for c in saved["test"].predictions[:IMAGES]]
    np.testing.assert_allclose(table["probability"], expected["probability"].max(axis=1), atol=1e-5)


@pytest.mark.parametrize(("backbone", "variant"), [("vit", "mem_on_crt"), ("cnn", "mem")])
def test_the_program_runs_with_torch_alone_on_any_number_of_images(backbone, variant, request, tmp_path):
    folder, runs = request.getfixturevalue(backbone)
    out = tmp_path / "out"
    # In a process of its own: here shapes are checked at every call, which torch.export cannot trace.
    run = folder / run_of(runs, "train_head", variant).folder
    command = ["export", str(run), "--out", str(out), "--no-mlflow"]
    done = subprocess.run([sys.executable, "-m", "mem.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    exported = load_export(out)
    squares = torch.randint(0, 256, (5, exported.side, exported.side, 3), dtype=torch.uint8)
    torch.save(squares, tmp_path / "squares.pt")
    code = (
        "import sys, torch; squares = torch.load(sys.argv[2]); program = torch.export.load(sys.argv[1]).module(); "
        "torch.save([program(squares[:n]) for n in (1, 3, 5)], sys.argv[3]); sys.exit('mem' in sys.modules)"
    )
    paths = [str(out / "program.pt2"), str(tmp_path / "squares.pt"), str(tmp_path / "answers.pt")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd=tmp_path)
    for number, found in zip((1, 3, 5), torch.load(tmp_path / "answers.pt"), strict=True):
        torch.testing.assert_close(found, dict(exported.classifier(squares[:number])), rtol=1e-5, atol=1e-5)


def test_images_come_in_any_form_and_size(vit, tmp_path):
    import base64

    import cv2

    folder, runs = vit
    served = Served(opened(folder / run_of(runs, "train_head", "mem").folder))
    picture = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    forms = [picture, picture.tolist(), png, base64.b64encode(png).decode()]
    table = served.predict(pd.DataFrame({"image": forms}))
    assert len(table) == 4
    for row in range(1, 4):
        pd.testing.assert_series_equal(table.iloc[row], table.iloc[0], check_names=False)
    alone = served.predict(picture[None])
    pd.testing.assert_frame_equal(alone, table[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"picture": [b""]}), "Expected a table with the column `image`, found \\['picture'\\]"),
        (pd.DataFrame({"image": ["no base64!"]}), "Image of row 0 is no base64 text"),
        (
            pd.DataFrame({"image": [np.zeros((4, 4, 3), np.uint8), b"hello"]}),
            "Image of row 1 is not in a supported image format",
        ),
        (pd.DataFrame({"image": [np.zeros((4, 4), np.uint8)]}), "Image of row 0 has shape \\(4, 4\\)"),
        (pd.DataFrame({"image": [np.full((4, 4, 3), 0.5)]}), "type float64; expected \\(height, width, 3\\)"),
        (pd.DataFrame({"image": [[[1, 2], [3]]]}), "Image of row 0 is no array"),
    ],
)
def test_what_is_no_image_is_named_with_its_row(vit, table, message):
    folder, runs = vit
    served = Served(opened(folder / run_of(runs, "train_head", "ce").folder))
    with pytest.raises(ValueError, match=message):
        served.predict(table)


def test_an_export_needs_nothing_of_the_folders_that_it_came_from(vit, tmp_path):
    folder, runs = vit
    run = folder / run_of(runs, "train_head", "mem").folder
    export_head(run, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    about = json.loads((tmp_path / "elsewhere" / "export.json").read_text())
    assert str(folder) not in (tmp_path / "elsewhere" / "export.json").read_text()
    assert about["key"] == run.name.rsplit("-", 1)[1]
    squares = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    moved, here = (opened(path).classifier(squares) for path in (tmp_path / "elsewhere", run))
    torch.testing.assert_close(moved, here, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_said(vit, tmp_path, capsys):
    folder, runs = vit
    head = folder / run_of(runs, "train_head", "ce").folder
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    refused = {
        (head, tmp_path / "full"): "is there already and is no export",
        (folder / run_of(runs, "finetune").folder, tmp_path / "out"): "is a finetune run; a head is exported",
        (tmp_path / "none", tmp_path / "out"): "this run is not finished",
    }
    for (run, out), message in refused.items():
        assert main(["export", str(run), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.tex"]


def test_an_export_of_another_version_is_refused(vit, tmp_path):
    folder, runs = vit
    export_head(folder / run_of(runs, "train_head", "ce").folder, tmp_path / "out")
    path = tmp_path / "out" / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    with pytest.raises(UserError, match="was exported in format 7"):
        load_export(tmp_path / "out")
    path.write_text("{}")
    with pytest.raises(UserError, match=r"export\.json: cannot be read"):
        load_export(tmp_path / "out")
    with pytest.raises(UserError, match=r"no exported model"):
        load_export(tmp_path)


def test_the_best_head_is_that_on_val_whatever_test_says(vit, tmp_path):
    folder, runs = vit
    study = load_study([folder / "study.yaml"])
    scores = {"ce": (10.0, 99.0), "crt": (30.0, 1.0), "mem": (20.0, 50.0), "mem_on_crt": (25.0, 70.0)}
    for variant, (val, test) in scores.items():
        evaluation = tmp_path / run_of(runs, "evaluate", variant).folder
        evaluation.mkdir(parents=True)
        splits = {"val": {"accuracy": {"all": val}}, "test": {"accuracy": {"all": test}}}
        (evaluation / "metrics.json").write_text(json.dumps({"splits": splits}))
    choice = best_head(study, tmp_path)
    assert choice.run.labels["variant"] == "crt"
    assert choice.reason == "crt, the best of 4: 30.00 % on val"
    assert best_head(study, tmp_path, "ce").reason == "ce, as named: 10.00 % on val"
    with pytest.raises(UserError, match="has no head lws"):
        best_head(study, tmp_path, "lws")
    for path in tmp_path.rglob("metrics.json"):
        path.write_text(json.dumps({"splits": {"test": {"accuracy": {"all": 5.0}}}}))
    with pytest.raises(UserError, match="has no val split to choose a head by, and test is not for choosing"):
        best_head(study, tmp_path)
    assert "as named" in best_head(study, tmp_path, "ce").reason
    path.unlink()
    with pytest.raises(UserError, match=r"metrics\.json: no such file: run the study first"):
        best_head(study, tmp_path)
