"""Mixup and CutMix: agreement with timm's distribution and loss, and independence from ranks and micro-batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy

from mem import rng
from mem.config import Finetune
from mem.data.augment.mixing import UNIFORMS, Mixing, mix, sample_mixing
from mem.data.batch import Batch
from mem.data.loading.shard import RankShard
from mem.losses import mixed_cross_entropy
from mem.stages.finetune import mixing_of

RECIPE = Mixing(mixup=0.8, cutmix=1.0, probability=1.0, switch=0.5)
SAMPLES = 4000


def batch(samples: int, first: int = 0, group_size: int = 2) -> Batch:
    return Batch(torch.zeros(samples, 1), torch.arange(samples) % 5, first, 0, group_size)


@pytest.mark.parametrize(
    "mixing", [RECIPE, Mixing(0.8, 0, 0.7, 0.5), Mixing(0, 1.0, 1.0, 0.5), Mixing(0.2, 0.5, 0.6, 0.8)]
)
def test_shares_are_distributed_like_timms(mixing):
    np.random.seed(0)
    rows, columns = 30, 40
    theirs = Mixup(mixing.mixup, mixing.cutmix, prob=mixing.probability, switch_prob=mixing.switch, mode="elem")
    images = torch.zeros(SAMPLES, 1, rows, columns)
    images[SAMPLES // 2 :] = 1
    shares = theirs._mix_elem(images)[:, 0].numpy()
    own, _, cut = sample_mixing(rng.uniforms(0, "mixing", 0, SAMPLES, UNIFORMS), mixing, rows, columns)
    for quantile in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95):
        assert abs(np.quantile(shares, quantile) - np.quantile(own, quantile)) < 0.04, quantile
    values = images[: SAMPLES // 2, 0].flatten(1)
    theirs_cut = ((values == 0) | (values == 1)).all(1) & (values == 1).any(1)
    assert abs(float(theirs_cut.float().mean()) - (cut & (own < 1)).mean()) < 0.04


def test_the_share_is_that_of_the_mixed_image():
    images = torch.zeros(200, 3, 20, 24)
    images[1::2] = 1
    result = mix(images, batch(200), RECIPE)
    own = torch.where(torch.arange(200) % 2 == 1, result.images.mean((1, 2, 3)), 1 - result.images.mean((1, 2, 3)))
    torch.testing.assert_close(own, result.shares)
    flat = result.images.flatten(1)
    is_cut = ((flat == 0) | (flat == 1)).all(1)
    assert 70 < is_cut.sum() < 130


def test_neighbours_are_mixed_with_different_shares():
    result = mix(torch.randn(8, 3, 64, 64), batch(8), RECIPE)
    assert result.partner_labels.tolist() == [1, 0, 3, 2, 0, 4, 2, 1]
    assert len(set(result.shares.tolist())) == 8
    assert torch.equal(result.main_labels, torch.where(result.shares < 0.5, result.partner_labels, result.labels))


def in_batches(samples: int) -> Mixing:
    return replace(RECIPE, batch=samples)


def test_all_samples_of_a_mix_batch_share_the_numbers_of_its_first_sample():
    images = torch.randn(24, 3, 16, 16)
    whole = mix(images, batch(24, first=16), in_batches(8))
    shares = whole.shares.view(3, 8)
    assert all(len(set(row)) == 1 for row in shares.tolist())
    assert len(set(shares[:, 0].tolist())) == 3
    by_element = mix(images, batch(24, first=16), RECIPE)
    torch.testing.assert_close(shares[:, 0], by_element.shares[::8])
    first = sample_mixing(rng.uniforms(0, "mixing", 16, 1, UNIFORMS), RECIPE, 16, 16)
    for result, expected in zip(
        sample_mixing(rng.uniforms_at(0, "mixing", np.full(8, 16), UNIFORMS), RECIPE, 16, 16), first, strict=True
    ):
        assert (result == expected).all()


def test_a_mix_batch_has_the_distribution_of_timms_batch_mode():
    np.random.seed(0)
    theirs = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, mode="batch")
    images = torch.zeros(2, 1, 30, 40)
    images[1] = 1
    expected = []
    for _ in range(2000):
        x = images.clone()
        expected.append(theirs._mix_batch(x))
    size = 10
    numbers = rng.uniforms(0, "mixing", 0, 2000 * size, UNIFORMS)[::size]
    own, _, _ = sample_mixing(numbers, RECIPE, 30, 40)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(np.quantile(expected, quantile) - np.quantile(own, quantile)) < 0.05, quantile


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 2, 6])
@pytest.mark.parametrize("size", [4, 12])
def test_a_mix_batch_does_not_depend_on_ranks_and_micro_batches(ranks, micro_batch, size):
    images, labels = torch.randn(12, 3, 6, 6), torch.randint(9, (12,))
    whole = mix(images, Batch(images, labels, 36, 0, 2), in_batches(size))
    parts = []
    for rank in range(ranks):
        low, high = RankShard(rank, ranks).bounds(12, group_size=2)
        part = Batch(images[low:high], labels[low:high], 36 + low, 0, 2)
        parts += [mix(p.inputs, p, in_batches(size)) for p in part.split(micro_batch)]
    torch.testing.assert_close(whole.images, torch.cat([p.images for p in parts]), rtol=1e-6, atol=1e-6)
    shares = torch.cat([p.shares for p in parts]).view(-1, size)
    assert [len(set(row)) for row in shares.tolist()] == [1] * (12 // size)


def test_the_setting_selects_the_samples_that_share_their_numbers(mini_values):
    values = mini_values["finetune"] | {"global_batch": 16, "mixup": 0.8}
    by_sample, by_batch = mixing_of(Finetune(**values)), mixing_of(Finetune(**values, mix_batch=8))
    assert by_sample is not None and by_batch is not None
    assert (by_sample.batch, by_batch.batch) == (1, 8)


@pytest.mark.parametrize("size", [3, 12, 32])
def test_a_mix_batch_consists_of_pairs_and_divides_the_global_batch(mini_values, size):
    values = mini_values["finetune"] | {"global_batch": 16, "mixup": 0.8}
    with pytest.raises(ValidationError, match=rf"mix_batch \({size}\) must be 1, or an even number that divides"):
        Finetune(**values, mix_batch=size)


def test_nothing_is_mixed_at_probability_zero():
    images = torch.randn(6, 3, 5, 5)
    result = mix(images, batch(6), Mixing(0.8, 1.0, 0.0, 0.5))
    assert torch.equal(result.images, images)
    assert result.shares.tolist() == [1.0] * 6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_equals_timms_loss_for_soft_targets(smoothing):
    logits = torch.randn(12, 5, dtype=torch.float64)
    labels, shares = torch.randint(5, (12,)), torch.rand(12, dtype=torch.float64)
    target = mixup_target(labels, 5, shares[:, None], smoothing).double()
    expected = SoftTargetCrossEntropy()(logits, target)
    found = mixed_cross_entropy(logits, labels, labels.flip(0), shares, smoothing).mean()
    assert abs(float(found - expected)) < 1e-6


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("micro_batch", [None, 1, 3, 4])
def test_mixing_does_not_depend_on_ranks_and_micro_batches(ranks, micro_batch):
    images, labels = torch.randn(20, 3, 6, 6), torch.randint(9, (20,))
    whole = mix(images, Batch(images, labels, 40, 0, 2), RECIPE)
    parts = []
    for rank in range(ranks):
        low, high = RankShard(rank, ranks).bounds(20, group_size=2)
        part = Batch(images[low:high], labels[low:high], 40 + low, 0, 2)
        parts += [mix(p.inputs, p, RECIPE) for p in part.split(micro_batch)]
    torch.testing.assert_close(whole.images, torch.cat([p.images for p in parts]), rtol=1e-6, atol=1e-6)
    assert torch.equal(whole.partner_labels, torch.cat([p.partner_labels for p in parts]))
    assert torch.equal(whole.shares, torch.cat([p.shares for p in parts]))


@pytest.mark.parametrize(("samples", "first"), [(5, 0), (4, 3)])
def test_a_batch_with_half_a_pair_is_rejected(samples, first):
    with pytest.raises(ValueError, match="complete pairs"):
        mix(torch.zeros(samples, 3, 4, 4), batch(samples, first), RECIPE)


def test_mixing_requires_an_even_global_batch(mini_values):
    values = mini_values["finetune"] | {"global_batch": 15}
    assert Finetune(**values).mixes is False
    with pytest.raises(ValidationError, match=r"global_batch \(15\) must be even"):
        Finetune(**values, mixup=0.8)
