"""A conversion against the work that it cannot do without: decode, resize and encode, on all cores.

    python benchmarks/convert.py --json

Both take the same photo-like JPEG files of about 500 pixels (benchmarks/pictures.py) to a shorter side of 256 and JPEG
of quality 90 with the same decoder, resizer and encoder. The bare work is done by processes that keep nothing: no
order, no writing, no journal. Processes are started beforehand in both, and the files are in the page cache. The two
take many short turns, and each pair of turns gives a ratio. The last line is {"conversion_efficiency": ...}: the lower
end of the 95 % interval of the mean ratio of images per second. The same in images per CPU-second, which a busy machine
hardly moves, stands above it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import psutil
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.pictures import write_pictures
from mem.data.encoding import Encoding, encode
from mem.data.partial import Partial
from mem.data.worker import ENCODE, ENCODED
from mem.data.workers import Task, Workers

ENCODING = Encoding("jpeg", 90, 256, "area")
PICTURES = 400
_CHUNK = 25


class Rates(NamedTuple):
    """Of one pair of turns."""

    conversion: float
    """Images per second."""
    bare: float
    conversion_cpu: float
    """Images per CPU-second, of all processes together."""
    bare_cpu: float


def conversion_efficiency(folder: Path, repeats: int, workers: int | None = None) -> list[float]:
    """Images per second of a conversion over those of the bare work, once per repeat.

    Args:
        folder: Where the pictures are, or go; the .beton files are written here too, and removed.
        repeats: How often both are timed.
        workers: Processes; all cores that this one may use, if none are given.
    """
    return [rates.conversion / rates.bare for rates in paired_rates(folder, repeats, workers)]


def paired_rates(folder: Path, repeats: int, workers: int | None = None) -> list[Rates]:
    """Time both, turn by turn."""
    workers = workers or len(os.sched_getaffinity(0))
    paths = [str(path) for path in write_pictures(folder, PICTURES, workers)]
    rates = []
    with (
        Workers(workers) as crew,
        ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_one_thread) as pool,
    ):
        crew.settle(ENCODING)
        turns = (lambda: _convert(folder, paths, crew), lambda: _work(paths, pool))
        for turn in turns:
            turn()
        for repeat in range(repeats):
            # Who comes first changes, so that a trend of the machine favours neither.
            order = (0, 1) if repeat % 2 else (1, 0)
            timed = {which: _timed(turns[which]) for which in order}
            rates.append(Rates(timed[0][0], timed[1][0], timed[0][1], timed[1][1]))
    return rates


def lower_end(ratios: Sequence[float]) -> float:
    """Lower end of the 95 % interval of the mean."""
    error = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    return float(np.mean(ratios) - stats.t.ppf(0.975, len(ratios) - 1) * error)


def _timed(turn: Callable[[], None]) -> tuple[float, float]:
    """Images per second and per CPU-second."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    turn()
    return PICTURES / (time.perf_counter() - began), PICTURES / (_cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Of this process and those that it has started."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _convert(folder: Path, paths: list[str], crew: Workers) -> None:
    """From the files to a whole .beton file."""
    path = folder / "benchmark.beton"
    with Partial(path, len(paths), {"benchmark": time.time()}) as partial:
        for answer in crew.answers(Task(ENCODE, i, name) for i, name in enumerate(paths)):
            assert answer.kind == ENCODED
            partial.add(answer)
        partial.finish(np.zeros(len(paths), dtype=np.int64))
    partial.publish()
    partial.forget()
    path.unlink()


def _work(paths: list[str], pool: ProcessPoolExecutor) -> None:
    """Decode, resize and encode, and throw the result away."""
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    for _ in pool.map(_encode_all, chunks):
        pass


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _encode_all(paths: list[str]) -> int:
    return sum(len(encode(path, ENCODING).content) for path in paths)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="of the pictures; kept, where it is given")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="mem-pictures-"))
    try:
        rates = paired_rates(folder, given.repeats)
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    for one in rates:
        print(f"conversion {one.conversion:6.0f} images/s, bare work {one.bare:6.0f} images/s", end=", ")
        print(f"ratio {one.conversion / one.bare:.3f}; per CPU-second {one.conversion_cpu:.0f} and {one.bare_cpu:.0f}")
    for unit, ratios in (
        ("CPU-second", [one.conversion_cpu / one.bare_cpu for one in rates]),
        ("second", [one.conversion / one.bare for one in rates]),
    ):
        print(f"images per {unit}: mean ratio {np.mean(ratios):.3f}, lower end {lower_end(ratios):.3f}")
    if given.json:
        print(json.dumps({"conversion_efficiency": round(lower_end(ratios), 3)}))


if __name__ == "__main__":
    main()
