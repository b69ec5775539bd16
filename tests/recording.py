"""Helpers for the programs that record golden values from official code. They do not import mem."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._dynamo  # before `torch.device` is replaced, because its annotations need the class


def checkouts_and_output(description: str | None) -> tuple[Path, Path]:
    """Return the folder with the checkouts of the official code, and the file to write, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkouts", type=Path, required=True, help="folder with a checkout of each repository")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    return options.checkouts, options.out


def write(out: Path, checkouts: Path, repositories: tuple[str, ...], values: dict[str, Any], **versions: str) -> None:
    """Write recorded values with the commits of the official code and the versions of Python and PyTorch.

    Args:
        out: The file.
        checkouts: Folder of the checkouts.
        repositories: Names of the checkouts that were used.
        values: The values.
        **versions: Versions of other libraries.
    """
    content = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "commits": {name: commit(checkouts / name) for name in repositories},
        **values,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")


def commit(checkout: Path) -> str:
    """Return the commit of a checkout."""
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def load(file: Path) -> ModuleType:
    """Import one file of a checkout."""
    spec = importlib.util.spec_from_file_location(f"official_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(file.parent.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def without_gpu() -> Iterator[None]:
    """Let official code compute in float64, without a GPU and with a current version of PyTorch.

    Its conversions with `torch.float` and `Tensor.float` remain.
    """
    torch.set_default_dtype(torch.float64)
    where, device = torch.where, torch.device
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor),
        mock.patch.object(torch.cuda, "FloatTensor", torch.DoubleTensor),
        mock.patch.object(torch, "FloatTensor", torch.DoubleTensor),
        mock.patch.object(torch, "device", lambda *_: device("cpu")),
        # Current versions of PyTorch require a condition of type bool.
        mock.patch.object(torch, "where", lambda condition, a, b: where(condition.bool(), a, b)),
    ):
        yield


def recorded(loss: Callable[[torch.Tensor], torch.Tensor], inputs: np.ndarray) -> dict[str, Any]:
    """Return the value of a loss and its gradient with respect to the inputs."""
    leaf = torch.from_numpy(inputs).requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return {"value": float(value.detach()), "gradient": gradient.tolist()}
