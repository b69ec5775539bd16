"""Measure what a step of a training gains if the process keeps the memory that it frees (`mem.jobs.allocator`).

    python benchmarks/allocator.py [--json] [--rounds 5] [--steps 20] [--threads 1]

A process takes `steps` steps of a training on random images after three steps of warm-up. In each round, one process
per case runs with the settings of the C library, and one with kept memory. The ratio is the CPU time per step with the
settings of the C library, divided by that with kept memory, so larger is better. The losses of both must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.finetunings import finetuning_of
from benchmarks.machine import OtherLoad, cpu_seconds, processor
from benchmarks.pretrain import random_batch
from mem import config
from mem.config.load import load_study
from mem.jobs.allocator import keep_freed_memory
from mem.models.mae import build_autoencoder
from mem.models.pixels import Pixels
from mem.stages.pretrain import reconstruction

REPOSITORY = Path(__file__).parents[1]
PIXELS = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WARM_UP = 3


class Case(NamedTuple):
    """A training that is measured."""

    study: str
    stage: str
    batch: int | None = None
    """Images per step; None for the batch of the study."""


CASES = {
    "pretraining, Digits-LT": Case("digits_lt", "pretrain"),
    "finetuning, Digits-LT": Case("digits_lt", "finetune"),
    "finetuning, Fashion-MNIST-LT": Case("fashion_lt", "finetune"),
    "finetuning, Glyphs-LT": Case("glyphs_lt", "finetune"),
    "finetuning, ViT-B, 8 images": Case("paper/imagenet_lt_vit_base", "finetune", 8),
}


class Steps(NamedTuple):
    """Costs per step of one process."""

    cpu_ms: float
    page_faults: float
    peak_gb: float
    """Peak memory of the process."""
    loss: float
    """Loss of the last step."""


def training(case: Case) -> Callable[[], float]:
    """Return a function that takes a step of the training and returns the loss."""
    study = load_study([REPOSITORY / "config" / f"{case.study}.yaml"])
    backbone, settings = study.backbone, getattr(study, case.stage)
    assert not isinstance(backbone, config.NoBackbone)
    if case.batch:
        settings = settings.model_copy(update={"global_batch": case.batch})
    torch.manual_seed(0)
    if case.stage == "finetune":
        finetuning = finetuning_of(study, settings, classes=10)
        loss_of_a_step, optimizer = finetuning.loss_of_a_step, finetuning.optimizer
    else:
        assert not isinstance(backbone, config.TimmNetwork)
        model = build_autoencoder(backbone, settings).train()
        objective, batch = (
            reconstruction(PIXELS, backbone.tokens),
            random_batch(0, settings.global_batch, backbone.image_size),
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def loss_of_a_step() -> torch.Tensor:
            return objective(model, batch)[0]

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of_a_step()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def measure(case: Case, steps: int, threads: int, keep: bool) -> Steps:
    """Take the steps in this process."""
    torch.set_num_threads(threads)
    if keep and not keep_freed_memory():
        raise SystemExit("The C library cannot keep freed memory, or the environment contains its settings.")
    step = training(case)
    for _ in range(WARM_UP):
        step()
    faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, cpu_seconds()
    for _ in range(steps - 1):
        step()
    loss = step()
    used, after = cpu_seconds() - began, resource.getrusage(resource.RUSAGE_SELF)
    return Steps(1000 * used / steps, (after.ru_minflt - faults) / steps, after.ru_maxrss * 1024 / 1e9, loss)


def measured_in_a_process(name: str, steps: int, threads: int, keep: bool) -> Steps:
    """Run this script for one case."""
    command = [sys.executable, __file__, "--case", name, "--steps", str(steps), "--threads", str(threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, *(["--keep"] if keep else [])], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return Steps(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure all cases in alternating processes, or one case in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the line of JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=sorted(CASES), help="measure one case in this process, and print a list")
    parser.add_argument("--keep", action="store_true", help="with --case: keep freed memory")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(CASES[options.case], options.steps, options.threads, options.keep)))
        return
    load = OtherLoad()
    results: dict[str, dict[str, object]] = {}
    for name in CASES:
        pairs: list[tuple[Steps, Steps]] = []
        for number in range(options.rounds):
            order = (False, True) if number % 2 else (True, False)
            found = {keep: measured_in_a_process(name, options.steps, options.threads, keep) for keep in order}
            if found[False].loss != found[True].loss:
                raise SystemExit(f"{name}: the losses differ: {found[False].loss} and {found[True].loss}")
            pairs.append((found[False], found[True]))
        ratios = [default.cpu_ms / kept.cpu_ms for default, kept in pairs]
        results[name] = {
            "ratio": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        for column, label in enumerate(("default", "kept")):
            runs = [pair[column] for pair in pairs]
            results[name][label] = {
                "cpu_ms": round(statistics.median(run.cpu_ms for run in runs), 1),
                "page_faults": round(statistics.median(run.page_faults for run in runs)),
                "peak_gb": round(max(run.peak_gb for run in runs), 2),
            }
        if not options.json:
            print(f"{name}: {results[name]}", flush=True)
    about = {"processor": processor(), "threads": options.threads, "other_load_cores": round(load.cores(), 1)}
    print(json.dumps({**about, "steps": results}))


if __name__ == "__main__":
    main()
