"""Licences in model cards, and what a user has to know about them."""

from __future__ import annotations

import json

import pytest

from mem.models.weights.licences import Licence, licence_of_card, licence_warning
from mem.models.weights.pretrained_config import PretrainedConfig, config_beside, licence_beside


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# Card\nlicense: mit\n", Licence("apache-2.0")),
        (
            "---\nlicense: other\nlicense_name: DINOv3-License\nlicense_link: L.md\n---\n",
            Licence("dinov3-license", "L.md"),
        ),
        ("---\r\nlicense: cc-by-nc-4.0\r\n---\r\n", Licence("cc-by-nc-4.0")),
        ("---\nlicense: [mit, apache-2.0]\n---\n", Licence("mit, apache-2.0")),
        ("---\nlicense: other\n---\n", Licence("other")),
        ("---\nlicense: unknown\n---\n", Licence()),
        ("---\nlicense: [\n---\n", Licence()),
        ("---\n- license\n---\n", Licence()),
        ("# Card\nlicense: mit\n", Licence()),
        ("", Licence()),
    ],
)
def test_the_metadata_of_a_card_state_the_licence(card, licence):
    assert licence_of_card(card) == licence


@pytest.mark.parametrize(
    "name",
    [
        "apache-2.0",
        "mit",
        "bsd-3-clause",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "gpl-3.0",
        "lgpl-3.0-or-later",
        "mit, isc",
    ],
)
def test_open_licences_need_no_warning(name):
    assert licence_warning("w", Licence(name)) == ""


@pytest.mark.parametrize(
    "name",
    [
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-3.0",
        "fair-noncommercial-research-license",
        "apple-amlr",
        "mit, cc-by-nc-4.0",
        "stability-ai-non-commercial",
    ],
)
def test_licences_that_forbid_commercial_use_are_warned_of(name):
    text = licence_warning("w", Licence(name, "https://licence"))
    assert "forbids commercial use" in text
    assert "https://licence" in text


@pytest.mark.parametrize("name", ["other", "nvidia-open-model-license", "gemma", "synchronous-license", "openrail"])
def test_other_licences_are_warned_of_without_a_claim(name):
    text = licence_warning("w", Licence(name))
    assert "has terms of its own" in text
    assert "commercial" not in text


def test_the_licence_of_dinov3_is_stated():
    text = licence_warning("w", Licence("dinov3-license"))
    assert "Meta's DINOv3 License" in text
    assert "https://ai.meta.com/" in text
    assert "no licence" in licence_warning("w", Licence())


SIGLIP = {"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}}
STATED = {"input_size": [3, 224, 224], "mean": [0, 0.5, 1], "std": [1, 1, 1], "fixed_input_size": True}
CLIP = {"model_cfg": {"vision_cfg": {"image_size": 224}}, "preprocess_cfg": {"mean": [0.5], "std": [0.25]}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"config.json": {"architecture": "a.tag", "pretrained_cfg": STATED}},
            PretrainedConfig("a.tag", 224, True, (0.0, 0.5, 1.0), (1.0, 1.0, 1.0)),
        ),
        ({"config.json": {"architecture": "a", "input_size": [3, 96, 96]}}, PretrainedConfig("a", 96)),
        (
            {"config.json": {"architecture": "a", "model_args": {"img_size": 64}, "pretrained_cfg": STATED}},
            PretrainedConfig("a", 64, True, (0.0, 0.5, 1.0), (1.0, 1.0, 1.0)),
        ),
        (
            {"config.json": {"model_type": "clip"}, "open_clip_config.json": CLIP},
            PretrainedConfig(None, 224, True, (0.5,), (0.25,)),
        ),
        (
            {"open_clip_config.json": {"model_cfg": SIGLIP, "preprocess_cfg": {"size": [256, 256]}}},
            PretrainedConfig("vit_base_patch16_siglip_224", 256, True),
        ),
        ({"config.json": {"model_type": "dinov2"}}, PretrainedConfig()),
        ({}, PretrainedConfig()),
    ],
)
def test_the_files_beside_the_weights_state_the_architecture_and_the_images(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert config_beside(tmp_path / "model.safetensors") == expected


def test_without_a_card_the_licence_is_that_of_the_configuration(tmp_path):
    weights = tmp_path / "model.safetensors"
    assert licence_beside(weights) == Licence()
    (tmp_path / "config.json").write_text('{"architecture": "a", "pretrained_cfg": {"license": "cc-by-nc-4.0"}}')
    assert licence_beside(weights) == Licence("cc-by-nc-4.0")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_beside(weights) == Licence("mit")
