"""Backbones with experts: shared layers, owned layers, weights, and layer-wise settings."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mem.config import Backbone, ConvMae, Experts, TimmNetwork, VisionTransformer
from mem.distributed import SINGLE_PROCESS
from mem.errors import UserError
from mem.models.backbones import BackboneClassifier, build
from mem.models.backbones.experts import ExpertClassifier, name_in_network
from mem.models.batch_norm import keep_batch_norm_statistics, update_batch_norm_statistics
from mem.models.parameter_groups import layer_decay_groups
from mem.models.recompute import recompute_activations
from mem.models.weights.initialise import initialise_from

CLASSES, SIDE = 5, 32
VIT = VisionTransformer(
    name="v", kind="vit", image_size=SIDE, patch_size=8, width=16, depth=3, heads=2, center_crop=1.0
)
CONVMAE = ConvMae(
    name="c",
    kind="convmae",
    image_size=SIDE,
    patch_sizes=(4, 2, 2),
    widths=(8, 12, 16),
    depths=(1, 1, 3),
    heads=2,
    center_crop=1.0,
)


def timm(model: str, norm_batch: int | None) -> TimmNetwork:
    return TimmNetwork(name="t", kind="timm", model=model, image_size=SIDE, norm_batch=norm_batch, center_crop=1.0)


DIVIDABLE: dict[str, tuple[Backbone, str]] = {
    "vit": (VIT, "blocks.2"),
    "vit from its first block": (VIT, "blocks.0"),
    "convmae": (CONVMAE, "blocks3.1"),
    "timm vit": (timm("test_vit", None), "blocks.3"),
    "timm vit with registers": (timm("test_vit2", None), "blocks.7"),
    "resnet": (timm("resnet18", 4), "layer3"),
}


def model_of(backbone: Backbone, own_from: str | None, number: int = 3, **options) -> ExpertClassifier:
    torch.manual_seed(0)
    model = build(backbone, CLASSES, experts=Experts(number=number, own_from=own_from), **options).double()
    assert isinstance(model, ExpertClassifier)
    return model


def images(samples: int = 4) -> torch.Tensor:
    return torch.randn(samples, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def single(backbone: Backbone, model: ExpertClassifier, expert: int, **options) -> BackboneClassifier:
    """Build a classifier without experts that has the shared layers of a model and the layers of one expert."""
    reference = build(backbone, CLASSES, **options).double()
    own = (f"experts.{expert}.", "shared.")
    state = {name_in_network(n): v for n, v in model.backbone.state_dict().items() if n.startswith(own)}
    reference.backbone.load_state_dict(state)
    return reference


@pytest.mark.parametrize("name", DIVIDABLE)
@pytest.mark.parametrize("divided", [True, False], ids=["shared layers", "whole networks"])
def test_each_expert_equals_a_separate_network_with_the_same_weights(name, divided):
    backbone, own_from = DIVIDABLE[name]
    model = model_of(backbone, own_from if divided else None).eval()
    batch = images()
    with torch.no_grad():
        logits, (pooled, tokens) = model(batch), model.features(batch)
        assert logits.shape == (4, 3, CLASSES)
        assert pooled.shape == (4, 3, model.width) and tokens.shape == (4, 0, model.width)
        for expert in range(3):
            reference = single(backbone, model, expert).eval()
            torch.testing.assert_close(logits[:, expert], reference(batch))
            torch.testing.assert_close(pooled[:, expert], reference.features(batch)[0])


@pytest.mark.parametrize("name", DIVIDABLE)
def test_gradients_in_training_are_those_of_separate_networks_whose_shared_layers_are_summed(name):
    backbone, own_from = DIVIDABLE[name]
    model = model_of(backbone, own_from, drop_path=0.4).train()
    batch, numbers = images(), torch.rand(4, model.branches, dtype=torch.float64)
    (model(batch, numbers) ** 2).sum().backward()
    shared_branches = (3 * model_of(backbone, None, number=2, drop_path=0.4).branches // 2 - model.branches) // 2
    expected: dict[str, torch.Tensor] = {}
    for expert in range(3):
        reference = single(backbone, model, expert, drop_path=0.4).train()
        own = reference.branches - shared_branches
        first = shared_branches + expert * own
        columns = torch.cat([numbers[:, :shared_branches], numbers[:, first : first + own]], dim=1)
        (reference(batch, columns) ** 2).sum().backward()
        for key, parameter in reference.backbone.named_parameters():
            if parameter.grad is not None:
                expected[key] = expected.get(key, torch.zeros_like(parameter)) + parameter.grad
    found: dict[str, torch.Tensor] = {}
    for key, parameter in model.backbone.named_parameters():
        if parameter.grad is not None:
            key = name_in_network(key)
            found[key] = found.get(key, torch.zeros_like(parameter)) + parameter.grad
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, msg=key)


def test_shared_layers_are_computed_once_and_owned_layers_once_per_expert():
    model = model_of(timm("resnet18", 4), "layer3").eval()
    calls: list[str] = []
    for name, module in model.backbone.named_modules():
        if name.endswith(("layer2.0.conv1", "layer3.0.conv1")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        model(images())
    assert calls == ["shared.layer2.0.conv1", *(f"experts.{i}.layer3.0.conv1" for i in range(3))]
    names = list(model.backbone.state_dict())
    assert not [n for n in names if n.startswith("shared.layer3") or n.startswith("shared.fc")]
    assert not [n for n in names if n.startswith("experts.0.layer2") or n.startswith("experts.0.conv1")]


@pytest.mark.parametrize("name", DIVIDABLE)
def test_state_is_saved_and_loaded(name):
    backbone, own_from = DIVIDABLE[name]
    first = model_of(backbone, own_from, cosine_scale=20.0).eval()
    torch.manual_seed(9)
    second = build(backbone, CLASSES, cosine_scale=20.0, experts=Experts(number=3, own_from=own_from)).double().eval()
    second.backbone.load_state_dict(first.backbone.state_dict())
    copied = copy.deepcopy(first)
    with torch.no_grad():
        assert torch.equal(second(images()), first(images()))
        for parameter in first.parameters():
            parameter.zero_()
        # The copy (averaged weights, for example) has parameters of its own.
        assert torch.equal(copied(images()), second(images()))
    assert all(layer.bias is None for layer in second.classifiers)


def test_new_layers_differ_between_experts():
    model = model_of(timm("resnet18", 4), "layer4")
    weights = [model.get_parameter(f"backbone.experts.{i}.layer4.0.conv1.weight") for i in range(3)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert not torch.equal(model.classifiers[0].weight, model.classifiers[1].weight)


@pytest.mark.parametrize("name", ["vit", "convmae", "resnet"])
@pytest.mark.parametrize("divided", [True, False], ids=["shared layers", "whole networks"])
def test_pretrained_weights_are_copied_to_each_expert_but_classifiers_differ(name, divided):
    backbone, own_from = DIVIDABLE[name]
    model = model_of(backbone, own_from if divided else None)
    torch.manual_seed(7)
    source = build(backbone, CLASSES).double()
    classifiers = [layer.weight.detach().clone() for layer in model.classifiers]
    report = initialise_from(model, source.backbone.state_dict(), "w.pth")
    for key, value in model.backbone.state_dict().items():
        if not name_in_network(key).startswith(source.head_prefix):
            assert torch.equal(value, source.backbone.state_dict()[name_in_network(key)]), key
    for layer, before in zip(model.classifiers, classifiers, strict=True):
        assert torch.equal(layer.weight, before)
    assert {name_in_network(key) for key in report.missing} == {f"{source.head_prefix}{n}" for n in ("weight", "bias")}
    assert not report.left_over


def test_weights_of_another_network_are_rejected():
    model = model_of(VIT, "blocks.2")
    state = build(VIT, CLASSES).double().backbone.state_dict()
    state.pop("blocks.2.mlp.fc1.weight")
    with pytest.raises(UserError, match=r"missing: experts.0.blocks.2.mlp.fc1.weight"):
        initialise_from(model, state, "w.pth")
    state = build(VIT, CLASSES).double().backbone.state_dict() | {"blocks.2.gamma": torch.zeros(16)}
    with pytest.raises(UserError, match=r"blocks\.2\.gamma"):
        initialise_from(model, state, "w.pth")


def test_every_classifier_of_pretrained_weights_is_left_out():
    """VOLO has an auxiliary classifier."""
    volo = timm("volo_d1_224", 4)
    with torch.device("meta"):
        model = build(volo, CLASSES, experts=Experts(number=2))
        weights = build(volo, CLASSES + 1).backbone.state_dict()
    report = initialise_from(model, weights, "w.pth")
    assert {name.rpartition(".")[0] for name in report.missing} == {
        f"experts.{i}.{name}" for i in range(2) for name in ("head", "aux_head")
    }


@pytest.mark.parametrize("name", ["vit", "convmae", "resnet"])
def test_learning_rates_and_weight_decay_are_those_of_the_complete_network(name):
    backbone, own_from = DIVIDABLE[name]
    model, reference = model_of(backbone, own_from), build(backbone, CLASSES)

    def settings_of(one: BackboneClassifier) -> dict[str, tuple[float, float]]:
        groups = layer_decay_groups(one, 0.05, 0.7, classifier_lr_factor=3.0)
        of = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
        return {name: of[id(p)] for name, p in one.backbone.named_parameters() if id(p) in of}

    expected = settings_of(reference)
    found = settings_of(model)
    assert {name_in_network(key) for key in found} == expected.keys()
    for key, value in found.items():
        assert value == pytest.approx(expected[name_in_network(key)]), key


@pytest.mark.parametrize("name", DIVIDABLE)
@pytest.mark.parametrize("divided", [True, False], ids=["shared layers", "whole networks"])
def test_recomputed_activations_give_the_same_gradients(name, divided):
    backbone, own_from = DIVIDABLE[name]
    model = model_of(backbone, own_from if divided else None, drop_path=0.3).train()
    numbers = torch.rand(4, model.branches, dtype=torch.float64)
    gradients = []
    for enabled in (False, True):
        recompute_activations(model, "m", enabled)
        model.zero_grad()
        (model(images(), numbers) ** 2).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_shared_and_owned_layers_are_recomputed():
    model = model_of(VIT, "blocks.2").train()
    calls: list[str] = []
    for name, module in model.backbone.named_modules():
        if name.endswith("mlp.fc1"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    recompute_activations(model, "m")
    model(images()).sum().backward()
    blocks = ["shared.blocks.0", "shared.blocks.1", *(f"experts.{i}.blocks.2" for i in range(3))]
    assert sorted(calls) == sorted(2 * [f"{block}.mlp.fc1" for block in blocks])


def test_batch_norm_groups_of_shared_and_owned_layers_are_updated():
    model = model_of(timm("resnet18", 2), "layer4").train()
    model(images())
    keep_batch_norm_statistics(model)
    update_batch_norm_statistics(model, SINGLE_PROCESS)
    means = {n: b for n, b in model.named_buffers() if n.endswith("running_mean")}
    assert any("shared" in n for n in means) and any("experts.2" in n for n in means)
    assert all(bool((value != 0).any()) for value in means.values())


@pytest.mark.parametrize(("model", "width"), [("resnet50", 1536), ("resnext50_32x4d", 1536), ("resnet18", 384)])
def test_narrower_experts_have_the_widths_of_ride(model, width):
    with torch.device("meta"):
        narrow = build(timm(model, 4), CLASSES, experts=Experts(number=3, own_from="layer3", width_factor=0.75))
        whole = build(timm(model, 4), CLASSES)
    assert narrow.width == width
    for stage in ("layer1", "layer2"):
        shapes = {n: p.shape for n, p in narrow.backbone.named_parameters() if n.startswith(f"shared.{stage}")}
        assert shapes == {f"shared.{n}": p.shape for n, p in whole.backbone.named_parameters() if n.startswith(stage)}
    if (
        model == "resnext50_32x4d"
    ):  # planes 192: 192 * 4 / 64 * 32 channels in 32 groups (model/fb_resnets/RIDEResNeXt.py)
        block = narrow.get_submodule("backbone.experts.0.layer3.0")
        assert isinstance(conv := block.conv2, nn.Conv2d) and (conv.in_channels, conv.groups) == (384, 32)
        assert narrow.get_parameter("backbone.experts.1.layer4.0.conv3.weight").shape[0] == 4 * 384


@pytest.mark.parametrize(
    ("backbone", "experts", "message"),
    [
        (timm("resnet18", 4), {"own_from": "layer5"}, "cannot be divided at `layer5`; use one of: layer1, layer2"),
        (
            timm("test_vit", None),
            {"own_from": "layer3"},
            "test_vit cannot be divided at `layer3`; use one of: blocks.0",
        ),
        (timm("efficientnet_b0", 4), {"own_from": "blocks.2"}, "efficientnet_b0 cannot be divided into shared and"),
        (
            timm("test_vit", None),
            {"own_from": "layer3", "width_factor": 0.75},
            "ResNets only, but the backbone is test",
        ),
        (
            timm("resnet18", 4),
            {"own_from": "layer3", "width_factor": 0.7},
            "0.7 times the 256 channels of layer3 is 179",
        ),
    ],
)
def test_unsuitable_networks_are_rejected(backbone, experts, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build(backbone, CLASSES, experts=Experts(number=2, **experts))


def test_a_network_that_cannot_be_divided_can_be_copied_as_a_whole():
    model = model_of(timm("efficientnet_b0", 4), None, number=2).eval()
    with torch.no_grad():
        assert model(images(2)).shape == (2, 2, CLASSES)
