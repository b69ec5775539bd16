"""Compare the training data loader with the MAE, torchvision v2, timm and DALI pipelines, in images per CPU-second.

    python benchmarks/loader.py [--json] [--count 400] [--repeats 11]

Every pipeline processes the same images in one process. It applies random crops (20 to 100 % of the area), resizes them
to 224 pixels and flips them at random. The MAE and timm pipelines read the original files of about 500 pixels.
torchvision's fast path and DALI read the same 256-pixel JPEG files as our loader. The reference pipelines do not
assemble batches, except for DALI. MAE and timm convert images to float and normalise them on the CPU, as in the
published recipes. With our loader, the training device performs these two operations. DALI takes part if it is
installed (`dali_pipeline.py`).

All pipelines run on one core. In each round, they run in one order and then in the reverse order, so that changes in
the load of the machine affect both sides of a ratio. Each round yields one ratio per comparison. Rates are images per
CPU-second and include the CPU time of child processes. The last line contains the lower bounds of the 95 % confidence
intervals for the mean ratios, the processor, and the number of cores that other programs kept busy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import stats
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.convert import conversion_efficiency, write_beton
from benchmarks.dali_pipeline import dali_epoch
from benchmarks.machine import OtherLoad, cpu_seconds, processor, shared_core
from benchmarks.synthetic_photos import write_photos
from mem.config import Augmentation, RandAugment
from mem.data.beton.crops import native_library
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler

SIDE, SHORT_SIDE, QUALITY, BATCH = 224, 256, 90, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = (0.2, 1.0)
BARS = {
    "vs_mae_reference": 4.6,
    "raw_vs_mae_reference": 10.0,
    "vs_torchvision_v2": 1.4,
    "randaugment_vs_timm": 4.2,
    "conversion_efficiency": 0.85,
}
"""Targets for the lower bounds of the ratios."""
MAE, V2, OURS, TIMM = "MAE reference", "torchvision v2", "ours, JPEG", "timm RandAugment, original files"
TIMM_SMALL, RAW = "timm RandAugment, 256 px files", "ours, raw"
OURS_RAND, RAW_RAND, DALI = "ours, JPEG, RandAugment", "ours, raw, RandAugment", "DALI on the CPU"
RATIOS = {
    "vs_mae_reference": (OURS, MAE),
    "raw_vs_mae_reference": (RAW, MAE),
    "vs_torchvision_v2": (OURS, V2),
    "vs_dali_cpu": (OURS, DALI),
    "randaugment_vs_timm": (OURS_RAND, TIMM),
    "randaugment_vs_timm_same_files": (OURS_RAND, TIMM_SMALL),
    "raw_randaugment_vs_timm": (RAW_RAND, TIMM),
}
"""Comparisons: the two pipelines of each ratio."""
Epoch = Callable[[int], int]
"""Function that reads all images of the epoch with the given index and returns their number."""


def resized(path: Path) -> np.ndarray:
    """Return an image resized to a short side of `SHORT_SIDE` pixels."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    factor = SHORT_SIDE / min(image.size)
    return np.asarray(image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BOX))


def pillow_pipeline(paths: list[Path], transform: Callable[[Image.Image], object]) -> Epoch:
    """Return an epoch function for a reference pipeline that opens files with Pillow."""

    def epoch(_: int) -> int:
        for path in paths:
            with Image.open(path) as opened:
                transform(opened.convert("RGB"))
        return len(paths)

    return epoch


def pipelines(folder: Path, count: int) -> dict[str, Epoch]:
    """Return all timed pipelines by name, in the order of their first turn."""
    paths = write_photos(folder / "original", count)
    betons: dict[str, Beton] = {}
    for storage in ("jpeg", "raw"):
        path = folder / f"{storage}.beton"
        if not path.exists():
            encoding = Encoding(storage, QUALITY, None, "area")
            write_beton(path, (encode(resized(original), encoding) for original in paths), count)
        betons[storage] = Beton(path)
    small: list[Path] = []
    (folder / "small").mkdir(exist_ok=True)
    jpegs = betons["jpeg"]
    for i in range(count):
        small.append(folder / "small" / f"{i}.jpg")
        start, size = int(jpegs._positions[i]), int(jpegs._sizes[i])
        small[i].write_bytes(jpegs._map[start : start + size].tobytes())

    mae = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, scale=CROP, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    # At the largest magnitude, timm calls Pillow's posterize with 0 bits, which recent Pillow releases reject.
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = lambda image, bits, **_: ImageOps.posterize(image, max(1, bits))
    timm: Any = create_transform(
        SIDE,
        is_training=True,
        scale=CROP,
        color_jitter=None,  # type: ignore[arg-type] # timm's annotation lacks None, which switches jitter off
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
    )
    fast = v2.Compose([v2.RandomResizedCrop(SIDE, scale=CROP, antialias=True), v2.RandomHorizontalFlip()])

    def torchvision_v2(_: int) -> int:
        for path in small:
            content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            fast(decode_jpeg(content, mode=ImageReadMode.RGB))
        return len(small)

    plain = Augmentation(crop_scale=CROP, flip=True)
    rand = RandAugment(layers=2, magnitude=9, magnitude_std=0.5, increasing=True)
    rand_augmented = plain.model_copy(update={"rand_augment": rand})
    dali = dali_epoch(small, SIDE, BATCH, CROP)
    if dali is None:
        print("DALI is not installed, so it is not measured: pip install nvidia-dali-cuda120", file=sys.stderr)
    return {
        MAE: pillow_pipeline(paths, mae),
        # Our loader is timed directly after the pipelines whose ratios are closest to their targets.
        **({DALI: dali[1]} if dali else {}),
        V2: torchvision_v2,
        OURS: ours(betons["jpeg"], plain),
        RAW: ours(betons["raw"], plain),
        TIMM: pillow_pipeline(paths, timm),
        OURS_RAND: ours(betons["jpeg"], rand_augmented),
        RAW_RAND: ours(betons["raw"], rand_augmented),
        TIMM_SMALL: pillow_pipeline(small, timm),
    }


def ours(images: Beton, augmentation: Augmentation) -> Epoch:
    """Return an epoch function for our training data loader with one worker and complete batches."""
    steps = len(images) // BATCH

    def epoch(number: int) -> int:
        data = TrainingImages(images, InstanceSampler(len(images), 0), BATCH, SIDE, augmentation, 0, workers=1)
        return sum(len(batch) for batch in data.from_step(number * steps, (number + 1) * steps))

    return epoch


def timed_rounds(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Return the images per CPU-second of each pipeline in each round. A round before the first one is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        images, seconds = dict.fromkeys(epochs, 0), dict.fromkeys(epochs, 0.0)
        for order in (list(epochs), list(reversed(epochs))):
            for name in order:
                start = cpu_seconds()
                images[name] += epochs[name](number)
                seconds[name] += cpu_seconds() - start
        if number:
            for name, values in rates.items():
                values.append(images[name] / seconds[name])
    return rates


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the geometric mean and the bounds of its 95 % confidence interval."""
    logs = np.log(values)
    reach = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    middle, low, high = np.exp([logs.mean(), logs.mean() - reach, logs.mean() + reach])
    return float(middle), float(low), float(high)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--count", type=int, default=400, help="number of images")
    parser.add_argument("--repeats", type=int, default=11, help="timed rounds, after one warm-up round")
    parser.add_argument(
        "--folder", type=Path, help="folder for the images, which is kept (default: a temporary folder)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_photos(folder / "original", options.count)
        machine = {"processor": processor(), "compiled_crops": native_library() is not None}
        # Run all pipelines on one core. Two logical cores may share execution units and slow each other down while both
        # are busy. This would affect only pipelines that decode images in a separate thread, such as our loader.
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        machine["core_is_a_hyper_thread"] = shared_core(max(cores))
        epochs = pipelines(folder, options.count)
        load = OtherLoad()
        rates = timed_rounds(epochs, options.repeats)
        machine["other_busy_cores"] = round(load.cores(), 2)
        os.sched_setaffinity(0, cores)
        efficiency = conversion_efficiency(folder / "original", options.repeats)
    report(rates, efficiency, machine, quiet=options.json)


def report(rates: dict[str, list[float]], efficiency: list[float], machine: dict[str, object], quiet: bool) -> None:
    """Print the tables, then the lower bounds of the ratios and the properties of the machine as JSON."""
    say = (lambda *_: None) if quiet else print
    say(f"{machine}; torch {torch.__version__}\n")
    say("| | images / CPU-second | range over rounds |\n|---|---:|---:|")
    for name, values in rates.items():
        say(f"| {name} | {np.median(values):,.0f} | {min(values):,.0f} to {max(values):,.0f} |")
    ratios = {
        name: np.array(rates[first]) / np.array(rates[second])
        for name, (first, second) in RATIOS.items()
        if second in rates
    }
    ratios["conversion_efficiency"] = np.array(efficiency)
    say("\n| ratio | mean | 95 % interval | target |\n|---|---:|---:|---:|")
    for name, values in ratios.items():
        middle, low, high = interval(values)
        say(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {BARS.get(name, '')} |")
    lower = {name: round(interval(ratios[name])[1], 3) for name in (*BARS, "vs_dali_cpu") if name in ratios}
    print(json.dumps(lower | machine))


if __name__ == "__main__":
    main()
