"""The default reading of MEM in the studies and in the Python API (decision 0060)."""

from __future__ import annotations

import pytest

from mem.config import Crt, Head, Mem
from mem.config.duplicates import computation
from mem.config.load import load_study
from mem.frozen import head_settings
from tests.conftest import REPOSITORY

FASHION = sorted(path.stem for path in (REPOSITORY / "config").glob("fashion_*.yaml") if path.stem != "fashion_scratch")
"""Studies that keep the former default, because their published results are those of this reading."""
STUDIES = sorted(path.stem for path in (REPOSITORY / "config").glob("*.yaml") if not path.stem.startswith("fashion_"))


def heads_of(study: str) -> dict[str, Head]:
    return dict(load_study([REPOSITORY / "config" / f"{study}.yaml"]).heads)


def reading(head: Head) -> dict[str, object]:
    """Return the settings of a MEM head that its data does not determine."""
    assert isinstance(head, Mem)
    names = ("input", "weight", "classifier", "classifier_from", "norms", "logits", "phases", "prior_in_loss")
    names += ("xi", "mu")
    training = {name: getattr(head.training, name) for name in ("optimizer", "lr", "weight_decay", "sampler")}
    return {name: getattr(head, name) for name in names} | training


DEFAULT = {
    "input": "pooled", "weight": "additive", "classifier": "trained", "classifier_from": "ce", "norms": "scaled",
    "logits": "plain", "phases": "joint", "prior_in_loss": False, "xi": 20.0, "mu": 0.0, "optimizer": "adamw",
    "lr": 3e-4, "weight_decay": 5e-4, "sampler": "class_balanced",
}  # fmt: skip


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_uses_the_default_reading(study):
    assert reading(heads_of(study)["mem"]) == DEFAULT


def test_the_python_api_uses_the_default_reading():
    assert reading(head_settings("mem")) == DEFAULT


@pytest.mark.parametrize("study", FASHION)
def test_fashion_mnist_keeps_the_reading_of_its_published_results(study):
    former = {"classifier": "frozen", "classifier_from": "crt", "lr": 1e-3}
    assert reading(heads_of(study)["mem"]) == {**DEFAULT, **former}


@pytest.mark.parametrize("study", ["glyphs_readings", "glyphs_cnn"])
def test_the_default_is_mem_additive_with_the_chosen_learning_rate(study):
    heads = heads_of(study)
    additive = heads["mem_additive"]
    assert isinstance(additive, Mem)
    slower = additive.model_copy(update={"training": additive.training.model_copy(update={"lr": 3e-4})})
    assert computation(slower) == computation(heads["mem"])
    assert "mem_additive.lr0.0003" not in heads


@pytest.mark.parametrize("study", ["glyphs_readings", "glyphs_cnn"])
def test_the_default_has_a_control_without_a_modulator(study):
    heads = heads_of(study)
    default, control = heads["mem"], heads["crt_warm.lr0.0003"]
    assert isinstance(default, Mem)
    assert isinstance(control, Crt)
    assert (control.classifier_from, control.training) == (default.classifier_from, default.training)
