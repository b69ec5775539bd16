"""Settings of the images that a backbone receives: normalisation and center crop.

The keys of the stages that use these settings contain them. The key of the conversion does not, so that the images are
not converted again when they change. Runs of earlier versions contain them only in their inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem import config
from mem.config.tuners import TunerSection
from mem.runs.folder import read_record
from mem.runs.keys import CENTER_CROP, NORMALISATION
from mem.runs.run_config import read_config


def normalisation_of(settings: Mapping[str, Any], images: Path) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of pixel values for each channel.

    Args:
        settings: Settings of a run of pretrain, finetune or features.
        images: Folder of its convert run.
    """
    if normalisation := settings.get(NORMALISATION):
        return normalisation["mean"], normalisation["std"]
    dataset = read_record(images)["settings"]["dataset"]
    return dataset["pixel_mean"], dataset["pixel_std"]


def finetuned_backbone(classifier: Path, features: Mapping[str, Any]) -> config.ImageBackbone:
    """Return the settings of a finetuned backbone, with the center crop of the run that computes its features.

    Args:
        classifier: Folder of the finetune run.
        features: Settings of the features run.

    Raises:
        UserError: The configuration of the finetune run cannot be read.
    """
    backbone = read_config(classifier, "finetune").union("backbone", config.ImageBackbone)
    return backbone.model_copy(update={"center_crop": features.get(CENTER_CROP, backbone.center_crop)})


@dataclass(frozen=True)
class FinetunedClassifier:
    """Settings of finetuning that determine which network it trains, besides those of the backbone."""

    cosine_scale: float | None
    """Scale of cosine classifiers; None for linear ones."""
    experts: config.Experts | None
    """Settings of the experts; None for one classifier."""
    tuner: TunerSection
    """Settings of the tuner, which can add layers to the network."""


def finetuned_classifier(classifier: Path) -> FinetunedClassifier:
    """Return the settings with which the network of a finetune run is built.

    Args:
        classifier: Folder of the finetune run.

    Raises:
        UserError: The configuration of the finetune run cannot be read.
    """
    finetune = read_config(classifier, "finetune").section("finetune", config.Finetune)
    return FinetunedClassifier(finetune.cosine_scale, finetune.experts, finetune.tuner)
