"""Which heads and backbones timm can express, and which formats a refusal names."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import timm
import torch
from pydantic import TypeAdapter
from torch import nn

from mem import config
from mem.errors import UserError
from mem.export.classifier import difference_above_tolerance
from mem.export.timm_equivalent import timm_equivalent
from mem.export.timm_folder import interpolation_of, timm_config, write_timm_folder
from mem.heads.base import Linear
from mem.heads.cosine import CosineHead
from mem.heads.lws import LwsHead
from mem.heads.tau import tau_normalised
from tests.export.classifiers import CLASSES, CNN, CONVMAE, VIT, about_of, backbone_of, classifier_of, onnx_classifiers

SMALL_VIT = {"name": "small", "kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32, "norm_batch": None}
SMALL_VIT |= {"center_crop": 1.0}


def lws() -> LwsHead:
    head = LwsHead(torch.randn(CLASSES, 16), torch.randn(CLASSES))
    nn.init.uniform_(head.scale, 0.5, 2)
    return head


LINEAR = {
    "vit": (VIT, None, {}),
    "cnn": (CNN, None, {}),
    "without bias": (VIT, tau_normalised(torch.randn(CLASSES, 16), 0.7), {}),
    "scaled": (VIT, lws(), {}),
    "linear head on a cosine finetuning": (VIT, Linear(torch.randn(CLASSES, 16), None), {"cosine_scale": 16.0}),
    "fixed image size": (SMALL_VIT, None, {}),
}


@pytest.mark.parametrize("case", LINEAR)
def test_timm_loads_the_folder_and_computes_the_same_logits(case, tmp_path):
    values, head, options = LINEAR[case]
    classifier = classifier_of(values, head, **options)
    equivalent = timm_equivalent(classifier, backbone_of(values))
    write_timm_folder(tmp_path, equivalent, timm_config(equivalent, about_of(values), "mit"), classifier)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randint(0, 256, (3, values["image_size"], values["image_size"], 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            network(classifier.normalised(images)), classifier(images)["logits"], rtol=1e-4, atol=1e-4
        )
    assert network.num_classes == CLASSES
    cfg = network.pretrained_cfg
    assert cfg["label_names"] == [f"class {i}" for i in range(CLASSES)]
    assert (cfg["license"], cfg["crop_pct"], tuple(cfg["mean"])) == ("mit", values["center_crop"], (0.4, 0.5, 0.6))
    assert timm.data.resolve_model_data_config(network)["input_size"][-1] == values["image_size"]


@pytest.mark.parametrize(
    ("tuner", "expressible"),
    [
        ({"name": "lora", "rank": 2, "alpha": 4.0, "layers": ["query", "mlp_in"]}, True),
        ({"name": "bias"}, True),
        ({"name": "adaptformer", "width": 2, "scale": "learnt"}, False),
        ({"name": "vpt", "tokens": 2, "deep": False}, False),
    ],
)
def test_tuners_are_merged_or_refused(tuner: dict[str, Any], expressible, tmp_path):
    classifier = classifier_of(VIT, tuner=TypeAdapter(config.Tuner).validate_python(tuner))
    for name, parameter in classifier.model.backbone.named_parameters():
        if "lora" in name or "adapt" in name:
            nn.init.normal_(parameter, std=0.1)
    if not expressible:
        with pytest.raises(UserError, match=rf"the tuner `{tuner['name']}` adds layers .* --format onnx"):
            timm_equivalent(classifier, backbone_of(VIT))
        return
    equivalent = timm_equivalent(classifier, backbone_of(VIT))
    assert not [name for name in equivalent.tensors if "lora" in name]
    # The function compares timm's logits with those of the classifier.
    write_timm_folder(tmp_path, equivalent, timm_config(equivalent, about_of(VIT), "mit"), classifier)


def test_what_timm_cannot_express_is_refused_with_the_formats_that_can():
    narrow = CNN | {"neck_width": 6}
    experts = config.Experts(number=2, own_from="blocks.1")
    cases = {
        "it is a cosine classifier": (VIT, CosineHead(torch.randn(CLASSES, 16), 16.0), {}),
        "MEM multiplies the logits by weights": (VIT, onnx_classifiers()["mem"].head, {}),
        "NcmHead is not a linear classifier": (VIT, onnx_classifiers()["ncm"].head, {}),
        "timm has no ConvMAE": (CONVMAE, None, {}),
        "neck_width 6": (narrow, None, {}),
        "the backbone has 2 experts": (VIT, Linear(torch.randn(CLASSES, 32), None), {"experts": experts}),
    }
    for reason, (values, head, options) in cases.items():
        classifier = classifier_of(values, head, **options)
        with pytest.raises(UserError) as error:
            timm_equivalent(classifier, backbone_of(values))
        assert reason in str(error.value)
        assert "--format mem (torch program and MLflow model) or --format onnx" in str(error.value)


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1.00009], [1.0], None),
        ([1.0002], [1.0], pytest.approx(2e-4, rel=1e-2)),
        ([0.0, 100.009], [0.0, 100.0], None),  # relative to the largest output
        ([0.0, 100.02], [0.0, 100.0], pytest.approx(0.02, rel=1e-2)),
        ([1.0, -math.inf], [1.0, -math.inf], None),  # a class without training images
        ([1.3, -math.inf], [1.0, -math.inf], pytest.approx(0.3)),
        ([1.0, -math.inf], [1.0, 0.0], math.inf),
        ([1.0, math.nan], [1.0, 0.0], math.inf),
        ([1.0], [1.0, 0.0], math.inf),
    ],
)
def test_outputs_may_differ_by_the_tolerance_only(found, expected, difference):
    assert difference_above_tolerance(torch.tensor(found), torch.tensor(expected)) == difference


def test_other_logits_of_timm_are_noticed(tmp_path):
    classifier = classifier_of(VIT)
    equivalent = timm_equivalent(classifier, backbone_of(VIT))
    equivalent.tensors["head.bias"][0] += 0.01
    with pytest.raises(UserError, match=r"computes logits that differ by up to 0\.01"):
        write_timm_folder(tmp_path, equivalent, timm_config(equivalent, about_of(VIT), "mit"), classifier)


@pytest.mark.parametrize(
    ("short_side", "resample", "expected"),
    [(256, "area", "hamming"), (256, "lanczos", "lanczos"), (None, "area", "hamming"), (100, "area", "box")],
)
def test_the_interpolation_is_the_nearest_of_timm(short_side, resample, expected):
    assert interpolation_of({"short_side": short_side, "resample": resample}, 224, 0.875) == expected


def test_labels_are_distinct_and_the_description_of_the_export_is_kept(tmp_path):
    classifier = classifier_of(VIT)
    equivalent = timm_equivalent(classifier, backbone_of(VIT))
    about = about_of(VIT) | {"classes": ["cat", "dog", "cat", "cow", "elk"]}
    content = json.loads(json.dumps(timm_config(equivalent, about, "unknown")))
    assert content["label_names"] == ["cat (0)", "dog", "cat (2)", "cow", "elk"]
    assert content["mem"] == about
