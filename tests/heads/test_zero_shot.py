"""The zero-shot classifier, compared with NumPy and with values of LIFT's code, and heads that start from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mem import config
from mem.errors import UserError
from mem.frozen import fit_head
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head, load_head, save_head
from mem.heads.zero_shot import ZeroShotHead, set_mean_norm
from mem.models.class_embeddings.files import write_embeddings
from mem.models.class_embeddings.vectors import ClassVectors

RNG = np.random.default_rng(0)
EMBEDDINGS, PROJECTION = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 6))
FEATURES = RNG.normal(size=(40, 6)) * RNG.uniform(0.5, 2, (40, 1))
SETTINGS = config.ZeroShot.model_validate(
    {"method": "zero_shot", "scale": 50, "embeddings": {"source": "file", "file": "a.npy"}}
)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).float()


def head(*, projected: bool = True) -> ZeroShotHead:
    rows = F.normalize(tensor(EMBEDDINGS), dim=1)
    return ZeroShotHead(rows, tensor(PROJECTION) if projected else None, 50.0)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T) / np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1)


def test_the_logits_are_cosines_of_projected_features_and_embeddings():
    expected = 50 * cosines(FEATURES @ PROJECTION.T, EMBEDDINGS)
    np.testing.assert_allclose(head()(tensor(FEATURES)), expected, rtol=1e-4, atol=1e-4)
    tokens = torch.stack([tensor(FEATURES), torch.ones(40, 6)], dim=1)
    np.testing.assert_allclose(head()(tokens), expected, rtol=1e-4, atol=1e-4)
    alone = 50 * cosines(FEATURES[:, :4], EMBEDDINGS)
    np.testing.assert_allclose(head(projected=False)(tensor(FEATURES[:, :4])), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("projected", [True, False])
def test_other_heads_start_from_a_linear_classifier_with_the_same_predictions(projected):
    features = tensor(FEATURES if projected else FEATURES[:, :4])
    zero_shot = head(projected=projected)
    set_mean_norm(zero_shot, features.split(7))
    start = zero_shot.as_start()
    assert zero_shot.as_linear() is None
    assert torch.equal(start(features).argmax(dim=1), zero_shot(features).argmax(dim=1))
    norms = zero_shot.projected(features).norm(dim=1, keepdim=True)
    torch.testing.assert_close(start(features * norms.mean() / norms), zero_shot(features), rtol=1e-4, atol=1e-3)


def test_features_that_are_all_0_leave_the_mean_norm_at_1():
    zero_shot = head()
    set_mean_norm(zero_shot, [torch.zeros(3, 6)])
    torch.testing.assert_close(zero_shot.as_start().weight, head().as_start().weight)


@pytest.mark.parametrize("projected", [True, False])
def test_a_loaded_head_equals_the_saved_one(tmp_path, projected):
    width = 6 if projected else 4
    vectors = ClassVectors(F.normalize(tensor(EMBEDDINGS), dim=1), "", tensor(PROJECTION) if projected else None)
    counts = np.array([9, 8, 7, 3, 1])
    blank = Linear(torch.zeros(5, width), torch.zeros(5))
    inputs = HeadInputs(blank, counts, config.Shots(), 0, class_vectors=vectors)
    saved = build_head(SETTINGS, inputs)
    assert isinstance(saved, ZeroShotHead)
    set_mean_norm(saved, [tensor(FEATURES[:, :width])])
    save_head(tmp_path, saved, SETTINGS, inputs)
    loaded = load_head(tmp_path)
    assert torch.equal(loaded(tensor(FEATURES[:, :width])), saved(tensor(FEATURES[:, :width])))
    assert torch.equal(loaded.as_start().weight, saved.as_start().weight)  # type: ignore[union-attr]


def test_fit_head_reads_one_row_per_class_and_other_heads_start_from_it(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, EMBEDDINGS.astype(np.float32))
    features, labels = FEATURES[:, :4].astype(np.float32), np.arange(40) % 5
    settings = {"method": "zero_shot", "scale": 50, "embeddings": {"source": "file", "file": str(path)}}
    fitted = fit_head(settings, features, labels, quiet=True)
    np.testing.assert_allclose(fitted.logits(features), 50 * cosines(features, EMBEDDINGS), rtol=1e-4, atol=1e-4)
    named = tmp_path / "rows.safetensors"  # as `mem classes embed` writes it, in class order
    write_embeddings(named, ClassVectors(tensor(EMBEDDINGS), ""), "abcde", "ABCDE", {})
    by_position = fit_head(
        {**settings, "embeddings": {"source": "file", "file": str(named)}}, features, labels, quiet=True
    )
    assert torch.equal(by_position.logits(features), fitted.logits(features))
    start = fitted.head.as_start()
    assert start is not None
    adjusted = fit_head({"method": "logit_adjustment", "taus": [1.0]}, features, labels, classifier=fitted, quiet=True)
    np.testing.assert_allclose(
        adjusted.logits(features), start(torch.from_numpy(features)).detach() - np.log(0.2), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(UserError, match="have width 4, but the features of the backbone have width 6"):
        fit_head(settings, FEATURES.astype(np.float32), labels, quiet=True)
    text = {"source": "text", "model": "m", "pretrained": "p", "prompts": ["{}"]}
    with pytest.raises(UserError, match="text features require the class names of a study"):
        fit_head({**settings, "embeddings": text}, features, labels, quiet=True)
