"""Pool of reusable memory buffers for batches."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_KEPT_BUFFERS = 4


class BufferPool:
    """Pool of batch buffers. A buffer is reused once nothing refers to its batch.

    The operating system clears new memory page by page. For a batch of images, this takes about a tenth of
    the time needed to resize the images. Pinned memory is not pooled here, because PyTorch pools it and tracks which
    copies to the device have finished.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT_BUFFERS)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor in a new or reused buffer."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        # Threads that release batches only append to the list, so it cannot become empty between the check and the pop.
        memory = self._free.pop() if self._free else None
        if memory is None or memory.nbytes != size:
            memory = np.empty(size, dtype=np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        # The tensor keeps `lent` alive as long as any tensor shares its storage.
        return torch.from_numpy(lent).view(dtype).view(shape)
