"""An exported head returns the same predictions as the evaluation of the head."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from mem.cli.main import main
from mem.data.features.stored import open_split
from mem.errors import UserError
from mem.export.exported_model import export_head, load_export, open_model
from mem.export.served import ServedModel
from mem.heads.build import load_head
from mem.heads.mem.head import MemHead
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import read_predictions
from tests.export.conftest import VARIANTS, FinishedStudy

pytestmark = pytest.mark.stage
IMAGES = 40


def evaluated(study: FinishedStudy, variant: str) -> dict[str, np.ndarray]:
    """Return a head's outputs for the first test features, which `evaluate` reads too."""
    head = load_head(study.run("train_head", variant))
    split = open_split(study.run("features"), "test")
    with torch.no_grad():
        inputs = split.inputs(0, np.arange(IMAGES), tokens=head.uses_tokens)
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
def test_an_exported_model_predicts_what_the_evaluation_predicted(backbone, variant, request, tmp_path):
    study: FinishedStudy = request.getfixturevalue(backbone)
    model = export_head(study.run("train_head", variant), tmp_path / "out")
    table = ServedModel(model).predict(pd.DataFrame({"image": study.test_images(IMAGES)}))
    expected = evaluated(study, variant)
    names = {"probability": model.classes, "group_weight": SHOT_NAMES, "group_norm": SHOT_NAMES}
    for kind, values in expected.items():
        columns = [f"{kind}.{name}" for name in names[kind]]
        np.testing.assert_allclose(table[columns].to_numpy(), values, atol=1e-5, rtol=1e-5)
    assert len(table.columns) == 2 + sum(values.shape[1] for values in expected.values())
    _, saved = read_predictions(study.run("evaluate", variant) / "predictions.parquet")
    assert table["class"].tolist() == [model.classes[c] for c in saved["test"].predictions[:IMAGES]]
    np.testing.assert_allclose(table["probability"], expected["probability"].max(axis=1), atol=1e-5)


@pytest.mark.parametrize(("backbone", "variant"), [("vit", "mem_on_crt"), ("cnn", "mem"), ("vit", "block_classifier")])
def test_the_program_needs_only_torch_and_takes_any_batch_size(backbone, variant, request, tmp_path):
    study: FinishedStudy = request.getfixturevalue(backbone)
    out = tmp_path / "out"
    # Export in a separate process: the tests enable shape checks in this process, which torch.export cannot trace.
    command = ["export", str(study.run("train_head", variant)), "--out", str(out), "--no-mlflow"]
    done = subprocess.run([sys.executable, "-m", "mem.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = load_export(out)
    images = torch.randint(0, 256, (5, model.side, model.side, 3), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; images = torch.load(sys.argv[2]); program = torch.export.load(sys.argv[1]).module(); "
        "torch.save([program(images[:n]) for n in (1, 3, 5)], sys.argv[3]); sys.exit('mem' in sys.modules)"
    )
    paths = [str(out / "program.pt2"), str(tmp_path / "images.pt"), str(tmp_path / "outputs.pt")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd=tmp_path)
    for number, outputs in zip((1, 3, 5), torch.load(tmp_path / "outputs.pt"), strict=True):
        torch.testing.assert_close(outputs, dict(model.classifier(images[:number])), rtol=1e-5, atol=1e-5)


def test_an_image_may_be_an_array_lists_bytes_or_base64_of_any_size(vit):
    served = ServedModel(open_model(vit.run("train_head", "mem")))
    image = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    forms = [image, image.tolist(), png, base64.b64encode(png).decode()]
    table = served.predict(pd.DataFrame({"image": forms}))
    assert len(table) == 4
    for row in range(1, 4):
        # The rows of a batch may differ by rounding errors.
        numbers = table.drop(columns="class").astype(float)
        np.testing.assert_allclose(numbers.iloc[row], numbers.iloc[0], rtol=1e-5, atol=1e-6)
        assert table["class"][row] == table["class"][0]
    single = served.predict(image[None])
    pd.testing.assert_frame_equal(single, table[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"picture": [b""]}), "Expected a table with the column `image`, found \\['picture'\\]"),
        (pd.DataFrame({"image": ["no base64!"]}), "Image of row 0 is not valid base64"),
        (
            pd.DataFrame({"image": [np.zeros((4, 4, 3), np.uint8), b"hello"]}),
            "Image of row 1 is not in a supported image format",
        ),
        (pd.DataFrame({"image": [np.zeros((4, 4), np.uint8)]}), "Image of row 0 has shape \\(4, 4\\)"),
        (pd.DataFrame({"image": [np.full((4, 4, 3), 0.5)]}), "type float64; expected \\(height, width, 3\\)"),
        (pd.DataFrame({"image": [[[1, 2], [3]]]}), "Image of row 0 is not an array"),
        (
            pd.DataFrame({"image": [[[[0, 0, 256]]]]}),
            "Image of row 0 has values from 0 to 256; expected integers from 0",
        ),
        (pd.DataFrame({"image": [None]}), "Image of row 0 has the type NoneType; expected \\(height, width, 3\\)"),
        (pd.DataFrame({"image": ["data:image/png;base64,AAAA"]}), "without line breaks and without a `data:` prefix"),
    ],
)
def test_an_invalid_image_is_reported_with_its_row(vit, table, message):
    served = ServedModel(open_model(vit.run("train_head", "ce")))
    with pytest.raises(ValueError, match=message):
        served.predict(table)


def test_an_export_does_not_depend_on_the_run_folders(vit, tmp_path):
    run = vit.run("train_head", "mem")
    export_head(run, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    text = (tmp_path / "elsewhere" / "export.json").read_text()
    assert str(vit.folder) not in text
    assert json.loads(text)["key"] == run.name.rsplit("-", 1)[1]
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    moved, original = (open_model(path).classifier(images) for path in (tmp_path / "elsewhere", run))
    torch.testing.assert_close(moved, original, rtol=0, atol=0)


def test_a_folder_that_cannot_be_exported_is_refused(vit, tmp_path, capsys):
    head = vit.run("train_head", "ce")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    refused = {
        (head, tmp_path / "full"): "already exists and is not an export",
        (vit.run("finetune"), tmp_path / "out"): "this is a finetune run, but only the folder of a train_head",
        (tmp_path / "none", tmp_path / "out"): "none: not a run folder, not the beginning of a key in",
    }
    for (run, out), message in refused.items():
        assert main(["export", str(run), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.tex"]


def test_a_head_is_exported_by_its_key(vit, tmp_path, capsys, monkeypatch):
    run = vit.run("train_head", "ce")
    key = run.name.rsplit("-", 1)[1]
    monkeypatch.chdir(vit.folder)
    out = tmp_path / "out"
    assert main(["export", key, "--out", str(out), "--no-program", "--no-mlflow"]) == 0
    assert json.loads((out / "export.json").read_text())["key"] == key
    capsys.readouterr()
    for unknown in ("runs", "", "000000000000"):
        assert main(["export", unknown, "--out", str(out)]) == 2
        assert (
            f"mem: {unknown or '(empty text)'}: not a run folder, not the beginning of a key in runs"
            in capsys.readouterr().err
        )


def test_an_export_of_another_format_is_refused(vit, tmp_path):
    export_head(vit.run("train_head", "ce"), tmp_path / "out")
    path = tmp_path / "out" / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    with pytest.raises(UserError, match="this export has format 7"):
        load_export(tmp_path / "out")
    path.write_text("{}")
    with pytest.raises(UserError, match=r"export\.json: cannot be read"):
        load_export(tmp_path / "out")
    with pytest.raises(UserError, match=r"not an exported model"):
        load_export(tmp_path)
