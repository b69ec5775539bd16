"""Control heads, compared with NumPy: logits and loss, and gradients by finite differences of the NumPy loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from mem import config
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, build_head
from tests.heads import numpy_mem
from tests.heads.control_settings import block_classifier, group_constants, logit_fusion

COUNTS = np.array([500, 200, 50, 30, 10, 5, 300])
GROUPS = np.array([0, 0, 1, 1, 2, 2, 0])
CLASSES, FEATURES, SAMPLES = 7, 6, 5
State = Mapping[str, np.ndarray]


def inputs() -> HeadInputs:
    rng = np.random.default_rng(11)
    weight, bias = torch.from_numpy(rng.normal(size=(CLASSES, FEATURES))), torch.from_numpy(rng.normal(size=CLASSES))
    return HeadInputs(Linear(weight.float(), bias.float()), COUNTS, config.Shots(), 3)


def random_head(settings: config.Head, tokens: bool = False) -> tuple[Head, np.ndarray, np.ndarray]:
    """Return a head in float64 with random parameters, features and labels."""
    rng = np.random.default_rng(5)
    head = build_head(settings, inputs()).double()
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.from_numpy(rng.normal(0, 0.3, p.shape)))
    features = rng.normal(size=(SAMPLES, 4, FEATURES) if tokens else (SAMPLES, FEATURES))
    return head, features, rng.integers(0, CLASSES, SAMPLES)


def assert_equals_numpy(
    head: Head,
    features: np.ndarray,
    labels: np.ndarray,
    logits_of: Callable[[State], np.ndarray],
    log_prior: np.ndarray | float = 0.0,
) -> None:
    """Compare logits, loss, and some gradients of each trained parameter with those of a NumPy version."""
    state = {name: value.numpy().copy() for name, value in head.state_dict().items()}

    def loss_of(state: State) -> float:
        probabilities = numpy_mem.softmax(logits_of(state) + log_prior)
        return -float(np.log(probabilities[np.arange(len(labels)), labels]).mean())

    x = torch.from_numpy(features)
    np.testing.assert_allclose(head(x).detach().numpy(), logits_of(state), rtol=1e-9, atol=1e-12)
    loss, metrics = head.loss(x, torch.from_numpy(labels))
    assert float(loss.detach()) == pytest.approx(loss_of(state), rel=1e-9)
    accuracy = 100 * (logits_of(state).argmax(axis=1) == labels).mean()
    assert float(metrics["acc1"]) == pytest.approx(accuracy, abs=1e-4)
    loss.backward()
    rng, h = np.random.default_rng(3), 1e-5
    for name, p in head.named_parameters():
        if not p.requires_grad:
            assert p.grad is None
            continue
        assert p.grad is not None
        for flat in rng.choice(p.numel(), min(4, p.numel()), replace=False):
            at = np.unravel_index(flat, p.shape)
            up, down = dict(state), dict(state)
            up[name], down[name] = state[name].copy(), state[name].copy()
            up[name][at] += h
            down[name][at] -= h
            slope = (loss_of(up) - loss_of(down)) / (2 * h)
            assert float(p.grad[at]) == pytest.approx(slope, rel=1e-4, abs=1e-7), f"{name}{at}"


def trained(head: Head) -> set[str]:
    return {name for name, p in head.named_parameters() if p.requires_grad}


LOG_PRIOR = np.log(COUNTS / COUNTS.sum())


@pytest.mark.parametrize("constants", ["offset", "factor", "both"])
def test_group_constants_equal_numpy_and_only_they_are_trained(constants):
    head, features, labels = random_head(group_constants(constants=constants))

    def logits_of(state: State) -> np.ndarray:
        rows = []
        for z in features:
            plain = state["weight"] @ z + state["bias"]
            rows.append([state["factor"][g] * plain[k] + state["offset"][g] for k, g in enumerate(GROUPS)])
        return np.array(rows)

    assert_equals_numpy(head, features, labels, logits_of)
    assert trained(head) == ({"offset", "factor"} if constants == "both" else {constants})


@pytest.mark.parametrize("weight", ["free", "softplus", "exp", "residual", "softmax", "sigmoid", "additive", "mixture"])
@pytest.mark.parametrize("classifier", ["frozen", "trained"])
def test_the_fusion_of_logits_equals_numpy(weight, classifier):
    head, features, labels = random_head(logit_fusion(weight=weight, classifier=classifier))
    check_fusion(head, features, labels, weight)
    of_classifier = {"classifier.weight", "classifier.bias"}
    assert trained(head) - of_classifier == {
        f"fusion.{layer}.{p}" for layer in ("hidden", "out") for p in ("weight", "bias")
    }
    assert (of_classifier <= trained(head)) == (classifier == "trained")


def test_the_fusion_of_logits_with_the_prior_in_the_loss_equals_numpy():
    head, features, labels = random_head(logit_fusion(sampler="instance", prior_in_loss=True))
    check_fusion(head, features, labels, "additive", LOG_PRIOR.astype(np.float32).astype(np.float64))


def check_fusion(
    head: Head, features: np.ndarray, labels: np.ndarray, kind: str, log_prior: np.ndarray | float = 0.0
) -> None:
    def logits_of(state: State) -> np.ndarray:
        rows = []
        for z in features:
            plain = state["classifier.weight"] @ z + state["classifier.bias"]
            top = np.concatenate([np.sort(plain[GROUPS == g])[::-1][:2] for g in range(3)])
            hidden = numpy_mem.gelu(state["fusion.hidden.weight"] @ top + state["fusion.hidden.bias"])
            w = numpy_mem.activate(state["fusion.out.weight"] @ hidden + state["fusion.out.bias"], kind)
            rows.append(numpy_mem.modulated(plain, w, GROUPS, kind))
        return np.array(rows)

    assert_equals_numpy(head, features, labels, logits_of, log_prior)


BLOCK_CASES = {
    "new": {},
    "tokens": {"input": "tokens"},
    "two blocks": {"input": "tokens", "depth": 2},
    "no block": {"depth": 0},
    "added to a trained classifier": {"input": "tokens", "classifier_from": "ce"},
    "added to a frozen classifier": {"classifier_from": "ce", "classifier": "frozen"},
    "prior": {"input": "tokens", "sampler": "instance", "prior_in_loss": True},
}


@pytest.mark.parametrize("case", BLOCK_CASES)
def test_the_block_classifier_equals_numpy(case):
    settings = block_classifier(**BLOCK_CASES[case])
    head, features, labels = random_head(settings, tokens=settings.input == "tokens")

    def logits_of(state: State) -> np.ndarray:
        of_block = {f"subnetworks.{name.removeprefix('blocks.')}": value for name, value in state.items()}
        rows = []
        for z in features:
            pooled, tokens = (z[0], z[1:]) if settings.input == "tokens" else (z, z[None])
            mean = numpy_mem.embeddings(of_block, 0, tokens, settings.depth, heads=1).mean(axis=0)
            row = state["out.weight"] @ numpy_mem.layer_norm(mean, state["norm.weight"], state["norm.bias"])
            row = row + state["out.bias"]
            if settings.classifier_from is not None:
                row = row + state["classifier.weight"] @ pooled + state["classifier.bias"]
            rows.append(row)
        return np.array(rows)

    log_prior = LOG_PRIOR.astype(np.float32).astype(np.float64) if settings.prior_in_loss else 0.0
    assert_equals_numpy(head, features, labels, logits_of, log_prior)
    assert head.uses_tokens == (settings.input == "tokens")
    has_trained_classifier = settings.classifier_from is not None and settings.classifier == "trained"
    assert ("classifier.weight" in trained(head)) == has_trained_classifier


@pytest.mark.parametrize(
    "settings",
    [
        group_constants(),
        logit_fusion(),
        logit_fusion(weight="free"),
        block_classifier(classifier_from="ce"),
        block_classifier(classifier_from="ce", input="tokens", depth=2),
    ],
    ids=lambda settings: settings.method,
)
def test_an_initial_control_predicts_the_same_as_the_classifier_that_it_starts_from(settings):
    features = torch.randn(9, 4, FEATURES)
    expected = inputs().classifier(features)
    torch.testing.assert_close(build_head(settings, inputs())(features), expected)


def test_a_new_block_classifier_depends_only_on_the_seed():
    one, again = (build_head(block_classifier(), inputs()) for _ in range(2))
    assert all(torch.equal(one.state_dict()[name], value) for name, value in again.state_dict().items())
    assert one.get_parameter("out.weight").abs().max() > 0
    other = build_head(block_classifier(), HeadInputs(inputs().classifier, COUNTS, config.Shots(), seed=4))
    assert not torch.equal(one.get_parameter("out.weight"), other.get_parameter("out.weight"))


@pytest.mark.parametrize("settings", [group_constants, logit_fusion])
def test_controls_have_the_groups_of_mem(settings):
    head = build_head(settings(partition="cardinality_even", groups=2), inputs())
    assert head.get_buffer("group_of_class").tolist() == [0, 0, 0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="partition `shot` has 3 groups, but groups is 2"):
        settings(groups=2)


@pytest.mark.parametrize("settings", [logit_fusion, block_classifier])
def test_the_prior_in_the_loss_requires_instance_sampling(settings):
    with pytest.raises(ValueError, match="prior_in_loss: requires the sampler `instance`, not `class_balanced`"):
        settings(prior_in_loss=True)
