"""Measure the time and memory required to check datasets of 10,000 to 1,000,000 files and write their manifests.

    python benchmarks/manifest.py --json

The benchmark creates tiny files (hard links to a few inodes) in a temporary folder, with a thousand class folders per
split and one list per split. For each dataset size, a new process reads the lists, checks the dataset as `mem data
check` does, verifies that the splits are disjoint, and writes the manifest and the image list as `mem convert` does.
The benchmark then removes all files.

The last line is {"seconds": {...}, "cpu_seconds": {...}, "cpu_microseconds_per_file": {...}, "per_file_100k_to_10k":
..., "per_file_1m_to_100k": ..., "peak_memory_gb": ...}. The per-file ratios compare CPU time, because other processes
affect it less than wall time. A ratio of 1 means linear scaling.
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
"""Number of hard links per inode. ext4 allows 65,000."""
STEPS = ("read the lists", "check", "verify disjoint splits", "manifest and images.csv")


def main() -> int:
    """Run the command line."""
    options = _parser().parse_args()
    if options.worker_folder is not None:
        print(json.dumps(measure(options.worker_folder)))
        return 0
    say: Callable[[str], None] = (lambda text: print(text, file=sys.stderr)) if options.json else print
    seconds: dict[int, dict[str, float]] = {}
    processor: dict[int, float] = {}
    peak: dict[int, float] = {}
    for size in options.sizes:
        folder = Path(tempfile.mkdtemp(prefix="manifest-", dir=options.folder))
        try:
            began = time.perf_counter()
            make(folder, size)
            say(f"{size:,} files created in {time.perf_counter() - began:.0f} s")
            runs = [_in_new_process(folder) for _ in range(options.repeats)]
        finally:
            shutil.rmtree(folder)
        seconds[size] = {step: statistics.median(run[step] for run in runs) for step in STEPS}
        processor[size] = statistics.median(run["cpu_seconds"] for run in runs)
        peak[size] = max(run["peak_memory_gb"] for run in runs)
        steps = ", ".join(f"{step} {taken:.2f} s" for step, taken in seconds[size].items())
        say(
            f"{size:,} files: {sum(seconds[size].values()):.2f} s ({steps}), {processor[size]:.2f} CPU-seconds, "
            f"peak memory {peak[size]:.2f} GB"
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
    """Create `size` files in the class folders of three splits, and one list per split."""
    inodes = folder / "inodes"
    inodes.mkdir()
    created = 0
    for split, share in SHARES.items():
        number = round(size * share)
        with open(folder / f"{split}.txt", "w") as lines:
            for k in range(CLASSES):
                inside = folder / "images" / split / f"class{k:04d}"
                inside.mkdir(parents=True)
                for i in range(k, number, CLASSES):
                    source = inodes / str(created // LINKS)
                    if created % LINKS == 0:
                        source.write_bytes(b"\xff\xd8\xff\xe0 the start of a JPEG file")
                    os.link(source, inside / f"image{i:08d}.jpg")
                    lines.write(f"{split}/class{k:04d}/image{i:08d}.jpg {k}\n")
                    created += 1


def measure(folder: Path) -> dict[str, float]:
    """Return the duration of each step, and the CPU time and peak memory of this process."""
    from mem.config import Lists
    from mem.data.check.check import check
    from mem.data.datasets import read_unchecked
    from mem.data.datasets.manifest import describe, write_image_list

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
    images = read_unchecked(settings, 0)
    times.append(time.perf_counter())
    findings = check(images)
    times.append(time.perf_counter())
    images.require_disjoint()
    times.append(time.perf_counter())
    (folder / "dataset.json").write_text(json.dumps(describe(images)))
    write_image_list(images, folder / "images.csv")
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


def _in_new_process(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--worker-folder", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line to stdout and the rest to stderr")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="measurements per size, of which the median is reported"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder in which the temporary folder is created")
    parser.add_argument("--worker-folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
