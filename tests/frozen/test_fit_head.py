"""Fitting of heads on features in memory through the Python API, without a study."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mem import config
from mem.errors import UserError
from mem.frozen import FittedHead, fit_head, head_settings, load_fitted
from mem.frozen.defaults import methods
from mem.heads.lws import LwsHead
from mem.heads.mem.head import MemHead

COUNTS = (120, 110, 60, 40, 15, 10)
WIDTH, TOKENS = 12, 3
QUICK = {"epochs": 2}


def make_features(
    counts: tuple[int, ...] = COUNTS, seed: int = 0, tokens: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of well-separated classes."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).normal(size=(len(COUNTS), WIDTH))
    labels = np.repeat(np.arange(len(counts)), counts)
    pooled = centres[labels] + rng.normal(size=(len(labels), WIDTH))
    if not tokens:
        return pooled.astype(np.float32), labels
    sequence = pooled[:, None] + rng.normal(size=(len(labels), TOKENS, WIDTH))
    return np.concatenate([pooled[:, None], sequence], axis=1).astype(np.float32), labels


def quick(method: str, **settings) -> dict:
    learns = "training" in methods()[method].model_fields
    return {"method": method, **({"training": QUICK} if learns else {}), **settings}


FOR_EXPERTS = {name for name, section in methods().items() if section.requires_experts}


@pytest.mark.parametrize("method", sorted(methods().keys() - {"finetuned", "zero_shot"} - FOR_EXPERTS))
def test_every_method_can_be_fitted_by_its_name(method):
    features, labels = make_features()
    head = fit_head(quick(method), features, labels, val=make_features(seed=1), quiet=True)
    held_out, truth = make_features(seed=2)
    probabilities = head.probabilities(held_out)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(truth)))
    assert (head.predict(held_out).numpy() == truth).mean() > 0.9


def test_the_defaults_of_a_method_are_complete_settings():
    assert isinstance(head_settings("mem"), config.Mem)
    assert head_settings({"method": "crt", "training": {"lr": 0.3}}).training == config.HeadTraining(
        epochs=10, global_batch=128, optimizer="sgd", lr=0.3, weight_decay=5e-4, sampler="class_balanced"
    )
    complete = head_settings("lws")
    assert head_settings(complete) is complete


@pytest.mark.parametrize(
    ("kind", "convert"),
    [
        ("torch", torch.from_numpy),
        ("float64", lambda a: a.astype(np.float64) if a.dtype == np.float32 else a),
        ("lists", lambda a: a.tolist()),
        ("float16", lambda a: a.astype(np.float16) if a.dtype == np.float32 else a.astype(np.uint8)),
    ],
)
def test_arrays_of_any_type_are_accepted(kind, convert):
    features, labels = make_features()
    expected = fit_head(quick("crt"), features, labels, quiet=True).logits(features)
    found = fit_head(quick("crt"), convert(features), convert(labels), quiet=True).logits(convert(features))
    torch.testing.assert_close(found, expected, rtol=0.02 if kind == "float16" else 1e-6, atol=0.05)


def test_the_same_seed_gives_the_same_head_and_another_seed_a_different_one():
    features, labels = make_features()
    first, again, other = (fit_head(quick("mem"), features, labels, seed=s, quiet=True) for s in (3, 3, 4))
    assert torch.equal(first.logits(features), again.logits(features))
    assert (first.logits(features) - other.logits(features)).abs().max() > 1e-3


@pytest.mark.parametrize("head_input", ["pooled", "tokens"])
def test_mem_returns_group_weights_and_norms(head_input):
    features, labels = make_features(tokens=True)
    head = fit_head(quick("mem", input=head_input), features, labels, quiet=True)
    signals = head.groups(features)
    assert signals.weights.shape == signals.norms.shape == (len(labels), 3)
    assert head.group_of_class is not None
    assert head.group_of_class.tolist() == [0, 0, 1, 1, 2, 2]
    # As a torch module, the head returns logits and propagates gradients to the features.
    batch = torch.from_numpy(features[:5]).requires_grad_()
    head(batch).sum().backward()
    assert batch.grad is not None
    torch.testing.assert_close(head(batch), head.logits(features[:5]), rtol=1e-4, atol=1e-4)


def test_the_crops_of_an_image_have_its_mean_logits():
    features, labels = make_features()
    head = fit_head({"method": "mem", "classifier_from": "crt", "training": QUICK}, features, labels, quiet=True)
    crops = make_features(seed=2)[0][:30]
    expected = head.logits(crops).reshape(6, 5, -1).mean(dim=1)
    torch.testing.assert_close(head.logits(crops, crops=5), expected)
    torch.testing.assert_close(head.probabilities(crops, crops=5), expected.softmax(dim=1))
    assert head.predict(crops, crops=5).tolist() == expected.argmax(dim=1).tolist()
    for found, single in zip(head.groups(crops, crops=5), head.groups(crops), strict=True):
        torch.testing.assert_close(found, single.reshape(6, 5, -1).mean(dim=1))
    for number in (0, 4):
        with pytest.raises(UserError, match=f"not the crops of a whole number of images, with {number}"):
            head.logits(crops, crops=number)


def test_thresholds_of_the_shot_groups_are_used():
    features, labels = make_features()
    head = fit_head(quick("mem"), features, labels, shots=config.Shots(many_above=115, few_below=12), quiet=True)
    assert head.group_of_class is not None
    assert head.group_of_class.tolist() == [0, 1, 1, 1, 1, 2]


def test_a_head_starts_from_the_given_classifier():
    features, labels = make_features()
    layer = nn.Linear(WIDTH, len(COUNTS))
    pair = (layer.weight.detach().numpy(), layer.bias.detach().numpy())
    for classifier in (layer, pair):
        head = fit_head("lws", features, labels, classifier=classifier, quiet=True)
        assert isinstance(head.head, LwsHead)
        assert torch.equal(head.head.get_buffer("weight"), layer.weight)
    crt = fit_head(quick("crt"), features, labels, quiet=True)
    start = fit_head(quick("mem", training={"epochs": 1, "lr": 1e-9}), features, labels, classifier=crt, quiet=True)
    torch.testing.assert_close(start.logits(features), crt.logits(features), rtol=1e-4, atol=1e-4)
    expected = layer(torch.from_numpy(features)).detach()
    for unchanged in (config.Ce(method="ce"), "finetuned"):
        tuned = fit_head(unchanged, features, labels, classifier=layer, quiet=True)
        torch.testing.assert_close(tuned.logits(features), expected, rtol=1e-5, atol=1e-5)


NO_STEPS = {"epochs": 1, "lr": 1e-9}
"""Training that changes nothing."""


@pytest.mark.parametrize("first", ["ce", "tau", "crt", "lws", "logit_adjustment", "balanced_softmax"])
@pytest.mark.parametrize("method", ["crt", "mem", "group_constants"])
def test_a_head_starts_from_the_head_that_classifier_from_names(method, first):
    features, labels = make_features()
    val = make_features(seed=1)
    expected = fit_head(first, features, labels, val=val, quiet=True)
    started = {"method": method, "classifier_from": first, "training": NO_STEPS}
    head = fit_head(started, features, labels, val=val, quiet=True)
    torch.testing.assert_close(head.logits(features), expected.logits(features), rtol=1e-3, atol=1e-3)


def test_by_default_mem_starts_from_ce_and_trains_its_classifier():
    features, labels = make_features()
    ce = fit_head("ce", features, labels, quiet=True)
    start = fit_head(quick("mem", training=NO_STEPS), features, labels, quiet=True)
    torch.testing.assert_close(start.logits(features), ce.logits(features), rtol=1e-3, atol=1e-3)
    trained = fit_head("mem", features, labels, classifier=ce, quiet=True)
    assert isinstance(trained.head, MemHead)
    assert (trained.head.classifier.weight - ce.head.get_parameter("weight")).abs().max() > 1e-3
    assert torch.equal(trained.logits(features), fit_head("mem", features, labels, quiet=True).logits(features))


def test_warm_crt_continues_the_training_of_crt():
    features, labels = make_features()
    fresh, again = (fit_head(quick("crt", **c), features, labels, quiet=True) for c in ({}, {"classifier_from": "crt"}))
    given = fit_head(quick("crt", classifier_from="crt"), features, labels, classifier=fresh, quiet=True)
    cross_entropy = [
        float(nn.functional.cross_entropy(head.logits(features), torch.from_numpy(labels))) for head in (fresh, given)
    ]
    assert cross_entropy[1] < cross_entropy[0]
    assert not torch.equal(given.logits(features), again.logits(features))  # `again` starts from all default epochs


@pytest.mark.parametrize("method", ["crt", "group_constants", "logit_fusion", "block_classifier"])
def test_a_saved_control_is_loaded_with_the_same_logits(tmp_path, method):
    features, labels = make_features()
    head = fit_head(quick(method, classifier_from="ce"), features, labels, quiet=True)
    head.save(tmp_path)
    torch.testing.assert_close(load_fitted(tmp_path).logits(features), head.logits(features), rtol=1e-4, atol=1e-4)


def test_a_block_classifier_uses_tokens():
    tokens, labels = make_features(tokens=True)
    head = fit_head(quick("block_classifier", input="tokens"), tokens, labels, quiet=True)
    changed = tokens.copy()
    changed[:, 1:] = tokens[:, :0:-1] * 2
    assert (head.logits(changed) - head.logits(tokens)).abs().max() > 1e-3
    with pytest.raises(UserError, match="this head requires tokens"):
        head.logits(tokens[:, 0])
    with pytest.raises(UserError, match="block_classifier: its input is `tokens`, but these features are pooled only"):
        fit_head(quick("block_classifier", input="tokens"), tokens[:, 0], labels, quiet=True)


def test_group_balanced_sampling_uses_the_shot_groups():
    features, labels = make_features()
    settings = quick("crt", training={"epochs": 2, "sampler": "group_balanced"})
    one, other = (
        fit_head(settings, features, labels, shots=shots, quiet=True).logits(features)
        for shots in (None, config.Shots(many_above=115, few_below=12))
    )
    assert (one - other).abs().max() > 1e-3


def test_tau_is_chosen_on_val_and_reported():
    features, labels = make_features()
    head = fit_head("tau", features, labels, val=make_features(seed=1), quiet=True)
    assert set(head.results) == {"tau", "val_accuracy_by_tau", "val_balanced_accuracy_by_tau"}
    for method in ("tau", "logit_adjustment"):
        with pytest.raises(UserError) as error:
            fit_head(method, features, labels, quiet=True)
        assert f"val: is required, because `{method}` selects tau from 21 values" in str(error.value)
        assert "Pass val=(features, labels), or a single value" in str(error.value)
        assert "dataset" not in str(error.value)
        assert fit_head({"method": method, "taus": [1.0]}, features, labels, quiet=True).results["tau"] == 1.0


def test_one_head_per_expert_requires_experts():
    features, labels = make_features()
    with pytest.raises(UserError, match="requires the experts of a finetuned backbone"):
        fit_head(quick("crt", per_expert=True), features, labels, quiet=True)


def test_the_images_of_a_holdout_count_for_the_groups_of_classes(tmp_path):
    features, labels = make_features()
    settings = quick("mem", training={"epochs": 0.1})
    val = make_features((12, 11, 6, 6, 6, 1), seed=1)  # class 4 has 15 training images and 6 val images
    alone = fit_head(settings, features, labels, val=val, quiet=True)
    together = fit_head(settings, features, labels, val=val, val_held_out=True, quiet=True)
    counts = np.bincount(labels) + np.bincount(val[1])
    expected = np.select([counts > 100, counts < 20], [0, 2], 1)
    assert together.group_of_class.tolist() == expected.tolist() != alone.group_of_class.tolist()
    assert together.inputs.class_counts.tolist() == np.bincount(labels).tolist()
    together.save(tmp_path / "head")
    assert load_fitted(tmp_path / "head").group_of_class.tolist() == expected.tolist()
    with pytest.raises(UserError, match="val_held_out: requires val"):
        fit_head(settings, features, labels, val_held_out=True, quiet=True)


def test_a_saved_head_is_loaded_with_the_same_logits(tmp_path):
    features, labels = make_features()
    head = fit_head(quick("mem"), features, labels, quiet=True)
    head.save(tmp_path / "head")
    loaded = load_fitted(tmp_path / "head")
    assert all(torch.equal(loaded.head.state_dict()[key], value) for key, value in head.head.state_dict().items())
    torch.testing.assert_close(loaded.logits(features), head.logits(features), rtol=1e-4, atol=1e-4)
    assert isinstance(loaded, FittedHead)


# --- user errors ----------------------------------------------------------------------------------


def with_nan(features: np.ndarray, image: int) -> np.ndarray:
    features = features.copy()
    features[image, 0] = np.nan
    return features


FEATURES, LABELS = make_features()


@pytest.mark.parametrize(
    ("features", "labels", "expected"),
    [
        (FEATURES[:-1], LABELS, r"train: there are features of 354 images, but labels of shape \(355,\)"),
        (FEATURES, LABELS[:, None], r"labels of shape \(355, 1\); expected one label per image"),
        (FEATURES[:, 0], LABELS, r"features have shape \(355,\); expected \(images, width\)"),
        (FEATURES[:0], LABELS[:0], "train: the split has no images"),
        (with_nan(FEATURES, 77), LABELS, "train: the features of image 77 .* not finite"),
        (FEATURES.astype(np.float64) * 1e300, LABELS, "features of image 0 .* not finite in float32"),
        (FEATURES.astype(np.int64), LABELS, "features are of type int64"),
        (FEATURES, LABELS.astype(np.float64), "labels are of type float64; expected integers"),
        (FEATURES, LABELS - 1, "image 0 has label -1; expected 0 or more"),
        (FEATURES, np.where(LABELS == 3, 2, LABELS), "train: class 3 has no training images. Add images"),
    ],
    ids=["length", "shape", "one number", "nothing", "nan", "too large", "integers", "floats", "negative", "absent"],
)
def test_features_and_labels_that_do_not_match_are_refused(features, labels, expected):
    with pytest.raises(UserError, match=expected):
        fit_head("crt", features, labels, quiet=True)


def test_a_split_of_another_backbone_or_with_unknown_classes_is_refused():
    features, labels = make_features()
    with pytest.raises(UserError, match=r"val: features have shape \(5,\) per image, but train has shape \(12,\)"):
        fit_head("crt", features, labels, val=(features[:, :5], labels), quiet=True)
    with pytest.raises(UserError, match="val: image 0 has label 9, but train has 6 classes"):
        fit_head("crt", features, labels, val=(features[:1], np.array([9])), quiet=True)
    head = fit_head(quick("crt"), features, labels, quiet=True)
    with pytest.raises(UserError, match="features: got width 5, but the head was fitted on features of width 12"):
        head.logits(features[:, :5])
    with pytest.raises(UserError, match="Only a `mem` head has group weights and norms, but this head is `crt`"):
        head.groups(features)


def test_missing_tokens_are_reported():
    features, labels = make_features()
    with pytest.raises(UserError, match="mem: its input is `tokens`, but these features are pooled only"):
        fit_head(quick("mem", input="tokens"), features, labels, quiet=True)
    head = fit_head(quick("mem", input="tokens"), *make_features(tokens=True), quiet=True)
    with pytest.raises(UserError, match="this head requires tokens"):
        head.logits(features)


def test_an_empty_group_is_refused_and_a_group_smaller_than_top_k_uses_all_its_classes():
    features, labels = make_features()
    with pytest.raises(UserError, match="leaves a group empty: few"):
        fit_head(quick("mem"), features, labels, shots=config.Shots(few_below=1), quiet=True)
    head = fit_head(quick("mem", top_k=50), features, labels, quiet=True)
    assert head.head.get_submodule("top_logits").width == len(COUNTS)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mems", r"Unknown method mems\. Did you mean mem\?"),
        ({"method": "mem", "xii": 3}, "Invalid settings of mem: unknown key `xii`; did you mean `xi`"),
        (
            {"method": "mem", "xii": 3},
            "Allowed here: .*method, partition, groups, .*, classifier_from, per_expert, training",
        ),
        ({"method": "crt", "training": {"epoch": 3}}, r"unknown key `training\.epoch`; did you mean `epochs`"),
        ({"method": "mem", "width": "wide"}, "Invalid settings of mem: `width` is 'wide': input should be a valid int"),
        ({"method": "tau", "taus": 0.5}, r"`taus` is 0\.5: expected a list, for example \[0\.5\]"),
        ({"xi": 50}, r"`method` is missing from \['xi'\]\. Add it"),
        ({"method": "mem", "mu": 30.0}, r"mu \(30\) must be smaller than xi"),
        (config.Ce(method="ce"), "ce: requires `training` or a finetuned classifier"),
        ("finetuned", "finetuned: requires the finetuned classifier"),
        ("ensemble", "ensemble: requires the experts of a backbone that a study finetuned"),
        ({"method": "mem", "classifier_from": "mine"}, "classifier_from is `mine`"),
    ],
)
def test_invalid_settings_are_refused(method, expected):
    with pytest.raises(UserError, match=expected):
        fit_head(method, *make_features(), quiet=True)


def test_a_classifier_of_another_shape_or_kind_is_refused():
    features, labels = make_features()
    with pytest.raises(UserError, match=r"classifier: its weight has shape \(6, 5\)"):
        fit_head("lws", features, labels, classifier=nn.Linear(5, 6), quiet=True)
    ncm = fit_head("ncm", features, labels, quiet=True)
    with pytest.raises(UserError, match="a `ncm` head is not a linear classifier"):
        fit_head("mem", features, labels, classifier=ncm, quiet=True)
