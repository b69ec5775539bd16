"""How much of a batch goes through a device at once, found by trying."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mem.errors import UserError


def fitting_micro_batch(
    attempt: Callable[[int], None], largest: int, granule: int, any_rank: Callable[[bool], bool]
) -> int:
    """The largest micro-batch that fits into the device's memory, by halving.

    Args:
        attempt: Sends so many images forward and back, and raises `torch.OutOfMemoryError` where they are too many.
        largest: Images of this rank in a batch.
        granule: Micro-batches are multiples of this (BatchNorm's groups).
        any_rank: Whether a flag is set on any rank: all try the same sizes.

    Raises:
        UserError: Not even the smallest fits.
    """
    size = largest
    while True:
        full = False
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            full = True
        if not any_rank(full):
            return size
        smaller = -(-size // (2 * granule)) * granule
        if smaller >= size:
            raise UserError(
                f"Not even {size} image(s) at a time fit into the memory of the GPU. Take a smaller model or image, "
                "precision bf16, or a larger GPU."
            )
        size = smaller
