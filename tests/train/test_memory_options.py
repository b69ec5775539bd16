"""Options that change only memory and speed: activation checkpointing, channels last, and fused optimizers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mem.distributed import SINGLE_PROCESS
from mem.errors import UserError
from mem.jobs.classification import Classification
from mem.models.backbones import BackboneClassifier, build
from mem.models.channels_last import is_convolutional, store_channels_last
from mem.models.flops import training_flops
from mem.models.parameter_groups import layer_decay_groups
from mem.models.recompute import recompute_activations
from mem.objectives.cross_entropy import CrossEntropy
from mem.precision import Precision
from mem.stages.pretrain import reconstruction
from mem.train.checkpoints import copy_to_host
from mem.train.meters import FiniteWatch
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import StepContext, StepOptions, train_step
from tests.conftest import REPOSITORY
from tests.train.steps import BATCH, CASES, CONVMAE, SIDE, VIT, Case, classifier, random_batch
from tests.train.training import CNN, PIXELS, SGD, assert_same, finetuning, recipe


def trained(case: Case, *, recompute: bool, precision: Precision = "fp32", device: str = "cpu") -> TrainState:
    """Train for three steps with two micro-batches each."""
    model, objective = case()
    model.to(device)
    if recompute:
        recompute_activations(model, "model")
    settings = recipe(betas=None, **SGD)
    state = TrainState(model, backbone_optimizer([{"params": list(model.parameters())}], settings))
    world = SINGLE_PROCESS if device == "cpu" else type(SINGLE_PROCESS)(device=torch.device(device))
    context = StepContext(world, BATCH, StepOptions(micro_batch=6, precision=precision), FiniteWatch())
    for step in range(3):
        train_step(state, state.model.train(), random_batch(step, SIDE), objective, 0.05, context)
    return state


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_weights_bit_for_bit(case, precision):
    kept, recomputed = (trained(case, recompute=recompute, precision=precision) for recompute in (False, True))
    assert_same(recomputed.model, kept.model)
    assert recomputed.meter.read(SINGLE_PROCESS) == kept.meter.read(SINGLE_PROCESS)


def saved_bytes(case: Case, *, recompute: bool) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without the inputs of recomputed blocks."""
    model, objective = case()
    if recompute:
        recompute_activations(model, "model")
    storages = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        objective(model.train(), random_batch(0, SIDE))
    return sum(storages.values())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_recomputing_keeps_fewer_activations(case):
    assert saved_bytes(case, recompute=True) < 0.9 * saved_bytes(case, recompute=False)


def test_the_flops_of_a_step_do_not_count_recomputed_activations():
    model, _ = classifier(VIT)
    flops = training_flops(model, (1, 3, SIDE, SIDE))
    recompute_activations(model, "vit")
    assert training_flops(model, (1, 3, SIDE, SIDE)) == flops


def test_a_network_without_activation_checkpointing_is_reported():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="recompute_activations: plain does not support activation checkpointing"):
        recompute_activations(model, "plain")
    recompute_activations(model, "plain", enabled=False)


@pytest.mark.parametrize(
    ("backbone", "expected"), [(VIT, False), (CONVMAE, False), (CNN, True)], ids=["vit", "convmae", "cnn"]
)
def test_networks_of_convolutions_are_recognised(backbone, expected):
    assert is_convolutional(build(backbone, 5)) is expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_last_changes_only_rounding(case):
    model, objective = case()
    model = model.double()
    changed = copy.deepcopy(model)
    store_channels_last(changed)
    assert any(p.ndim == 4 and not p.is_contiguous() for p in changed.parameters())
    exact = PIXELS.__class__(PIXELS.mean, PIXELS.std, torch.float64)
    del objective
    objective = (
        Classification(exact, CrossEntropy(5, 0.1), model.branches)
        if isinstance(model, BackboneClassifier)
        else reconstruction(exact, model.grid**2)  # type: ignore[operator, arg-type]
    )
    batch = random_batch(0, SIDE)
    losses = [objective(each, batch)[0] for each in (model, changed)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=1e-10)
    for loss in losses:
        loss.backward()
    for mine, theirs in zip(changed.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("optimizer", [{}, {"betas": None, **SGD}], ids=["adamw", "sgd"])
@pytest.mark.parametrize("saved_channels_last", [False, True])
def test_a_checkpoint_resumes_with_another_memory_format(optimizer, saved_channels_last):
    """The optimizer's state gets the strides of the weights. Otherwise, a fused optimizer mixes up its values."""
    settings = recipe(**optimizer)

    def state(channels_last: bool) -> TrainState:
        torch.manual_seed(0)
        model = build(CNN, 5)
        if channels_last:
            store_channels_last(model)
        groups = layer_decay_groups(model, settings.weight_decay, 0.8, decay_all=settings.decay_all)
        return TrainState(model, backbone_optimizer(groups, settings))

    def step(state: TrainState, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in state.model.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(values)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.01
        state.optimizer.step()

    saved, resumed = state(saved_channels_last), state(not saved_channels_last)
    step(saved, 1)
    resumed.restore(copy_to_host(saved.snapshot()))
    for each in (saved, resumed):
        step(each, 2)
    assert_same(resumed.model, saved.model, rtol=1e-6, atol=1e-7)


@pytest.mark.stage
def test_a_compiled_model_is_one_graph_that_is_compiled_once():
    """In a process of its own, because the type checks of the tests break graphs."""
    script = Path(__file__).with_name("compiled_graphs.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    graphs = json.loads(done.stdout.splitlines()[-1])
    assert len(graphs) == 2 * len(CASES)
    # PyTorch cannot repeat a change of a list, the statistics of BatchNorm, in the backward pass of a graph.
    assert graphs.pop("cnn, recomputed") > 1
    assert set(graphs.values()) == {1}, graphs


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_recomputed_activations_give_the_same_weights_on_a_gpu(case):
    kept, recomputed = (
        trained(case, recompute=recompute, precision="bf16", device="cuda") for recompute in (False, True)
    )
    assert_same(recomputed.model, kept.model, rtol=2e-2, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [recipe(), recipe(betas=None, **SGD)], ids=["adamw", "sgd"])
def test_the_optimizers_of_a_gpu_are_fused_and_agree_with_a_cpu(settings):
    states = []
    for device in ("cpu", "cuda"):
        state = finetuning(settings=settings)
        state.model.to(device)
        state.optimizer = backbone_optimizer([{"params": list(state.model.parameters())}], settings)
        assert all(group["fused"] for group in state.optimizer.param_groups)
        for parameter in state.model.parameters():
            parameter.grad = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape).to(device)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(3):
            state.optimizer.step()
        states.append(state.model.cpu())
    assert_same(states[1], states[0], rtol=1e-5, atol=1e-6)
