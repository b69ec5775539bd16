"""Check that mutated image files are accepted, or rejected with a reason, by all parts of mem that open images.

    nice -n 10 python benchmarks/mutated_images.py --count 100000 --seed 0

The script writes small pictures in five formats, damages each in one or two ways (see `MUTATIONS`), and passes them in
groups through `mem data check --deep`, the conversion (`unreadable: skip`), the decoder of the training, and the
preparation of images for predictions. It reports

- a disagreement: one part accepts a file and another one rejects it, or a rejection has no reason;
- a crash or an unexpected exception, which ends the script after it has printed the numbers of the files;
- more memory than --megabytes.

The last line is JSON: {"files": ..., "accepted": ..., "rejected": ..., "disagreements": ..., "peak_megabytes": ...}.
The exit status is 1 if there are disagreements or the memory exceeds the limit. File number N of a seed is always the
same, so that `--first N --count 1` repeats it.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import io
import json
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from mem.config import Folder
from mem.data.beton.encoding import Encoding
from mem.data.beton.reader import Beton
from mem.data.check.contents import decode_all
from mem.data.check.findings import Finding, Findings, Severity
from mem.data.codecs.decode import Unreadable, decode
from mem.data.convert.convert import convert
from mem.data.datasets import ImageSet
from mem.data.datasets.base import ImageSplit, empty_split, split_of_files
from mem.data.loading.single_image import prepare_image
from mem.errors import UserError

GROUP = 60
"""Number of files that are checked and converted at once. A conversion of fewer than 64 images starts no process."""
_MAX_DIFFERENCE = {"raw": 0, "jpeg": 70}
"""Maximum mean difference between the pixels of a file and the pixels that the training receives. JPEG changes images
that consist of noise, as some mutated files do, by up to 55."""
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


# --- pictures --------------------------------------------------------------------------------------------


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def pictures() -> tuple[bytes, ...]:
    """Return small pictures in the variants of JPEG, PNG, WebP, TIFF and GIF that occur in datasets."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:56]
    planes = [128 + a * (y - 20) + b * (x - 28) for a, b in rng.uniform(-2, 2, (4, 2))]
    array = np.clip(np.stack(planes, axis=2) + rng.normal(0, 12, (40, 56, 4)), 0, 255).astype(np.uint8)
    colour, clear = Image.fromarray(array[:, :, :3].copy()), Image.fromarray(array)
    gray, deep = colour.convert("L"), Image.fromarray(array[:, :, 0].astype(np.uint16) * 257)
    palette = colour.quantize(32)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    made = [_saved(colour, "JPEG", quality=quality, exif=exif) for quality in (60, 95)]
    made += [
        _saved(colour, "JPEG", progressive=True),
        _saved(colour, "JPEG", subsampling="4:4:4", restart_marker_rows=1),
    ]
    made += [_saved(clear.convert("CMYK"), "JPEG"), _saved(colour, "JPEG", comment=b"hello")]
    made += [_saved(image, "PNG") for image in (colour, clear, gray, deep, palette, gray.convert("1"))]
    made += [_saved(colour, "PNG", exif=exif, icc_profile=b"p" * 300), _saved(palette, "PNG", transparency=3)]
    made += [_saved(colour, "WEBP", quality=80, exif=exif), _saved(clear, "WEBP", lossless=True), _saved(clear, "WEBP")]
    made += [_saved(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)])]
    made += [_saved(image, "TIFF") for image in (colour, clear, gray, deep, palette, gray.convert("1"))]
    made += [_saved(colour, "TIFF", compression=name, exif=exif) for name in ("tiff_lzw", "tiff_deflate", "jpeg")]
    made += [_saved(gray.convert("1"), "TIFF", compression="group4"), _saved(deep, "TIFF", compression="tiff_lzw")]
    made += [_saved(palette, "GIF"), _saved(palette, "GIF", transparency=3, comment=b"hello"), _saved(gray, "GIF")]
    made += [_saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)])]
    return tuple(made)


# --- mutations -------------------------------------------------------------------------------------------


def _position(content: bytearray, rng: np.random.Generator) -> int:
    """Return a position, in half of the cases near the start, where most headers are."""
    end = min(len(content), 400) if rng.random() < 0.5 else len(content)
    return int(rng.integers(end)) if end else 0


def flip_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Invert one to eight bits."""
    for _ in range(int(rng.choice([1, 1, 2, 8]))):
        content[_position(content, rng)] ^= 1 << int(rng.integers(8))
    return content


def set_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Overwrite up to four bytes with an extreme value."""
    start, value = _position(content, rng), int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    for i in range(start, min(len(content), start + int(rng.choice([1, 2, 4])))):
        content[i] = value
    return content


def truncate(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Remove the end of the file."""
    return content[: max(1, int(rng.integers(len(content))) if rng.random() < 0.7 else len(content) - 3)]


def insert(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Insert zeros or random bytes, often near the end."""
    size = int(rng.choice([1, 2, 10, 150]))
    added = bytes(size) if rng.random() < 0.5 else rng.bytes(size)
    near_end = len(content) - int(rng.integers(1, 16))
    start = max(0, near_end) if rng.random() < 0.3 else _position(content, rng)
    return content[:start] + added + content[start:]


def delete(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Remove up to 150 bytes."""
    start = _position(content, rng)
    return content[:start] + content[start + int(rng.choice([1, 2, 10, 150])) :]


def _segments(content: bytes) -> list[tuple[int, int]]:
    """Return the bounds of the segments, chunks or directory entries of a file; empty if it has none."""
    bounds: list[tuple[int, int]] = []
    if content[:3] == b"\xff\xd8\xff":
        position = 2
        while position + 4 <= len(content) and content[position] == 0xFF:
            end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
            bounds.append((position, end))
            if content[position + 1] == 0xDA:
                bounds[-1] = (position, len(content) - 2)
                break
            position = end
    elif content[:4] == b"\x89PNG":
        position = 8
        while position + 12 <= len(content):
            end = position + 12 + struct.unpack_from(">I", content, position)[0]
            bounds.append((position, end))
            position = end
    elif content[:4] == b"RIFF":
        position = 12
        while position + 8 <= len(content):
            size = struct.unpack_from("<I", content, position + 4)[0]
            end = position + 8 + size + size % 2
            bounds.append((position, end))
            position = end
    elif content[:4] == b"II*\0" and len(content) >= 8:
        start = struct.unpack_from("<I", content, 4)[0]
        number = struct.unpack_from("<H", content, start)[0] if start + 2 <= len(content) else 0
        bounds = [(start + 2 + 12 * i, start + 14 + 12 * i) for i in range(number)]
    return [(start, end) for start, end in bounds if end <= len(content)]


def swap_segments(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Exchange two segments, or repeat or remove one."""
    bounds = _segments(bytes(content))
    if len(bounds) < 2:
        return flip_bits(content, rng)
    (a, b), (c, d) = sorted(bounds[i] for i in rng.choice(len(bounds), 2, replace=False))
    action = rng.integers(3)
    if action == 0:
        return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    return content[:d] + content[a:b] + content[d:] if action == 1 else content[:a] + content[b:]


def change_field(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Set a field of a segment's header to an extreme or random number, and correct the checksum of a PNG chunk."""
    bounds = _segments(bytes(content))
    if not bounds:
        return set_bytes(content, rng)
    start, end = bounds[int(rng.integers(len(bounds)))]
    size = int(rng.choice([1, 2, 4]))
    field = start + int(rng.integers(max(1, min(end - start, 24))))
    numbers = (0, 1, 2, 3, 255, 4095, 65_535, 65_536, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32)))
    number = int(rng.choice(numbers))
    number &= (1 << 8 * size) - 1
    content[field : field + size] = number.to_bytes(size, rng.choice(["big", "little"]).item())
    if content[:4] == b"\x89PNG" and rng.random() < 0.8 and end - start >= 12:
        content[end - 4 : end] = struct.pack(">I", zlib.crc32(content[start + 4 : end - 4]))
    return content


def change_scan_header(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Change the spectral selection or the approximation of a JPEG scan, as some cameras do."""
    scan = content.find(b"\xff\xda")
    if content[:2] != b"\xff\xd8" or scan < 0 or scan + 14 > len(content):
        return change_field(content, rng)
    end = scan + 2 + struct.unpack_from(">H", content, scan + 2)[0]
    if end > len(content):
        return change_field(content, rng)
    content[end - 1 - int(rng.integers(3))] = int(rng.choice([0, 1, 0x11, 62, 63, 64]))
    return content


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    set_bytes,
    truncate,
    insert,
    delete,
    swap_segments,
    change_field,
    change_scan_header,
)


def mutated(seed: int, number: int) -> bytes:
    """Return mutated file `number` of a seed."""
    rng = np.random.default_rng([seed, number])
    content = bytearray(pictures()[int(rng.integers(len(pictures())))])
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        content = MUTATIONS[int(rng.integers(len(MUTATIONS)))](content, rng) or bytearray(b"\0")
    return bytes(content)


# --- checks ----------------------------------------------------------------------------------------------


def _images(folder: Path, names: Sequence[str]) -> ImageSet:
    """Return a dataset with the mutated files as test images and one good training image."""

    def split(names: Sequence[str]) -> ImageSplit:
        return split_of_files(str(folder), names, names, np.zeros(len(names), dtype=np.int64))

    return ImageSet(("one",), split(["good.png"]), empty_split(), split(names))


class _AllExamples(Findings):
    """Findings with all examples instead of the first ones."""

    def add(self, severity: Severity, text: str, examples: Sequence[str] = (), **options: object) -> None:
        self.found.append(Finding(severity, text, tuple(examples)))


def outcomes(folder: Path, names: Sequence[str], storage: str) -> dict[str, dict[str, str]]:
    """Return the reasons for which each part rejects files, by part and file name. Accepted files are not listed."""
    images = _images(folder, names)
    rejected: dict[str, dict[str, str]] = {"check": {}, "convert": {}, "train": {}, "predict": {}}
    findings = _AllExamples()
    decode_all(images, set(), None, findings, lambda count: None)
    for finding in findings.of(Severity.ERROR):
        rejected["check"] |= dict(example.rstrip(")").split(" (", 1) for example in finding.examples)
    settings = Folder.model_validate(
        {"source": "folder", "name": "mutated", "root": str(folder), "train_folder": "a", "test_folder": "b"}
        | {"pixel_mean": (0.5,) * 3, "pixel_std": (0.5,) * 3, "storage": storage, "unreadable": "skip"}
    )
    out = folder / f"converted-{storage}"
    convert(images, settings, out, 1, lambda text: None)
    if (out / "skipped.csv").is_file():
        with open(out / "skipped.csv", newline="") as file:
            rejected["convert"] = {Path(row["name"]).name: row["reason"] for row in csv.DictReader(file)}
    beton = Beton(out / "test.beton")
    kept = [name for name in names if name not in rejected["convert"]]
    assert len(kept) == len(beton)
    for i, name in enumerate(kept):
        try:
            pixels = np.empty((int(beton.heights[i]), int(beton.widths[i]), 3), dtype=np.uint8)
            beton.crop(i, 0, 0, *pixels.shape[:2], pixels)
        except UserError as error:
            rejected["train"][name] = str(error)
            continue
        expected = decode((folder / name).read_bytes())
        same_size = pixels.shape == expected.shape
        if not same_size or np.abs(pixels.astype(np.int16) - expected).mean() > _MAX_DIFFERENCE[storage]:
            rejected["train"][name] = "other pixels"
        elif not _part_is_equal(beton, i, pixels):
            rejected["train"][name] = "other pixels in a crop"
    for name in names:
        try:
            prepare_image(str(folder / name), Encoding(storage, settings.jpeg_quality, None, "area"), 32, 1.0)
        except Unreadable as error:
            rejected["predict"][name] = str(error)
    rejected["train"] |= {name: "not converted" for name in rejected["convert"]}
    return rejected


def _part_is_equal(beton: Beton, index: int, pixels: np.ndarray) -> bool:
    """Return whether a crop of a stored image has the pixels of the complete image. Only its part is decoded."""
    height, width = pixels.shape[:2]
    top, left = height // 3, width // 4
    part = np.empty((max(1, height // 2), max(1, width // 2), 3), dtype=np.uint8)
    beton.crop(index, top, left, *part.shape[:2], part)
    return np.array_equal(part, pixels[top : top + part.shape[0], left : left + part.shape[1]])


def run_group(seed: int, numbers: range) -> tuple[int, list[str]]:
    """Check one group of files. Return the number of accepted files and a line for each disagreement."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "good.png").write_bytes(_saved(Image.new("RGB", (56, 40)), "PNG"))
        names = [f"{number:07d}.img" for number in numbers]
        for name, number in zip(names, numbers, strict=True):
            (folder / name).write_bytes(mutated(seed, number))
        rejected = outcomes(folder, names, ("jpeg", "raw")[numbers.start // GROUP % 2])
    problems: list[str] = []
    accepted = 0
    for name in names:
        reasons = {part: reasons[name] for part, reasons in rejected.items() if name in reasons}
        accepted += not reasons
        if reasons and (len(reasons) < len(rejected) or not all(reasons.values())):
            problems.append(f"{name}: {reasons}")
    return accepted, problems


def peak_megabytes() -> int:
    """Return the largest resident memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    """Run the command line. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="number of files")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=3_000, help="limit for the memory of the process")
    options = parser.parse_args()
    faulthandler.enable()
    accepted, problems, start = 0, [], time.monotonic()
    end = options.first + options.count
    for first in range(options.first, end, GROUP):
        numbers = range(first, min(first + GROUP, end))
        try:
            count, found = run_group(options.seed, numbers)
        except Exception:
            print(f"files {numbers.start} to {numbers.stop - 1} of seed {options.seed} cause an error:", flush=True)
            raise
        accepted += count
        problems += found
        print(*found, sep="\n", end="\n" * bool(found), flush=True)
        if (first // GROUP) % 100 == 0:
            print(f"{numbers.stop:,} files, {time.monotonic() - start:.0f} s, {peak_megabytes()} MB", flush=True)
    peak = peak_megabytes()
    result = {"files": options.count, "accepted": accepted, "rejected": options.count - accepted}
    print(json.dumps({**result, "disagreements": len(problems), "peak_megabytes": peak}))
    return int(bool(problems) or peak > options.megabytes)


if __name__ == "__main__":
    sys.exit(main())
