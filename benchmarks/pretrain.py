"""Measure the duration of a pretraining step relative to the public training loops of MAE and ConvMAE.

    python benchmarks/pretrain.py --json
    python benchmarks/pretrain.py --batch 32 --pairs 5 --only convmae_base

A step consists of the forward pass, the backward pass and the optimizer step. Our implementation and the reference
(benchmarks/reference_mae.py) use the same weights, images and masks, and their losses must agree at every step. The
steps of the two implementations alternate, so that other load affects both. The result is the median and the range of
the ratio over all pairs. Our implementation is `mem.train.step.train_step`, which receives uint8 images, normalises
them and samples masks. The reference receives normalised images and the random numbers for the masks. Only our
implementation is also timed in bf16, because the public loop's autocast supports only CUDA.

The last line is {"vit_base_vs_reference": reference time / our time, "convmae_base_vs_reference": ...}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from mem.cli.main import SPIN_COUNT

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command `mem` does; OpenMP reads it when torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
import torch

from benchmarks.heads import processor
from benchmarks.reference_mae import Reference, reference_step
from mem import config, provenance
from mem.data.batch import Batch
from mem.distributed import SINGLE_PROCESS
from mem.models.mae import build_autoencoder
from mem.models.parameter_groups import decay_groups
from mem.models.pixels import Pixels
from mem.precision import is_supported
from mem.stages.pretrain import reconstruction
from mem.train.meters import FiniteWatch
from mem.train.optimizers import adamw
from mem.train.state import TrainState
from mem.train.step import StepContext, StepOptions, train_step

LR, BETAS, WEIGHT_DECAY = 1e-5, (0.9, 0.95), 0.05
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Clocks for wall time and for the CPU time of this process. On an idle machine, both agree for a single thread."""
PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BACKBONES: dict[str, config.VisionTransformer | config.ConvMae] = {
    "vit_base": config.VisionTransformer(
        name="vit_base", kind="vit", image_size=224, patch_size=16, width=768, depth=12, heads=12, center_crop=0.875
    ),
    "convmae_base": config.ConvMae(
        name="convmae_base",
        kind="convmae",
        image_size=224,
        patch_sizes=(4, 2, 2),
        widths=(256, 384, 768),
        depths=(2, 2, 11),
        heads=12,
        center_crop=0.875,
    ),
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a line of JSON at the end")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--pairs", type=int, default=3, help="number of timed step pairs")
    parser.add_argument("--threads", type=int, default=provenance.cpus(), help="number of torch threads")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="use `cpu` if the machine is shared")
    parser.add_argument("--only", choices=sorted(BACKBONES), help="measure only this backbone")
    parser.add_argument(
        "--shallow", action="store_true", help="use two encoder blocks and two decoder blocks, for a quick test"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"batch {options.batch}, {options.clock} clock"
    )
    ratios: dict[str, object] = {}
    for name, backbone in BACKBONES.items():
        if options.only in (None, name):
            found = compared(shallow(backbone) if options.shallow else backbone, options)
            print(f"{name}: {found}", flush=True)
            ratios[f"{name}_vs_reference"] = round(found.ratio, 3)
    if options.json:
        about = {"processor": processor(), "threads": options.threads, "clock": options.clock}
        print(json.dumps(ratios | about))
    return 0


@dataclass(frozen=True)
class Comparison:
    """Seconds per step for each implementation."""

    reference: list[float]
    ours: list[float]
    bf16: list[float]
    """Our implementation with bf16 autocast; empty on a processor without instructions for it."""

    @property
    def pairs(self) -> list[float]:
        """Ratio of reference time to our time for each pair of steps."""
        return [theirs / mine for theirs, mine in zip(self.reference, self.ours, strict=True)]

    @property
    def ratio(self) -> float:
        """Median ratio over the pairs."""
        return statistics.median(self.pairs)

    def __str__(self) -> str:
        low, high = min(self.pairs), max(self.pairs)
        half = (theirs / mine for theirs, mine in zip(self.reference, self.bf16, strict=True)) if self.bf16 else ()
        seconds = ", ".join(
            f"{what} {statistics.median(values):.2f} s (minimum {min(values):.2f})"
            for what, values in (("reference", self.reference), ("ours", self.ours), ("ours in bf16", self.bf16))
            if values
        )
        in_bf16 = f"{statistics.median(half):.2f}x in bf16" if self.bf16 else "no instructions for bf16"
        return (
            f"{seconds} per step; {self.ratio:.3f}x the reference [{low:.3f} to {high:.3f}, {len(self.pairs)} pairs], "
            f"{min(self.reference) / min(self.ours):.3f}x by the minimum times; {in_bf16}; "
            f"peak memory {provenance.peak_memory_gb():.1f} GB in total"
        )


def compared(backbone: config.VisionTransformer | config.ConvMae, options: argparse.Namespace) -> Comparison:
    """Time alternating steps of our implementation and the reference."""
    torch.manual_seed(0)
    settings = recipe(decoder_depth=2 if options.shallow else 8)
    model = build_autoencoder(backbone, settings).train()
    reference = Reference(backbone, settings.decoder, settings.mask_ratio).train()
    reference.load_state_dict({name.removeprefix("encoder."): value for name, value in model.state_dict().items()})
    state = TrainState(model, adamw(decay_groups(model, WEIGHT_DECAY), BETAS))
    optimizer = torch.optim.AdamW(decay_groups(reference, WEIGHT_DECAY), lr=0.0, betas=BETAS)
    objective = reconstruction(PIXELS, backbone.tokens)
    watch = FiniteWatch()
    times: dict[str, list[float]] = {"reference": [], "ours": [], "bf16": []}
    for step in range(options.pairs + 1):
        batch = random_batch(step, options.batch, backbone.image_size)
        images, noise = PIXELS.normalise(batch.inputs), batch.uniforms("mask", backbone.tokens)
        began = CLOCKS[options.clock]()
        theirs = reference_step(reference, optimizer, images, noise, LR)
        times["reference"].append(CLOCKS[options.clock]() - began)
        began = CLOCKS[options.clock]()
        train_step(
            state, state.model, batch, objective, LR, StepContext(SINGLE_PROCESS, options.batch, StepOptions(), watch)
        )
        times["ours"].append(CLOCKS[options.clock]() - began)
        mine = state.meter.read(SINGLE_PROCESS)["loss"]
        if abs(mine - theirs) > 1e-4 * abs(theirs):
            raise SystemExit(
                f"The losses differ at step {step}: our loss is {mine} and the reference loss is {theirs}."
            )
    # The first float32 step of each implementation is a warm-up. The bf16 steps follow without the reference.
    for step in range(1, options.pairs + 1 if is_supported("bf16", SINGLE_PROCESS.device) else 1):
        batch = random_batch(step, options.batch, backbone.image_size)
        began = CLOCKS[options.clock]()
        context = StepContext(SINGLE_PROCESS, options.batch, StepOptions(precision="bf16"), watch)
        train_step(state, state.model, batch, objective, LR, context)
        times["bf16"].append(CLOCKS[options.clock]() - began)
    return Comparison(times["reference"][1:], times["ours"][1:], times["bf16"])


def random_batch(step: int, samples: int, side: int) -> Batch:
    """Return a batch of noise images. The content does not affect the duration of a step."""
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randint(0, 256, (samples, side, side, 3), dtype=torch.uint8, generator=generator)
    return Batch(pixels, torch.zeros(samples, dtype=torch.int64), step * samples, seed=0)


def recipe(decoder_depth: int) -> config.Pretrain:
    """Return the settings of MAE's recipe that affect a step."""
    return config.Pretrain(
        epochs=800,
        warmup_epochs=40,
        global_batch=4096,
        base_lr=1.5e-4,
        min_lr=0.0,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        precision="fp32",
        mask_ratio=0.75,
        norm_pix_loss=True,
        decoder=config.Decoder(width=512, depth=decoder_depth, heads=16),
        augmentation=config.Augmentation(crop_scale=(0.2, 1.0), flip=True),
    )


def shallow(backbone: config.VisionTransformer | config.ConvMae) -> config.VisionTransformer | config.ConvMae:
    """Return a backbone with the same widths and fewer blocks."""
    if isinstance(backbone, config.ConvMae):
        return backbone.model_copy(update={"depths": (*backbone.depths[:2], 2)})
    return backbone.model_copy(update={"depth": 2})


if __name__ == "__main__":
    sys.exit(main())
