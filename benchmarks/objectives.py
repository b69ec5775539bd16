"""Measure the cost of each objective of finetuning relative to cross-entropy: CPU time and memory of a training step.

    python benchmarks/objectives.py [--json] [--rounds 15] [--classes 1000] [--batch 128]

A step consists of the forward pass of a small vision transformer (width 192, depth 4, 64 tokens), the loss, backward
pass and AdamW. In each round, every objective takes one step on the same images, in an order that changes from round to
round, and its CPU time is divided by that of cross-entropy in the same round. The table contains the median and the
range of these ratios. With the same number of classes, a larger network brings all ratios closer to 1, because the
network does not depend on the objective.

Memory is the number of bytes of the tensors that the loss keeps for the backward pass, in addition to those of
cross-entropy. It depends on the number of samples and classes only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import OtherLoad, processor
from benchmarks.steps import saved_bytes, time_ratios
from mem.config import Augmentation, Finetune, VisionTransformer
from mem.models.backbones import build
from mem.objectives.base import Targets
from mem.objectives.build import build_objective

OBJECTIVES: dict[str, dict] = {
    "cross_entropy": {},
    "balanced_softmax": {},
    "logit_adjustment": {"tau": 1.5},
    "lade": {"regulariser_weight": 0.05, "quadratic_weight": 0.5},
    "balanced_bce": {"tau": 1.0},
    "ldam": {"max_margin": 0.5, "reweight_from_epoch": 1, "beta": 0.9999},
    "class_balanced": {"beta": 0.9999, "loss": "softmax"},
    "focal": {"gamma": 1.0},
}
BACKBONE = VisionTransformer(
    kind="vit", name="benchmark", image_size=32, patch_size=4, width=192, depth=4, heads=3, center_crop=1.0
)


def finetune_of(name: str) -> Finetune:
    """Return the settings of finetuning with an objective. Only the objective and the cosine scale are used."""
    return Finetune.model_validate(
        {
            **{"epochs": 2, "warmup_epochs": 0, "global_batch": 2, "base_lr": 1e-3, "min_lr": 0, "betas": (0.9, 0.999)},
            **{"weight_decay": 0.05, "precision": "fp32", "layer_decay": 1, "drop_path": 0, "label_smoothing": 0},
            "augmentation": Augmentation(crop_scale=(1, 1), flip=False),
            "validate_every_epochs": 1,
            "objective": {"name": name, **OBJECTIVES[name]},
            "cosine_scale": 30.0 if name == "ldam" else None,
        }
    )


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the line of JSON")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    load = OtherLoad()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    counts = np.maximum(1, 1280 * 256.0 ** (-np.arange(arguments.classes) / max(arguments.classes - 1, 1))).astype(int)
    images = torch.randn(arguments.batch, 3, 32, 32)
    targets = Targets(torch.randint(arguments.classes, (arguments.batch,)), epoch=1.5)
    steps, memory = {}, {}
    for name in OBJECTIVES:
        finetune = finetune_of(name)
        loss = build_objective(finetune, counts)
        model = build(BACKBONE, arguments.classes, 0.0, finetune.cosine_scale)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def step(model=model, loss=loss, optimizer=optimizer) -> float:
            start = time.process_time()
            loss(model(images, None), targets).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            return time.process_time() - start

        steps[name] = step
        logits = torch.randn(arguments.batch, arguments.classes, requires_grad=True)
        memory[name] = saved_bytes(lambda loss=loss, logits=logits: loss(logits, targets).mean())
    result = {
        name: {
            "time_ratio": round(ratio.median, 3),
            "range": [round(ratio.lowest, 3), round(ratio.highest, 3)],
            "extra_megabytes": round((memory[name] - memory["cross_entropy"]) / 1e6, 2),
        }
        for name, ratio in time_ratios(steps, arguments.rounds).items()
    }
    if not arguments.json:
        print(f"{'objective':18} {'time':>6} {'range':>15} {'extra memory':>14}")
        for name, row in result.items():
            low, high = row["range"]
            print(f"{name:18} {row['time_ratio']:6.2f} {low:7.2f}-{high:<7.2f} {row['extra_megabytes']:11.2f} MB")
    about = {"classes": arguments.classes, "batch": arguments.batch, "processor": processor()}
    print(json.dumps({"objectives": result, **about, "other_busy_cores": round(load.cores(), 2)}))


if __name__ == "__main__":
    main()
