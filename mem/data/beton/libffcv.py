"""The parts of FFCV that the project uses. This is the only module that imports ffcv.

`ffcv.fields.rgb_image` fills a numba dictionary at import, which requires five seconds of compilation in every process.
If numba's compiler is disabled during the import, numba uses a Python dictionary and the import takes a third of a
second. This has no other effect, because the project does not use FFCV's compiled pipelines (see
`mem.data.beton.reader`).

The import also sets the threads of PyTorch and of numba to one. They are restored, because they are the user's choice
(`mem.frozen`) or the stage's (`mem.jobs.threads`).
"""

from __future__ import annotations

import numba
import torch

_torch_threads, _numba_threads = torch.get_num_threads(), numba.get_num_threads()
_jit_disabled = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]
try:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.libffcv import ctypes_imdecode, ctypes_resize
    from ffcv.reader import Reader
    from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, FieldDescType, HeaderType, get_metadata_type
finally:
    numba.config.DISABLE_JIT = _jit_disabled  # type: ignore[attr-defined]
    torch.set_num_threads(_torch_threads)
    numba.set_num_threads(_numba_threads)

__all__ = [
    "ALLOC_TABLE_TYPE",
    "CURRENT_VERSION",
    "FieldDescType",
    "HeaderType",
    "IntField",
    "RGBImageField",
    "Reader",
    "ctypes_imdecode",
    "ctypes_resize",
    "get_metadata_type",
]
