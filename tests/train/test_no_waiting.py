"""A training step never waits for the GPU: every operation only starts work.

The steps run on the device `meta`, which has no values and needs no GPU. An operation that reads a value cannot run on
it. Copies between main memory and the device that wait are found by their arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mem import config
from mem.data.augment.mixing import Mixing
from mem.data.batch import Batch, on_device
from mem.distributed import World
from mem.jobs.classification import Classification
from mem.jobs.contrastive_classification import with_contrast
from mem.models import pixels
from mem.models.backbones import build
from mem.models.contrastive_classifier import ContrastiveClassifier
from mem.models.mae import build_autoencoder
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.objectives.build import build_objective
from mem.objectives.cross_entropy import CrossEntropy
from mem.stages.pretrain import reconstruction
from mem.train.meters import FiniteWatch
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import Objective, StepContext, StepOptions, train_step
from tests.objectives.contrastive import contrastive_finetune
from tests.train.steps import BATCH, CONVMAE, PRETRAIN, VIT
from tests.train.training import CNN, PIXELS, SGD, recipe

DEVICE = torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Raises an error for an operation that waits for the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket
        if name is torch.ops.aten._local_scalar_dense:
            raise AssertionError("an operation reads a value")
        out = func(*args, **kwargs)
        if name in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source, target = (args[0], out) if name is torch.ops.aten._to_copy else (args[1], args[0])
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if source.device.type != target.device.type and not non_blocking:
                raise AssertionError(f"a copy of {tuple(source.shape)} from {source.device} to {target.device} waits")
        return out


class NoConstants(TorchFunctionMode):
    """Raises an error if a tensor is created from Python numbers on a device, because their copy waits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            raise AssertionError("a copy of new constants waits")
        return func(*args, **kwargs)


def mae(backbone: config.VisionTransformer | config.ConvMae) -> tuple[TrainState, Objective]:
    model = build_autoencoder(backbone, PRETRAIN).to(DEVICE)
    state = TrainState(model, backbone_optimizer(decay_groups(model, 0.05), PRETRAIN), ema_decay=0.9)
    return state, reconstruction(PIXELS, model.grid**2)


def finetuning(backbone: config.Backbone, settings: config.Training) -> tuple[TrainState, Objective]:
    model = build(backbone, 5, drop_path=0.4).to(DEVICE)
    groups = layer_decay_groups(model, settings.weight_decay, 0.8, decay_all=settings.decay_all)
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    return state, Classification(PIXELS, CrossEntropy(5, 0.1), model.branches, 0.9, Mixing(0.8, 1.0, 1.0, 0.5))


def contrast(backbone: config.TimmNetwork) -> tuple[TrainState, Objective]:
    recipe = contrastive_finetune(BATCH)
    model = build(backbone, 5, drop_path=0.4).to(DEVICE)
    loss = build_objective(recipe, np.full(5, 10)).to(DEVICE)
    plain = Classification(PIXELS, loss, model.branches, global_batch=BATCH, images=100)
    step = with_contrast(plain, model, recipe, backbone.norm_batch)
    groups = layer_decay_groups(model, 0.05, 0.8) + decay_groups(step.model.projectors, 0.05)
    return TrainState(step.model, backbone_optimizer(groups, recipe), ema_decay=0.9), step


CASES = {
    "mae": lambda: mae(VIT),
    "convmae": lambda: mae(CONVMAE),
    "vit": lambda: finetuning(VIT, recipe()),
    "cnn": lambda: finetuning(CNN.model_copy(update={"image_size": 32}), recipe(betas=None, ema_decay=0.9, **SGD)),
    "paco": lambda: contrast(CNN.model_copy(update={"image_size": 32, "norm_batch": 4})),
}


def micro_batch(state: TrainState) -> int | None:
    """Return the micro-batch; None for contrastive objectives, which need the complete batch."""
    return None if isinstance(state.model, ContrastiveClassifier) else 6


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_does_not_wait_for_the_device(case, skip, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none for this device
    pixels._factor_and_shift.cache_clear()
    state, objective = case()
    monkeypatch.setattr(state.optimizer, "step", lambda: None)  # fused optimizers have no kernel for this device
    options = StepOptions(micro_batch=micro_batch(state), clip_grad=1.0, skip_nonfinite=skip)
    context = StepContext(World(device=DEVICE), BATCH, options, FiniteWatch(skip))

    def step() -> None:
        images, labels = torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8), torch.zeros(BATCH, dtype=torch.int64)
        batch = Batch(images, labels, state.step * BATCH, 0, second=images.clone()).to(DEVICE)
        train_step(state, state.model, batch, objective, 1e-3, context)

    step()  # creates constants and the optimizer's state
    with NoConstants(), NoWaiting():
        step()
        step()
    assert state.step == 3


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_does_not_wait_for_a_gpu(case, skip, monkeypatch):
    """The same steps in bfloat16 with PyTorch's own detection, which also covers the optimizer."""
    monkeypatch.setitem(globals(), "DEVICE", torch.device("cuda", 0))
    state, objective = case()
    options = StepOptions(micro_batch=micro_batch(state), clip_grad=1.0, precision="bf16", skip_nonfinite=skip)
    context = StepContext(World(device=DEVICE), BATCH, options, FiniteWatch(skip))

    def batches(count: int) -> Iterator[Batch]:
        for step in range(count):
            images, labels = torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8), torch.zeros(BATCH, dtype=torch.int64)
            yield Batch(images, labels, step * BATCH, 0, second=images.clone())

    for batch in on_device(batches(2), DEVICE):
        train_step(state, state.model, batch, objective, 1e-3, context)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in on_device(batches(3), DEVICE):
            train_step(state, state.model, batch, objective, 1e-3, context)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.meter.read(World(device=DEVICE))["loss"] > 0


@pytest.mark.gpu
def test_the_next_batch_is_copied_while_the_work_on_the_current_one_runs(monkeypatch):
    device = torch.device("cuda", 0)
    content = torch.randint(0, 256, (3, 64, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(64)
    sums: list[torch.Tensor] = []
    streams: list[torch.cuda.Stream] = []
    original = torch.cuda.Stream
    monkeypatch.setattr(torch.cuda, "Stream", lambda *given: streams.append(original(*given)) or streams[-1])
    busy = None
    for batch in on_device((Batch(x.clone(), labels, 0, 0) for x in content), device):
        streams[0].synchronize()
        assert busy is None or not busy.query(), "the copy must end before the work on the batch before"
        torch.cuda._sleep(2_000_000_000)  # about a second
        sums.append(batch.inputs.sum(dtype=torch.int64))
        busy = torch.cuda.Event()
        busy.record()
    assert [int(total) for total in sums] == content.sum(dim=(1, 2, 3, 4), dtype=torch.int64).tolist()


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda values: torch.zeros(3).to(DEVICE), "from cpu to meta waits"),
        (lambda values: values.copy_(torch.zeros(3)), "from cpu to meta waits"),
        (lambda values: torch.tensor([1.0], device=DEVICE), "new constants waits"),
        (lambda values: values.sum().item(), "reads a value"),
        (lambda values: bool(values.sum() > 1), "reads a value"),
    ],
)
def test_operations_that_wait_are_found(wait, reason):
    values = torch.ones(3, device=DEVICE)
    with pytest.raises((AssertionError, RuntimeError), match=f"{reason}|meta tensors"), NoConstants(), NoWaiting():
        wait(values)
    with NoWaiting():
        torch.zeros(3).to(DEVICE, non_blocking=True)
