"""Checkpoints on disk that are truncated, damaged, outdated or from a different run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from mem.train.checkpoints import Checkpoints
from mem.train.sizes import KEPT_CHECKPOINTS


@dataclass
class State:
    """A state that consists of one tensor."""

    step: int = 0
    value: torch.Tensor = field(default_factory=lambda: torch.zeros(1000))

    def snapshot(self) -> dict:
        return {"value": self.value, "step": self.step}

    def restore(self, snapshot: dict) -> None:
        self.value, self.step = snapshot["value"], snapshot["step"]


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path, warnings) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "abc", 60, warnings.append)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(State(step, torch.full((1000,), float(step))))
        checkpoints.wait()


def restored(checkpoints: Checkpoints) -> State | None:
    state = State()
    return state if checkpoints.restore_latest(state) else None


def data(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.folder / f"step-{step:09d}.pt"


def test_the_newest_checkpoint_is_restored(checkpoints):
    save(checkpoints, 9, 10, 100)
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 100
    assert (state.value == 100).all()


def test_nothing_is_restored_without_a_checkpoint(checkpoints):
    assert restored(checkpoints) is None


def test_only_the_newest_checkpoints_are_kept(checkpoints):
    save(checkpoints, *range(1, 8))
    assert sorted(p.name for p in checkpoints.folder.glob("*.pt")) == [f"step-{s:09d}.pt" for s in (6, 7)]
    assert len(list(checkpoints.folder.iterdir())) == 2 * KEPT_CHECKPOINTS


def test_a_full_disk_raises_an_error_with_the_file_name_and_keeps_the_older_checkpoint(checkpoints, file_limit):
    save(checkpoints, 1)
    path = data(checkpoints, 2)
    with file_limit(2000), pytest.raises(OSError, match="File too large") as error:
        save(checkpoints, 2)
    assert error.value.filename == str(path)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-000000001.json", "step-000000001.pt"]
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1


def test_a_truncated_checkpoint_is_skipped_with_a_warning(checkpoints, warnings):
    save(checkpoints, 1, 2)
    path = data(checkpoints, 2)
    path.write_bytes(path.read_bytes()[:-100])
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert f"Skipping checkpoint {path}: its size is {path.stat().st_size} bytes, expected" in warnings[0]
    assert "Trying the next older checkpoint." in warnings[0]


def test_a_checkpoint_with_a_flipped_bit_is_skipped(checkpoints, warnings):
    save(checkpoints, 1, 2)
    path = data(checkpoints, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert "its checksum is wrong" in warnings[0]


def test_a_checkpoint_of_another_run_is_skipped(checkpoints, warnings):
    save(checkpoints, 3)
    of_other_run = Checkpoints(checkpoints.folder, "other", 60, warnings.append)
    assert restored(of_other_run) is None
    assert "it belongs to run abc, not other" in warnings[0]


def test_a_checkpoint_without_its_data_file_is_skipped(checkpoints, warnings):
    save(checkpoints, 1, 2)
    data(checkpoints, 2).unlink()
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert "cannot read it" in warnings[0]


def test_a_checkpoint_with_an_invalid_description_is_skipped(checkpoints, warnings):
    save(checkpoints, 1)
    data(checkpoints, 1).with_suffix(".json").write_text("{")
    assert restored(checkpoints) is None
    assert "cannot read step-000000001.json" in warnings[0]


def test_a_data_file_without_a_description_is_ignored(checkpoints):
    # A process that is killed between writing the two files leaves this state.
    save(checkpoints, 1)
    data(checkpoints, 2).write_bytes(data(checkpoints, 1).read_bytes())
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1


def test_a_failed_save_keeps_the_older_checkpoints(checkpoints, monkeypatch):
    save(checkpoints, 1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-000000001.json", "step-000000001.pt"]


def test_a_checkpoint_is_due_after_its_interval_and_sooner_at_the_end_of_an_epoch(checkpoints, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    checkpoints = Checkpoints(checkpoints.folder, "abc", 60, print)
    for age, within_epoch, at_epoch_end in ((5, False, False), (25, False, True), (61, True, True)):
        now = 1000.0 + age
        assert checkpoints.due(epoch_ended=False) is within_epoch
        assert checkpoints.due(epoch_ended=True) is at_epoch_end


def test_the_description_has_step_key_and_size(checkpoints):
    save(checkpoints, 4)
    description = json.loads(data(checkpoints, 4).with_suffix(".json").read_text())
    assert description["step"] == 4
    assert description["key"] == "abc"
    assert description["bytes"] == data(checkpoints, 4).stat().st_size


def test_files_of_killed_writes_are_removed_on_resumption(checkpoints):
    save(checkpoints, 1, 2)
    left = checkpoints.folder / ".step-000000003.pt.17.tmp", data(checkpoints, 3)
    for path in left:
        path.write_bytes(b"incomplete")
    state = restored(checkpoints)
    assert state is not None and state.step == 2
    assert not any(path.exists() for path in left)
    assert data(checkpoints, 1).exists() and data(checkpoints, 2).exists()
