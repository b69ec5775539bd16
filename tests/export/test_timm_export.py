"""`mem export --format timm`: the folder, its model card, `mem predict`, and a new study that starts from it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from safetensors import safe_open

from mem.cli.main import main
from mem.config import TimmNetwork
from mem.config.initial import Initial
from mem.errors import UserError
from mem.export import formats
from mem.export.exported_model import export_head, open_model
from mem.export.formats import ExportOptions, export
from mem.models.backbones import build
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.sources import weights_file
from tests.export.conftest import CNN, HEADS, FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated, assert_predicts_as_evaluated
from tests.stages.running import MINI_VALUES, run_study

pytestmark = pytest.mark.stage
TIMM = ExportOptions(formats=("timm",), licence="cc-by-4.0")
IMAGES = 12


@pytest.fixture(scope="module")
def folders(vit, cnn, tmp_path_factory) -> dict[str, Path]:
    """The head crt of each study, exported in timm's form."""
    parent = tmp_path_factory.mktemp("timm")
    for name, study in (("vit", vit), ("cnn", cnn)):
        export(study.run("train_head", "crt"), parent / name, TIMM)
    return {name: parent / name for name in ("vit", "cnn")}


@pytest.fixture
def pictures(vit: FinishedStudy, tmp_path: Path) -> Path:
    """A folder with test images as PNG files."""
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(vit.test_images(IMAGES)):
        cv2.imwrite(str(tmp_path / "pictures" / f"{i:02}.png"), image[..., ::-1])
    return tmp_path / "pictures"


def predicted(pictures: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["predict", str(pictures), "--model", str(model)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("backbone", ["vit", "cnn"])
def test_predictions_are_those_of_the_run(backbone, folders, pictures, request, capsys):
    run = request.getfixturevalue(backbone).run("train_head", "crt")
    expected, found = predicted(pictures, run, capsys), predicted(pictures, folders[backbone], capsys)
    assert len(found) == IMAGES
    assert [row["class"] for row in found] == [row["class"] for row in expected]
    for column in ("probability", "probability_2", "probability_5"):
        values = ([float(row[column]) for row in rows] for rows in (found, expected))
        np.testing.assert_allclose(*values, atol=1e-5)


def test_timm_predicts_the_same_with_its_own_transform_where_nothing_is_resized(vit, folders, pictures, capsys):
    network = timm.create_model(f"local-dir:{folders['vit']}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    inputs = torch.stack([transform(Image.open(path).convert("RGB")) for path in sorted(pictures.iterdir())])
    with torch.no_grad():
        probabilities, classes = network(inputs).softmax(dim=1).max(dim=1)
    expected = predicted(pictures, vit.run("train_head", "crt"), capsys)
    labels = network.pretrained_cfg["label_names"]
    assert [labels[c] for c in classes] == [row["class"] for row in expected]
    np.testing.assert_allclose(probabilities, [float(row["probability"]) for row in expected], atol=1e-5)


def test_the_weights_are_marked_as_those_of_pytorch(folders):
    with safe_open(folders["cnn"] / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_model_card_contains_the_scores_by_shot_group(vit, folders):
    path = folders["vit"] / "README.md"
    metadata = metadata_load(path)
    assert metadata is not None
    assert (metadata["license"], metadata["library_name"]) == ("cc-by-4.0", "timm")
    assert metadata["tags"] == ["image-classification", "timm", "long-tailed"]
    assert metadata["datasets"] == ["mini_digits"]
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "mini_digits-vit_mini-crt"
    scores = json.loads((vit.run("evaluate", "crt") / "metrics.json").read_text())["splits"]["test"]
    found = {result.metric_name: result for result in results}
    few = found["Accuracy of few-shot classes (%)"]
    assert few.metric_value == scores["accuracy"]["few"]
    assert few.metric_args == {"interval_95": scores["interval"]["few"]}
    assert found["Accuracy (%)"].metric_value == scores["accuracy"]["all"]
    text = path.read_text()
    low, high = scores["interval"]["medium"]
    assert f"{scores['accuracy']['medium']:.1f} [{low:.1f}, {high:.1f}]" in text
    head = json.loads((vit.run("train_head", "crt") / "run.json").read_text())
    for fact in ("many>100 few<20", head["key"], str(head["git"]["commit"]), "sampler"):
        assert fact in text


def test_no_file_contains_a_path_of_this_machine(vit, folders):
    for path in folders["vit"].iterdir():
        assert str(vit.folder).encode() not in path.read_bytes()


def test_the_folder_is_the_start_of_a_new_finetuning(cnn, folders):
    initial = Initial(weights=f"local-dir:{folders['cnn']}")
    model = build(TimmNetwork.model_validate(CNN), 7)
    path = weights_file(initial)
    report = initialise_from(model, read_checkpoint(path), str(path))
    assert set(report.missing) == {f"{model.head_prefix}weight", f"{model.head_prefix}bias"}
    trained = open_model(cnn.run("train_head", "crt")).classifier.model.backbone.state_dict()  # type: ignore[union-attr]
    for name, values in model.backbone.state_dict().items():
        if not name.startswith(model.head_prefix):
            torch.testing.assert_close(values, trained[name], rtol=0, atol=0)


def test_a_head_on_a_frozen_backbone_from_such_a_folder_is_exported_again(cnn, folders, tmp_path):
    changes = {
        "dataset": MINI_VALUES["dataset"] | {"storage": "jpeg", "jpeg_quality": 80},
        "backbone": CNN | {"norm_batch": None},
        "pretrain": None,
        "finetune": None,
        "initial": {"weights": f"local-dir:{folders['cnn']}"},
        "heads": {"ce": {"training": HEADS["crt"]["training"]}},
    }
    stages = ("convert", "features", "train_head", "evaluate")
    study = FinishedStudy(tmp_path, run_study(tmp_path, MINI_VALUES | changes, stages))
    assert_exports_predict_as_evaluated(study, "ce", tmp_path / "mem")
    export(study.run("train_head", "ce"), tmp_path / "timm", TIMM)
    assert_predicts_as_evaluated(study, "ce", open_model(tmp_path / "timm"), atol=1e-4)
    assert "frozen" in json.loads((tmp_path / "mem" / "export.json").read_text())
    with open(folders["cnn"] / "model.safetensors", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() in (tmp_path / "timm" / "README.md").read_text()
    for name in ("README.md", "config.json"):
        assert str(folders["cnn"]) not in (tmp_path / "timm" / name).read_text()


def test_a_head_that_timm_cannot_express_leaves_no_folder(vit, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(vit.run("train_head", "mem")), "--out", str(out), "--format", "timm"]) == 2
    message = capsys.readouterr().err
    assert "MEM multiplies the logits by weights that it computes for each image" in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_earlier_export_is_replaced_only_if_this_is_requested(vit, folders, tmp_path, capsys):
    run, out = str(vit.run("train_head", "ce")), tmp_path / "out"
    assert main(["export", run, "--out", str(out), "--format", "timm"]) == 0
    (out / "notes.txt").write_text("mine")
    assert main(["export", run, "--out", str(out), "--format", "timm"]) == 2
    assert "already contains an export. Pass --overwrite to replace it." in capsys.readouterr().err
    arguments = ["--format", "mem", "--no-program", "--no-mlflow"]
    assert main(["export", run, "--out", str(out), *arguments]) == 0
    names = {"export.json", "backbone.safetensors", "head.json", "head.safetensors", "notes.txt"}
    assert {path.name for path in out.iterdir()} == names
    assert main(["export", run, "--out", str(out), "--format", "timm", "--overwrite"]) == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "README.md", "notes.txt"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    assert main(["export", run, "--out", str(tmp_path / "full"), "--format", "timm", "--overwrite"]) == 2
    assert "already exists and is not an export" in capsys.readouterr().err
    assert main(["export", run, "--out", str(tmp_path / "new"), "--license", "mit"]) == 2
    assert "--license: applies only to the format timm" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", run, "--out", str(out), "--format", "keras"])
    assert "unknown format 'keras'; expected mem, timm, onnx" in capsys.readouterr().err


def test_files_that_mem_did_not_write_are_never_replaced(vit, tmp_path, capsys):
    run, plain = str(vit.run("train_head", "ce")), ["--format", "mem", "--no-program", "--no-mlflow"]
    contents = {"README.md": "mine", "model.onnx": "mine", "model.safetensors": "mine", "config.json": '{"a": 1}'}
    own = tmp_path / "own"
    own.mkdir()
    for name, content in contents.items():
        (own / name).write_text(content)
    for damage in ('{"a": 1}', "{", "", 100_000 * "["):
        for name in ("config.json", "export.json"):
            (own / name).write_text(damage)
        for options in (plain, ["--format", "timm", "--overwrite"], ["--format", "onnx", "--overwrite"]):
            assert main(["export", run, "--out", str(own), *options]) == 2
            assert "already exists and is not an export" in capsys.readouterr().err
        changed = dict.fromkeys(("config.json", "export.json"), damage)
        assert {path.name: path.read_text() for path in own.iterdir()} == contents | changed

    out = tmp_path / "out"
    assert main(["export", run, "--out", str(out), *plain]) == 0
    for name, content in contents.items():
        (out / name).write_text(content)
    assert main(["export", run, "--out", str(out), *plain]) == 0  # replaces only the files of the format mem
    capsys.readouterr()
    assert main(["export", run, "--out", str(out), "--format", "timm", "--overwrite"]) == 2
    assert "config.json: this file is not part of the export in its folder. Move it" in capsys.readouterr().err
    assert {name: (out / name).read_text() for name in contents} == contents


def test_an_interrupted_export_leaves_nothing_or_the_earlier_one(vit, tmp_path, monkeypatch):
    run, out = vit.run("train_head", "ce"), tmp_path / "out"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(run, out, TIMM)
    assert not list(tmp_path.iterdir())
    export_head(run, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        export(run, out, TIMM._replace(overwrite=True))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_of_timm_that_mem_did_not_write_is_refused(folders, tmp_path):
    content = json.loads((folders["vit"] / "config.json").read_text())
    del content["mem"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"did not write this config\.json.* Load the network with timm"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        open_model(tmp_path)
