"""Measure the speedup of a head sweep through stored features, and the duration of a MEM epoch relative to cRT.

    python benchmarks/heads.py [--json] [--images 115846] [--rounds 5] [--sample 64] [--threads 2] [--views 1]
        [--only-heads [--clock cpu]] [--busy 1]

**cached_vs_online** is the speedup for a sweep of 30 heads with 10 epochs each and a ViT-B/16 at 224 pixels. Each round
measures three durations per image on a sample of photo-like JPEGs: (f) the backbone on images in file order, as in the
features stage; (o) the backbone in the training loop on shuffled, augmented images; (c) cRT training on features from
disk. Per image, the sweep takes 300 o with the backbone in the loop and (1 + views) f + 300 c with stored features. The
speedup therefore does not depend on the size of the training set.

**mem_vs_crt_epoch** is the duration of a MEM epoch (three MEM groups of 385, 479 and 136 classes, one block of width
256) relative to a cRT epoch. The training loop reads features of shape (images, 768) for 1,000 classes from disk. MEM
and cRT alternate, and the result is the median ratio over rounds. This MEM variant also trains the classifier. The
table also contains the faster MEM variant from `config/`, which freezes the classifier from cRT. If `--images` is less
than 115,846, only part of an ImageNet-LT epoch is measured. `--busy` starts processes that compute all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from mem.cli.main import SPIN_COUNT

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command `mem` does; OpenMP reads it when torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
import torch
from torch import Tensor, nn

from benchmarks.convert import write_beton
from benchmarks.machine import processor
from benchmarks.synthetic_photos import synthetic_photo
from mem.config import Augmentation, Crt, Mem, Shots, VisionTransformer
from mem.data.batch import Batch
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.features.batches import TrainingFeatures
from mem.data.features.stored import create_feature_file, feature_file, open_split
from mem.data.loading.images import ImageViews
from mem.data.loading.samplers import build_sampler
from mem.heads.base import Head, fresh_linear
from mem.heads.build import HeadInputs, build_head
from mem.jobs.signals import StopSignals
from mem.models.backbones import build
from mem.models.pixels import Pixels
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.optimizers import head_optimizer
from mem.train.schedules import Schedule, cosine
from mem.train.state import TrainState

WIDTH, CLASSES, IMAGES = 768, 1000, 115_846
HEADS, EPOCHS = 30, 10
BATCH = 512
VIT_B = VisionTransformer(
    kind="vit", name="vit_base", image_size=224, patch_size=16, width=768, depth=12, heads=12, center_crop=0.875
)
AUGMENTATION = Augmentation(crop_scale=(0.2, 1.0), flip=True)


def long_tailed_labels(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and class counts with ImageNet-LT's 385 many-shot, 479 medium-shot and 136 few-shot classes."""
    counts = np.concatenate([np.full(385, 236), np.full(479, 50), np.full(136, 10)])
    return np.random.default_rng(0).choice(CLASSES, images, p=counts / counts.sum()), counts


def head_of(method: str, counts: np.ndarray) -> tuple[Head, Any]:
    """Return the head (cRT, MEM with a trained classifier, or `mem_of_config`: a frozen one) and its training."""
    training = {"epochs": 1, "global_batch": BATCH, "lr": 1e-3, "weight_decay": 5e-4, "sampler": "instance"}
    if method == "crt":
        settings: Any = Crt.model_validate({"method": "crt", "training": training | {"optimizer": "sgd"}})
    else:
        values = {"method": "mem", "partition": "shot", "input": "pooled", "width": 256, "depth": 1, "xi": 20.0}
        values |= {"mu": 0.0, "top_k": 5, "reo_weight": 1.0, "fusion_width": 256}
        if method == "mem_of_config":
            values |= {"weight": "additive", "classifier": "frozen", "classifier_from": "crt"}
            values |= {"training": training | {"optimizer": "adamw"}}
        else:
            values |= {"weight": "free", "classifier": "trained", "classifier_from": "ce"}
            values |= {"training": training | {"optimizer": "sgd"}}
        settings = Mem.model_validate(values)
    return build_head(settings, HeadInputs(fresh_linear(WIDTH, CLASSES, 0), counts, Shots(), 0)), settings.training


def ignore_warning(text: str) -> None:
    """Discard a warning about checkpoints."""


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Clocks for wall time and for the CPU time of all threads of this process."""


def epoch(folder: Path, method: str, counts: np.ndarray, clock: Callable[[], float] = time.perf_counter) -> float:
    """Run one epoch of the training loop and return its seconds per image."""
    head, settings = head_of(method, counts)
    split = open_split(folder, "train")
    steps = max(1, len(split) // BATCH)
    data = TrainingFeatures(split, build_sampler("instance", split.labels, CLASSES, 0), BATCH, 0, tokens=False)

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return replica.loss(batch.inputs, batch.labels)  # type: ignore[operator]

    with tempfile.TemporaryDirectory(dir=folder) as checkpoints:
        start = clock()
        fit(
            TrainState(head, head_optimizer(head.parameter_groups(), settings)),
            data,
            objective,
            Schedule(steps, steps, cosine(settings.lr, steps)),
            FitContext(
                method, checkpoints=Checkpoints(Path(checkpoints), "benchmark", 1e9, ignore_warning), stop=StopSignals()
            ),
        )
        return (clock() - start) / (steps * BATCH)


def seconds_per_image(images: Beton, model: Any, samples: list[tuple[np.ndarray, np.ndarray]], threads: int) -> float:
    """Run the backbone on the given image views and return the seconds per view."""
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    views = ImageViews(images, 224, 0.875, AUGMENTATION, 0, threads)
    start, count = time.perf_counter(), 0
    with torch.no_grad():
        for batch in views.batches(samples):
            model.features(pixels.normalise(batch.inputs))
            count += len(batch)
    return (time.perf_counter() - start) / count


def write_features(folder: Path, images: int) -> np.ndarray:
    """Write random features for a training set and return its class counts."""
    labels, counts = long_tailed_labels(images)
    array, rng = create_feature_file(folder, "train", "pooled", (1, images, WIDTH)), np.random.default_rng(1)
    for first in range(0, images, 4096):
        part = array[0, first : first + 4096]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    np.save(feature_file(folder, "train", "labels"), labels)
    return counts


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--images", type=int, default=IMAGES, help="number of images in the stored training features")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=64, help="number of images per backbone measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-heads", action="store_true", help="measure only the epochs of heads")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="for --only-heads; `cpu` if the machine is shared"
    )
    parser.add_argument("--busy", type=int, default=0, help="number of other processes that occupy a core each")
    parser.add_argument(
        "--views", type=int, default=1, help="number of augmented views stored in addition to the plain view"
    )
    options = parser.parse_args()
    say: Callable[..., None] = (lambda *_: None) if options.json else print
    torch.set_num_threads(options.threads)
    with busy_processes(options.busy), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        counts = write_features(folder, options.images)
        times: dict[str, list[float]] = {name: [] for name in ("f", "o", "crt", "mem", "mem_of_config")}
        if options.only_heads:
            del times["f"], times["o"]
            for _ in range(options.rounds):
                for method, values in times.items():
                    values.append(epoch(folder, method, counts, CLOCKS[options.clock]))
            report(times, options, say)
            return
        path = folder / "photos.beton"
        encoding = Encoding("jpeg", 90, None, "area")
        plain_views = np.zeros(options.sample, np.int64)
        write_beton(path, (encode(synthetic_photo(i), encoding) for i in range(options.sample)), options.sample)
        beton, model = Beton(path), build(VIT_B, CLASSES).eval()
        permutation = np.random.default_rng(2).permutation(options.sample)
        in_order = [
            (plain_views[i : i + 16], np.arange(options.sample)[i : i + 16]) for i in range(0, options.sample, 16)
        ]
        shuffled = [(plain_views[i : i + 16] + 1, permutation[i : i + 16]) for i in range(0, options.sample, 16)]
        seconds_per_image(beton, model, in_order[:1], options.threads)
        for _ in range(options.rounds):
            times["f"].append(seconds_per_image(beton, model, in_order, options.threads))
            times["crt"].append(epoch(folder, "crt", counts))
            times["o"].append(seconds_per_image(beton, model, shuffled, options.threads) + times["crt"][-1])
            times["mem"].append(epoch(folder, "mem", counts))
            times["mem_of_config"].append(epoch(folder, "mem_of_config", counts))
    report(times, options, say)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that compute all the time."""
    processes = [multiprocessing.get_context("spawn").Process(target=_compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def report(times: Mapping[str, list[float]], options: argparse.Namespace, say: Callable[..., None]) -> None:
    """Print the tables and the line of JSON.

    Args:
        times: Seconds per image in each round.
        options: Options of the command line.
        say: Prints a line of the tables.
    """
    ratios: dict[str, list[float]] = {}
    if "o" in times:
        passes = HEADS * EPOCHS
        ratios["cached_vs_online"] = [
            passes * o / ((1 + options.views) * f + passes * c)
            for f, o, c in zip(times["f"], times["o"], times["crt"], strict=True)
        ]
    for method in ("mem", "mem_of_config"):
        ratios[f"{method}_vs_crt_epoch"] = [m / c for m, c in zip(times[method], times["crt"], strict=True)]
    names = {"f": "features stage", "o": "backbone in the loop", "crt": "cRT from disk"}
    names |= {"mem": "MEM from disk", "mem_of_config": "MEM with a frozen classifier, from disk"}
    say("| | ms per image, median (range) |\n|---|---:|")
    for name, values in times.items():
        low, mid, high = (1000 * v for v in (min(values), statistics.median(values), max(values)))
        say(f"| {names[name]} | {mid:.3f} ({low:.3f} to {high:.3f}) |")
    say("\n| ratio | median (range over rounds) |\n|---|---:|")
    rows = {"cached_vs_online": "sweep on stored features, speedup over the backbone in the loop"}
    rows |= {"mem_vs_crt_epoch": "MEM epoch / cRT epoch"}
    rows |= {"mem_of_config_vs_crt_epoch": "MEM epoch with a frozen classifier / cRT epoch"}
    for name, values in ratios.items():
        say(f"| {rows[name]} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")
    result: dict[str, Any] = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    about = {
        "processor": processor(),
        "threads": options.threads,
        "clock": options.clock,
        "busy": options.busy,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result | about))


if __name__ == "__main__":
    main()
