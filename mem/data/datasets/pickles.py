"""Safe loader for pickles from downloaded archives.

Loading a pickle can run arbitrary code. This loader allows only the types and functions that are needed to build
numeric arrays (see "Restricting Globals" in Python's `pickle` documentation).
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from mem.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """Rebuild bytes, which Python 3 stores as encoded text in pickle protocols 0 to 2."""
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
    """Load numbers, text, lists, dictionaries and arrays from a Python 2 or 3 pickle.

    Python 2 strings are decoded as Latin-1.

    Raises:
        UserError: The pickle is truncated or refers to types or functions that are not allowed.
    """
    try:
        return _RestrictedUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a truncated pickle can raise almost any exception
        raise UserError(
            f"{origin}: cannot be read as a pickle of arrays: {error or type(error).__name__}. The file is incomplete "
            "or not the official file. Download it again."
        ) from None
