"""The output files of each stage are those that the workflow declares."""

from __future__ import annotations

import re

import pytest

from mem.runs.outputs import OUTPUT_FILES, output_files
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("stage", OUTPUT_FILES)
def test_the_output_files_are_those_of_the_rule(stage):
    rule = (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()
    names = set(re.findall(rf'"runs/[^"]*/{stage}-\{{+key\}}+/([^"]+)"', rule)) - {"config.yaml", "run.json"}
    if stage == "features":
        assert 'FEATURES = ["labels"] if ONLINE else ["pooled", "labels"]' in rule
        names.remove("{split}-{kind}.npy")
        names |= {f"{split}-{kind}.npy" for split in ("train", "val", "test") for kind in ("pooled", "labels")}
    assert set(output_files(stage, {}) or ()) == names


def test_online_features_are_not_stored():
    names = output_files("features", {"features": {"online": True}})
    assert names == ("train-labels.npy", "val-labels.npy", "test-labels.npy", "features.json")


def test_a_report_has_no_files_in_its_run_folder():
    assert output_files("report", {}) is None
