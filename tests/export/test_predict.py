"""`mem predict`: images in, a table out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mem.cli.main import main
from mem.export.folder import opened
from mem.export.served import Served
from tests.export.conftest import run_of
from tests.export.test_export import images_of


@pytest.fixture
def pictures(vit, tmp_path, monkeypatch):
    """A folder with five images and two files that are none."""
    _, runs = vit
    for i, image in enumerate(images_of(runs)[:5]):
        path = tmp_path / "pictures" / ("deep" if i == 4 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    whole = (tmp_path / "pictures" / "0.png").read_bytes()
    (tmp_path / "pictures" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures" / "note.txt").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def model(vit, variant: str = "mem") -> str:
    folder, runs = vit
    return str(folder / run_of(runs, "train_head", variant).folder)


def test_a_folder_is_classified_and_what_is_unreadable_is_counted(vit, pictures, capsys):
    assert main(["predict", "pictures", "--model", model(vit), "--batch", "2"]) == 1
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    names = [*(f"pictures/{i}.png" for i in range(4)), "pictures/cut.png", "pictures/deep/4.png"]
    assert [row["path"] for row in rows] == names
    assert "1 of 6 files could not be read." in printed.err
    assert "pictures/cut.png: is damaged or truncated" in printed.err
    expected = Served(opened(Path(model(vit)))).predict(np.stack(images_of(vit[1])[:5]))
    good = [row for row in rows if not row["error"]]
    assert [row["class"] for row in good] == expected["class"].tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in good], expected["probability"], atol=1e-5)
    for column in ("group_weight.few", "group_norm.many"):
        np.testing.assert_allclose([float(row[column]) for row in good], expected[column], rtol=1e-4)
    assert all(float(row["probability"]) >= float(row["probability_2"]) >= float(row["probability_5"]) for row in good)


def test_a_list_on_standard_input_gives_json(vit, pictures, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("pictures/1.png\npictures/none.png\n\npictures/0.png\n"))
    assert main(["predict", "-", "--model", model(vit, "ce"), "--format", "json", "--out", "answers.json"]) == 1
    answers = json.loads((pictures.parent / "answers.json").read_text())
    assert [answer["path"] for answer in answers] == ["pictures/1.png", "pictures/none.png", "pictures/0.png"]
    assert answers[1] == {"path": "pictures/none.png", "error": "cannot be read: No such file or directory"}
    assert answers[0]["class"] == answers[0]["top"][0]["class"]
    assert len(answers[0]["top"]) == 5
    assert "group_weights" not in answers[0]


def test_all_is_well_with_status_0(vit, pictures, capsys):
    assert main(["predict", "pictures/0.png", "pictures/deep", "--model", model(vit)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures", "--model", "nowhere"], "nowhere: no such folder; expected the run folder of a head"),
        (["pictures", "--model", "pictures"], "pictures: is neither the run folder of a finished head"),
        (["pictures", "--model", "models:/digits"], "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        (["empty", "--model", "pictures"], "empty: this folder holds no image files"),
        (["-", "--model", "pictures"], "No images: give files, folders"),
    ],
)
def test_mistakes_end_in_one_message(pictures, capsys, monkeypatch, arguments, message):
    (pictures.parent / "empty").mkdir()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err
