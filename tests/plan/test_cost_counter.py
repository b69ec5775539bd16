"""FLOPs and memory of models, compared with published and independently counted numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mem.config import Compute, Study
from mem.config.load import load_study
from mem.plan import model_costs
from mem.plan.cost_counter import count_cost
from mem.plan.memory import training_memory
from tests.conftest import REPOSITORY

SHAPES = {"vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}


def at_paper_scale(name: str) -> Study:
    width, depth, heads = SHAPES[name]
    shape = {"image_size": 224, "patch_size": 16, "width": width, "depth": depth, "heads": heads}
    return load_study(
        [REPOSITORY / "tests" / "mini.yaml"],
        {
            "backbone": shape,
            "pretrain": {
                "mask_ratio": 0.75,
                "precision": "bf16",
                "decoder": {"width": 512, "depth": 8, "heads": 16},
            },
            "finetune": {"precision": "bf16"},
        },
    )


@pytest.mark.parametrize(
    ("name", "pretrain_gflop", "finetune_gflop"), [("vit_base", 57.1, 105.9), ("vit_large", 122.8, 370.9)]
)
def test_vision_transformers_have_the_flops_of_pytorchs_counter(name, pretrain_gflop, finetune_gflop):
    study = at_paper_scale(name)
    assert study.pretrain is not None
    autoencoder, encoder_weights = model_costs.autoencoder_cost(study, study.pretrain)
    assert autoencoder.training_flops / 1e9 == pytest.approx(pretrain_gflop, rel=0.01)
    classifier = _classifier_cost(study).cost
    assert classifier.training_flops / 1e9 == pytest.approx(finetune_gflop, rel=0.01)
    assert encoder_weights < autoencoder.trained_parameters < autoencoder.parameters


def _classifier_cost(study: Study) -> model_costs.ClassifierCost:
    return model_costs.classifier_cost(study, study.finetune, 1000)


def with_backbone(mini_values: dict, backbone: dict, *, pretrained: bool) -> Study:
    values = {**mini_values, "backbone": {"name": "b", "image_size": 224, "center_crop": 0.875, **backbone}}
    values["finetune"] |= {"drop_path": 0.0}
    decoder = {"width": 512, "depth": 8, "heads": 16}
    values["pretrain"] |= {"mask_ratio": 0.75, "decoder": decoder}
    return Study.model_validate({**values, "pretrain": values["pretrain"] if pretrained else None})


def test_convmae_computes_its_early_stages_on_visible_positions_only(mini_values):
    shape = {"patch_sizes": [4, 2, 2], "widths": [256, 384, 768], "depths": [2, 2, 11], "heads": 12}
    study = with_backbone(mini_values, {"kind": "convmae", **shape}, pretrained=True)
    assert study.pretrain is not None
    assert model_costs.autoencoder_cost(study, study.pretrain)[0].training_flops / 1e9 == pytest.approx(66.5, rel=0.01)


def test_grouped_convolutions_cost_three_times_their_forward_pass_in_training(mini_values):
    resnext = {"kind": "timm", "model": "resnext50_32x4d", "norm_batch": 64}
    classifier = _classifier_cost(with_backbone(mini_values, resnext, pretrained=False))
    assert (classifier.width, classifier.tokens) == (2048, 49)
    assert classifier.cost.parameters == 25_028_904
    # 4.26 billion multiply-adds (Xie et al. 2017, table 2: "4.2").
    assert classifier.cost.forward_flops / 1e9 == pytest.approx(8.5, rel=0.01)
    # No gradient is computed for the input of the first convolution.
    assert classifier.cost.training_flops == pytest.approx(3 * classifier.cost.forward_flops, rel=0.02)


def test_batch_norm_after_a_feature_map_of_one_position_can_be_counted(mini_values):
    resnet = {"name": "c", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": 64, "center_crop": 1.0}
    assert _classifier_cost(with_backbone(mini_values, resnet, pretrained=False)).cost.training_flops > 0


def test_a_linear_layer_has_the_flops_and_activations_of_the_textbook():
    cost = count_cost(nn.Linear(30, 50), lambda n: (torch.zeros(n, 30),), bf16=False)
    assert cost.forward_flops == 2 * 30 * 50
    # The input requires no gradient, so the backward pass has a single matrix product, for the weights.
    assert cost.training_flops == 2 * cost.forward_flops
    assert (cost.parameters, cost.trained_parameters) == (30 * 50 + 50, 30 * 50 + 50)
    assert (cost.activation_bytes, cost.weight_copy_bytes) == (4 * 30, 0)


def test_frozen_parameters_need_no_gradient():
    model = nn.Sequential(nn.Linear(30, 50).requires_grad_(False), nn.Linear(50, 7))
    cost = count_cost(model, lambda n: (torch.zeros(n, 30),), bf16=False)
    assert cost.trained_parameters == 50 * 7 + 7
    assert cost.training_flops == 2 * (30 * 50) + 2 * 2 * (50 * 7)


def test_bf16_halves_activations_and_adds_copies_of_the_weights():
    def cost(bf16: bool):
        layers = [nn.Linear(256, 256) for _ in range(8)]
        return count_cost(nn.Sequential(*layers), lambda n: (torch.zeros(n, 256),), bf16=bf16)

    full, half = cost(False), cost(True)
    assert half.activation_bytes == pytest.approx(full.activation_bytes / 2, rel=0.15)
    assert (full.weight_copy_bytes, half.weight_copy_bytes) == (0, pytest.approx(2 * 8 * 256 * 256, rel=0.15))


def test_memory_grows_with_the_micro_batch_up_to_the_share_of_a_rank():
    model = _classifier_cost(at_paper_scale("vit_base")).cost

    def memory(**compute):
        return training_memory(model, "adamw", Compute(**compute), 1024, averaged=0)

    assert memory().batch == 1024
    assert memory(gpus_per_node=4, nodes=2).batch == 128
    assert memory(micro_batch=64).batch == 64
    assert memory(gpus_per_node=4, nodes=2, micro_batch=512).batch == 128
    # Weights, gradients and two moments in float32; with several ranks also a gradient bucket.
    copy_for_checkpoints = 12 * model.parameters
    assert memory().state_bytes == 16 * model.parameters + copy_for_checkpoints
    assert memory(gpus_per_node=4).state_bytes == 20 * model.parameters
    small = memory(micro_batch=64)
    assert small.largest_batch(small.bytes) == 64
    assert small.largest_batch(small.state_bytes) == 0
