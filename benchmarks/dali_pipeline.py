"""DALI's CPU pipeline for the loader's benchmark. DALI is not a requirement of this project.

    pip install nvidia-dali-cuda120

The pipeline decodes only a random crop of each JPEG file (`decoders.image_random_crop`), resizes it with antialiasing
and flips it at random. It yields batches of uint8 pixels, like this project's loader, and uses one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path


def dali_epoch(
    paths: Sequence[Path], side: int, batch: int, scale: tuple[float, float]
) -> tuple[str, Callable[[int], int]] | None:
    """Return DALI's version and a function that reads an epoch of full batches, or None if DALI is not installed."""
    try:
        from nvidia.dali import __version__, fn, pipeline_def, types  # type: ignore[import-not-found]
    except ImportError:
        return None

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None, seed=0)
    def random_crops():
        content, _ = fn.readers.file(files=[str(path) for path in paths], labels=[0] * len(paths))
        crops = fn.decoders.image_random_crop(
            content, device="cpu", output_type=types.RGB, random_area=list(scale), random_aspect_ratio=[3 / 4, 4 / 3]
        )
        resized = fn.resize(crops, resize_x=side, resize_y=side, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(resized, horizontal=fn.random.coin_flip())

    pipeline = random_crops()
    pipeline.build()

    def epoch(_: int) -> int:
        return sum(len(pipeline.run()[0]) for _ in range(len(paths) // batch))

    return __version__, epoch
