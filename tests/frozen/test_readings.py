"""Readings of the paper through the Python API: fitting, group signals, saving and loading."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mem import config
from mem.frozen import FittedHead, fit_head, load_fitted
from mem.frozen.fitting import _Fit
from mem.heads.base import Linear
from tests.frozen.test_fit_head import QUICK, make_features

READINGS: dict[str, dict[str, Any]] = {
    "softmax": {"weight": "softmax", "temperature": 0.3, "classifier": "frozen", "classifier_from": "crt"},
    "sigmoid": {"weight": "sigmoid", "temperature": "learned", "classifier": "trained"},
    "mixture": {"weight": "mixture", "input": "tokens", "pool": "norm", "classifier": "frozen"},
    "two phases": {"phases": "regularisation_first", "classifier": "trained", "norms": "raw"},
    "prior": {"prior_in_loss": True, "training": {**QUICK, "sampler": "instance"}},
    "fresh": {"classifier": "fresh", "classifier_lr_scale": 30.0, "logits": "centred", "reo_scale": "xi_squared"},
    "literal": {"weight": "free", "norms": "raw", "fusion_init": "default", "classifier": "frozen"},
    "former default": {"classifier": "frozen", "classifier_from": "crt", "training": {**QUICK, "lr": 1e-3}},
}


@pytest.mark.parametrize("name", READINGS)
def test_every_reading_can_be_fitted_saved_and_loaded(name, tmp_path):
    settings = {"method": "mem", "training": QUICK, **READINGS[name]}
    tokens = settings.get("input") == "tokens"
    features, labels = make_features(tokens=tokens)
    head = fit_head(settings, features, labels, quiet=True)
    held_out, _ = make_features(seed=2, tokens=tokens)
    logits = head.logits(held_out)
    assert torch.isfinite(logits).all()
    head.save(tmp_path)
    loaded = load_fitted(tmp_path)
    assert loaded.settings == head.settings
    torch.testing.assert_close(loaded.logits(held_out), logits)
    weights, norms = head.groups(held_out)
    assert weights.shape == norms.shape == (len(held_out), 3)


def test_the_weights_of_a_mixture_are_the_log_probabilities_of_the_groups():
    features, labels = make_features()
    head = fit_head({"method": "mem", "training": QUICK, "weight": "mixture"}, features, labels, quiet=True)
    by_group = torch.zeros(len(features), 3).index_add_(1, head.group_of_class, head.probabilities(features))
    torch.testing.assert_close(head.groups(features).weights.exp(), by_group, rtol=1e-4, atol=1e-5)


def test_a_fresh_classifier_needs_no_other_head(monkeypatch):
    fitted: list[str] = []
    fit = _Fit.head

    def recorded(self: _Fit, settings: config.Head, start: Linear | None) -> FittedHead:
        fitted.append(settings.method)
        return fit(self, settings, start)

    monkeypatch.setattr(_Fit, "head", recorded)
    features, labels = make_features()
    fit_head({"method": "mem", "training": QUICK, "classifier": "fresh"}, features, labels, quiet=True)
    assert fitted == ["mem"]
