"""Readings of the paper in training: phases, resuming, and readings that are the same by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mem.config import Mem, Shots
from mem.data.features.stored import FeatureSplit
from mem.errors import Stopped
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head, load_head, save_head
from mem.heads.mem.head import MemHead
from mem.heads.training import HeadFeatures, make_head
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.optimizers import head_optimizer, set_lr
from mem.train.stop import NeverStop
from tests.heads.mem_heads import mem_head, mem_settings

COUNTS = np.array([120, 110, 30, 25, 6, 5])
STEPS = 37
TWO_PHASES = {"phases": "regularisation_first", "first_phase": 0.4, "classifier": "trained"}


def train_split() -> FeatureSplit:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    centres = rng.normal(size=(len(COUNTS), 6))
    pooled = centres[labels] + rng.normal(size=(len(labels), 6))
    return FeatureSplit(pooled[None].astype(np.float32), None, labels)


def head_inputs() -> HeadInputs:
    rng = np.random.default_rng(1)
    weight, bias = (torch.from_numpy(rng.normal(size=shape)).float() for shape in ((6, 6), 6))
    return HeadInputs(Linear(weight, bias), COUNTS, Shots(), seed=0)


class StopAfter(NeverStop):
    """Requests a checkpoint at every step, and a stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self._left <= 0

    def take_save(self) -> bool:
        self._left -= 1
        return True


def trained(settings: Mem, folder: Path, stop_after: int | None = None) -> dict[str, Tensor]:
    """Train a head and return its state, or stop after some steps."""
    checkpoints = Checkpoints(folder, "key", 1e9, warn=lambda text: None)
    stop = NeverStop() if stop_after is None else StopAfter(stop_after)
    context = FitContext("mem", checkpoints=checkpoints, stop=stop, quiet=True, name="mem")
    head, results = make_head(settings, head_inputs(), HeadFeatures(train_split(), None), context)
    assert results["steps"] == STEPS
    return head.state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stopped_at", [3, 14, 15, 16, 30])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_head_with_two_phases_resumes_exactly_in_each_phase_and_at_their_border(tmp_path, stopped_at, optimizer):
    """The second phase starts at step 15 of 37."""
    settings = mem_settings(**TWO_PHASES)
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"optimizer": optimizer, "weight_decay": 1e-2})}
    )
    whole = trained(settings, tmp_path / "whole")
    with pytest.raises(Stopped, match=f"step {stopped_at} of {STEPS}"):
        trained(settings, tmp_path / "parts", stop_after=stopped_at)
    assert_equal(trained(settings, tmp_path / "parts"), whole)


def test_the_first_phase_trains_only_the_sub_networks_and_the_second_only_the_rest(tmp_path):
    settings = mem_settings(**TWO_PHASES)
    start = build_head(settings, head_inputs())
    assert isinstance(start, MemHead)
    assert start.first_phase_steps(STEPS) == 15
    before = {name: value.clone() for name, value in start.state_dict().items()}
    with pytest.raises(Stopped):
        trained(settings, tmp_path / "parts", stop_after=15)
    snapshot = torch.load(next((tmp_path / "parts").rglob("*.pt")), weights_only=False)
    between = snapshot["model"]
    after = trained(settings, tmp_path / "parts")

    def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
        return {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}

    assert changed(before, between) == {"subnetworks"}
    assert changed(between, after) == {"fusion", "classifier"}


@pytest.mark.parametrize(("steps", "expected"), [(1, 0), (2, 1), (10, 4), (1000, 400)])
def test_each_phase_has_at_least_one_step_of_two(steps, expected):
    assert mem_head(**TWO_PHASES).first_phase_steps(steps) == expected
    assert mem_head().first_phase_steps(steps) == 0


def test_a_fresh_classifier_is_that_of_crt_and_is_trained_with_its_own_learning_rate(tmp_path):
    settings = mem_settings(classifier="fresh", classifier_from=None, classifier_lr_scale=30.0)
    inputs = head_inputs()
    head = build_head(settings, inputs)
    assert isinstance(head, MemHead)
    assert not torch.equal(head.classifier.weight, inputs.classifier.weight)
    modulator, classifier = head.parameter_groups()
    assert [id(p) for p in classifier["params"]] == [id(p) for p in head.classifier.parameters()]
    assert len(modulator["params"]) + 2 == len(list(head.parameters()))
    step = torch.optim.SGD(head.parameter_groups(), lr=0.0)
    set_lr(step, 1e-3)
    assert [group["lr"] for group in step.param_groups] == [1e-3, 30e-3]
    state = trained(settings, tmp_path)
    assert not torch.equal(state["classifier.weight"], head.classifier.weight.detach())


def test_the_prior_is_the_share_of_each_class_and_is_not_saved(tmp_path):
    settings = mem_settings(prior_in_loss=True, sampler="instance")
    head = build_head(settings, head_inputs())
    np.testing.assert_allclose(head.get_buffer("log_prior").exp().numpy(), COUNTS / COUNTS.sum(), rtol=1e-6)
    save_head(tmp_path, head, settings, head_inputs())
    loaded = load_head(tmp_path)
    assert isinstance(loaded, MemHead)
    torch.testing.assert_close(loaded.get_buffer("log_prior"), head.get_buffer("log_prior"))
    z = torch.randn(4, 6)
    torch.testing.assert_close(loaded(z), head(z))


@pytest.mark.parametrize(
    "reading",
    [
        {"weight": "mixture", "logits": "standardised", "temperature": "learned", "input": "tokens", "pool": "norm"},
        {"weight": "softmax", "logits": "centred", "temperature": 0.3, "norms": "raw", "prior_in_loss": True},
    ],
)
def test_readings_can_be_exported_for_any_batch_size(reading):
    settings = mem_settings(sampler="instance", **reading)
    head = build_head(settings, head_inputs()).eval().requires_grad_(False)
    shape = (4, 6) if settings.input == "tokens" else (6,)
    samples = torch.export.Dim("samples", min=1)
    program = torch.export.export(head, (torch.randn(2, *shape),), dynamic_shapes=({0: samples},))
    for number in (1, 5):
        z = torch.randn(number, *shape)
        torch.testing.assert_close(program.module()(z), head(z))


# Readings that are the same by construction


def trajectory(weight: str, weight_decay: float) -> tuple[list[float], MemHead]:
    """Train a float64 head on all images for 20 steps, and return the losses and the head."""
    head = mem_head(weight=weight, classifier="trained").double()
    training = head.settings.training.model_copy(update={"weight_decay": weight_decay, "lr": 1e-2})
    optimizer = head_optimizer(head.parameter_groups(), training)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    labels, losses = torch.arange(40) % 7, []
    for _ in range(20):
        optimizer.zero_grad()
        loss, _ = head.loss(z, labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, head


def test_free_and_residual_weights_learn_the_same_without_weight_decay():
    (free, one), (residual, other) = trajectory("free", 0.0), trajectory("residual", 0.0)
    np.testing.assert_allclose(free, residual, rtol=1e-9)
    assert free[-1] < 0.98 * free[0]
    torch.testing.assert_close(one.fusion.out.bias, other.fusion.out.bias + 1, rtol=0, atol=1e-6)


def test_weight_decay_draws_free_weights_to_0_and_residual_weights_to_1():
    """This is the only difference: the decay of the last bias b, where free weights have b + 1 instead of b."""
    (_, one), (_, other) = trajectory("free", 20.0), trajectory("residual", 20.0)
    free, residual = (head.modulate(torch.zeros(1, 6, dtype=torch.float64))[1].mean() for head in (one, other))
    assert float(free.detach()) < 0.3
    assert float(residual.detach()) > 0.7
