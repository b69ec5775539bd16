"""Generate synthetic photo-like JPEG files for benchmarks.

    python benchmarks/synthetic_photos.py FOLDER --count 2000

An image consists of a few overlapping shapes with sharp borders, covered by fine grain. Each shape has a random colour,
linear shading and 1/f noise, whose spectrum resembles that of photographs (Field 1987). At about 500 pixels and JPEG
quality 90, a file is 60 to 110 kB in size, as in ImageNet. The content of an image depends only on its index.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

QUALITY = 90
_FIELD = 1024
"""Side length in pixels of the noise arrays from which images are cropped."""
_FIELDS = 6
_SIZES = ((375, 500), (333, 500), (500, 375), (500, 500), (400, 500))
"""Common image sizes (height, width) in ImageNet."""
_SHAPES = 10


def synthetic_photo(number: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB image with index `number`."""
    rng = np.random.default_rng([7, number])
    height, width = _SIZES[rng.integers(len(_SIZES))]
    canvas = _surface(rng, height, width)
    for _ in range(_SHAPES):
        scale = rng.uniform(0.08, 0.5) * min(height, width)
        # A blob is a polygon with corners at random distances from the centre, sorted by angle.
        corners = int(rng.integers(4, 20))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = scale * rng.uniform(0.5, 1.2, corners)
        centre = rng.uniform(0, 1, 2) * (width, height)
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        left, top, wide, high = cv2.boundingRect(np.clip(outline, 0, (width, height)).astype(np.int32))
        part = np.s_[top : top + high, left : left + wide]
        if not high or not wide:
            continue
        opacity = mask[part][:, :, None].astype(np.float32) / 255
        surface = _surface(rng, high, wide)
        canvas[part] += opacity * (surface[: opacity.shape[0], : opacity.shape[1]] - canvas[part])
    # A camera lens blurs by slightly less than a pixel before the sensor adds grain.
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 0.8))
    canvas += _crop(rng, height, width, _grain())[:, :, None] * rng.uniform(4.5, 7.5)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def write_photos(folder: Path, count: int, workers: int = 2) -> list[Path]:
    """Write images 0 to `count - 1` as JPEG files, keep existing files, and return all paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for _ in pool.map(partial(_write, folder), [missing[i : i + 50] for i in range(0, len(missing), 50)]):
            pass
    return paths


def _write(folder: Path, numbers: list[int]) -> None:
    cv2.setNumThreads(1)
    for number in numbers:
        path = folder / f"{number:06d}.jpg"
        temporary = path.with_suffix(".tmp")
        Image.fromarray(synthetic_photo(number)).save(temporary, "JPEG", quality=QUALITY)
        temporary.rename(path)


def _surface(rng: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "height width 3"]:
    """Return a surface of one colour with linear shading, brightness noise and slight colour noise."""
    colour = rng.uniform(30, 225, 3)
    slope = rng.uniform(-0.25, 0.25, 2)
    y, x = np.ogrid[0:height, 0:width]
    shade = slope[0] * (y - height / 2) + slope[1] * (x - width / 2)
    noise = _crop(rng, height, width, _noise(int(rng.integers(_FIELDS)))) * rng.uniform(8, 45)
    tint = _crop(rng, height, width, _noise(int(rng.integers(_FIELDS)))) * rng.uniform(0, 10)
    light = (shade + noise).astype(np.float32)
    return np.stack([light + tint + colour[0], light + colour[1], light - tint + colour[2]], axis=2, dtype=np.float32)


def _crop(rng: np.random.Generator, height: int, width: int, field: np.ndarray) -> Float32[np.ndarray, "height width"]:
    top, left = rng.integers(_FIELD - height + 1), rng.integers(_FIELD - width + 1)
    return field[top : top + height, left : left + width]


@cache
def _noise(number: int) -> Float32[np.ndarray, "side side"]:
    """Return 1/f noise with mean 0 and standard deviation 1. The exponent depends slightly on `number`."""
    rng = np.random.default_rng([8, number])
    rows = np.fft.fftfreq(_FIELD)[:, None]
    columns = np.fft.rfftfreq(_FIELD)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    exponent = 0.9 + 0.4 * number / (_FIELDS - 1)
    # Noise with wavelengths longer than an image would only change the image's mean brightness.
    amplitude = np.where(frequency < 2 / _FIELD, 0, frequency**-exponent)
    spectrum = amplitude * np.exp(2j * np.pi * rng.uniform(size=amplitude.shape))
    field = np.fft.irfft2(spectrum, s=(_FIELD, _FIELD))
    return ((field - field.mean()) / field.std()).astype(np.float32)


@cache
def _grain() -> Float32[np.ndarray, "side side"]:
    return np.random.default_rng(9).standard_normal((_FIELD, _FIELD), dtype=np.float32)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write synthetic photo-like JPEG files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sizes = [path.stat().st_size for path in write_photos(options.folder, options.count, options.workers)]
    spread = np.percentile(sizes, [5, 50, 95]) / 1000
    print(
        f"{len(sizes)} images in {options.folder}; "
        f"5th, 50th and 95th percentiles of the file size: {spread.round(0)} kB"
    )


if __name__ == "__main__":
    main()
