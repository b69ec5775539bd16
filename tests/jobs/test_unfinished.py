"""What an interrupted run left is not combined with inputs that were computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.jobs.unfinished import INPUTS_FILE, UNFINISHED_STATISTICS, discard_for_other_inputs, remove_unfinished
from mem.runs.folder import RunFolder


def write_input(folder: Path, started: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"key": "a", "started": started}))
    return folder


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run that was interrupted: it has a checkpoint, features of a part of the images, and statistics."""
    folder = RunFolder(tmp_path / "run")
    for name in ("checkpoints/step-1.pt", "unfinished/map", UNFINISHED_STATISTICS):
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"partial")
    folder.config.write_text("stage: features")
    return folder


def left(run: RunFolder) -> set[str]:
    return {path.name for path in run.path.iterdir()} - {"config.yaml"}


EVERYTHING = {"checkpoints", "unfinished", UNFINISHED_STATISTICS, INPUTS_FILE}


def test_an_interrupted_run_keeps_what_it_has_while_its_inputs_are_the_same(run, tmp_path):
    inputs = {"classifier": write_input(tmp_path / "input", 1.5)}
    messages: list[str] = []
    for _ in range(2):  # the first attempt is one of an earlier version, which recorded no inputs
        discard_for_other_inputs(run, inputs, messages.append)
        assert left(run) == EVERYTHING
    assert messages == []


def test_an_input_that_was_computed_again_starts_the_run_from_the_beginning(run, tmp_path):
    inputs = {name: write_input(tmp_path / name, 1.5) for name in ("images", "classifier")}
    discard_for_other_inputs(run, inputs, print)
    write_input(tmp_path / "classifier", 2.5)
    messages: list[str] = []
    discard_for_other_inputs(run, inputs, messages.append)
    assert left(run) == {INPUTS_FILE}
    assert messages == ["Starting from the beginning, because these inputs were computed again: classifier."]
    discard_for_other_inputs(run, inputs, messages.append)
    assert len(messages) == 1


def test_a_finished_run_keeps_nothing_of_its_attempts(run, tmp_path):
    discard_for_other_inputs(run, {"images": write_input(tmp_path / "images", 1.5)}, print)
    remove_unfinished(run)
    assert left(run) == set()
    remove_unfinished(run)
