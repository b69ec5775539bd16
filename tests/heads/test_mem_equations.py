"""Equations 3 to 9 of the paper against an independent numpy version, also at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import longtail
from mem.config import HeadTraining, Mem
from mem.heads.base import Linear
from mem.heads.mem.fusion import Fusion, TopLogits, data_aware_logits
from mem.heads.mem.head import MemHead
from mem.heads.mem.objective import regularisation_objective
from mem.heads.mem.subnetworks import GroupBlock, SubNetworks, magnitudes

seeds = st.integers(0, 10**6)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- eq. 3 to 5 ------------------------------------------------------------------------------------------------


def numpy_objective(norms: np.ndarray, group_of: np.ndarray, xi: float, mu: float) -> float:
    total = 0.0
    for g in range(norms.shape[1]):
        positives = [max(xi - q, 0) ** 2 for q in norms[group_of == g, g]]
        negatives = [max(q - mu, 0) ** 2 for q in norms[group_of != g, g]]
        total += np.mean(positives) if positives else 0.0
        total += np.mean(negatives) if negatives else 0.0
    return total


@given(seed=seeds, n=st.integers(1, 20), groups=st.integers(1, 4), present=st.integers(1, 4))
@settings(deadline=None)
def test_the_objective_equals_numpy_also_where_groups_are_absent(seed, n, groups, present):
    rng = rng_of(seed)
    norms, group_of = rng.uniform(0, 30, (n, groups)), rng.integers(0, min(present, groups), n)
    xi, mu = rng.uniform(5, 25), rng.uniform(0, 5)
    ours = regularisation_objective(torch.from_numpy(norms), torch.from_numpy(group_of), xi, mu)
    assert float(ours) == pytest.approx(numpy_objective(norms, group_of, xi, mu), rel=1e-12, abs=1e-12)


@given(seed=seeds, n=st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_the_objectives_gradient_equals_finite_differences(seed, n):
    rng = rng_of(seed)
    norms, group_of = rng.uniform(0, 30, (n, 3)), rng.integers(0, 3, n)
    tensor = torch.from_numpy(norms).requires_grad_()
    regularisation_objective(tensor, torch.from_numpy(group_of), 20.0, 2.0).backward()
    h = 1e-5
    for i, g in np.ndindex(n, 3):
        step = np.zeros_like(norms)
        step[i, g] = h
        slope = numpy_objective(norms + step, group_of, 20, 2) - numpy_objective(norms - step, group_of, 20, 2)
        assert float(tensor.grad[i, g]) == pytest.approx(slope / (2 * h), rel=1e-4, abs=1e-4)


def test_both_sides_count_alike_however_rare_a_group_is():
    norms = torch.zeros(100, 2, dtype=torch.float64)
    group_of = torch.zeros(100, dtype=torch.long)
    group_of[0] = 1
    # Norms of 0 are wrong for positives only: each group's positive side is xi^2, be it 99 images or one.
    assert float(regularisation_objective(norms, group_of, 3.0, 0.0)) == pytest.approx(2 * 9.0)


def test_one_image_gives_a_finite_objective_and_gradient():
    norms = torch.zeros(1, 3, requires_grad=True)
    loss = regularisation_objective(norms, torch.tensor([1]), 20.0, 0.0)
    loss.backward()
    assert float(loss.detach()) == 400.0
    assert torch.isfinite(norms.grad).all()


# --- eq. 6 and 7 -----------------------------------------------------------------------------------------------


def numpy_top(logits: np.ndarray, groups: np.ndarray, number: int, k: int) -> np.ndarray:
    rows = []
    for row in logits:
        rows.append(np.concatenate([np.sort(row[groups == g])[::-1][:k] for g in range(number)]))
    return np.stack(rows)


@given(seed=seeds, n=st.integers(1, 8), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), k=st.integers(1, 9))
@settings(deadline=None)
def test_top_logits_equal_numpy_also_where_a_group_is_smaller_than_k(seed, n, sizes, k):
    rng = rng_of(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    logits = rng.normal(size=(n, len(groups)))
    layer = TopLogits(torch.from_numpy(longtail.members(groups, len(sizes))), k)
    found = layer(torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(found, numpy_top(logits, groups, len(sizes), k))
    assert layer.width == sum(min(k, size) for size in sizes) == found.shape[1]


@pytest.mark.parametrize("kind", ["free", "softplus", "exp", "additive"])
def test_fusion_equals_numpy(kind):
    torch.manual_seed(0)
    layer = Fusion(groups=3, top_logits=5, width=7, xi=20.0, kind=kind).double()
    with torch.no_grad():
        layer.out.weight.normal_()
    norms, top = torch.rand(4, 3).double() * 30, torch.randn(4, 5).double()
    p = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    x = np.concatenate([norms.numpy() / 20, top.numpy()], axis=1)
    from scipy.special import erf

    hidden = x @ p["hidden.weight"].T + p["hidden.bias"]
    hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
    out = hidden @ p["out.weight"].T + p["out.bias"]
    expected = {"free": out, "additive": out, "softplus": np.log1p(np.exp(out)), "exp": np.exp(out)}[kind]
    np.testing.assert_allclose(layer(norms, top).detach().numpy(), expected)


@pytest.mark.parametrize(("kind", "neutral"), [("free", 1), ("softplus", 1), ("exp", 1), ("additive", 0)])
def test_weights_start_neutral(kind, neutral):
    layer = Fusion(groups=3, top_logits=5, width=7, xi=20.0, kind=kind)
    torch.testing.assert_close(layer(torch.rand(4, 3) * 50, torch.randn(4, 5)), torch.full((4, 3), float(neutral)))


# --- eq. 8 and 9 -----------------------------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(1, 6), classes=st.integers(1, 9))
@settings(deadline=None)
def test_data_aware_probabilities_and_loss_equal_numpy(seed, n, classes):
    rng = rng_of(seed)
    logits, weights = rng.normal(size=(n, classes)) * 3, rng.normal(size=(n, 3))
    groups, labels = rng.integers(0, 3, classes), rng.integers(0, classes, n)
    ours = data_aware_logits(torch.from_numpy(logits), torch.from_numpy(weights), torch.from_numpy(groups))
    modulated = np.stack([[logits[i, j] * weights[i, groups[j]] for j in range(classes)] for i in range(n)])
    probabilities = np.exp(modulated - modulated.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(torch.softmax(ours, 1).numpy(), probabilities, rtol=1e-9, atol=1e-12)
    loss = torch.nn.functional.cross_entropy(ours, torch.from_numpy(labels))
    expected = -np.log(np.maximum(probabilities[np.arange(n), labels], 1e-300)).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_logit_of_minus_infinity_stays_in_its_group():
    """Its place among the group's largest may go to one that only fills up the group."""
    members = torch.zeros(2, 66, dtype=torch.bool)
    members[0, :64], members[1, 64:] = True, True
    logits = torch.zeros(1, 66)
    logits[0, 64:] = -torch.inf
    assert TopLogits(members, 2)(logits).tolist() == [[0.0, 0.0, -torch.inf, -torch.inf]]
    assert TopLogits(members, 2)(torch.zeros(0, 66)).shape == (0, 4)


def test_an_infinite_weight_is_its_groups_alone():
    weights = torch.tensor([[torch.inf, 2.0]])
    with torch.no_grad():
        assert data_aware_logits(torch.ones(1, 3), weights, torch.tensor([0, 1, 0])).tolist() == [
            [torch.inf, 2.0, torch.inf]
        ]


def test_weights_can_be_added_instead():
    logits, weights = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0]])
    added = data_aware_logits(logits, weights, torch.tensor([0, 1, 0]), additive=True)
    assert added.tolist() == [[11.0, 22.0, 13.0]]


# --- sub-networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 5])
def test_all_sub_networks_together_equal_each_by_itself(tokens):
    torch.manual_seed(0)
    together = SubNetworks(groups=3, features=10, width=64, depth=2).double()
    z = torch.randn(4, tokens, 10).double()
    expected = []
    for g in range(3):
        alone = SubNetworks(groups=1, features=10, width=64, depth=2).double()
        alone.load_state_dict({name: value[g : g + 1] for name, value in together.state_dict().items()})
        expected.append(alone(z)[0])
    torch.testing.assert_close(together(z), torch.stack(expected))


def test_a_block_equals_pytorchs_transformer_layer():
    torch.manual_seed(0)
    ours = GroupBlock(1, 64).double()
    theirs = torch.nn.TransformerEncoderLayer(
        64, ours.heads, 256, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).double()
    p = {name: value[0] for name, value in ours.state_dict().items()}
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": p["qkv.weight"].T,
            "self_attn.in_proj_bias": p["qkv.bias"][0],
            "self_attn.out_proj.weight": p["proj.weight"].T,
            "self_attn.out_proj.bias": p["proj.bias"][0],
            "linear1.weight": p["fc1.weight"].T,
            "linear1.bias": p["fc1.bias"][0],
            "linear2.weight": p["fc2.weight"].T,
            "linear2.bias": p["fc2.bias"][0],
            **{f"norm{i}.{k}": p[f"norm{i}.{k}"].flatten() for i in (1, 2) for k in ("weight", "bias")},
        }
    )
    for tokens in (1, 6):
        x = torch.randn(3, tokens, 64).double()
        torch.testing.assert_close(ours(x[None])[0], theirs(x))


def test_magnitudes_are_l2_norms_with_a_finite_gradient_at_zero():
    embeddings = torch.randn(3, 4, 5)
    expected = np.sqrt((embeddings.numpy() ** 2).sum(2)).T
    np.testing.assert_allclose(magnitudes(embeddings).numpy(), expected, rtol=1e-6)
    zero = torch.zeros(1, 1, 5, requires_grad=True)
    magnitudes(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


# --- the whole head ----------------------------------------------------------------------------------------------


def settings_of(**changes) -> Mem:
    training = HeadTraining(
        epochs=1, global_batch=8, optimizer="adamw", lr=1e-3, weight_decay=0, sampler="class_balanced"
    )
    values = {
        "method": "mem", "partition": "shot", "input": "pooled", "width": 32, "depth": 1, "xi": 20.0, "mu": 0.0,
        "top_k": 2, "reo_weight": 1.0, "fusion_width": 8, "weight": "free", "classifier": "frozen",
        "classifier_from": "ce", "training": training,
    }  # fmt: skip
    return Mem(**{**values, **changes})


def head_of(classes: int = 7, **changes) -> MemHead:
    torch.manual_seed(0)
    groups = torch.arange(classes) % 3
    return MemHead(settings_of(**changes), Linear(torch.randn(classes, 6), torch.randn(classes)), groups)


@pytest.mark.parametrize("weight", ["free", "softplus", "exp", "residual", "additive"])
def test_a_fresh_head_predicts_like_the_classifier_it_modulates(weight):
    head, z = head_of(weight=weight), torch.randn(5, 6)
    torch.testing.assert_close(head(z), head.classifier(z))


def test_the_loss_is_the_sum_of_both_objectives_over_the_batch():
    head, z, labels = head_of(reo_weight=0.7), torch.randn(9, 6), torch.arange(9) % 7
    loss, parts = head.loss(z, labels)
    logits, _, norms = head.modulate(z)
    dac = torch.nn.functional.cross_entropy(logits, labels)
    reo = numpy_objective(norms.detach().numpy(), (labels % 3).numpy(), 20.0, 0.0)
    assert float(loss.detach()) == pytest.approx(float(dac.detach()) + 0.7 * reo, rel=1e-5)
    assert float(parts["reo"].detach()) == pytest.approx(reo, rel=1e-5)


@pytest.mark.parametrize(("choice", "learns"), [("frozen", False), ("trained", True)])
def test_the_classifier_learns_only_where_it_is_told_to(choice, learns):
    head = head_of(classifier=choice)
    head.loss(torch.randn(9, 6), torch.arange(9) % 7)[0].backward()
    assert (head.classifier.weight.grad is not None) is learns
    assert head.subnetworks.embed.weight.grad is not None


def test_tokens_reach_the_sub_networks_and_the_pooled_feature_the_classifier():
    head = head_of(input="tokens")
    z = torch.randn(4, 1 + 3, 6)
    changed = z.clone()
    changed[:, 1:] += 1
    torch.testing.assert_close(head.classifier(changed), head.classifier(z))
    assert not torch.allclose(head.modulate(changed)[2], head.modulate(z)[2])


def test_one_class_a_group_and_one_image_go_through():
    head = head_of(classes=3, top_k=5)
    loss, _ = head.loss(torch.randn(1, 6), torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_training_the_objective_makes_the_right_norm_the_largest():
    torch.manual_seed(0)
    centres = torch.randn(3, 6) * 3
    labels = torch.arange(300) % 3
    z = centres[labels] + torch.randn(300, 6)
    head = head_of(classes=3)
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=3e-3)
    before = head.loss(z, labels)[1]["group_by_norm"]
    for _ in range(150):
        loss, metrics = head.loss(z, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["group_by_norm"] > 95 > before
    norms = head.modulate(z)[2]
    own = norms[torch.arange(300), labels]
    assert own.mean() > 15
    assert norms.sum(1).sub(own).mean() < 5
