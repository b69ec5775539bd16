"""Reader for the tensors of TorchScript archives, in which OpenAI publishes CLIP. It runs no code from the archives.

An archive is a zip file with the pickled modules (`data.pkl`), the content of the tensors (`data/N`) and the code of
the modules. `torch.jit.load` compiles the code, and `torch.load` with `weights_only` rejects archives. This reader
restores tensors, plain values and the attributes of modules.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which is a zip file with constants besides tensors."""
    return zipfile.is_zipfile(path) and _record(path, "constants.pkl") is not None


def read_torchscript(path: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Return the parameters and buffers of a TorchScript archive by name.

    Args:
        path: The archive.
        shapes_only: Whether to return tensors on the meta device. Their values are not read.

    Raises:
        pickle.UnpicklingError: The archive contains other Python objects.
        Exception: The archive is damaged. The type depends on the damage.
    """
    data = _record(path, "data.pkl")
    if data is None:
        raise zipfile.BadZipFile("no data.pkl")
    with zipfile.ZipFile(path) as archive, archive.open(data) as file:
        module = _Unpickler(file, archive, data.removesuffix("data.pkl"), shapes_only).load()
    return dict(_tensors(module, ""))


def _record(path: Path, name: str) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return next((each for each in archive.namelist() if each.count("/") == 1 and each.endswith(f"/{name}")), None)


class _Module:
    """The attributes of a module."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Unpickler that creates only tensors, plain values and `_Module`."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str, shapes_only: bool) -> None:
        super().__init__(file)
        self._archive, self._folder, self._shapes_only = archive, folder, shapes_only
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a class or function that an archive names."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch.jit._pickle":
            return lambda values, *_: values  # typed lists and tags of types
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the content of a tensor as a vector."""
        _, dtype, key, _, count = pid
        if self._shapes_only or not count:
            return torch.empty(0, dtype=dtype, device="meta" if self._shapes_only else "cpu")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype, count=count)
        return self._storages[key]

    def _tensor(self, storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        if self._shapes_only or math.prod(size) == 0:
            return torch.empty(size, dtype=storage.dtype, device=storage.device)
        return storage.as_strided(size, stride, offset)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Module):
        for attribute, each in value.attributes.items():
            yield from _tensors(each, f"{name}.{attribute}" if name else attribute)
