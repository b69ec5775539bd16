"""Reading pickles that came from elsewhere: a pickle is a program, and a foreign one is not to be run.

Only what an array of numbers is made of can be called; all else is refused (docs.python.org, pickle, "Restricting
Globals").
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from mem.errors import UserError


def _bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the pickle protocols of Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data do not need") from None


def load_pickle(content: bytes, origin: str) -> Any:
    """Numbers, text, lists, dictionaries and arrays from a pickle of Python 2 or 3; its bytes become text (Latin-1).

    Raises:
        UserError: The pickle is truncated, or asks for anything else.
    """
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    # A torn pickle can raise nearly anything.
    except Exception as error:
        raise UserError(
            f"{origin}: cannot be read as a pickle of arrays: {error or type(error).__name__}. "
            "It is incomplete, or not the official file."
        ) from None
