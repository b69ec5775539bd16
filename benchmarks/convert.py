"""Compare conversion throughput with a baseline that only decodes, resizes and encodes images on all cores.

    python benchmarks/convert.py --json

The conversion and the baseline process the same photo-like JPEG files of about 500 pixels
(benchmarks/synthetic_photos.py). Both convert to a short side of 256 pixels and JPEG quality 90 with the same decoder,
resizer and encoder. The baseline discards the encoded images: it neither orders nor writes them, and it keeps no
journal. Timing starts after the worker processes have started and the files are in the page cache. The conversion and
the baseline alternate in many short turns, and each pair of turns yields one ratio.

The last line is {"conversion_efficiency": ...}, the lower bound of the 95 % confidence interval for the mean throughput
ratio (images/s). The preceding line reports the ratio of images per CPU-second, on which other processes on the
machine have little effect.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import psutil
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.synthetic_photos import write_photos
from mem.data.beton.encoding import EncodedImage, Encoding, encode
from mem.data.beton.writer import BetonWriter
from mem.data.convert.worker_pool import Task, TaskResult, WorkerPool
from mem.data.convert.worker_process import ResultKind, TaskKind

ENCODING = Encoding("jpeg", 90, 256, "area")
IMAGES = 400
_CHUNK = 25


class Rates(NamedTuple):
    """Throughput of the conversion and of the baseline in one pair of turns."""

    conversion: float
    """Images per second."""
    bare: float
    conversion_cpu: float
    """Images per CPU-second, with the CPU time summed over all processes."""
    bare_cpu: float


def conversion_efficiency(folder: Path, repeats: int, workers: int | None = None) -> list[float]:
    """Return the ratio of conversion throughput to baseline throughput for each repeat.

    Args:
        folder: Folder for temporary .beton files and for the images, which are generated if they do not exist.
        repeats: Number of timed pairs of turns.
        workers: Number of worker processes. By default, the number of cores available to this process.
    """
    return [rates.conversion / rates.bare for rates in paired_rates(folder, repeats, workers)]


def paired_rates(folder: Path, repeats: int, workers: int | None = None) -> list[Rates]:
    """Time the conversion and the baseline in alternating turns, and return the rates of each pair."""
    workers = workers or len(os.sched_getaffinity(0))
    paths = [str(path) for path in write_photos(folder, IMAGES, workers)]
    rates = []
    with (
        WorkerPool(workers) as conversion_workers,
        ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_one_thread) as pool,
    ):
        conversion_workers.configure(ENCODING)
        turns = (lambda: _convert(folder, paths, conversion_workers), lambda: _work(paths, pool))
        for turn in turns:
            turn()
        for repeat in range(repeats):
            # Alternate which side runs first, so that gradual changes in machine speed favour neither side.
            sides = (0, 1) if repeat % 2 else (1, 0)
            timed = {which: _timed(turns[which]) for which in sides}
            rates.append(Rates(timed[0][0], timed[1][0], timed[0][1], timed[1][1]))
    return rates


def lower_end(ratios: Sequence[float]) -> float:
    """Return the lower bound of the 95 % confidence interval for the mean."""
    error = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    return float(np.mean(ratios) - stats.t.ppf(0.975, len(ratios) - 1) * error)


def _timed(turn: Callable[[], None]) -> tuple[float, float]:
    """Return the images per second and the images per CPU-second of one turn."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    turn()
    return IMAGES / (time.perf_counter() - began), IMAGES / (_cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Return the total CPU time of this process and its descendants in seconds."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _convert(folder: Path, paths: list[str], conversion_workers: WorkerPool) -> None:
    """Convert the files to a complete .beton file, and delete that file."""
    path = folder / "benchmark.beton"
    results = conversion_workers.results(Task(TaskKind.ENCODE, i, name) for i, name in enumerate(paths))
    write_beton(path, (_encoded(result) for result in results), len(paths))
    path.unlink()


def _encoded(result: TaskResult) -> EncodedImage:
    assert result.kind == ResultKind.ENCODED
    return result.image


def write_beton(path: Path, images: Iterable[EncodedImage], count: int) -> None:
    """Write encoded images, all of class 0, to a .beton file."""
    with BetonWriter(path, count, {"benchmark": time.time()}) as writer:
        for image in images:
            writer.add(image)
        writer.finish(np.zeros(count, dtype=np.int64))
    writer.publish()
    writer.remove_journal()


def _work(paths: list[str], pool: ProcessPoolExecutor) -> None:
    """Decode, resize and encode the images, and discard the results."""
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    for _ in pool.map(_encode_all, chunks):
        pass


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _encode_all(paths: list[str]) -> int:
    return sum(len(encode(path, ENCODING).content) for path in paths)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--folder", type=Path, help="folder for the images, which is kept (default: a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON at the end")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mem-photos-"))
    try:
        rates = paired_rates(folder, options.repeats)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    for one in rates:
        print(f"conversion {one.conversion:6.0f} images/s, baseline {one.bare:6.0f} images/s", end=", ")
        print(f"ratio {one.conversion / one.bare:.3f}; per CPU-second {one.conversion_cpu:.0f} and {one.bare_cpu:.0f}")
    for unit, ratios in (
        ("CPU-second", [one.conversion_cpu / one.bare_cpu for one in rates]),
        ("second", [one.conversion / one.bare for one in rates]),
    ):
        print(
            f"images per {unit}: mean ratio {np.mean(ratios):.3f}, "
            f"lower bound of its 95 % interval {lower_end(ratios):.3f}"
        )
    if options.json:
        print(json.dumps({"conversion_efficiency": round(lower_end(ratios), 3)}))


if __name__ == "__main__":
    main()
