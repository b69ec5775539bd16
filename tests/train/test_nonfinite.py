"""Non-finite losses and gradients: training either stops, or skips every effect of the step."""

from __future__ import annotations

import pytest
import torch

from mem.errors import Stopped, UserError
from mem.jobs.classification import Classification
from mem.objectives.cross_entropy import CrossEntropy
from mem.train.meters import MAX_CONSECUTIVE_SKIPS
from mem.train.state import TrainState
from mem.train.step import Objective
from tests.train.training import (
    ADAMW,
    PIXELS,
    SGD,
    assert_same,
    curve,
    finetuning,
    recipe,
    trained,
)


def non_finite_at(at: set[int], kind: str, batch_size: int = 12) -> Objective:
    """Return a cross-entropy objective whose loss or gradient is not finite at the given steps (counted from 1)."""
    cross_entropy = Classification(PIXELS, CrossEntropy(5, 0.1), 2)

    def objective(replica, batch):
        loss, metrics = cross_entropy(replica, batch)
        step = batch.first // batch_size + 1
        if step in at and kind == "loss":
            loss = loss * torch.inf
        elif step in at and kind == "shifted":
            loss = loss + torch.inf  # the gradient is finite
        elif step in at:
            loss = loss + (0 * loss).sqrt()  # adds 0 to the loss, but NaN to the gradient
        return loss, metrics

    return objective


@pytest.mark.parametrize(("kind", "words"), [("loss", "loss is not finite"), ("gradient", "gradient is not finite")])
def test_a_non_finite_step_is_named_and_is_in_no_checkpoint(images, tmp_path, kind, words, monkeypatch):
    monkeypatch.setattr("mem.train.loop.LOGGED_POINTS", 3)  # one check every 8 steps
    with pytest.raises(UserError, match=rf"The {words}.* at step 11\. The last checkpoint is from an earlier step"):
        trained(images, tmp_path, objective=non_finite_at({11, 13}, kind))
    monkeypatch.undo()
    with pytest.raises(UserError, match="at step 11"):
        trained(images, tmp_path / "saving", objective=non_finite_at({11, 13}, kind), every_seconds=0)
    newest = max((tmp_path / "saving" / "checkpoints").glob("*.pt"))
    assert newest.name == "step-000000010.pt"
    expected = trained(images, tmp_path / "expected", steps=10).model.state_dict()
    saved = torch.load(newest, weights_only=True)["model"]
    torch.testing.assert_close(saved, dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["loss", "shifted", "gradient"])
@pytest.mark.parametrize("optimizer", [ADAMW, {**SGD, "betas": None}])
def test_a_skipped_step_changes_nothing(images, tmp_path, kind, optimizer):
    def state() -> TrainState:
        return finetuning(settings=recipe(ema_decay=0.9, **optimizer))

    # One training run skips step 1, because it is non-finite. The other run starts at step 2. All later steps are
    # bitwise equal.
    skipping = trained(
        images, tmp_path / "s", state=state(), objective=non_finite_at({1}, kind), steps=5, skip_nonfinite=True
    )
    without = state()
    without.step = 1
    trained(images, tmp_path / "w", state=without, steps=5)
    assert_same(skipping.model, without.model)
    assert_same(skipping.evaluated_model, without.evaluated_model)
    for one, other in zip(skipping.optimizer.state.values(), without.optimizer.state.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    logged = curve(tmp_path / "s")
    assert logged[0][1]["train/skipped"] == 1
    assert "train/loss" not in logged[0][1]
    assert all("train/skipped" not in metrics for _, metrics in logged[1:])


def test_logged_means_exclude_skipped_steps(images, tmp_path, monkeypatch):
    monkeypatch.setattr("mem.train.loop.LOGGED_POINTS", 6)  # one point every 4 steps
    trained(images, tmp_path, objective=non_finite_at({2}, "loss"), skip_nonfinite=True)
    first = curve(tmp_path)[0][1]
    assert first["train/skipped"] == 1
    assert 1 < first["train/loss"] < 3


def test_too_many_consecutive_skipped_steps_end_the_training(images, tmp_path):
    non_finite = set(range(3, 99))
    with pytest.raises(
        UserError, match=f"{MAX_CONSECUTIVE_SKIPS} consecutive steps were skipped. The first non-finite step is step 3"
    ):
        trained(images, tmp_path, objective=non_finite_at(non_finite, "loss"), skip_nonfinite=True)


def test_a_training_with_skipped_steps_resumes_bitwise(images, tmp_path):
    uninterrupted = trained(images, tmp_path / "u", objective=non_finite_at({4, 9}, "gradient"), skip_nonfinite=True)
    with pytest.raises(Stopped):
        trained(images, tmp_path / "b", objective=non_finite_at({4, 9}, "gradient"), skip_nonfinite=True, stop_after=4)
    resumed = trained(images, tmp_path / "b", objective=non_finite_at({4, 9}, "gradient"), skip_nonfinite=True)
    assert_same(resumed.model, uninterrupted.model)
    assert curve(tmp_path / "b") == curve(tmp_path / "u")


def test_a_diverging_training_stops_and_keeps_its_last_finite_checkpoint(images, tmp_path):
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=5)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"is not finite.* at step \d+"):
        trained(images, tmp_path, lr=1e30, every_seconds=0)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    newest = torch.load(tmp_path / "checkpoints" / kept[-1].replace(".json", ".pt"), weights_only=True)
    assert set(before) & set(kept)
    assert all(torch.isfinite(value).all() for value in newest["model"].values())
