"""Equations 3 to 9 of the paper, compared with an independent NumPy implementation, including edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import longtail
from mem.heads.mem.data_aware import data_aware_logits, group_log_sums, modulated_logits
from mem.heads.mem.fusion import Fusion, TopLogits, group_weights
from mem.heads.mem.objective import regularisation_objective

seeds = st.integers(0, 10**6)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# Eq. 3 to 5


def numpy_objective(norms: np.ndarray, group_of_sample: np.ndarray, xi: float, mu: float) -> float:
    total = 0.0
    for g in range(norms.shape[1]):
        positives = [max(xi - q, 0) ** 2 for q in norms[group_of_sample == g, g]]
        negatives = [max(q - mu, 0) ** 2 for q in norms[group_of_sample != g, g]]
        total += np.mean(positives) if positives else 0.0
        total += np.mean(negatives) if negatives else 0.0
    return total


@given(seed=seeds, n=st.integers(1, 20), groups=st.integers(1, 4), present=st.integers(1, 4))
@settings(deadline=None)
def test_the_objective_equals_numpy_even_if_groups_are_absent(seed, n, groups, present):
    rng = rng_of(seed)
    norms, group_of_sample = rng.uniform(0, 30, (n, groups)), rng.integers(0, min(present, groups), n)
    xi, mu = rng.uniform(5, 25), rng.uniform(0, 5)
    ours = regularisation_objective(torch.from_numpy(norms), torch.from_numpy(group_of_sample), xi, mu)
    assert float(ours) == pytest.approx(numpy_objective(norms, group_of_sample, xi, mu), rel=1e-12, abs=1e-12)


@given(seed=seeds, n=st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_the_gradient_of_the_objective_equals_finite_differences(seed, n):
    rng = rng_of(seed)
    norms, group_of_sample = rng.uniform(0, 30, (n, 3)), rng.integers(0, 3, n)
    tensor = torch.from_numpy(norms).requires_grad_()
    regularisation_objective(tensor, torch.from_numpy(group_of_sample), 20.0, 2.0).backward()
    h = 1e-5
    for i, g in np.ndindex(n, 3):
        step = np.zeros_like(norms)
        step[i, g] = h
        up, down = (numpy_objective(norms + sign * step, group_of_sample, 20, 2) for sign in (1, -1))
        assert float(tensor.grad[i, g]) == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-4)


def test_a_rare_group_counts_as_much_as_a_frequent_one():
    norms = torch.zeros(100, 2, dtype=torch.float64)
    group_of_sample = torch.zeros(100, dtype=torch.long)
    group_of_sample[0] = 1
    # Norms of 0 violate only the margin for positives. The positive term of a group is xi^2, regardless of whether it
    # has 99 images or one.
    assert float(regularisation_objective(norms, group_of_sample, 3.0, 0.0)) == pytest.approx(2 * 9.0)


def test_one_image_gives_a_finite_objective_and_gradient():
    norms = torch.zeros(1, 3, requires_grad=True)
    loss = regularisation_objective(norms, torch.tensor([1]), 20.0, 0.0)
    loss.backward()
    assert float(loss.detach()) == 400.0
    assert torch.isfinite(norms.grad).all()


# Eq. 6 and 7


def numpy_top_logits(logits: np.ndarray, groups: np.ndarray, number: int, k: int) -> np.ndarray:
    rows = []
    for row in logits:
        rows.append(np.concatenate([np.sort(row[groups == g])[::-1][:k] for g in range(number)]))
    return np.stack(rows)


@given(seed=seeds, n=st.integers(1, 8), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), k=st.integers(1, 9))
@settings(deadline=None)
def test_top_logits_equal_numpy_even_if_a_group_has_fewer_than_k_classes(seed, n, sizes, k):
    rng = rng_of(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    logits = rng.normal(size=(n, len(groups)))
    layer = TopLogits(torch.from_numpy(longtail.group_membership(groups, len(sizes))), k)
    found = layer(torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(found, numpy_top_logits(logits, groups, len(sizes), k))
    assert layer.width == sum(min(k, size) for size in sizes) == found.shape[1]


@pytest.mark.parametrize("kind", ["free", "softplus", "exp", "additive"])
def test_fusion_equals_numpy(kind):
    torch.manual_seed(0)
    layer = Fusion(inputs=8, groups=3, width=7, kind=kind).double()
    with torch.no_grad():
        layer.out.weight.normal_()
    inputs = torch.randn(4, 8).double()
    p = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    from scipy.special import erf

    hidden = inputs.numpy() @ p["hidden.weight"].T + p["hidden.bias"]
    hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
    out = hidden @ p["out.weight"].T + p["out.bias"]
    expected = {"free": out, "additive": out, "softplus": np.log1p(np.exp(out)), "exp": np.exp(out)}[kind]
    np.testing.assert_allclose(layer(inputs).detach().numpy(), expected)


NEUTRAL = {
    "free": 1, "softplus": 1, "exp": 1, "residual": 1, "additive": 0, "softmax": 1 / 3, "sigmoid": 1 / 2,
    "mixture": -np.log(3),
}  # fmt: skip


@pytest.mark.parametrize("kind", NEUTRAL)
def test_initial_weights_are_neutral(kind):
    layer = Fusion(inputs=8, groups=3, width=7, kind=kind)
    torch.testing.assert_close(layer(50 * torch.randn(4, 8)), torch.full((4, 3), float(NEUTRAL[kind])))


def test_the_default_initialisation_of_the_fusion_is_that_of_a_linear_layer():
    torch.manual_seed(0)
    layer = Fusion(inputs=8, groups=3, width=7, kind="free", init="default")
    torch.manual_seed(0)
    expected = [torch.nn.Linear(8, 7), torch.nn.Linear(7, 3)]
    for ours, theirs in zip((layer.hidden, layer.out), expected, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


# Eq. 8 and 9


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


def test_a_logit_of_minus_infinity_is_not_replaced_by_one_of_another_group():
    """The logit ties with the padding of a small group, and the padding contains a class of another group."""
    members = torch.zeros(2, 66, dtype=torch.bool)
    members[0, :64], members[1, 64:] = True, True
    logits = torch.zeros(1, 66)
    logits[0, 64:] = -torch.inf
    assert TopLogits(members, 2)(logits).tolist() == [[0.0, 0.0, -torch.inf, -torch.inf]]
    assert TopLogits(members, 2)(torch.zeros(0, 66)).shape == (0, 4)


def test_an_infinite_weight_affects_only_its_group():
    weights = torch.tensor([[torch.inf, 2.0]])
    with torch.no_grad():
        assert data_aware_logits(torch.ones(1, 3), weights, torch.tensor([0, 1, 0])).tolist() == [
            [torch.inf, 2.0, torch.inf]
        ]


def test_additive_weights_are_added_to_the_logits():
    logits, weights = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0]])
    added = data_aware_logits(logits, weights, torch.tensor([0, 1, 0]), additive=True)
    assert added.tolist() == [[11.0, 22.0, 13.0]]


# Readings of eq. 8 that are the same by construction


def random_logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits of seven classes, outputs of the fusion for three groups, and the groups of the classes."""
    generator = torch.Generator().manual_seed(seed)
    logits, output = (3 * torch.randn(5, n, dtype=torch.float64, generator=generator) for n in (7, 3))
    return logits, output, torch.arange(7) % 3


@pytest.mark.parametrize("kind", ["softmax", "softplus", "sigmoid", "exp"])
def test_weights_that_multiply_probabilities_equal_additive_weights(kind):
    """w_g softmax(l)_k, normalised over the classes, is the softmax of l_k + log w_g."""
    logits, output, groups = random_logits()
    weights = group_weights(output, kind)
    products = logits.softmax(1) * weights[:, groups]
    additive = modulated_logits(logits, weights.log(), groups, "additive").softmax(1)
    torch.testing.assert_close(products / products.sum(1, keepdim=True), additive)


def test_a_mixture_of_the_classifiers_own_group_probabilities_equals_additive_weights():
    """With pi = softmax(o + log of the sum of the group's exponentials), pi_g p(k | g) is the softmax of l_k + o_g."""
    logits, output, groups = random_logits()
    log_pi = group_weights(output + group_log_sums(logits, groups, 3), "mixture")
    mixture = modulated_logits(logits, log_pi, groups, "mixture").softmax(1)
    torch.testing.assert_close(mixture, modulated_logits(logits, output, groups, "additive").softmax(1))


def test_a_mixture_has_the_probabilities_of_the_groups_and_of_the_classes_within_them():
    logits, output, groups = random_logits()
    mixture = modulated_logits(logits, group_weights(output, "mixture"), groups, "mixture")
    torch.testing.assert_close(mixture.exp().sum(1), torch.ones(5, dtype=torch.float64))
    for g in range(3):
        of_group = mixture[:, groups == g].exp()
        torch.testing.assert_close(of_group.sum(1), output.softmax(1)[:, g])
        torch.testing.assert_close(of_group / of_group.sum(1, keepdim=True), logits[:, groups == g].softmax(1))
