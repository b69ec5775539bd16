"""Checkpoints that a background thread writes while training continues."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from mem.config import Augmentation
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.distributed import World
from mem.errors import Stopped
from mem.jobs.classification import Classification
from mem.models.backbones import BackboneClassifier
from mem.objectives.cross_entropy import CrossEntropy
from mem.train.checkpoints import Checkpoints, copy_to_host
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.schedules import Schedule, cosine
from tests.train.training import PIXELS, STEPS, Stop, assert_same, curve, finetuning, trained

SLOW = 0.3
"""Delay of a slow write in seconds. The tests pass for any delay; without waiting, they fail for this one."""


class State:
    """A state that consists of one tensor, which training changes in place."""

    def __init__(self) -> None:
        self.step = 0
        self.value = torch.zeros(1000)

    def snapshot(self) -> dict:
        return {"value": self.value, "step": self.step}

    def restore(self, snapshot: dict) -> None:
        self.value, self.step = snapshot["value"], snapshot["step"]

    def advance(self) -> None:
        self.step += 1
        self.value += 1


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path, warnings) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "abc", 1e9, warnings.append)


@pytest.fixture
def writes(monkeypatch) -> list[str]:
    """Make writes slow. Return the list of their beginnings and ends."""
    events: list[str] = []
    write = Checkpoints._write

    def slow_write(self: Checkpoints, step: int, content: object) -> None:
        events.append(f"begin {step}")
        threading.Event().wait(SLOW)
        write(self, step, content)
        events.append(f"end {step}")

    monkeypatch.setattr(Checkpoints, "_write", slow_write)
    return events


def fail_to_write(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "step.pt")

    monkeypatch.setattr(Checkpoints, "_write", fail)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*.json"))


def test_a_checkpoint_has_the_state_at_the_save_although_training_continues_during_the_write(checkpoints, monkeypatch):
    continued = threading.Event()
    write = Checkpoints._write

    def write_late(self: Checkpoints, step: int, content: object) -> None:
        assert continued.wait(60), "save must return before the write ends"
        write(self, step, content)

    monkeypatch.setattr(Checkpoints, "_write", write_late)
    state = State()
    state.advance()
    checkpoints.save(state)
    state.advance()
    continued.set()
    checkpoints.wait()
    restored = State()
    assert checkpoints.restore_latest(restored)
    assert restored.step == 1
    assert (restored.value == 1).all()


def test_a_save_waits_for_the_write_of_the_previous_checkpoint(checkpoints, writes):
    state = State()
    for step in (1, 2):
        state.advance()
        checkpoints.save(state)
        assert f"end {step - 1}" in writes or step == 1
    checkpoints.wait()
    assert writes == ["begin 1", "end 1", "begin 2", "end 2"]


def test_a_failed_write_is_raised_once_by_the_next_call(checkpoints, monkeypatch):
    fail_to_write(monkeypatch)
    checkpoints.save(State())
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    checkpoints.wait()
    checkpoints.save(State())
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(State())
    checkpoints.save(State())
    assert checkpoints._writer is not None
    checkpoints._writer.exception(60)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.due(epoch_ended=False)


def test_a_context_raises_a_failed_write_and_does_not_hide_another_error(checkpoints, warnings, monkeypatch):
    fail_to_write(monkeypatch)
    with pytest.raises(OSError, match="No space left"), checkpoints:
        checkpoints.save(State())
    assert not warnings
    with pytest.raises(ValueError, match="another"), checkpoints:
        checkpoints.save(State())
        raise ValueError("another error")
    assert warnings == ["A checkpoint could not be written: [Errno 28] No space left on device: 'step.pt'"]


def test_only_rank_0_copies_and_writes(tmp_path):
    state = State()
    state.snapshot = lambda: pytest.fail("another rank copied its state")  # type: ignore[method-assign]
    checkpoints = Checkpoints(tmp_path, "abc", 0, print, World(rank=1, size=2))
    checkpoints.save(state)
    checkpoints.wait()
    assert not list(tmp_path.iterdir())


def test_a_copy_shares_no_memory_with_the_state():
    state = finetuning()
    copied = copy_to_host({"state": state.snapshot(), "list": [torch.ones(2), (1, "a", None)]})
    assert copied["list"][1] == (1, "a", None)
    expected = [value.clone() for value in state.model.state_dict().values()]
    with torch.no_grad():
        for value in state.model.parameters():
            value.zero_()
    torch.testing.assert_close(list(copied["state"]["model"].values()), expected, rtol=0, atol=0)


def test_the_memory_of_an_earlier_copy_is_used_again_if_it_fits():
    state = {"a": torch.rand(3, 4, 2, 2).to(memory_format=torch.channels_last), "b": [torch.rand(2)]}
    first = copy_to_host(state)
    addresses = first["a"].data_ptr(), first["b"][0].data_ptr()
    state["a"] += 1
    second = copy_to_host(state, first)
    assert (second["a"].data_ptr(), second["b"][0].data_ptr()) == addresses
    assert second["a"].stride() == state["a"].stride()
    torch.testing.assert_close(second, state, rtol=0, atol=0)
    state |= {"a": torch.rand(5), "b": [torch.rand(2), torch.rand(2)]}
    torch.testing.assert_close(copy_to_host(state, second), state, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_copy_from_a_gpu_is_pinned_and_complete():
    value = torch.rand(1000, 1000, device="cuda")
    torch.cuda._sleep(100_000_000)
    value.mul_(2)
    copied = copy_to_host({"value": value})["value"]
    value.zero_()
    assert copied.is_pinned()
    assert copied.max() > 1
    again = copy_to_host({"value": value}, {"value": copied})["value"]
    assert again.data_ptr() == copied.data_ptr()
    assert not again.any()


# --- training -------------------------------------------------------------------------------------------------------


def test_a_training_that_is_killed_during_a_write_resumes_exactly(
    images, tmp_path, monkeypatch, uninterrupted, uninterrupted_folder
):
    """The write at step 9 has begun when training is killed. Training resumes from the checkpoint of step 8."""
    write = Checkpoints._write

    def kill_at_9(self: Checkpoints, step: int, content: object) -> None:
        if step == 9:
            (self.folder / ".step-000000009.pt.1.tmp").write_bytes(b"part")
            raise KeyboardInterrupt
        write(self, step, content)

    monkeypatch.setattr(Checkpoints, "_write", kill_at_9)
    with pytest.raises(KeyboardInterrupt):
        trained(images, tmp_path, every_seconds=0)
    assert names(tmp_path / "checkpoints")[-1] == "step-000000008.json"
    monkeypatch.undo()
    resumed = trained(images, tmp_path)
    assert_same(resumed.model, uninterrupted.model)
    torch.testing.assert_close(resumed.optimizer.state_dict(), uninterrupted.optimizer.state_dict(), rtol=0, atol=0)
    assert curve(tmp_path) == curve(uninterrupted_folder)


def test_a_stopped_training_ends_after_its_checkpoint_is_on_disk(images, tmp_path, writes, uninterrupted):
    with pytest.raises(Stopped, match="Saved at step 7"):
        trained(images, tmp_path, stop_after=7)
    assert writes == ["begin 7", "end 7"]
    assert_same(trained(images, tmp_path).model, uninterrupted.model)


def test_the_ranks_of_a_stopped_training_wait_for_its_checkpoint(images, tmp_path, writes, monkeypatch):
    monkeypatch.setattr(World, "barrier", lambda _: writes.append("barrier"))
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=7)
    assert writes == ["begin 7", "end 7", "barrier"]


def test_no_rank_waits_for_a_checkpoint_that_cannot_be_written(images, tmp_path, monkeypatch):
    waits: list[World] = []
    monkeypatch.setattr(World, "barrier", lambda world: waits.append(world))
    fail_to_write(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        trained(images, tmp_path, stop_after=7)
    assert len(waits) == 1


def test_a_finished_training_has_no_write_in_progress(images, tmp_path, writes):
    trained(images, tmp_path, every_seconds=0, steps=2)
    assert writes == ["begin 1", "end 1"]


def test_a_full_disk_ends_the_training_with_an_error_that_names_the_checkpoint(images, tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=3)
    fail_to_write(monkeypatch)
    state = finetuning()
    with pytest.raises(OSError, match=r"No space left on device: 'step\.pt'"):
        trained(images, tmp_path, every_seconds=0, state=state)
    assert state.step < STEPS
    assert names(tmp_path / "checkpoints") == ["step-000000003.json"]


def test_a_requested_checkpoint_is_acknowledged_when_it_is_on_disk(images, tmp_path, writes):
    class Requests(Stop):
        def saved(self) -> None:
            super().saved()
            assert writes[-1] == f"end {state.step}"

    state = finetuning()
    requests = Requests(save=True)
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    context = FitContext("test", checkpoints=Checkpoints(tmp_path, "key", 1e9, print), stop=requests)
    assert isinstance(state.model, BackboneClassifier)
    objective = Classification(PIXELS, CrossEntropy(5, 0.0), state.model.branches)
    fit(state, data, objective, Schedule(4, 3.0, cosine(1e-3, 4)), context)
    assert requests.acknowledged == 3
