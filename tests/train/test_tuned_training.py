"""Training with tuners: checkpoints, moving averages, BatchNorm, activation checkpointing and torch.compile."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mem.config.tuners import TunerSection
from mem.data.beton.reader import Beton
from mem.distributed import SINGLE_PROCESS
from mem.errors import Stopped, UserError
from mem.models.backbones import BackboneClassifier, add_tuner, build
from mem.models.batch_norm import SampleBatchNorm
from mem.models.flops import training_flops
from mem.models.parameter_groups import layer_decay_groups
from mem.models.recompute import recompute_activations
from mem.train.checkpoints import Checkpoints, copy_to_host
from mem.train.micro_batch import Trial
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from tests.models.tuned_networks import VITS, images, network, randomise, tuner
from tests.train.steps import random_batch
from tests.train.training import BACKBONE, CNN, assert_same, recipe, trained, write_random_images

LORA, PROMPTS, ADAPTFORMER = tuner("lora"), tuner("vpt"), tuner("adaptformer")
TUNED_CNN = CNN.model_copy(update={"zero_init_last": False})
"""A network whose residual branches have gradients, although their last scales do not train."""
DINOV3 = VITS["vit_small_patch16_dinov3_qkvb"]


@pytest.fixture(scope="module")
def random_images(tmp_path_factory) -> Beton:
    return write_random_images(tmp_path_factory.mktemp("images") / "train.beton")


def tuned(added: TunerSection, *, cnn: bool = False, ema_decay: float | None = 0.9, seed: int = 0) -> TrainState:
    """Return the state before training, with initial weights of a seed instead of pretrained ones."""
    settings = recipe(ema_decay=ema_decay)
    torch.manual_seed(seed)
    model = build(TUNED_CNN if cnn else BACKBONE, 5, drop_path=0.4)
    nn.init.normal_(model.linear.weight, std=0.1)
    add_tuner(model, added, "the network")
    groups = layer_decay_groups(model, settings.weight_decay, 0.8)
    return TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)


def trained_names(state: TrainState) -> set[str]:
    return {name for name, parameter in state.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("added", [LORA, ADAPTFORMER, PROMPTS, tuner("bias")], ids=lambda added: added.name)
def test_checkpoints_contain_only_what_trains_and_resume_exactly(tmp_path, random_images, added):
    complete = trained(random_images, tmp_path / "complete", steps=12, state=tuned(added))
    stopped = tuned(added)
    with pytest.raises(Stopped, match="Saved at step 5"):
        trained(random_images, tmp_path / "stopped", steps=12, stop_after=5, state=stopped)
    snapshot = torch.load(next((tmp_path / "stopped" / "checkpoints").glob("*.pt")), weights_only=True)
    assert snapshot["model"].keys() == snapshot["ema"].keys() == trained_names(stopped)
    assert len(snapshot["optimizer"]["state"]) == len(trained_names(stopped))
    resumed = trained(random_images, tmp_path / "stopped", steps=12, state=tuned(added))
    assert resumed.step == complete.step == 12
    assert_same(complete.model, resumed.model)
    assert_same(complete.evaluated_model, resumed.evaluated_model)
    before = tuned(added).model.state_dict()
    changed = {name for name, values in complete.model.state_dict().items() if not torch.equal(values, before[name])}
    # The initial values of B are 0, so that the first gradient of A is 0, but not the following ones.
    assert changed == trained_names(complete)


def test_the_running_statistics_of_batch_norm_layers_that_train_are_part_of_checkpoints(tmp_path, random_images):
    complete = trained(random_images, tmp_path / "complete", steps=6, state=tuned(tuner("batch_norm"), cnn=True))
    expected = {
        f"{name}.{key}"
        for name, module in complete.model.named_modules()
        if isinstance(module, SampleBatchNorm)
        for key in module.state_dict()
    } | {"backbone.fc.weight", "backbone.fc.bias"}
    snapshot = copy_to_host(complete.snapshot())
    assert snapshot["model"].keys() == snapshot["ema"].keys() == expected
    other = tuned(tuner("batch_norm"), cnn=True)
    other.restore(snapshot)
    assert_same(complete.model, other.model)
    assert_same(complete.evaluated_model, other.evaluated_model)
    fresh = tuned(tuner("batch_norm"), cnn=True).model.state_dict()
    name = "backbone.layer1.0.bn1.running_mean"
    assert not torch.equal(fresh[name], complete.model.state_dict()[name])


@pytest.mark.parametrize("added", [tuner("head"), tuner("bias"), tuner("last_blocks")], ids=lambda added: added.name)
def test_batch_norm_layers_that_do_not_train_use_and_keep_their_running_statistics(tmp_path, random_images, added):
    state = tuned(added, cnn=True)
    before = copy.deepcopy(state.model.state_dict())
    trained(random_images, tmp_path, steps=3, state=state)
    changed = {n for n, v in state.model.state_dict().items() if not torch.equal(v, before[n])}
    statistics = {name for name in changed if "running" in name}
    # Of these tuners, only last_blocks trains complete norms.
    if added.name == "last_blocks":
        assert statistics and all(name.startswith("backbone.layer4.") for name in statistics)
    else:
        assert not statistics
    assert {name for name in changed - statistics if "num_batches" not in name} == trained_names(state)
    assert state.model.train().training
    modes = {n: m.training for n, m in state.model.named_modules() if isinstance(m, SampleBatchNorm)}
    assert {n for n, mode in modes.items() if mode} == {
        n for n in modes if added.name == "last_blocks" and n.startswith("backbone.layer4.")
    }


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    state = tuned(LORA)
    for number, other in enumerate((tuned(ADAPTFORMER), tuned(tuner("all")))):
        checkpoints = Checkpoints(tmp_path / str(number), "key", 0, lambda text: None)
        with checkpoints:
            checkpoints.save(other)
        with pytest.raises(UserError) as error:
            replace(checkpoints).restore_latest(state)
        message = str(error.value)
        assert message.startswith(f"{tmp_path / str(number)}{os.sep}step-"), message
        assert "this training changes 12. They differ in backbone.blocks" in message
        assert message.endswith("Remove its folder to train from the start.")


def test_the_average_shares_what_does_not_train_and_averages_the_rest(tmp_path, random_images):
    state = tuned(LORA)
    start = copy.deepcopy(state.model.state_dict())
    trained(random_images, tmp_path, steps=1, state=state)
    assert state.ema is not None
    for name, average in state.ema.state_dict().items():
        current = state.model.state_dict()[name]
        if name in trained_names(state):
            torch.testing.assert_close(average, 0.9 * start[name] + 0.1 * current)
            assert average.data_ptr() != current.data_ptr()
        else:
            assert average.data_ptr() == current.data_ptr() and torch.equal(average, start[name])
    assert not any(parameter.requires_grad for parameter in state.ema.parameters())


def test_a_trial_of_a_micro_batch_reserves_memory_for_what_trains():
    sizes = {}
    for added in (LORA, tuner("all")):
        state = tuned(added)
        trial = Trial(state, lambda *_: (torch.zeros(()), {}), random_batch(0, 8), SINGLE_PROCESS, "fp32")
        sizes[added.name] = trial._reserved_bytes()
        assert sizes[added.name] == 2 * 4 * sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    assert sizes["lora"] < sizes["all"]


def gradients(model: BackboneClassifier) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images(DINOV3)).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backbone", [DINOV3, VITS["vit_tiny_patch16_224"]], ids=lambda backbone: backbone.model)
@pytest.mark.parametrize("added", [LORA, ADAPTFORMER, PROMPTS], ids=lambda added: added.name)
def test_recomputed_activations_give_the_same_gradients(backbone, added):
    model = network(backbone, added)
    randomise(model)
    expected = gradients(model)
    assert expected.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    recompute_activations(model, "the network")
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=0)


def test_frozen_layers_need_fewer_flops():
    shape = (1, 3, 16, 16)
    flops = {added.name: training_flops(network_of(added), shape) for added in (tuner("all"), LORA, tuner("head"))}
    forward = flops["head"]
    assert forward < flops["lora"] < flops["all"]
    # All: one forward pass and two products per layer in the backward pass; LoRA: one product and small ones.
    assert flops["all"] / forward == pytest.approx(3, rel=0.1)
    assert flops["lora"] / forward == pytest.approx(2, rel=0.2)


def network_of(added: TunerSection) -> BackboneClassifier:
    torch.manual_seed(0)
    return build(BACKBONE.model_copy(update={"image_size": 16, "width": 64, "depth": 3}), 5, tuner=added)


def test_a_snapshot_can_be_written_and_read_as_a_file(tmp_path: Path):
    state = tuned(PROMPTS)
    checkpoints = Checkpoints(tmp_path, "key", 0, lambda text: None)
    with checkpoints:
        checkpoints.save(state)
    other = tuned(PROMPTS, seed=0)
    with torch.no_grad():
        other.model.get_parameter("backbone.blocks.0.prompts").zero_()
    assert replace(checkpoints).restore_latest(other)
    assert_same(state.model, other.model)
