"""Read the arrays in feature files. PyTorch is imported only for a file in the format safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mem import files
from mem.errors import UserError


class FeatureArrayReader:
    """Reads slices of the array in a `.npy` file or of a tensor in a `.safetensors` file.

    Raises:
        UserError: The file does not exist, is damaged, or does not contain the tensor.
    """

    def __init__(self, path: Path, tensor: str) -> None:
        self.path = path
        try:
            is_tensor = path.suffix == ".safetensors"
            self._array: Any = self._open_tensor(tensor) if is_tensor else files.read_array(path, mapped=True)
            self.shape = tuple(self._array.get_shape() if hasattr(self._array, "get_shape") else self._array.shape)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. Correct the path in the `dataset` section of the study.") from None
        except (ValueError, EOFError, OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: cannot be read as an array of numbers in {path.suffix} format: {error}. Write the file again."
            ) from None

    def _open_tensor(self, tensor: str) -> Any:
        file = safe_open(str(self.path), framework="pt")
        names = list(file.keys())
        if tensor not in names:
            raise UserError(
                f"{self.path}: has no tensor `{tensor}`; it contains {', '.join(names) or 'none'}. Save the array "
                f"with the name `{tensor}`."
            )
        return file.get_slice(tensor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        values = self._array[part]
        if isinstance(values, np.ndarray):
            return np.asarray(values)
        # A tensor, because NumPy has no bfloat16. The file was opened with PyTorch, so PyTorch is imported.
        return values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy()

    def all(self) -> np.ndarray:
        """Read the complete array."""
        return self[:] if self.shape else np.asarray(0)
