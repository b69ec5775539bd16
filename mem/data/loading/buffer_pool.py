"""Reuse of the memory of batches."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_KEPT_BUFFERS = 4


class BufferPool:
    """Memory for batches. The memory of a batch that no longer has a reference is reused.

    The operating system clears new memory page by page, which for images costs about a tenth of the time of resizing
    them. Pinned memory is not pooled here: PyTorch pools it and knows which copies to the device have finished.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT_BUFFERS)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor with undefined content."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        # Other threads release batches, but they only append, so this check and pop cannot fail.
        memory = self._free.pop() if self._free else None
        if memory is None or memory.nbytes != size:
            memory = np.empty(size, dtype=np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        # The tensor keeps `lent` alive as long as any tensor shares its storage.
        return torch.from_numpy(lent).view(dtype).view(shape)
