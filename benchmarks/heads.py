"""What features on disk save a sweep of heads, and what an epoch of MEM costs against one of cRT.

    python benchmarks/heads.py [--json] [--images 115846] [--rounds 5] [--sample 64] [--threads 2] [--views 1]

**cached_vs_online**: a sweep of 30 heads x 10 epochs with a ViT-B/16 at 224. Measured in every round, on a sample of
photo-like JPEGs: seconds an image of (f) the backbone over pictures in order, as the features stage does it, (o) the
backbone in the loop, in a training's shuffled order, (c) cRT's training on features from disk. Multiplied: the sweep
online is 300 o an image; from disk it is (1 + views) f + 300 c. So the ratio holds for a training set of any size.

**mem_vs_crt_epoch**: epochs of MEM (three groups of 385, 479 and 136 classes, one block of width 256) and of cRT on
(images, 768) features of 1,000 classes, through the real training loop, reading from disk; they take turns, and the
median of the rounds' ratios is given. MEM is in a reading that trains the classifier too; that of `config/`
leaves cRT's as it is, costs less, and stands beside it in the table. `--images` below 115,846 measures a part of an
epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pictures import picture
from mem.checkpoints import Checkpoints
from mem.config import Augmentation, Crt, Mem, Shots, VisionTransformer
from mem.data.batch import Batch
from mem.data.beton import Beton, write_beton
from mem.data.features import TrainingFeatures, create, feature_file, open_split
from mem.data.loaders import ImageViews
from mem.data.order import make_order
from mem.fit import TrainState, fit
from mem.heads.base import Head, fresh_linear
from mem.heads.build import Basis, build_head
from mem.models.backbones import build
from mem.models.pixels import Pixels
from mem.optim import head_optimizer
from mem.schedules import cosine
from mem.stages.signals import StopSignals
from mem.tracking.log import Silent

WIDTH, CLASSES, IMAGES = 768, 1000, 115_846
HEADS, EPOCHS = 30, 10
BATCH = 512
VIT_B = VisionTransformer(
    kind="vit", name="vit_base", image_size=224, patch_size=16, width=768, depth=12, heads=12, center_crop=0.875
)
AUGMENTATION = Augmentation(crop_scale=(0.2, 1.0), flip=True)


def long_tailed_labels(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and counts of which 385 are many-shot, 479 medium- and 136 few-shot, as ImageNet-LT's."""
    counts = np.concatenate([np.full(385, 236), np.full(479, 50), np.full(136, 10)])
    return np.random.default_rng(0).choice(CLASSES, images, p=counts / counts.sum()), counts


def head_of(method: str, counts: np.ndarray) -> tuple[Head, Any]:
    """cRT, or MEM in the reading of `config/` or in one that trains the classifier too."""
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
    return build_head(settings, Basis(fresh_linear(WIDTH, CLASSES, 0), counts, Shots(), 0)), settings.training


def say_nothing(text: str) -> None:
    """What checkpoints would warn of."""


def epoch(folder: Path, method: str, counts: np.ndarray) -> float:
    """Seconds of one epoch through the training loop."""
    head, settings = head_of(method, counts)
    split = open_split(folder, "train")
    steps = max(1, len(split) // BATCH)
    data = TrainingFeatures(split, make_order("instance", split.labels, CLASSES, 0), BATCH, 0, tokens=False)

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return replica.loss(batch.inputs, batch.labels)  # type: ignore[operator]

    with tempfile.TemporaryDirectory(dir=folder) as checkpoints:
        start = time.perf_counter()
        fit(
            TrainState(head, head_optimizer(head, settings)),
            data,
            objective,
            cosine(settings.lr, steps),
            steps=steps,
            steps_per_epoch=steps,
            checkpoints=Checkpoints(Path(checkpoints), "benchmark", 1e9, say_nothing),
            log=Silent(),
            stop=StopSignals(),
            title=method,
        )
        return (time.perf_counter() - start) / (steps * BATCH)


def seconds_an_image(pictures: Beton, model: Any, samples: list[tuple[np.ndarray, np.ndarray]], threads: int) -> float:
    """Of the backbone over views of images."""
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    views = ImageViews(pictures, 224, 0.875, AUGMENTATION, 0, threads)
    start, count = time.perf_counter(), 0
    with torch.no_grad():
        for batch in views.batches(samples):
            model.features(pixels.normalise(batch.inputs))
            count += len(batch)
    return (time.perf_counter() - start) / count


def written(folder: Path, images: int) -> np.ndarray:
    """Features of a training set; the counts of its classes."""
    labels, counts = long_tailed_labels(images)
    array, rng = create(folder, "train", "pooled", (1, images, WIDTH)), np.random.default_rng(1)
    for first in range(0, images, 4096):
        part = array[0, first : first + 4096]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    np.save(feature_file(folder, "train", "labels"), labels)
    return counts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--images", type=int, default=IMAGES, help="of the features that heads are trained on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=64, help="pictures that the backbone sees in each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--views", type=int, default=1, help="augmented views that are stored beside the plain one")
    given = parser.parse_args()
    say: Callable[..., None] = (lambda *_: None) if given.json else print
    torch.set_num_threads(given.threads)  # importing ffcv leaves one
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        counts = written(folder, given.images)
        path = folder / "pictures.beton"
        photos = [picture(i) for i in range(given.sample)]
        none = np.zeros(given.sample, np.int64)
        write_beton(path, none, photos.__getitem__, storage="jpeg", jpeg_quality=90, workers=given.threads)
        pictures, model = Beton(path), build(VIT_B, CLASSES).eval()
        order = np.random.default_rng(2).permutation(given.sample)
        in_order = [(none[i : i + 16], np.arange(given.sample)[i : i + 16]) for i in range(0, given.sample, 16)]
        shuffled = [(none[i : i + 16] + 1, order[i : i + 16]) for i in range(0, given.sample, 16)]
        times: dict[str, list[float]] = {name: [] for name in ("f", "o", "crt", "mem", "mem_of_config")}
        seconds_an_image(pictures, model, in_order[:1], given.threads)
        for _ in range(given.rounds):
            times["f"].append(seconds_an_image(pictures, model, in_order, given.threads))
            times["crt"].append(epoch(folder, "crt", counts))
            times["o"].append(seconds_an_image(pictures, model, shuffled, given.threads) + times["crt"][-1])
            times["mem"].append(epoch(folder, "mem", counts))
            times["mem_of_config"].append(epoch(folder, "mem_of_config", counts))
    passes = HEADS * EPOCHS
    sweeps = [
        passes * o / ((1 + given.views) * f + passes * c)
        for f, o, c in zip(times["f"], times["o"], times["crt"], strict=True)
    ]
    ratios = [m / c for m, c in zip(times["mem"], times["crt"], strict=True)]
    of_config = [m / c for m, c in zip(times["mem_of_config"], times["crt"], strict=True)]
    names = {"f": "features stage", "o": "backbone in the loop", "crt": "cRT from disk"}
    names |= {"mem": "MEM from disk", "mem_of_config": "MEM in `config/`'s reading, from disk"}
    say("| | ms an image, median (range) |\n|---|---:|")
    for name, values in times.items():
        low, mid, high = (1000 * v for v in (min(values), statistics.median(values), max(values)))
        say(f"| {names[name]} | {mid:.3f} ({low:.3f} to {high:.3f}) |")
    say("\n| ratio | median (range over rounds) |\n|---|---:|")
    rows = {"cached against online": sweeps, "MEM's epoch against cRT's": ratios}
    rows["MEM's in `config/`'s reading"] = of_config
    for name, values in rows.items():
        say(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")
    median = {"cached_vs_online": sweeps, "mem_vs_crt_epoch": ratios}
    print(json.dumps({name: round(statistics.median(values), 2) for name, values in median.items()}))


if __name__ == "__main__":
    main()
