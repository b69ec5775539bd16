"""Record features and gradients of the tuners of LIFT. See README.md in this folder.

python -m tests.models.golden.record_tuners --checkouts FOLDER --out FILE
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import timm

from tests.models.golden import recipe, tuner_recipe
from tests.recording import checkouts_and_output, write

LIFT = "LIFT"


class Options(defaultdict):
    """Options of LIFT. Those that are not set are None, which selects nothing."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def main() -> None:
    """Run each tuner on the network of the recipe, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    clip, clip_model = ModuleType("clip"), ModuleType("clip.model")
    clip_model.VisionTransformer = type("NotUsed", (), {})  # type: ignore[attr-defined]
    # The module of the tuners imports the networks of CLIP, whose package requires further libraries.
    with mock.patch.dict(sys.modules, {"clip": clip, "clip.model": clip_model}):
        official = _import(checkouts / LIFT)
    values = {name: record(official, option) for name, option in tuner_recipe.OFFICIAL.items()}
    write(out, checkouts, (LIFT,), {"tuners": values}, timm=timm.__version__)


def record(official: ModuleType, option: str) -> dict[str, Any]:
    """Return the features of a tuned network, and the gradients of the tuner's parameters."""
    options = Options(type(None), {option: True, "adapter_dim": tuner_recipe.RANK, "vpt_len": tuner_recipe.PROMPTS})
    network = tuner_recipe.network()
    tuner = official.ViT_Tuner(options, network, 5).double()
    recipe.fill(tuner.named_parameters())
    features = official.Peft_ViT(network)(tuner_recipe.images(), tuner)
    (features * tuner_recipe.probe()).sum().backward()
    gradients = {name: parameter.grad for name, parameter in tuner.named_parameters() if parameter.grad is not None}
    return {"features": features.tolist(), "gradients": recipe.summary(gradients)}


def _import(checkout: Path) -> ModuleType:
    """Import the module of the tuners without the package's `__init__`, which imports all of LIFT."""
    package = ModuleType("models")
    package.__path__ = [str(checkout / "models")]
    with mock.patch.dict(sys.modules, {"models": package}):
        import models.peft_vit as module  # type: ignore[import-not-found]
    return module


if __name__ == "__main__":
    main()
