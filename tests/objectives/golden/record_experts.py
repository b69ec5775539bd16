"""Record losses and gradients of official code for several experts (PyTorch). See README.md in this folder.

python -m tests.objectives.golden.record_experts --checkouts FOLDER --out FILE
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.objectives.golden import recipe
from tests.recording import checkouts_and_output, load, recorded, without_gpu, write

LABELS = torch.tensor(recipe.LABELS)
REWEIGHT_EPOCH = 80
RIDE, SADE, NCL = "RIDE-LongTailRecognition", "SADE-AgnosticLT", "NCL"


def main() -> None:
    """Run the official losses on the inputs of the recipe, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    with (
        without_gpu(),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        mock.patch.object(torch, "float", torch.float64),
    ):
        losses, temperatures = ride(checkouts / RIDE)
        losses |= sade(checkouts / SADE)
        losses |= ncl(checkouts / NCL)
    write(out, checkouts, (RIDE, SADE, NCL), {"ride_temperatures": temperatures, "losses": losses})


def ride(checkout: Path) -> tuple[dict[str, Any], list[float]]:
    """Record RIDE before and after the epoch of re-weighting, then also without LDAM, and the class temperatures."""
    module, settings = load(checkout / "model" / "loss.py"), recipe.RIDE
    losses: dict[str, Any] = {}
    temperatures: list[float] = []
    for name, epoch, factor in (
        ("ride", REWEIGHT_EPOCH, 1.0),
        ("ride_reweighted", REWEIGHT_EPOCH + 1, 1.0),
        ("ride_reweighted_divergence", REWEIGHT_EPOCH + 1, 0.0),
    ):
        loss = module.RIDELoss(
            cls_num_list=recipe.COUNTS,
            base_diversity_temperature=settings["temperature"],
            max_m=settings["max_margin"],
            s=recipe.RIDE_SCALE,
            reweight_epoch=REWEIGHT_EPOCH,
            base_loss_factor=factor,
            additional_diversity_factor=-settings["diversity_weight"],
            reweight_factor=settings["temperature_prior_weight"],
        )
        loss._hook_before_epoch(epoch)  # the official code counts epochs from 1
        losses[name] = recorded(lambda z, loss=loss: of_experts(loss, z), recipe.expert_logits())
        temperatures = loss.per_cls_weights_enabled_diversity.tolist()
    return losses, temperatures


def sade(checkout: Path) -> dict[str, Any]:
    """Record the sum of the losses of the three experts."""
    module = load(checkout / "model" / "loss.py")
    loss = module.DiverseExpertLoss(cls_num_list=recipe.COUNTS, tau=recipe.SADE["tau"])
    return {"sade": recorded(lambda z: of_experts(loss, z), recipe.expert_logits())}


def of_experts(loss: Any, logits: torch.Tensor) -> torch.Tensor:
    """Call a loss of RIDE's interface, as its `Trainer` does."""
    return loss(output_logits=logits.mean(dim=1), target=LABELS, extra_info={"logits": logits.transpose(0, 1)})


def ncl(checkout: Path) -> dict[str, Any]:
    """Record NCL as it is, and without the constant that it adds to probabilities before the logarithm."""
    file = checkout / "lib" / "loss" / "loss.py"
    without = ModuleType("loss_without_constant")
    source = file.read_text()
    assert source.count("logits_softmax[i] + 1e-9") == 2
    exec(compile(source.replace("logits_softmax[i] + 1e-9", "logits_softmax[i]"), str(file), "exec"), without.__dict__)
    factor = recipe.NCL["mutual_weight"]
    weights = {
        "MULTI_CLASIIFIER_LOSS": SimpleNamespace(DIVERSITY_FACTOR=factor, DIVERSITY_FACTOR_HCM=factor),
        "HCM_N": recipe.NCL["hard_classes"],
        "HCM_RATIO": 1.0,
        "CE_RATIO": 1.0,
    }
    parameters = {
        "num_class_list": recipe.COUNTS,
        "device": "cpu",
        "cfg": SimpleNamespace(LOSS=SimpleNamespace(**weights)),
    }
    losses: dict[str, Any] = {}
    for name, module in (("ncl_with_constant", load(file)), ("ncl", without)):
        loss = module.NIL_NBOD(parameters)
        losses[name] = recorded(
            lambda z, loss=loss: loss([*z.unbind(dim=1)], [LABELS] * recipe.EXPERTS), recipe.expert_logits()
        )
    return losses


if __name__ == "__main__":
    main()
