"""FLOPs and memory of the paper's models, against what is known of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mem.config import Compute, Study
from mem.config.load import load_study
from mem.plan import model_costs
from mem.plan.arithmetic import count
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
    ("name", "pretrain_gflop", "finetune_gflop"), [("vit_base", 58.8, 105.9), ("vit_large", 124.7, 370.9)]
)
def test_vision_transformers_compute_what_was_counted_with_fused_attention_on_a_gpu(
    name, pretrain_gflop, finetune_gflop
):
    study = at_paper_scale(name)
    assert study.pretrain is not None
    autoencoder, encoder = model_costs.autoencoder(study, study.pretrain)
    assert autoencoder.training / 1e9 == pytest.approx(pretrain_gflop, rel=0.01)
    assert model_costs.classifier(study, 1000).arithmetic.training / 1e9 == pytest.approx(finetune_gflop, rel=0.01)
    assert encoder < autoencoder.trained < autoencoder.parameters


def with_backbone(mini_values: dict, backbone: dict, *, pretrained: bool) -> Study:
    values = {**mini_values, "backbone": {"name": "b", "image_size": 224, "center_crop": 0.875, **backbone}}
    values["finetune"] |= {"drop_path": 0.0}
    decoder = {"width": 512, "depth": 8, "heads": 16}
    values["pretrain"] |= {"mask_ratio": 0.75, "decoder": decoder}
    return Study.model_validate({**values, "pretrain": values["pretrain"] if pretrained else None})


def test_convmae_computes_its_early_stages_at_visible_positions_only(mini_values):
    shape = {"patch_sizes": [4, 2, 2], "widths": [256, 384, 768], "depths": [2, 2, 11], "heads": 12}
    study = with_backbone(mini_values, {"kind": "convmae", **shape}, pretrained=True)
    assert study.pretrain is not None
    assert model_costs.autoencoder(study, study.pretrain)[0].training / 1e9 == pytest.approx(67.5, rel=0.01)


def test_grouped_convolutions_cost_three_times_their_forward_pass_in_training(mini_values):
    resnext = {"kind": "timm", "model": "resnext50_32x4d", "norm_batch": 64}
    found = model_costs.classifier(with_backbone(mini_values, resnext, pretrained=False), 1000)
    assert (found.width, found.tokens) == (2048, 49)
    assert found.arithmetic.parameters == 25_028_904
    # 4.26 billion multiplications and additions (Xie et al. 2017, table 2: "4.2").
    assert found.arithmetic.forward / 1e9 == pytest.approx(8.5, rel=0.01)
    # The first convolution needs no gradient of its input.
    assert found.arithmetic.training == pytest.approx(3 * found.arithmetic.forward, rel=0.02)


def test_a_linear_layer_computes_and_keeps_what_the_textbook_says():
    found = count(lambda: nn.Linear(30, 50), lambda n: (torch.zeros(n, 30),), bf16=False)
    assert found.forward == 2 * 30 * 50
    # The input takes no gradient, so the backward pass has one product, for the weights.
    assert found.training == 2 * found.forward
    assert (found.parameters, found.trained) == (30 * 50 + 50, 30 * 50 + 50)
    assert (found.kept_bytes, found.fixed_bytes) == (4 * 30, 0)


def test_what_is_frozen_takes_no_gradient():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 50).requires_grad_(False), nn.Linear(50, 7))

    found = count(build, lambda n: (torch.zeros(n, 30),), bf16=False)
    assert found.trained == 50 * 7 + 7
    assert found.training == 2 * (30 * 50) + 2 * 2 * (50 * 7)


def test_bf16_halves_activations_and_adds_copies_of_the_weights():
    def found(bf16: bool):
        layers = [nn.Linear(256, 256) for _ in range(8)]
        return count(lambda: nn.Sequential(*layers), lambda n: (torch.zeros(n, 256),), bf16=bf16)

    full, half = found(False), found(True)
    assert half.kept_bytes == pytest.approx(full.kept_bytes / 2, rel=0.15)
    assert (full.fixed_bytes, half.fixed_bytes) == (0, pytest.approx(2 * 8 * 256 * 256, rel=0.15))


def test_memory_grows_with_the_micro_batch_and_not_beyond_the_ranks_share():
    model = model_costs.classifier(at_paper_scale("vit_base"), 1000).arithmetic

    def memory(**compute):
        return training_memory(model, "adamw", Compute(**compute), 1024, average=False)

    assert memory().batch == 1024
    assert memory(gpus_per_node=4, nodes=2).batch == 128
    assert memory(micro_batch=64).batch == 64
    assert memory(gpus_per_node=4, nodes=2, micro_batch=512).batch == 128
    # Weights, gradients and two moments in float32; one bucket of gradients more where ranks exchange them.
    assert memory().state == 16 * model.parameters
    assert memory(gpus_per_node=4).state == 20 * model.parameters
    small = memory(micro_batch=64)
    assert small.largest_batch(small.bytes) == 64
    assert small.largest_batch(small.state) == 0
