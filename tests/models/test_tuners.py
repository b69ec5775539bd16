"""Tuners: values and gradients of independent implementations and of official code, initial values, and merging."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mem.config import LORA_LAYERS
from mem.errors import UserError
from mem.models.backbones import merged
from mem.models.tuners.adaptformer import add_adaptformer
from mem.models.tuners.lora import LoraLinear, add_lora
from mem.models.tuners.prompts import add_prompts
from tests.models.golden import recipe, tuner_recipe
from tests.models.plain_vit import PlainVit
from tests.models.tuned_networks import (
    ADDED,
    BACKBONES,
    SELECTED,
    TRANSFORMERS,
    VIT,
    images,
    network,
    randomise,
    tuner,
)


@pytest.mark.parametrize("name", [*ADDED, *SELECTED])
def test_values_and_gradients_equal_an_independent_implementation(name):
    settings = (ADDED | SELECTED)[name]
    model = network(VIT, settings)
    randomise(model)
    weights = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in model.backbone.named_parameters()}
    plain = PlainVit(weights, heads=2, patch=8, lora_scale=1.5, adapter_scale=0.1 if "constant" in name else None)
    found, expected = model(images(VIT)), plain.logits(images(VIT))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for logits in (found, expected):
        logits.square().sum().backward()
    for parameter, values in model.backbone.named_parameters():
        grad = weights[parameter].grad
        assert (values.grad is None) == (grad is None) == (not values.requires_grad), parameter
        if grad is not None:
            torch.testing.assert_close(values.grad, grad, rtol=1e-8, atol=1e-8, msg=parameter)


@pytest.mark.parametrize("name", tuner_recipe.OFFICIAL)
def test_features_and_gradients_equal_those_of_lift(name):
    golden = json.loads((Path(__file__).parent / "golden" / "tuners.json").read_text())["tuners"][name]
    model = tuner_recipe.network().requires_grad_(False)
    rank, prompts = tuner_recipe.RANK, tuner_recipe.PROMPTS
    if name == "lora":
        add_lora(model, tuner("lora", rank=rank, alpha=1.0), "the network")
    elif name == "adaptformer":
        add_adaptformer(model, tuner("adaptformer", width=rank), "the network")
    else:
        add_prompts(model, tuner("vpt", tokens=prompts, deep=name == "vpt_deep"), "the network")
    model.double()
    ours = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {official(n) for n in ours} == golden["gradients"].keys()
    for parameter, values in ours.items():
        shape = values.T.shape if "lora" in parameter else values.shape
        filled = torch.nn.Parameter(torch.empty(shape, dtype=torch.float64))
        recipe.fill([(official(parameter), filled)])
        values.data.copy_(filled.T if "lora" in parameter else filled)
    features = model(tuner_recipe.images())
    torch.testing.assert_close(features, torch.tensor(golden["features"], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    (features * tuner_recipe.probe()).sum().backward()
    gradients: dict[str, Any] = {n: p.grad for n, p in ours.items()}
    gradients = {official(n): grad.T.contiguous() if "lora" in n else grad for n, grad in gradients.items()}
    for parameter, found in recipe.summary(gradients).items():
        for key, values in golden["gradients"][parameter].items():
            assert found[key] == pytest.approx(values, rel=1e-8, abs=1e-12), (parameter, key)


def official(parameter: str) -> str:
    """Return the name of a tuner's parameter in LIFT. Its matrices of LoRA are transposed."""
    _, block, *rest = parameter.split(".")
    if rest[0] == "adapter":
        leaf = ".".join(rest[1:]).replace("norm", "ln").replace("down", "down_proj").replace("up", "up_proj")
        return f"adaptformer_list.{block}.{leaf}"
    if rest[0] == "prompts":
        return f"vpt_list.{block}.prompt"
    part, matrix = rest[-2:]
    return f"lora_list.{block}.{part[0]}.lora_{'A' if matrix == 'down' else 'B'}"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_outputs_are_unchanged_bit_by_bit_when_a_tuner_is_added(backbone):
    settings = BACKBONES[backbone]
    before = network(settings).eval()
    randomise(before)
    expected = before(images(settings)).detach()
    tuners = dict(SELECTED)
    if backbone in TRANSFORMERS:
        tuners |= {name: tuner for name, tuner in ADDED.items() if not name.startswith("vpt")}
    for name, added in tuners.items():
        model = network(settings, added).eval()
        missing = model.backbone.load_state_dict(before.backbone.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert torch.equal(model(images(settings)), expected), name
        assert all(bool(p.any()) or "up" in n or "bias" in n for n, p in model.backbone.named_parameters()), name


def test_the_weights_of_the_network_and_its_classifier_do_not_depend_on_the_tuner():
    plain = network(VIT).backbone.state_dict()
    for name, added in ADDED.items():
        one, again, other = (network(VIT, added, seed).backbone.state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[key], plain[key]) for key in plain), name
        assert all(torch.equal(one[key], again[key]) for key in one), name
        random = [key for key in one.keys() - plain.keys() if key.endswith(("down", "down.weight", "prompts"))]
        assert random and not any(torch.equal(one[key], other[key]) for key in random), name


def test_initial_values_of_lora_do_not_depend_on_the_order_in_the_settings():
    settings = [tuner("lora", layers=layers) for layers in (("query", "value"), ("value", "query"))]
    one, other = (network(VIT, each).backbone.state_dict() for each in settings)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_initial_values_have_the_published_distributions():
    generous = {
        "lora": tuner("lora", rank=16, alpha=16, layers=LORA_LAYERS),
        "adaptformer": tuner("adaptformer", width=256),
        "vpt": tuner("vpt", tokens=200),
    }
    state = {n: p for added in generous.values() for n, p in network(VIT, added).backbone.named_parameters()}
    down = state["blocks.0.attn.qkv.lora.query.down"]
    assert down.abs().max().item() == pytest.approx(1 / 4, rel=0.05)  # 1 / sqrt(16 inputs)
    assert state["blocks.0.adapter.down.weight"].std().item() == pytest.approx((1 / 48) ** 0.5, rel=0.05)
    assert state["blocks.1.adapter.scale"].tolist() == [1.0]
    bound = (6 / (3 * 8 * 8 + 16)) ** 0.5
    prompts = state["blocks.1.prompts"]
    assert prompts.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert prompts.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    zeros = [n for n in state if re.search(r"\.up$|\.up\.|down\.bias", n)]
    assert len(zeros) == 2 * (6 + 3) and not any(state[n].any() for n in zeros)


@pytest.mark.parametrize("backbone", TRANSFORMERS)
def test_lora_merged_equals_lora(backbone):
    model = network(TRANSFORMERS[backbone], ADDED["lora_all_layers"]).eval()
    randomise(model)
    plain = merged(model)
    assert plain.backbone.state_dict().keys() == network(TRANSFORMERS[backbone]).backbone.state_dict().keys()
    assert not any(isinstance(module, LoraLinear) for module in plain.modules())
    found, expected = plain(images(TRANSFORMERS[backbone])), model(images(TRANSFORMERS[backbone]))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # In the precision of training
    found, expected = (m.float()(images(TRANSFORMERS[backbone]).float()) for m in (plain, model))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", ["lora", "adaptformer", "vpt_deep", "vpt_shallow"])
def test_a_tuned_network_can_be_exported_for_any_number_of_images(name):
    model = network(VIT, ADDED[name]).float().eval()
    randomise(model)
    program = torch.export.export(
        model, (images(VIT, 2).float(),), dynamic_shapes=({0: torch.export.Dim("samples", min=1)},)
    )
    several = images(VIT, 5).float()
    torch.testing.assert_close(program.module()(several), model(several), rtol=1e-5, atol=1e-5)


def test_merging_needs_linear_layers_and_leaves_the_tuned_network_as_it_is():
    model = network(VIT, ADDED["lora"])
    merged(model)
    assert isinstance(model.backbone.get_submodule("blocks.0.attn.qkv"), LoraLinear)
    head = network(VIT, SELECTED["head"])
    assert merged(head).backbone.state_dict().keys() == head.backbone.state_dict().keys()
    for name in ("adaptformer", "vpt_deep"):
        with pytest.raises(UserError, match="cannot be merged into the weights of the network"):
            merged(network(VIT, ADDED[name]))
