"""`mem predict` writes a table of predictions for image files."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mem.cli.main import main
from mem.export.exported_model import open_model
from mem.export.served import ServedModel
from tests.export.conftest import FinishedStudy

pytestmark = pytest.mark.stage


@pytest.fixture
def images(vit: FinishedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five images, a truncated image and a text file. The parent folder is the working directory."""
    for i, image in enumerate(vit.test_images(5)):
        path = tmp_path / "images" / ("deep" if i == 4 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    complete = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(complete[: len(complete) // 2])
    (tmp_path / "images" / "note.txt").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def test_a_folder_is_classified_and_unreadable_files_are_counted(vit, images, capsys):
    model = vit.run("train_head", "mem")
    assert main(["predict", "images", "--model", str(model), "--batch", "2"]) == 1
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    names = [*(f"images/{i}.png" for i in range(4)), "images/cut.png", "images/deep/4.png"]
    assert [row["path"] for row in rows] == names
    assert "1 of 6 files could not be read." in printed.err
    assert "images/cut.png: is damaged or truncated" in printed.err
    expected = ServedModel(open_model(model)).predict(np.stack(vit.test_images(5)))
    readable = [row for row in rows if not row["error"]]
    assert [row["class"] for row in readable] == expected["class"].tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in readable], expected["probability"], atol=1e-5)
    for column in ("group_weight.few", "group_norm.many"):
        np.testing.assert_allclose([float(row[column]) for row in readable], expected[column], rtol=1e-4)
    for row in readable:
        assert float(row["probability"]) >= float(row["probability_2"]) >= float(row["probability_5"])


def test_a_list_on_standard_input_is_classified_and_written_as_json(vit, images, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("images/1.png\nimages/none.png\n\nimages/0.png\n"))
    model = str(vit.run("train_head", "ce"))
    assert main(["predict", "-", "--model", model, "--format", "json", "--out", "predictions.json"]) == 1
    predictions = json.loads((images.parent / "predictions.json").read_text())
    assert [row["path"] for row in predictions] == ["images/1.png", "images/none.png", "images/0.png"]
    assert predictions[1] == {"path": "images/none.png", "error": "cannot be read: No such file or directory"}
    assert predictions[0]["class"] == predictions[0]["top"][0]["class"]
    assert len(predictions[0]["top"]) == 5
    assert "group_weights" not in predictions[0]


def test_the_status_is_0_if_every_file_was_read(vit, images, capsys, monkeypatch):
    run = vit.run("train_head", "mem")
    assert main(["predict", "images/0.png", "images/deep", "--model", str(run)]) == 0
    expected = capsys.readouterr()
    assert expected.err == ""
    # The head can also be specified by its key, in the folder that contains `runs/`.
    folder = images.resolve()
    monkeypatch.chdir(vit.folder)
    assert main(["predict", str(folder / "0.png"), "--model", run.name.rsplit("-", 1)[1]]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(",")[1:3] == expected.out.splitlines()[1].split(",")[1:3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "--model", "nowhere"], "nowhere: no such folder. Pass the run folder of a head"),
        (["images", "--model", "images"], "images: neither the run folder of a finished head"),
        (["images", "--model", "models:/digits"], "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        (["empty", "--model", "images"], "empty: this folder contains no image files"),
        (["-", "--model", "images"], "There are no images. Pass files, folders"),
    ],
)
def test_a_mistake_is_reported_in_one_message(images, capsys, monkeypatch, arguments, message):
    (images.parent / "empty").mkdir()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_names_that_are_no_readable_files_have_a_reason_each(vit, images, monkeypatch, capsys):
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    Path("link.png").symlink_to("nowhere")
    names = ["pipe.png", "folder.png", "link.png", "a\0b.png", "images/0.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(names)))
    assert main(["predict", "-", "--model", str(vit.run("train_head", "ce")), "--format", "json"]) == 1
    out, err = capsys.readouterr()
    assert [row["path"] for row in json.loads(out) if "error" not in row] == ["images/0.png"]
    assert [line.partition(": ")[2] for line in err.splitlines()[:4]] == [
        "is a named pipe, not a file",
        "cannot be read: Is a directory",
        "cannot be read: No such file or directory",
        "cannot be read: embedded null byte",
    ]
