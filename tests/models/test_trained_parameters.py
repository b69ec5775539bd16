"""Parameters that train with a tuner: which ones, their groups in the optimizer, and tuners that a backbone lacks."""

from __future__ import annotations

import re

import pytest
import torch

from mem.errors import UserError
from mem.models.backbones import add_tuner
from mem.models.backbones.tuned import parameter_counts
from mem.models.parameter_groups import layer_decay_groups
from mem.models.tuners.lora import LoraLinear
from mem.models.weights.initialise import initialise_from
from tests.models.tuned_networks import (
    ADDED,
    BACKBONES,
    CNN,
    CONVMAE,
    CONVNEXT,
    SELECTED,
    SWIN,
    TRANSFORMERS,
    VIT,
    images,
    network,
    randomise,
    trained,
    tuner,
)


@pytest.mark.parametrize("backbone", TRANSFORMERS)
def test_all_added_parameters_receive_gradients_and_no_other_ones(backbone):
    settings = TRANSFORMERS[backbone]
    for name, added in ADDED.items():
        if name.startswith("vpt") and backbone in ("convmae", "beit_base_patch16_224"):
            with pytest.raises(UserError, match=r"finetune.tuner: `vpt` is available for ViT, EVA and DINOv3"):
                network(settings, added)
            continue
        plain, model = network(settings), network(settings, added)
        randomise(model)
        model(images(settings)).square().sum().backward()
        new = {n for n, _ in model.backbone.named_parameters()} - {n for n, _ in plain.backbone.named_parameters()}
        norm = {n for n in trained(plain) if n.startswith("fc_norm") and backbone in ("vit", "convmae")}
        assert new and trained(model) == new | norm | {"head.weight", "head.bias"}, name
        for parameter, values in model.backbone.named_parameters():
            assert (values.grad is not None and bool(values.grad.any())) == (parameter in trained(model)), parameter


def test_which_parameters_train():
    vit, cnn = network(VIT), network(CNN)
    new = {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    assert trained(network(VIT, SELECTED["head"])) == new
    assert trained(network(CNN, SELECTED["head"])) == {"fc.weight", "fc.bias"}
    assert trained(network(VIT, SELECTED["bias"])) == new | {n for n in trained(vit) if n.endswith(".bias")}
    assert trained(network(VIT, SELECTED["last_blocks"])) == new | {n for n in trained(vit) if "blocks.1." in n}
    eva = network(BACKBONES["vit_small_patch16_dinov3_qkvb"], SELECTED["bias"])
    assert {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"} < trained(eva)
    stage = {n for n in trained(cnn) if n.startswith(("layer4.", "fc."))}
    for settings in (tuner("last_stage"), SELECTED["last_blocks"]):  # resnet10t has one block per stage
        assert trained(network(CNN, settings)) == stage
    norms = {n for n in trained(cnn) if re.search(r"bn\d|conv1\.[14]|downsample\.2", n)}
    assert trained(network(CNN, tuner("batch_norm"))) == norms | {"fc.weight", "fc.bias"}
    last = {n for n in trained(network(CONVNEXT, tuner("last_stage"))) if not n.startswith("head")}
    assert last and all(n.startswith("stages.3.") for n in last)
    assert parameter_counts(network(VIT, SELECTED["head"])) == (32 + 16 * 3 + 3, parameter_counts(vit)[1])


@pytest.mark.parametrize(
    ("backbone", "added", "message"),
    [
        (CNN, ADDED["lora"], "`lora` tunes transformer blocks, but resnet10t has none"),
        (CNN, ADDED["adaptformer"], "`adaptformer` tunes transformer blocks, but resnet10t has none"),
        (CONVNEXT, ADDED["vpt_deep"], "`vpt` tunes transformer blocks, but convnext_atto has none"),
        (SWIN, ADDED["adaptformer"], "but swin_tiny_patch4_window7_224 has SwinTransformerBlock"),
        (SWIN, ADDED["vpt_deep"], "but swin_tiny_patch4_window7_224 has SwinTransformerBlock"),
        (CONVNEXT, tuner("batch_norm"), "`batch_norm` is not available, because convnext_atto has no BatchNorm layers"),
        (VIT, tuner("last_stage"), "a backbone of kind vit does not consist of stages; use last_blocks"),
        (CNN, tuner("last_blocks", blocks=9), "finetune.tuner.blocks (9): resnet10t has 4 blocks"),
        (VIT, tuner("lora", rank=17), "finetune.tuner.rank (17): the layer `query` of a backbone of kind vit has 16"),
    ],
)
def test_a_backbone_without_the_layers_of_the_tuner_is_rejected(backbone, added, message):
    with pytest.raises(UserError, match=re.escape(message)):
        network(backbone, added)


def test_added_layers_have_the_learning_rate_of_their_block_and_tokens_have_no_weight_decay():
    for backbone in (VIT, BACKBONES["vit_small_patch16_dinov3"]):
        for name, added in ADDED.items():
            model = network(backbone, added)
            names = {id(p): n for n, p in model.backbone.named_parameters()}
            groups = layer_decay_groups(model, 0.1, 0.5)
            found = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
            assert found.keys() == trained(model)
            for parameter, (scale, decay) in found.items():
                block = re.match(r"blocks\.(\d)", parameter)
                assert scale == (1.0 if block is None else 0.5 ** (2 - int(block[1]))), (name, parameter)
                matrix = model.backbone.get_parameter(parameter).ndim > 1 and not parameter.endswith("prompts")
                assert decay == (0.1 if matrix else 0.0), (name, parameter)
    everything = layer_decay_groups(network(VIT, ADDED["vpt_deep"]), 0.1, 0.5, decay_all=True)
    assert {group["weight_decay"] for group in everything} == {0.1}


def test_pretrained_weights_are_loaded_before_the_tuner_is_added():
    pretrained = {n: v + 1 for n, v in network(VIT).backbone.state_dict().items()}
    model = network(VIT)
    initialise_from(model, pretrained, "weights")
    add_tuner(model, ADDED["lora"], "the network")
    state = model.backbone.state_dict()
    assert all(torch.equal(state[n], v) for n, v in pretrained.items() if not n.startswith("head."))


def test_only_transformer_blocks_have_added_layers():
    assert CONVMAE.depths[2] == sum(isinstance(m, LoraLinear) for m in network(CONVMAE, ADDED["lora"]).modules())
