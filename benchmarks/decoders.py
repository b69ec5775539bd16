"""Compare the training data loader with and without FFCV and mem's C code, and the decoding of files without FFCV.

    python benchmarks/decoders.py [--json] [--count 200] [--repeats 7]

All variants return the same pixels. Where no compiler is, FFCV and mem's C code are both missing. The images, the crops
and the measurement are those of `loader.py`: one core, alternating orders, images per CPU-second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.convert import write_beton
from benchmarks.loader import CROP, QUALITY, Epoch, interval, ours, resized, timed_rounds
from benchmarks.machine import OtherLoad, processor
from benchmarks.synthetic_photos import write_photos
from mem.config import Augmentation
from mem.data.beton import complete_images, crops
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.codecs import decode, libffcv

DEFAULT, NOTHING = (True, True), (False, False)
VARIANTS = {DEFAULT: "FFCV and C code", (False, True): "C code", (True, False): "FFCV", NOTHING: "no compiler"}
"""Names by whether FFCV and whether mem's C code are used."""


@contextmanager
def installed(ffcv: bool, c_code: bool) -> Iterator[None]:
    """Within this context, decode as if FFCV or mem's C code were not installed."""
    with ExitStack() as stack:
        if not ffcv:
            stack.enter_context(patch.object(libffcv, "library", lambda: None))
            stack.enter_context(patch.object(complete_images, "functions", complete_images.without_ffcv))
        if not c_code:
            stack.enter_context(patch.object(crops, "native_library", lambda: None))
        yield


def epochs(folder: Path, count: int) -> dict[str, Epoch]:
    """Return all timed variants by name."""
    paths = write_photos(folder / "original", count)
    contents = [path.read_bytes() for path in paths]
    plain = Augmentation(crop_scale=CROP, flip=True)
    found: dict[str, Epoch] = {}

    def within(variant: tuple[bool, bool], epoch: Epoch) -> Epoch:
        def run(number: int) -> int:
            with installed(*variant):
                return epoch(number)

        return run

    for storage in ("jpeg", "raw"):
        path = folder / f"{storage}.beton"
        encoding = Encoding(storage, QUALITY, None, "area")
        write_beton(path, (encode(resized(original), encoding) for original in paths), count)
        loader = ours(Beton(path), plain)
        found |= {f"loader, {storage}: {name}": within(variant, loader) for variant, name in VARIANTS.items()}

    def files(_: int) -> int:
        return sum(len(decode.decode(content)) > 0 for content in contents)

    for ffcv, name in ((True, "FFCV"), (False, "no compiler")):
        found[f"files: {name}"] = within((ffcv, True), files)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--count", type=int, default=200, help="number of images")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds, after one warm-up round")
    options = parser.parse_args()
    if libffcv.library() is None or crops.native_library() is None:
        sys.exit("Install FFCV and a compiler first; this benchmark compares with them.")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        timed = epochs(Path(temporary), options.count)
        load = OtherLoad()
        rates = timed_rounds(timed, options.repeats)
    say: Callable[..., None] = (lambda *_: None) if options.json else print
    say("| | images / CPU-second | ratio | 95 % interval |\n|---|---:|---:|---:|")
    ratios = {}
    for name, values in rates.items():
        group = name.partition(":")[0]
        reference = next(other for other in rates if other.startswith(group))
        ratios[name] = interval(np.array(values) / np.array(rates[reference])) if name != reference else (1.0,) * 3
        middle, low, high = ratios[name]
        say(f"| {name} | {np.median(values):,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    machine = {"processor": processor(), "other_busy_cores": round(load.cores(), 2)}
    print(json.dumps({"ratios": {name: round(middle, 3) for name, (middle, _, _) in ratios.items()}, **machine}))


if __name__ == "__main__":
    main()
