"""Compare the training data loader with the MAE, torchvision v2 and timm pipelines, in images per CPU-second.

    python benchmarks/loader.py [--json] [--count 400] [--repeats 11]

Every pipeline processes the same images in one process. It applies random crops (20 to 100 % of the area), resizes them
to 224 pixels and flips them at random. The MAE and timm pipelines read the original files of about 500 pixels.
torchvision's fast path reads the same 256-pixel JPEG files as our loader. The reference pipelines do not assemble
batches. MAE and timm convert images to float and normalise them on the CPU, as in the published recipes. With our
loader, the training device performs these two operations.

Pipelines alternate within a round, so that other load affects all of them. Each round yields one ratio per comparison.
Rates are images per CPU-second and include the CPU time of child processes. The last line contains the lower bounds of
the 95 % confidence intervals for the mean ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import stats
from timm.data import auto_augment, create_transform
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.convert import conversion_efficiency, write_beton
from benchmarks.synthetic_photos import write_photos
from mem.config import Augmentation, RandAugment
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler

SIDE, SHORT_SIDE, QUALITY, BATCH = 224, 256, 90, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = (0.2, 1.0)
BARS = {
    "vs_mae_reference": 4.2,
    "raw_vs_mae_reference": 9.0,
    "vs_torchvision_v2": 1.3,
    "randaugment_vs_timm": 3.0,
    "conversion_efficiency": 0.85,
}
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
    """Return all timed pipelines by name."""
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
    timm = create_transform(
        SIDE,
        is_training=True,
        scale=CROP,
        color_jitter=None,
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
    return {
        "MAE reference (PIL bicubic, float), original files": pillow_pipeline(paths, mae),
        "torchvision v2 (decode_jpeg, uint8), 256 px files": torchvision_v2,
        # Our loader is timed directly after torchvision v2, because their ratio is the closest to its target.
        "ours, JPEG": ours(betons["jpeg"], plain),
        "timm RandAugment (PIL), original files": pillow_pipeline(paths, timm),
        "timm RandAugment (PIL), 256 px files": pillow_pipeline(small, timm),
        "ours, raw": ours(betons["raw"], plain),
        "ours, JPEG, RandAugment": ours(betons["jpeg"], plain.model_copy(update={"rand_augment": rand})),
        "ours, raw, RandAugment": ours(betons["raw"], plain.model_copy(update={"rand_augment": rand})),
    }


def ours(images: Beton, augmentation: Augmentation) -> Epoch:
    """Return an epoch function for our training data loader with one worker and complete batches."""
    steps = len(images) // BATCH

    def epoch(number: int) -> int:
        data = TrainingImages(images, InstanceSampler(len(images), 0), BATCH, SIDE, augmentation, 0, workers=1)
        return sum(len(batch) for batch in data.from_step(number * steps, (number + 1) * steps))

    return epoch


def cpu_seconds() -> float:
    """Return the CPU time in seconds of this process and its terminated child processes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(epoch: Epoch, number: int) -> float:
    """Run an epoch and return its images per CPU-second."""
    start = cpu_seconds()
    images = epoch(number)
    return images / (cpu_seconds() - start)


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
        epochs = pipelines(folder, options.count)
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        # Run all pipelines on one core. Two logical cores may share execution units and slow each other down while both
        # are busy. This would affect only our loader, because it decodes images in a separate thread.
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        for number in range(options.repeats + 1):
            for name, epoch in epochs.items():
                rate = timed(epoch, number)
                if number:
                    rates[name].append(rate)
        os.sched_setaffinity(0, cores)
        efficiency = conversion_efficiency(folder / "original", options.repeats)
    report(rates, efficiency, quiet=options.json)


def report(rates: dict[str, list[float]], efficiency: list[float], quiet: bool) -> None:
    """Print the tables, then the lower bounds of the ratios as JSON."""
    say = (lambda *_: None) if quiet else print
    say(f"{platform.machine()}, {os.cpu_count()} cores, shared; torch {torch.__version__}\n")
    say("| | images / CPU-second | range over rounds |\n|---|---:|---:|")
    for name, values in rates.items():
        say(f"| {name} | {np.median(values):,.0f} | {min(values):,.0f} to {max(values):,.0f} |")
    mae, v2_, jpeg, timm_original, timm_small, raw, jpeg_rand, raw_rand = (np.array(v) for v in rates.values())
    ratios = {
        "vs_mae_reference": jpeg / mae,
        "raw_vs_mae_reference": raw / mae,
        "vs_torchvision_v2": jpeg / v2_,
        "conversion_efficiency": np.array(efficiency),
        "randaugment_vs_timm": jpeg_rand / timm_original,
        "randaugment_vs_timm_same_files": jpeg_rand / timm_small,
        "raw_randaugment_vs_timm": raw_rand / timm_original,
    }
    say("\n| ratio | mean | 95 % interval | target |\n|---|---:|---:|---:|")
    for name, values in ratios.items():
        middle, low, high = interval(values)
        say(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {BARS.get(name, '')} |")
    print(json.dumps({name: round(interval(ratios[name])[1], 3) for name in BARS}))


if __name__ == "__main__":
    main()
