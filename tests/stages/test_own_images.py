"""An image set that no reader was written for: a hundred classes, long-tailed by nature, PNG, given as list files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mem.data.beton.reader import Beton
from mem.report.results import from_csv
from mem.runs.dag import Run
from mem.runs.folder import read_record
from tests.conftest import REPOSITORY
from tests.data import miniatures
from tests.stages.running import refusal
from tests.stages.test_no_val import ran, run_of

MINI = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())

HEADS = ("ce", "tau", "crt")
LARGEST = 104


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the study was run."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """All runs of a study of which the data set's section is all that is new."""
    dataset = miniatures.long_tailed_png(folder, largest=LARGEST)
    heads = {name: MINI["heads"][name] for name in HEADS}
    short = {"pretrain": None, "finetune": MINI["finetune"] | {"epochs": 2}}
    return ran(folder, MINI | short | {"study": "pictures", "dataset": dataset, "heads": heads})


def test_list_files_and_a_study_are_all_that_new_images_need(folder, runs):
    manifest = read_record(folder / run_of(runs, "convert").folder)["results"]
    assert len(manifest["classes"]) == 100
    assert manifest["splits"]["train"]["counts"] == miniatures.tail(100, LARGEST)
    assert min(manifest["groups"].values()) > 0
    rows = from_csv(folder / "results" / "pictures" / "report" / "results.csv")
    assert {(row.variant, row.split) for row in rows} == {
        (variant, split) for variant in HEADS for split in ("val", "test")
    }
    best = max(row.all for row in rows if row.split == "test")
    assert best > 3  # chance is 1 %


def test_the_converted_images_are_the_files_that_the_lists_name(folder, runs):
    converted = folder / run_of(runs, "convert").folder
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


def test_another_list_is_another_data_set(folder, runs):
    before = json.loads((folder / run_of(runs, "convert").folder / "run.json").read_text())["key"]
    from mem.config.load import load_study
    from mem.runs.dag import study_runs

    path = folder / "test.txt"
    content = path.read_text()
    path.write_text("\n".join(content.splitlines()[:-1]))
    after = next(run for run in study_runs(load_study([folder / "study.yaml"])) if run.stage == "convert").key
    path.write_text(content)
    assert after != before


def test_a_list_that_names_missing_files_ends_the_conversion_with_one_message(folder, runs, tmp_path):
    values = yaml.safe_load((folder / "study.yaml").read_text())
    miniatures.write_list(tmp_path / "test.txt", [(f"none/{i}.png", i) for i in range(100)])
    values["dataset"]["test_list"] = str(tmp_path / "test.txt")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    from mem.config.load import load_study
    from mem.runs.dag import study_runs
    from mem.runs.run_config import write_configs

    study = load_study([tmp_path / "study.yaml"])
    convert = next(run for run in study_runs(study) if run.stage == "convert")
    write_configs([convert], study, tmp_path)
    message = refusal(tmp_path, "convert", "--config", str(convert.folder / "config.yaml"))
    assert "100" in message
    assert "none/0.png" in message
    assert not list((tmp_path / convert.folder).glob("*.beton"))
