"""Measure read throughput for features that do not fit into memory, relative to a sequential read from the same disk.

    python benchmarks/features.py [--json] [--gigabytes 2] [--rounds 5] [--folder DIR]

The files have the format of the `features` stage: ViT-B tokens (196 x 768, float32) and pooled features (768). Each
measurement reads the features for one training epoch of a head from a cold page cache. The throughput is divided
by the mean throughput of the sequential reads before and after the epoch. The files are removed at the end.

The last line contains the median ratios over all rounds. `tokens_vs_sequential` is the ratio for tokens that are read
in random order.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mem.data.features.batches import TrainingFeatures
from mem.data.features.blocks import BlockSampler
from mem.data.features.stored import FeatureSplit, create_feature_file, feature_file
from mem.data.loading.samplers import InstanceSampler, Sampler

TOKENS, WIDTH = 196, 768
PIECE = 8 << 20


def forget(path: Path) -> None:
    """Evict a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequential(path: Path) -> float:
    """Return the throughput (bytes/s) of a sequential read that uses the kernel's read-ahead."""
    forget(path)
    buffer = bytearray(PIECE)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while file.readinto(buffer):
            pass
    return path.stat().st_size / (time.perf_counter() - start)


def epoch(folder: Path, split: str, sampler: Sampler, batch: int, tokens: bool) -> float:
    """Read the features of one epoch as head training does, and return the throughput (bytes/s)."""
    path = feature_file(folder, split, "tokens" if tokens else "pooled")
    forget(path)
    pooled = np.load(feature_file(folder, split, "pooled"), mmap_mode="r")
    if tokens:
        np.isfinite(
            pooled
        ).all()  # reads the pooled features, as opening a split does; they are small compared with the tokens
    kept = np.load(path, mmap_mode="r") if tokens else None
    images = pooled.shape[1]
    data = TrainingFeatures(FeatureSplit(pooled, kept, np.zeros(images, np.int64)), sampler, batch, 0, tokens)
    start = time.perf_counter()
    read = sum(len(part) for part in data.from_step(0, images // batch))
    rows = kept if kept is not None else pooled
    return read * rows[0, 0].nbytes / (time.perf_counter() - start)


def write(folder: Path, split: str, images: int, tokens: bool) -> None:
    """Write feature files that repeat a small set of random features."""
    numbers = np.random.default_rng(0).normal(size=(64, TOKENS if tokens else 1, WIDTH)).astype(np.float32)
    kinds = [("pooled", (1, images, WIDTH)), *([("tokens", (1, images, TOKENS, WIDTH))] if tokens else [])]
    for kind, shape in kinds:
        array = create_feature_file(folder, split, kind, shape)
        for start in range(0, images, 64):
            part = array[0, start : start + 64]
            part[:] = numbers[: len(part)] if kind == "tokens" else numbers[: len(part), 0]
        assert isinstance(array, np.memmap)
        array.flush()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--gigabytes", type=float, default=2, help="size of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: the current folder)")
    options = parser.parse_args()
    say = (lambda *_: None) if options.json else print
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as temporary:
        folder = Path(temporary)
        large, many = (int(options.gigabytes * 1e9 / (4 * WIDTH * rows)) for rows in (TOKENS, 1))
        write(folder, "tokens", large, tokens=True)
        write(folder, "pooled", many, tokens=False)
        access_patterns: dict[str, Callable[[], float]] = {
            "tokens, any order": lambda: epoch(folder, "tokens", InstanceSampler(large, 0), 64, True),
            "tokens, blocks of 8": lambda: epoch(folder, "tokens", BlockSampler(large, 0, 8, 32), 64, True),
            "pooled, blocks of 256": lambda: epoch(folder, "pooled", BlockSampler(many, 0, 256, 64), 1024, False),
        }
        ratios: dict[str, list[float]] = {name: [] for name in access_patterns}
        rates: dict[str, list[float]] = {name: [] for name in ("sequential", *access_patterns)}
        reference = feature_file(folder, "tokens", "tokens")
        before = sequential(reference)
        for _ in range(options.rounds):
            for name, measure in access_patterns.items():
                rate, after = measure(), sequential(reference)
                ratios[name].append(rate / ((before + after) / 2))
                rates[name].append(rate)
                rates["sequential"].append(before)
                before = after
    say("| | MB/s | relative to sequential |\n|---|---:|---:|")
    for name, values in rates.items():
        of = ratios.get(name, [1.0])
        share = f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})"
        say(f"| {name} | {statistics.median(values) / 1e6:,.0f} | {share} |")
    tokens, _, pooled = (round(statistics.median(values), 3) for values in ratios.values())
    print(json.dumps({"tokens_vs_sequential": tokens, "pooled_vs_sequential": pooled}))


if __name__ == "__main__":
    main()
