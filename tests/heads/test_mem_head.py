"""The complete MEM head: initial predictions, loss, trainable parameters, and the effect of training."""

from __future__ import annotations

import pytest
import torch

from tests.heads.mem_heads import mem_head
from tests.heads.test_mem_equations import numpy_objective


@pytest.mark.parametrize(
    ("weight", "factor"),
    [
        ("free", 1),
        ("softplus", 1),
        ("exp", 1),
        ("residual", 1),
        ("additive", 1),
        ("softmax", 1 / 3),
        ("sigmoid", 1 / 2),
    ],
)
def test_the_initial_logits_are_those_of_the_classifier_times_a_common_factor(weight, factor):
    head, z = mem_head(weight=weight), torch.randn(5, 6)
    torch.testing.assert_close(head(z), factor * head.classifier(z))


@pytest.mark.parametrize("logits", ["centred", "log_softmax", "standardised"])
@pytest.mark.parametrize("weight", ["free", "additive", "sigmoid"])
def test_the_initial_head_predicts_the_same_class_for_all_logits(weight, logits):
    head, z = mem_head(weight=weight, logits=logits, temperature=0.3), torch.randn(50, 6)
    assert torch.equal(head(z).argmax(1), head.classifier(z).argmax(1))


def test_an_initial_mixture_gives_each_group_the_same_probability():
    head, z = mem_head(weight="mixture"), torch.randn(5, 6)
    probabilities = head(z).softmax(1)
    for g in range(3):
        torch.testing.assert_close(probabilities[:, g::3].sum(1), torch.full((5,), 1 / 3))


def test_the_loss_is_the_weighted_sum_of_both_objectives():
    head, z, labels = mem_head(reo_weight=0.7), torch.randn(9, 6), torch.arange(9) % 7
    loss, parts = head.loss(z, labels)
    logits, _, norms = head.modulate(z)
    dac = torch.nn.functional.cross_entropy(logits, labels)
    reo = numpy_objective(norms.detach().numpy(), (labels % 3).numpy(), 20.0, 0.0)
    assert float(loss.detach()) == pytest.approx(float(dac.detach()) + 0.7 * reo, rel=1e-5)
    assert float(parts["reo"].detach()) == pytest.approx(reo, rel=1e-5)


@pytest.mark.parametrize(("classifier", "trains"), [("frozen", False), ("trained", True)])
def test_the_classifier_trains_only_if_the_setting_says_so(classifier, trains):
    head = mem_head(classifier=classifier)
    head.loss(torch.randn(9, 6), torch.arange(9) % 7)[0].backward()
    assert (head.classifier.weight.grad is not None) is trains
    assert head.subnetworks.embed.weight.grad is not None


def test_the_sub_networks_read_the_tokens_and_the_classifier_reads_the_pooled_feature():
    head = mem_head(input="tokens")
    z = torch.randn(4, 1 + 3, 6)
    changed = z.clone()
    changed[:, 1:] += 1
    torch.testing.assert_close(head.classifier(changed), head.classifier(z))
    assert not torch.allclose(head.modulate(changed)[2], head.modulate(z)[2])


def test_one_class_per_group_and_one_image_give_a_finite_loss():
    head = mem_head(classes=3, top_k=5)
    loss, _ = head.loss(torch.randn(1, 6), torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_training_makes_the_norm_of_the_true_group_the_largest():
    torch.manual_seed(0)
    centres = torch.randn(3, 6) * 3
    labels = torch.arange(300) % 3
    z = centres[labels] + torch.randn(300, 6)
    head = mem_head(classes=3)
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=3e-3)
    before = head.loss(z, labels)[1]["group_by_norm"]
    for _ in range(150):
        loss, metrics = head.loss(z, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["group_by_norm"] > 95 > before
    norms = head.modulate(z)[2]
    norm_of_group = norms[torch.arange(300), labels]
    assert norm_of_group.mean() > 15
    assert norms.sum(1).sub(norm_of_group).mean() < 5
