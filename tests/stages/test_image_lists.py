"""A study of user-provided PNG images in list files, with 100 long-tailed classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from mem.runs.run_config import write_configs
from tests.data import miniatures
from tests.stages.running import MINI_VALUES, call_mem, find_run, run_study

HEADS = ("ce", "tau", "crt")
LARGEST = 104


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder in which the study was run."""
    return tmp_path_factory.mktemp("image_lists")


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """All runs of the study, which differs from the mini study only in the dataset."""
    dataset = miniatures.long_tailed_png(folder, largest=LARGEST)
    heads = {name: MINI_VALUES["heads"][name] for name in HEADS}
    short = {"pretrain": None, "finetune": MINI_VALUES["finetune"] | {"epochs": 2}}
    return run_study(folder, MINI_VALUES | short | {"study": "image_lists", "dataset": dataset, "heads": heads})


def test_list_files_and_a_study_are_enough_for_new_images(folder, runs):
    manifest = read_record(folder / find_run(runs, "convert").folder)["results"]
    assert len(manifest["classes"]) == 100
    assert manifest["splits"]["train"]["counts"] == miniatures.tail(100, LARGEST)
    assert min(manifest["groups"].values()) > 0
    rows = from_csv(folder / "results" / "image_lists" / "report" / "results.csv")
    assert {(row.variant, row.split) for row in rows} == {
        (variant, split) for variant in HEADS for split in ("val", "test")
    }
    best = max(row.all for row in rows if row.split == "test")
    assert best > 3  # chance level: 1 %


def test_the_converted_images_equal_the_listed_files(folder, runs):
    converted = folder / find_run(runs, "convert").folder
    test = Beton(converted / "test.beton")
    listed = [line.rsplit(" ", 1) for line in (folder / "test.txt").read_text().splitlines()]
    assert test.labels.tolist() == [int(label) for _, label in listed]
    for i in (0, 77, len(test) - 1):
        path, label = listed[i]
        out = np.zeros((24, 30, 3), dtype=np.uint8)
        test.crop(i, 0, 0, 24, 30, out)
        np.testing.assert_array_equal(out, miniatures.sample_image(int(label), int(path[-8:-4]), 100))
    names = (converted / "images.csv").read_text()
    assert all(path in names for path, _ in listed)


def test_a_changed_list_changes_the_key_of_the_conversion(folder, runs):
    before = json.loads((folder / find_run(runs, "convert").folder / "run.json").read_text())["key"]
    path = folder / "test.txt"
    content = path.read_text()
    path.write_text("\n".join(content.splitlines()[:-1]))
    after = next(run for run in study_runs(load_study([folder / "study.yaml"])) if run.stage == "convert").key
    path.write_text(content)
    assert after != before


def test_missing_files_in_a_list_end_the_conversion_with_one_message(folder, runs, tmp_path):
    values = yaml.safe_load((folder / "study.yaml").read_text())
    miniatures.write_list(tmp_path / "test.txt", [(f"none/{i}.png", i) for i in range(100)])
    values["dataset"]["test_list"] = str(tmp_path / "test.txt")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study([tmp_path / "study.yaml"])
    convert = next(run for run in study_runs(study) if run.stage == "convert")
    write_configs([convert], study, tmp_path)
    message = call_mem(tmp_path, "convert", "--config", str(convert.folder / "config.yaml"), status=2).err
    assert "100" in message
    assert "none/0.png" in message
    assert not list((tmp_path / convert.folder).glob("*.beton"))
