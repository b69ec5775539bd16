"""Measure the cost of each finetuning of a study relative to `finetune`: CPU time, memory and parameters of a step.

    python benchmarks/finetunings.py [STUDY] [--json] [--rounds 9] [--classes 100]

A step consists of the normalisation of the images, the forward passes, the loss, the backward pass and AdamW, as in the
stage `finetune`; images are random numbers that are already decoded. A contrastive finetuning has two views and a key
encoder. In each round, every finetuning takes one step, in an order that changes from round to round, and its CPU time
is divided by that of `finetune` in the same round. The table contains the median and the range of these ratios.

- Memory is that of the parameters, their gradients, the optimizer state, the key encoder and the queue, and of the
  tensors that a step keeps for the backward pass.
- `trained` is the number of parameters that the optimizer changes, and `used` the number of parameters of the
  classifier that predicts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import OtherLoad, processor
from benchmarks.steps import saved_bytes, time_ratios
from mem import config
from mem.config.load import load_study
from mem.data.batch import Batch
from mem.jobs.classification import Classification
from mem.jobs.contrastive_classification import with_contrast
from mem.models.backbones import build
from mem.models.pixels import Pixels
from mem.objectives.build import build_objective
from mem.stages.finetune import mixing_of

STUDY = "config/glyphs_experts.yaml"
LARGEST, SMALLEST = 240, 4
"""Training images of the most and the least frequent class."""


@dataclass(frozen=True)
class Cost:
    """Costs of a finetuning as multiples of those of `finetune`."""

    time: float
    range: tuple[float, float]
    """Lowest and highest time of the rounds."""
    memory: float
    trained: float
    used: float


@dataclass(frozen=True)
class Finetuning:
    """A finetuning that is ready to take steps."""

    model: nn.Module
    classifier: nn.Module
    loss_of_a_step: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer

    def step(self) -> float:
        """Take a step, and return its CPU time in seconds."""
        start = time.process_time()
        self.loss_of_a_step().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start

    @property
    def used(self) -> int:
        """Number of parameters of the classifier that predicts."""
        return sum(p.numel() for p in self.classifier.parameters())

    @property
    def trained(self) -> int:
        """Number of parameters that the optimizer changes."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def bytes(self) -> int:
        """Return the memory of training in bytes, without the memory that operations need temporarily."""
        state = sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers()))
        kept = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        # Gradients and AdamW's two averages have the size of the trained parameters.
        return state + 3 * 4 * self.trained + saved_bytes(self.loss_of_a_step, kept)


def finetuning_of(study: config.Study, settings: config.Finetune, classes: int) -> Finetuning:
    """Build the model, the loss and the optimizer of a finetuning, with random images and labels."""
    backbone = study.backbone
    assert not isinstance(backbone, config.NoBackbone)
    counts = (LARGEST * (SMALLEST / LARGEST) ** (np.arange(classes) / (classes - 1))).round().astype(np.int64)
    torch.manual_seed(0)
    model = build(backbone, classes, settings.drop_path, settings.cosine_scale, settings.experts, settings.tuner)
    objective = Classification(
        Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        build_objective(settings, counts, counts),
        model.branches,
        settings.augmentation.erasing,
        mixing_of(settings),
        global_batch=settings.global_batch,
        images=int(counts.sum()),
    )
    trained: nn.Module = model
    if settings.contrast is not None:
        objective = with_contrast(objective, model, settings, getattr(backbone, "norm_batch", None))
        trained = objective.model
    shape = (settings.global_batch, backbone.image_size, backbone.image_size, 3)
    views = [torch.randint(256, shape, dtype=torch.uint8) for _ in range(1 if settings.contrast is None else 2)]
    labels = torch.multinomial(torch.from_numpy(counts).float(), settings.global_batch, replacement=True)
    batch = Batch(views[0], labels, 0, seed=0, second=views[1] if len(views) > 1 else None)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], fused=True)
    return Finetuning(trained, model, lambda: objective(trained, batch)[0], optimizer)


def measure(finetunings: dict[str, Finetuning], rounds: int) -> dict[str, Cost]:
    """Return the costs of each finetuning relative to that of the first one."""
    memory = {name: finetuning.bytes() for name, finetuning in finetunings.items()}
    times = time_ratios({name: finetuning.step for name, finetuning in finetunings.items()}, rounds)
    first_name, first = next(iter(finetunings.items()))
    return {
        name: Cost(
            round(times[name].median, 2),
            (round(times[name].lowest, 2), round(times[name].highest, 2)),
            round(memory[name] / memory[first_name], 2),
            round(finetuning.trained / first.trained, 2),
            round(finetuning.used / first.used, 2),
        )
        for name, finetuning in finetunings.items()
    }


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default=STUDY, help=f"file of the study (default: {STUDY})")
    parser.add_argument("--json", action="store_true", help="print only the line of JSON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--classes", type=int, default=100)
    arguments = parser.parse_args()
    load = OtherLoad()
    torch.set_num_threads(1)
    study = load_study([arguments.study])
    settings = {name or "finetune": finetune for name, finetune in study.finetunings.items()}
    result = measure(
        {name: finetuning_of(study, each, arguments.classes) for name, each in settings.items()}, arguments.rounds
    )
    if not arguments.json:
        print(f"{'finetuning':24} {'time':>5} {'range':>13} {'memory':>7} {'trained':>8} {'used':>5}")
        for name, row in result.items():
            low, high = row.range
            span = f"{low:.2f}-{high:.2f}"
            print(f"{name:24} {row.time:5.2f} {span:>13} {row.memory:7.2f} {row.trained:8.2f} {row.used:5.2f}")
    about = {"study": study.study, "classes": arguments.classes, "processor": processor()}
    costs = {name: asdict(row) for name, row in result.items()}
    print(json.dumps({"finetunings": costs, **about, "other_busy_cores": round(load.cores(), 2)}))


if __name__ == "__main__":
    main()
