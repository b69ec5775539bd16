"""Check and manifest of large data sets: seconds and memory for 10,000, 100,000 and 1,000,000 listed files.

    python benchmarks/manifest.py --json

Makes the files in a temporary folder: tiny ones, hard links to a few, in a thousand class folders a split, with lists
of train, val and test. For each size, in a process of its own, it reads the lists, checks the data set as `mem data
check` does, proves the splits disjoint, and makes manifest and list of images as `mem convert` does. Everything is
removed afterwards.

The last line is {"seconds": {...}, "cpu_seconds": {...}, "cpu_microseconds_per_file": {...},
"per_file_100k_to_10k": ..., "per_file_1m_to_100k": ..., "peak_memory_gb": ...}. Ratios are of processor time, which
other work on the machine moves less than the clock; 1 is linear.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SHARES = {"train": 0.88, "val": 0.02, "test": 0.10}
CLASSES = 1000
LINKS = 30_000
"""Names of one file; ext4 takes 65,000."""
STEPS = ("read the lists", "check", "prove disjoint", "manifest and images.csv")


def main() -> int:
    """Measure, print."""
    asked = _parser().parse_args()
    if asked.one is not None:
        print(json.dumps(measured(asked.one)))
        return 0
    say: Callable[[str], None] = (lambda text: print(text, file=sys.stderr)) if asked.json else print
    seconds: dict[int, dict[str, float]] = {}
    processor: dict[int, float] = {}
    peak: dict[int, float] = {}
    for size in asked.sizes:
        folder = Path(tempfile.mkdtemp(prefix="manifest-", dir=asked.folder))
        try:
            began = time.perf_counter()
            make(folder, size)
            say(f"{size:,} files made in {time.perf_counter() - began:.0f} s")
            runs = [_in_a_process(folder) for _ in range(asked.repeats)]
        finally:
            shutil.rmtree(folder)
        seconds[size] = {step: statistics.median(run[step] for run in runs) for step in STEPS}
        processor[size] = statistics.median(run["cpu_seconds"] for run in runs)
        peak[size] = max(run["peak_memory_gb"] for run in runs)
        steps = ", ".join(f"{step} {taken:.2f} s" for step, taken in seconds[size].items())
        say(
            f"{size:,} files: {sum(seconds[size].values()):.2f} s ({steps}), {processor[size]:.2f} s of a core; "
            f"{peak[size]:.2f} GB"
        )
    print(json.dumps(_result(seconds, processor, peak)))
    return 0


def _result(
    seconds: dict[int, dict[str, float]], processor: dict[int, float], peak: dict[int, float]
) -> dict[str, object]:
    total = {size: sum(steps.values()) for size, steps in seconds.items()}
    each = {size: 1e6 * taken / size for size, taken in processor.items()}
    sizes = sorted(each)
    names = {10_000: "10k", 100_000: "100k", 1_000_000: "1m"}
    ratios = {
        f"per_file_{names.get(large, large)}_to_{names.get(small, small)}": round(each[large] / each[small], 3)
        for small, large in itertools.pairwise(sizes)
    }
    return {
        "seconds": {str(size): round(taken, 2) for size, taken in total.items()},
        "cpu_seconds": {str(size): round(taken, 2) for size, taken in processor.items()},
        "cpu_microseconds_per_file": {str(size): round(taken, 2) for size, taken in each.items()},
        **ratios,
        "peak_memory_gb": round(max(peak.values()), 3),
    }


def make(folder: Path, size: int) -> None:
    """So many files in the class folders of three splits, and a list of each split."""
    whole = folder / "whole"
    whole.mkdir()
    made = 0
    for split, share in SHARES.items():
        number = round(size * share)
        with open(folder / f"{split}.txt", "w") as lines:
            for k in range(CLASSES):
                inside = folder / "images" / split / f"class{k:04d}"
                inside.mkdir(parents=True)
                for i in range(k, number, CLASSES):
                    source = whole / str(made // LINKS)
                    if made % LINKS == 0:
                        source.write_bytes(b"\xff\xd8\xff\xe0 the start of a JPEG file")
                    os.link(source, inside / f"picture{i:08d}.jpg")
                    lines.write(f"{split}/class{k:04d}/picture{i:08d}.jpg {k}\n")
                    made += 1


def measured(folder: Path) -> dict[str, float]:
    """Seconds of each step, and the largest memory of this process."""
    from mem.config import Lists
    from mem.data.check import check
    from mem.data.datasets import read_unproved
    from mem.data.manifest import describe, write_images

    settings = Lists.model_validate(
        {
            "source": "lists",
            "name": "many",
            "root": str(folder / "images"),
            "pixel_mean": [0.5, 0.5, 0.5],
            "pixel_std": [0.5, 0.5, 0.5],
            "storage": "raw",
            **{f"{split}_list": str(folder / f"{split}.txt") for split in SHARES},
        }
    )
    times = [time.perf_counter()]
    processor = time.process_time()
    images = read_unproved(settings, 0)
    times.append(time.perf_counter())
    findings = check(images)
    times.append(time.perf_counter())
    images.prove_disjoint()
    times.append(time.perf_counter())
    (folder / "dataset.json").write_text(json.dumps(describe(images)))
    write_images(images, folder / "images.csv")
    times.append(time.perf_counter())
    if findings.status:
        raise SystemExit("\n".join(findings.lines()))
    taken = dict(zip(STEPS, (b - a for a, b in itertools.pairwise(times)), strict=True))
    processor = time.process_time() - processor
    return {
        **taken,
        "cpu_seconds": processor,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def _in_a_process(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the last line alone; the rest goes to stderr")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="measurements of each size; the median counts"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the temporary folder is made")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
