"""Record parameter groups and learning rates from the official code. See README.md in this folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from record import official

DECAY, LAYER_DECAY = 0.05, 0.65
SCHEDULE = {"lr": 2e-3, "min_lr": 1e-6, "warmup_epochs": 5, "epochs": 100}
ITERATIONS = 113
"""Number of steps per epoch."""


def main() -> None:
    """Build both official finetuning models, and write their parameter groups and learning rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mae", "convmae", "timm", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--commits", nargs=2, required=True, help="commits of the MAE and ConvMAE checkouts")
    options = parser.parse_args()
    with official(options.mae, options.timm):
        import models_vit  # type: ignore[import-not-found]
        from util.lr_decay import param_groups_lrd  # type: ignore[import-not-found]
        from util.lr_sched import adjust_learning_rate  # type: ignore[import-not-found]

        vit = recorded(models_vit.vit_base_patch16(num_classes=1000, global_pool=True), param_groups_lrd)
        arguments = argparse.Namespace(**SCHEDULE)
        optimizer = argparse.Namespace(param_groups=[])
        steps = [0, 1, 282, 564, 565, 566, 3763, 5933, 11187, 11299]
        schedule = [[step, adjust_learning_rate(optimizer, step / ITERATIONS, arguments)] for step in steps]
    for name in [name for name in sys.modules if name.split(".")[0] in ("util", "models_vit", "timm")]:
        del sys.modules[name]
    with official(options.convmae, options.timm):
        import models_convvit  # type: ignore[import-not-found]
        from util.lr_decay import param_groups_lrd

        convmae = recorded(models_convvit.convvit_base_patch16(num_classes=1000, global_pool=True), param_groups_lrd)
    content: dict[str, Any] = {
        "commits": options.commits,
        "weight_decay": DECAY,
        "layer_decay": LAYER_DECAY,
        "vit_base": vit,
        "convmae_base": convmae,
        "schedule": {**SCHEDULE, "steps_per_epoch": ITERATIONS, "points": schedule},
    }
    options.out.write_text(json.dumps(content, indent=0) + "\n")
    print(len(vit), len(convmae))


def recorded(model: nn.Module, groups: Any) -> dict[str, list[float]]:
    """Return the learning-rate scale and weight decay of each parameter, as in main_finetune.py."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = groups(model, DECAY, no_weight_decay_list=model.no_weight_decay(), layer_decay=LAYER_DECAY)  # type: ignore[operator]
    return {names[id(p)]: [g["lr_scale"], g["weight_decay"]] for g in found for p in g["params"]}


if __name__ == "__main__":
    main()
