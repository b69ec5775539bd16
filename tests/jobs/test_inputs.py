"""A stage that does not find a file of an input run names the run and the command that creates the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.distributed import World
from mem.errors import UserError
from mem.jobs import job
from mem.jobs.signals import StopSignals
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder
from mem.runs.run_config import RunConfig, read_config, write_configs
from mem.tracking.log import NullLog
from tests.conftest import REPOSITORY
from tests.runs.test_outputs import touch_outputs
from tests.stages.running import find_run


@pytest.fixture
def head(tmp_path, monkeypatch) -> RunConfig:
    """The configuration of a train_head run whose inputs are finished."""
    monkeypatch.chdir(tmp_path)
    study = load_study([REPOSITORY / "tests" / "mini.yaml"])
    runs = study_runs(study)
    write_configs(runs, study)
    touch_outputs(runs, tmp_path)
    for run in runs:
        record = {name: value for name, value in run.document().items() if name in ("stage", "key", "settings")}
        inputs = {name: str(parent.folder) for name, parent in run.inputs.items()}
        (run.folder / "run.json").write_text(json.dumps({**record, "inputs": inputs}))
    return read_config(find_run(runs, "train_head", "mem_on_crt").folder, "train_head")


@pytest.mark.parametrize("name", ["train-tokens.npy", "val-labels.npy", "classifier.safetensors"])
def test_an_input_that_lacks_a_file_is_reported_with_the_command_that_creates_it(head, name, tmp_path):
    features = Path(head.inputs["features"])
    inputs = {name: Path(folder) for name, folder in head.inputs.items()}
    started = job.Job(head, RunFolder(tmp_path), inputs, World(), NullLog(), StopSignals())
    (features / name).unlink()
    with pytest.raises(UserError) as error:
        job._compute(lambda _: {"size": (features / name).stat().st_size}, started)
    assert str(error.value) == (
        f"{features}: input features of this run lacks {name}. Run it again: "
        f"mem features --config {features / 'config.yaml'}"
    )


def test_a_file_that_no_input_lacks_is_reported_as_before(head, tmp_path):
    inputs = {name: Path(folder) for name, folder in head.inputs.items()}
    started = job.Job(head, RunFolder(tmp_path), inputs, World(), NullLog(), StopSignals())
    with pytest.raises(FileNotFoundError):
        job._compute(lambda _: {"size": Path("other").stat().st_size}, started)
