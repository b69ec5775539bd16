"""Memory for batches."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_KEPT = 4
"""Batches whose memory is kept for the next ones."""


class BufferPool:
    """Memory for batches, taken again from those that nobody holds any more.

    New memory is cleared by the system, page by page: for pictures that costs about a tenth of what resizing them
    does. Pinned memory is not kept here: PyTorch keeps it itself, and knows which copies to the device have ended.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)

    def of(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of unknown content."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        memory = self._free.pop() if self._free else None  # batches die in other threads, which only append
        if memory is None or memory.nbytes != size:
            memory = np.empty(size, dtype=np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        # The tensor holds `lent` as long as any other shares its storage.
        return torch.from_numpy(lent).view(dtype).view(shape)
