"""Losses and gradients that are not finite: training stops, or skips the step without a trace."""

from __future__ import annotations

import pytest
import torch

from mem.errors import Stopped, UserError
from mem.stages.finetune import classification
from mem.train.meters import SKIPPED_IN_A_ROW
from mem.train.state import TrainState
from mem.train.step import Objective
from tests.fit.training import (
    ADAMW,
    PIXELS,
    SGD,
    assert_same,
    curve,
    finetuning,
    recipe,
    trained,
)


def poisoned(at: set[int], kind: str, batch_size: int = 12) -> Objective:
    """The usual loss; at some steps (counted from 1) it, or its gradient alone, is not a finite number."""
    plain = classification(PIXELS, 0.1, 2)

    def objective(replica, batch):
        loss, metrics = plain(replica, batch)
        step = batch.first // batch_size + 1
        if step in at and kind == "loss":
            loss = loss * torch.inf
        elif step in at and kind == "shifted":
            loss = loss + torch.inf  # its slope is finite
        elif step in at:
            loss = loss + (0 * loss).sqrt()  # 0, with an infinite slope times 0
        return loss, metrics

    return objective


@pytest.mark.parametrize(
    ("kind", "words"), [("loss", "loss is not a finite number"), ("gradient", "gradient is not a finite number")]
)
def test_a_step_that_is_not_finite_is_named_and_no_checkpoint_holds_it(images, tmp_path, kind, words, monkeypatch):
    monkeypatch.setattr("mem.train.loop.LOGGED_POINTS", 3)  # a look every 8 steps
    with pytest.raises(UserError, match=rf"The {words}.* at step 11\. The last checkpoint is from before that"):
        trained(images, tmp_path, objective=poisoned({11, 13}, kind))
    monkeypatch.undo()
    with pytest.raises(UserError, match="at step 11"):
        trained(images, tmp_path / "saving", objective=poisoned({11, 13}, kind), every_seconds=0)
    newest = max((tmp_path / "saving" / "checkpoints").glob("*.pt"))
    assert newest.name == "step-000000010.pt"
    good = trained(images, tmp_path / "good", steps=10).model.state_dict()
    saved = torch.load(newest, weights_only=True)["model"]
    torch.testing.assert_close(saved, dict(good), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["loss", "shifted", "gradient"])
@pytest.mark.parametrize("optimizer", [ADAMW, {**SGD, "betas": None}])
def test_a_step_that_is_skipped_leaves_no_trace(images, tmp_path, kind, optimizer):
    def state() -> TrainState:
        return finetuning(settings=recipe(ema_decay=0.9, **optimizer))

    # Step 1 is bad in one training; the other begins at step 2. What follows is the same, bit by bit.
    skipping = trained(
        images, tmp_path / "s", state=state(), objective=poisoned({1}, kind), steps=5, skip_nonfinite=True
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


def test_means_are_those_of_the_steps_that_were_not_skipped(images, tmp_path, monkeypatch):
    monkeypatch.setattr("mem.train.loop.LOGGED_POINTS", 6)  # a point every 4 steps
    trained(images, tmp_path, objective=poisoned({2}, "loss"), skip_nonfinite=True)
    first = curve(tmp_path)[0][1]
    assert first["train/skipped"] == 1
    assert 1 < first["train/loss"] < 3


def test_a_training_that_skips_and_skips_ends(images, tmp_path):
    bad = set(range(3, 99))
    with pytest.raises(
        UserError, match=f"{SKIPPED_IN_A_ROW} steps in a row had to be skipped, the first bad one is step 3"
    ):
        trained(images, tmp_path, objective=poisoned(bad, "loss"), skip_nonfinite=True)


def test_a_training_that_skips_resumes_bit_by_bit(images, tmp_path):
    unbroken = trained(images, tmp_path / "u", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True)
    with pytest.raises(Stopped):
        trained(images, tmp_path / "b", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True, stop_after=4)
    resumed = trained(images, tmp_path / "b", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True)
    assert_same(resumed.model, unbroken.model)
    assert curve(tmp_path / "b") == curve(tmp_path / "u")


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_last_good_checkpoint(images, tmp_path):
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=5)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"is not a finite number.* at step \d+"):
        trained(images, tmp_path, lr=1e30, every_seconds=0)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    newest = torch.load(tmp_path / "checkpoints" / kept[-1].replace(".json", ".pt"), weights_only=True)
    assert set(before) & set(kept)
    assert all(torch.isfinite(value).all() for value in newest["model"].values())
