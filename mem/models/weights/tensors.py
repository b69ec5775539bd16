"""Read and write safetensors files, and load weights into a model with a report of every key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mem import files
from mem.errors import UserError

FAULTS_LISTED = 20
"""Maximum number of keys that an error message lists."""
KEYS_LISTED = 50
"""Maximum number of unused keys that the log lists. run.json lists all."""
PAIRS_LISTED = 3
"""Number of pairs of names that the log lists. run.json lists all."""
_LFS_POINTER = b"version https://git-lfs"
"""Start of the file that a clone of a repository without Git LFS contains instead of the weights."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file, atomically, with `about` as metadata.

    Files with the same tensors and metadata are identical byte for byte.
    """
    # Use a single metadata entry. With several entries, their order in the file would vary between calls.
    metadata = {"mem": json.dumps(dict(about), sort_keys=True)}
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    with files.atomic(path, "wb") as file:
        file.write(content)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: The file is missing or damaged.
    """
    with _reading(path):
        return load_file(path)


def load_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, with the entries that `save_weights` wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    try:
        return {**metadata, **json.loads(metadata.get("mem", "{}"))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: the metadata cannot be read as JSON: {error}") from None


def load_shapes(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file on the meta device. Only the header of the file is read.

    They are int64 or float32, because only whether a tensor has integers matters to the loading of weights.

    Raises:
        UserError: The file is missing or damaged.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        return {name: _empty(file.get_slice(name)) for name in file.keys()}


def require_no_pointer(path: Path) -> None:
    """Check that a file is not a pointer of Git LFS.

    Raises:
        UserError: The file is a pointer.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    if is_pointer:
        raise UserError(
            f"{path}: this is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its folder, or download "
            "the file."
        )


def _empty(header: Any) -> Tensor:
    integer = header.get_dtype().startswith(("I", "U", "BOOL"))
    return torch.empty(header.get_shape(), dtype=torch.int64 if integer else torch.float32, device="meta")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise errors that occur while a safetensors file is read as `UserError`."""
    try:
        require_no_pointer(path)
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: weights file not found") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from None


@dataclass(frozen=True)
class LoadReport:
    """Matching and non-matching keys of a model and a weights file."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    """Keys of the model that the weights lack. These parameters keep their initial values."""
    left_over: tuple[str, ...]
    """Keys of the weights that the model does not have."""
    conversion: str = ""
    """How the weights were mapped to the names of the network. Empty if they have these names."""
    pairs: Mapping[str, str] = field(default_factory=dict)
    """Name in the network, and the name in the file of the tensor that it comes from, for names that differ."""
    notes: tuple[str, ...] = ()
    """Properties that the network should have and that tensors do not show."""

    def document(self) -> dict[str, Any]:
        """Return the report as JSON data for run.json."""
        report = {"matched": list(self.matched), "missing": list(self.missing), "left_over": list(self.left_over)}
        if self.conversion:
            report |= {"conversion": self.conversion, "pairs": dict(self.pairs)}
        return report | ({"notes": list(self.notes)} if self.notes else {})

    def __str__(self) -> str:
        text = f"{len(self.matched)} tensors loaded"
        if self.conversion:
            first = "; ".join(f"{name} from {source}" for name, source in list(self.pairs.items())[:PAIRS_LISTED])
            text += f" ({self.conversion}: {first}, ...; run.json lists every pair)"
        if self.missing:
            text += f"; newly initialised: {', '.join(self.missing)}"
        if self.left_over:
            more = len(self.left_over) - KEYS_LISTED
            text += f"; not used: {', '.join(self.left_over[:KEYS_LISTED])}" + (f" and {more} more" if more > 0 else "")
        return "; ".join((text, *self.notes))


def load_into(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    allow_missing: tuple[str, ...] = (),
    allow_unused: tuple[str, ...] = (),
) -> LoadReport:
    """Load weights into a model. Every key must match, except keys covered by `allow_missing` and `allow_unused`.

    Args:
        model: The model, changed in place.
        tensors: The weights.
        allow_missing: Prefixes of keys that the weights may lack.
        allow_unused: Prefixes of keys that the model may lack.

    Raises:
        UserError: Any other key is missing or unknown, or a shape differs. The message lists the keys.
    """
    expected = model.state_dict()
    shared = [name for name in expected if name in tensors]
    report = LoadReport(
        matched=tuple(shared),
        missing=tuple(name for name in expected if name not in tensors),
        left_over=tuple(name for name in tensors if name not in expected),
    )
    faults = [f"missing: {name}" for name in report.missing if not name.startswith(allow_missing)]
    faults += [f"unknown: {name}" for name in report.left_over if not name.startswith(allow_unused)]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}; the model expects {tuple(expected[name].shape)}"
        for name in shared
        if tensors[name].shape != expected[name].shape
    ]
    if faults:
        more = f"\n  and {len(faults) - FAULTS_LISTED} more" if len(faults) > FAULTS_LISTED else ""
        listed = "\n  ".join(faults[:FAULTS_LISTED])
        raise UserError(f"The weights do not fit the model:\n  {listed}{more}")
    with torch.no_grad():
        model.load_state_dict({name: tensors[name] for name in shared}, strict=False)
    return report
