"""Measure what settings of the process gain in training steps on a CPU: kept memory, and how threads wait.

    python benchmarks/cpu_steps.py [--json] [--rounds 5] [--steps 20] [--threads 2] [--busy 1] [--spin 500 2000]

A process takes `steps` steps of a training on random images after three steps of warm-up. In each round, one process
per case and variant runs, in an order that changes from round to round:

- `mem`: the settings of the command `mem`: kept memory (`mem.jobs.allocator`), and threads that spin for a short time
  before they give up their core (`GOMP_SPINCOUNT`);
- `freed`: the C library's own settings, which return freed memory to the system;
- `passive`, `spinning`: kept memory, with threads that never spin, and with OpenMP's own settings;
- `--spin 500 2000`: kept memory, with these values of `GOMP_SPINCOUNT`.

A ratio is the wall-clock time per step of a variant divided by that of `mem`, so larger is better for `mem`. The losses
of all variants must be equal. With `--busy`, other processes keep that number of cores busy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.finetunings import finetuning_of
from benchmarks.heads import busy_processes
from benchmarks.machine import OtherLoad, cpu_seconds, processor
from benchmarks.pretrain import random_batch
from mem import config
from mem.cli.main import SPIN_COUNT
from mem.config.load import load_study
from mem.jobs.allocator import keep_freed_memory
from mem.models.mae import build_autoencoder
from mem.models.pixels import Pixels
from mem.stages.pretrain import reconstruction

REPOSITORY = Path(__file__).parents[1]
PIXELS = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WARM_UP = 3


class Variant(NamedTuple):
    """Settings of a process."""

    keep: bool
    variables: Mapping[str, str]


def spinning(count: str) -> dict[str, str]:
    """Return the variables with which threads look for work `count` times."""
    return {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": count}


VARIANTS = {
    "mem": Variant(True, spinning(SPIN_COUNT)),
    "freed": Variant(False, spinning(SPIN_COUNT)),
    "passive": Variant(True, {"OMP_WAIT_POLICY": "passive"}),
    "spinning": Variant(True, {}),
}
OWN_VARIABLES = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)
"""Variables that a variant determines."""


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
    "finetuning, ViT-B, 4 images": Case("paper/imagenet_lt_vit_base", "finetune", 4),
}


class Steps(NamedTuple):
    """Costs per step of one process."""

    wall_ms: float
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
        assert isinstance(backbone, config.VisionTransformer | config.ConvMae)
        model = build_autoencoder(backbone, settings).train()
        objective = reconstruction(PIXELS, backbone.tokens)
        batch = random_batch(0, settings.global_batch, backbone.image_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def loss_of_a_step() -> torch.Tensor:
            return objective(model, batch)[0]

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of_a_step()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(case: Case, steps: int, threads: int, keep: bool) -> Steps:
    """Take the steps in this process."""
    torch.set_num_threads(threads)
    if keep and not keep_freed_memory():
        raise SystemExit("The C library cannot keep freed memory, or the environment contains its settings.")
    step = training(case)
    for _ in range(WARM_UP):
        step()
    faults, began, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, cpu_seconds(), time.perf_counter()
    for _ in range(steps - 1):
        step()
    loss = step()
    wall, used = time.perf_counter() - start, cpu_seconds() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Steps(
        1000 * wall / steps, 1000 * used / steps, (after.ru_minflt - faults) / steps, after.ru_maxrss * 1024 / 1e9, loss
    )


def measured_in_a_process(name: str, variant: Variant, steps: int, threads: int) -> Steps:
    """Run this script for one case."""
    command = [sys.executable, __file__, "--case", name, "--steps", str(steps), "--threads", str(threads)]
    others = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    done = subprocess.run(
        [*command, *(["--keep"] if variant.keep else [])],
        env=others | {"OMP_NUM_THREADS": str(threads), **variant.variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Steps(*json.loads(done.stdout.splitlines()[-1]))


def compared(
    name: str, variants: Mapping[str, Variant], rounds: int, steps: int, threads: int
) -> dict[str, dict[str, object]]:
    """Return the results of a case by variant."""
    found: dict[str, list[Steps]] = {variant: [] for variant in variants}
    for number in range(rounds):
        shift = number % len(variants)
        order = list(variants)[shift:] + list(variants)[:shift]
        for variant in order:
            found[variant].append(measured_in_a_process(name, variants[variant], steps, threads))
        losses = {variant: runs[-1].loss for variant, runs in found.items()}
        if len(set(losses.values())) > 1:
            raise SystemExit(f"{name}: the losses differ: {losses}")
    result: dict[str, dict[str, object]] = {}
    for variant, runs in found.items():
        ratios = [run.wall_ms / own.wall_ms for run, own in zip(runs, found["mem"], strict=True)]
        result[variant] = {
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(end(ratios), 2) for end in (min, max)],
            "wall_ms": round(statistics.median(run.wall_ms for run in runs), 1),
            "cpu_ms": round(statistics.median(run.cpu_ms for run in runs), 1),
            "page_faults": round(statistics.median(run.page_faults for run in runs)),
            "peak_gb": round(max(run.peak_gb for run in runs), 2),
        }
    return result


def main() -> None:
    """Measure all cases in alternating processes, or one case in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the line of JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="number of cores that other processes keep busy")
    parser.add_argument("--spin", nargs="*", default=[], help="further values of GOMP_SPINCOUNT")
    parser.add_argument("--only", choices=sorted(CASES), action="append", help="measure only this case (repeatable)")
    parser.add_argument("--case", choices=sorted(CASES), help="measure one case in this process, and print a list")
    parser.add_argument("--keep", action="store_true", help="with --case: keep freed memory")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(CASES[options.case], options.steps, options.threads, options.keep)))
        return
    variants = VARIANTS | {f"spin {count}": Variant(True, spinning(count)) for count in options.spin}
    load = OtherLoad()
    results: dict[str, dict[str, dict[str, object]]] = {}
    with busy_processes(options.busy):
        for name in options.only or CASES:
            results[name] = compared(name, variants, options.rounds, options.steps, options.threads)
            if not options.json:
                for variant, values in results[name].items():
                    print(f"{name}, {variant}: {values}", flush=True)
    about = {"processor": processor(), "threads": options.threads, "busy": options.busy}
    print(json.dumps({**about, "other_load_cores": round(load.cores(), 1), "steps": results}))


if __name__ == "__main__":
    main()
