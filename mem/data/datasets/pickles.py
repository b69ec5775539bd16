"""Safe reading of pickles from downloaded archives.

Loading a pickle can run any code. Here, a pickle can call only what is needed to build an array of numbers (see
"Restricting Globals" in the documentation of Python's `pickle`).
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from mem.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """Rebuild bytes, which Python 3 writes as encoded text in the pickle protocols of Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it contains bytes in the encoding {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed") from None


def load_pickle(content: bytes, origin: str) -> Any:
    """Load numbers, text, lists, dictionaries and arrays from a pickle of Python 2 or 3. Bytes become Latin-1 text.

    Raises:
        UserError: The pickle is truncated or refers to anything else.
    """
    try:
        return _RestrictedUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a truncated pickle can raise nearly anything
        raise UserError(
            f"{origin}: cannot be read as a pickle of arrays: {error or type(error).__name__}. The file is incomplete "
            "or not the official one. Download it again."
        ) from None
