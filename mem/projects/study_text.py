"""The text of the study that `mem init` writes for new pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from mem.projects.design import NETWORK, Design
from mem.projects.pictures import Pictures

WEIGHTS = "weights/lite0.pth"
"""Path of the network's weights in the project folder."""
_HEADS = """\
  ce:
    training: &instance
      {{epochs: 20, global_batch: 64, optimizer: adamw, lr: 3.0e-3, weight_decay: 5.0e-4, sampler: instance}}
  balanced_softmax: {{training: *instance}}
  logit_adjustment: {taus}
  tau: {taus}
  crt:
    training: &balanced
      {{epochs: 20, global_batch: 64, optimizer: adamw, lr: 1.0e-3, weight_decay: 5.0e-4, sampler: class_balanced}}
  lws: {{training: *balanced}}
  ncm:
"""
_TAUS = "{taus: [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]}"
_MEM = """\
  mem:
    {partition: shot, input: pooled, width: 64, depth: 1, xi: 20.0, mu: 0.0, top_k: 2, reo_weight: 1.0,
     fusion_width: 32, weight: additive, classifier: trained, classifier_from: ce, training: *balanced}
"""
HEADS = 8
"""Number of heads in a study whose classes can be divided into shot groups."""
_STUDY = """\
# Written by `mem init`. Run it in the project folder:
#
#   mem run {name}                      on all cores of this machine; estimated: {minutes}
#   mem run {name} --profile slurm      on a SLURM cluster
#   mem status {name}                   in another terminal, to see the progress
#
# The network is EfficientNet-Lite0 with weights from ImageNet, which is not trained: its features are computed once,
# and every head trains on them in seconds. To start from other weights, or to train the network, change `backbone`,
# `initial` and `finetune`. `mem config --reference` describes every setting.
study: {quoted_name}
description: {description}
dataset:
{dataset}
  pixel_mean: [0.5, 0.5, 0.5]  # of the network, not of the pictures
  pixel_std: [0.5, 0.5, 0.5]
seeds: {seeds}
{shots}backbone:
  {{name: lite0, kind: timm, model: {network}, image_size: {size}, norm_batch: null, center_crop: {center_crop}}}
initial: {{file: {weights}, keys: order}}
pretrain: null
finetune: null
# Set `flip: false` if mirrored pictures have another class, for example characters.
features: {{views: {views}, augmentation: {{crop_scale: [{smallest_crop}, 1.0], flip: true}}, tokens: false}}
heads:
{heads}compute:
  convert: {{threads: {cores}}}
  features: {{threads: {cores}, memory_gb: 8}}
"""


def study_text(name: str, pictures: Pictures, design: Design, cores: int) -> str:
    """Return the study as YAML.

    Args:
        name: Name of the study and of the dataset.
        pictures: The pictures.
        design: The settings that depend on the machine.
        cores: Number of cores of the stages.
    """
    counts = pictures.counts
    small = design.short_side is None
    storage = {"storage": "raw"} if small else {"storage": "jpeg", "short_side": design.short_side}
    classes = len(pictures.images.classes)
    description = (
        f"{classes:,} classes with {counts.max():,} to {counts.min():,} training pictures, on frozen features."
    )
    heads = _HEADS.format(taus=_TAUS) + (_MEM if design.shots else "")
    return _STUDY.format(
        name=name,
        quoted_name=_value(name),
        minutes=shown_minutes(design.minutes),
        description=description,
        dataset=_section({**pictures.settings, "name": name, **storage}),
        seeds=list(design.seeds),
        shots=f"shots: {{many_above: {design.shots.many_above}, few_below: {design.shots.few_below}}}\n"
        if design.shots
        else "",
        network=NETWORK,
        size=design.size,
        center_crop="1.0" if small else "0.875",
        weights=WEIGHTS,
        views=design.views,
        smallest_crop="0.65" if small else "0.4",
        heads=heads,
        cores=cores,
    )


def _section(settings: Mapping[str, Any]) -> str:
    """Return the lines of the section `dataset`."""
    return "\n".join(f"  {key}: {_value(value)}" for key, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}"
    if not isinstance(value, str) or (re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)  # JSON is valid YAML, and quotes special characters in paths


def shown_minutes(minutes: float) -> str:
    """Return an estimated duration in whole minutes."""
    whole = max(1, round(minutes))
    return f"about {whole:,} minute{'s' * (whole > 1)}"
