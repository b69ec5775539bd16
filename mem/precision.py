"""The precision of forward passes: autocast, and devices that have no instructions for it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from mem.config.training import Precision

_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def is_supported(precision: Precision, device: torch.device) -> bool:
    """Return whether the device has instructions for the matrix products of this precision.

    Without them, PyTorch still computes in this precision, but more slowly than in float32: on a processor without
    AVX-512, bfloat16 products are up to 160 times slower (docs/decisions/0082-precision-without-instructions.md).
    """
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if precision == "bf16":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in `precision`, which the device supports; none for `fp32`."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
