"""ONNX models compute what PyTorch computes, for any number of images, and `mem predict` uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from mem.cli.main import main
from mem.errors import UserError
from mem.export.exported_model import open_model
from mem.export.onnx_model import OPSET, OnnxClassifier
from mem.longtail import SHOT_NAMES
from tests.conftest import REPOSITORY
from tests.export.classifiers import onnx_classifiers

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the ONNX models of `onnx_classifiers`."""
    folder = tmp_path_factory.mktemp("onnx")
    command = [sys.executable, "-m", "tests.export.classifiers", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["cosine", "ncm", "mem"])
def test_the_outputs_are_those_of_pytorch_for_any_number_of_images(models, name):
    path = models / f"{name}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    opsets = {entry.domain: entry.version for entry in onnx.load(str(path)).opset_import}
    assert opsets[""] == OPSET
    classifier, converted = onnx_classifiers()[name], OnnxClassifier(path)
    for number in (1, 3, 7):
        images = torch.randint(0, 256, (number, 8, 8, 3), dtype=torch.uint8)
        expected, found = classifier(images), converted(images)
        assert list(found) == list(expected)
        for output, values in expected.items():
            torch.testing.assert_close(found[output], values, rtol=1e-4, atol=1e-4)


def test_the_metadata_describe_classes_and_images(models):
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(str(models / "mem.onnx")).metadata_props}
    assert metadata["classes"] == [f"class {i}" for i in range(5)]
    assert metadata["preprocessing"]["side"] == 8
    assert metadata["preprocessing"]["normalisation"]["mean"] == [0.4, 0.5, 0.6]
    model = open_model(models / "mem.onnx")
    assert (model.groups, model.side) == (SHOT_NAMES, 8)


def test_images_are_classified_with_the_model(models, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    assert main(["predict", str(tmp_path / "image.png"), "--model", str(models / "mem.onnx"), "--format", "json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    expected = onnx_classifiers()["mem"](torch.from_numpy(image)[None])
    best = int(expected["probabilities"].argmax())
    assert prediction["class"] == f"class {best}"
    assert prediction["probability"] == pytest.approx(float(expected["probabilities"].max()), abs=1e-4)
    norms = dict(zip(SHOT_NAMES, expected["group_norms"][0].tolist(), strict=True))
    assert prediction["group_norms"] == pytest.approx(norms, rel=1e-4)


def test_a_file_that_is_no_model_of_mem_is_reported(models, tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="ONNX Runtime cannot read this file"):
        open_model(tmp_path / "damaged.onnx")
    foreign = onnx.load(str(models / "cosine.onnx"))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(UserError, match="`mem export` did not write this model"):
        open_model(tmp_path / "foreign.onnx")


def test_without_the_extra_the_command_names_it(vit, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "out"
    assert main(["export", str(vit.run("train_head", "ce")), "--out", str(out), "--format", "onnx"]) == 2
    assert "onnxruntime. Install the extra: pip install 'mem-longtail[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
