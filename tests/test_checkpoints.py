"""Checkpoints on disk: torn, foreign, old."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from mem.train.checkpoints import KEPT, Checkpoints


@dataclass
class State:
    """A state that is one tensor."""

    step: int = 0
    value: torch.Tensor = field(default_factory=lambda: torch.zeros(1000))

    def snapshot(self) -> dict:
        return {"value": self.value, "step": self.step}

    def restore(self, snapshot: dict) -> None:
        self.value, self.step = snapshot["value"], snapshot["step"]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path, said) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "abc", 60, said.append)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(State(step, torch.full((1000,), float(step))))


def restored(checkpoints: Checkpoints) -> State | None:
    state = State()
    return state if checkpoints.restore_latest(state) else None


def data(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.folder / f"step-{step:09d}.pt"


def test_the_newest_is_restored(checkpoints):
    save(checkpoints, 9, 10, 100)
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 100
    assert (state.value == 100).all()


def test_without_any_there_is_nothing_to_restore(checkpoints):
    assert restored(checkpoints) is None


def test_few_are_kept(checkpoints):
    save(checkpoints, *range(1, 8))
    assert sorted(p.name for p in checkpoints.folder.glob("*.pt")) == [f"step-{s:09d}.pt" for s in (6, 7)]
    assert len(list(checkpoints.folder.iterdir())) == 2 * KEPT


def test_on_a_full_disk_the_file_is_named_and_the_older_one_stays(checkpoints, file_limit):
    save(checkpoints, 1)
    path = data(checkpoints, 2)
    with file_limit(2000), pytest.raises(OSError, match="File too large") as error:
        save(checkpoints, 2)
    assert error.value.filename == str(path)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-000000001.json", "step-000000001.pt"]
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1


def test_a_torn_one_is_passed_over_with_a_warning(checkpoints, said):
    save(checkpoints, 1, 2)
    path = data(checkpoints, 2)
    path.write_bytes(path.read_bytes()[:-100])
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert f"{path} is not used: it has {path.stat().st_size} bytes and should have" in said[0]
    assert "next older one" in said[0]


def test_a_flipped_bit_is_found(checkpoints, said):
    save(checkpoints, 1, 2)
    path = data(checkpoints, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert "its checksum is wrong" in said[0]


def test_one_that_belongs_to_another_run_is_not_used(checkpoints, said):
    save(checkpoints, 3)
    stranger = Checkpoints(checkpoints.folder, "other", 60, said.append)
    assert restored(stranger) is None
    assert "it belongs to run abc, not other" in said[0]


def test_one_whose_data_are_missing_is_not_used(checkpoints, said):
    save(checkpoints, 1, 2)
    data(checkpoints, 2).unlink()
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1
    assert "it cannot be read" in said[0]


def test_a_note_that_is_no_json_is_not_used(checkpoints, said):
    save(checkpoints, 1)
    data(checkpoints, 1).with_suffix(".json").write_text("{")
    assert restored(checkpoints) is None
    assert "cannot be read" in said[0]


def test_data_without_a_note_are_not_used(checkpoints):
    # As when the process is killed between the two files.
    save(checkpoints, 1)
    data(checkpoints, 2).write_bytes(data(checkpoints, 1).read_bytes())
    state = restored(checkpoints)
    assert state is not None
    assert state.step == 1


def test_a_save_that_fails_leaves_the_older_ones_alone(checkpoints, monkeypatch):
    save(checkpoints, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-000000001.json", "step-000000001.pt"]


def test_one_is_due_after_its_interval_and_at_an_epochs_end_sooner(checkpoints, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    checkpoints = Checkpoints(checkpoints.folder, "abc", 60, print)
    for age, within, at_end in ((5, False, False), (25, False, True), (61, True, True)):
        now = 1000.0 + age
        assert checkpoints.due(epoch_ended=False) is within
        assert checkpoints.due(epoch_ended=True) is at_end


def test_the_note_says_what_was_written(checkpoints):
    save(checkpoints, 4)
    note = json.loads(data(checkpoints, 4).with_suffix(".json").read_text())
    assert note["step"] == 4
    assert note["key"] == "abc"
    assert note["bytes"] == data(checkpoints, 4).stat().st_size


def test_a_finished_run_clears_them(checkpoints):
    save(checkpoints, 1, 2)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    checkpoints.clear()
