"""Record losses and gradients of official PyTorch code. See README.md in this folder.

python -m tests.objectives.golden.record --checkouts FOLDER --out FILE
"""

from __future__ import annotations

import ast
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from timm.data.mixup import mixup_target

from tests.objectives.golden import recipe
from tests.recording import checkouts_and_output, load, recorded, without_gpu, write


def main() -> None:
    """Run the official losses on the inputs of the recipe, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    recorders = {
        "BalancedMetaSoftmax-Classification": balanced_softmax,
        "LADE": lade,
        "LiVT": livt,
        "LDAM-DRW": ldam,
    }
    losses: dict[str, Any] = {}
    with without_gpu():
        for name, record in recorders.items():
            losses |= record(checkouts / name)
    write(out, checkouts, tuple(recorders), {"losses": losses}, timm=timm.__version__)


def balanced_softmax(checkout: Path) -> dict[str, Any]:
    """Record balanced softmax."""
    module, labels = load(checkout / "loss" / "BalancedSoftmaxLoss.py"), torch.tensor(recipe.LABELS)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(recipe.COUNTS, file)
        file.flush()
        loss = module.create_loss(file.name)
    return {"balanced_softmax": recorded(lambda z: loss(z, labels), recipe.logits())}


def lade(checkout: Path) -> dict[str, Any]:
    """Record LADE: the prior cross-entropy plus the weighted regulariser, as `run_networks.py` adds them."""
    labels, classes = torch.tensor(recipe.LABELS), len(recipe.COUNTS)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"image {k}\n" for k, count in enumerate(recipe.COUNTS) for _ in range(count))
        file.flush()
        cross_entropy = load(checkout / "loss" / "PriorCELoss.py").create_loss(classes, prior_txt=file.name)
        regulariser = load(checkout / "loss" / "LADELoss.py").create_loss(
            classes, prior_txt=file.name, remine_lambda=recipe.LADE["quadratic_weight"]
        )
    weight = recipe.LADE["regulariser_weight"]
    return {
        "lade": recorded(lambda z: cross_entropy(z, labels) + weight * regulariser(z, labels), recipe.logits()),
        "lade_regulariser": recorded(lambda z: regulariser(z, labels), recipe.logits()),
    }


def livt(checkout: Path) -> dict[str, Any]:
    """Record LiVT's losses for single samples and for samples that timm's `mixup_target` mixes."""
    module, classes = load(checkout / "util" / "loss.py"), len(recipe.COUNTS)
    labels, shares = torch.tensor(recipe.LABELS), torch.from_numpy(recipe.shares())[:, None]
    mixed = mixup_target(labels, classes, shares, recipe.SMOOTHING).double()
    settings = SimpleNamespace(cls_num=recipe.COUNTS, smoothing=recipe.SMOOTHING, bal_tau=recipe.TAU)
    adjusted, binary = module.Bal_CE_loss(settings), module.BCE_loss(settings, type="Bal")
    return {
        "logit_adjustment_mixed": recorded(lambda z: adjusted(z, mixed), recipe.logits()),
        "balanced_bce": recorded(lambda z: binary(z, labels), recipe.logits()),
        "balanced_bce_mixed": recorded(lambda z: binary(z, mixed), recipe.logits()),
    }


def ldam(checkout: Path) -> dict[str, Any]:
    """Record LDAM on cosines without and with deferred re-weighting, and the focal loss."""
    module, labels = load(checkout / "losses.py"), torch.tensor(recipe.LABELS)
    weights = deferred_weights(checkout / "cifar_train.py")
    losses: dict[str, Any] = {}
    for name, weight in (("ldam", None), ("ldam_reweighted", weights)):
        loss = module.LDAMLoss(recipe.COUNTS, max_m=recipe.LDAM["max_margin"], weight=weight, s=recipe.SCALE)
        losses[name] = recorded(lambda x, loss=loss: loss(x, labels), recipe.cosines())
    for gamma in recipe.GAMMAS:
        loss = module.FocalLoss(gamma=gamma)
        losses[f"focal_{gamma}"] = recorded(lambda z, loss=loss: loss(z, labels), recipe.logits())
    return {**losses, "ldam_weights": weights.tolist()}


def deferred_weights(file: Path) -> torch.Tensor:
    """Run the statements of the training script that compute the class weights of `DRW` in its second phase."""
    branches = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.If)]
    (branch,) = [node for node in branches if ast.unparse(node.test) == "args.train_rule == 'DRW'"]
    names = {"np": np, "torch": torch, "epoch": 160, "cls_num_list": recipe.COUNTS, "args": SimpleNamespace(gpu=None)}
    exec(compile(ast.Module(branch.body, []), str(file), "exec"), names)
    return names["per_cls_weights"]


if __name__ == "__main__":
    main()
