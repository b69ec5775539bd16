"""Write an exported folder completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mem import files
from mem.errors import UserError

ABOUT = "export.json"
PROGRAM = "program.pt2"
MLFLOW = "mlflow"
MEM, TIMM, ONNX = ("mem", "timm", "onnx")
"""`mem`: weights, torch program and MLflow model. `timm`: the folder of timm and of the Hugging Face Hub."""
_FILES = {
    MEM: (ABOUT, "backbone.safetensors", "head.json", "head.safetensors", PROGRAM, MLFLOW),
    TIMM: ("config.json", "model.safetensors", "README.md"),
    ONNX: ("model.onnx", "model.onnx.data"),
}
"""Files of each format. The first one is written last, and a folder is recognised as an export by it."""
_MARKERS = tuple(names[0] for names in _FILES.values())


def check_destination(out: Path, earlier: Sequence[str], formats: Sequence[str], *, overwrite: bool) -> None:
    """Check that a folder may be written.

    Args:
        out: The folder.
        earlier: Formats of the export that is in it; empty if there is none.
        formats: Formats that are written.
        overwrite: Whether an export may be replaced.

    Raises:
        UserError: It exists and is not an export, or it is one and may not be replaced, or it contains a file with the
            name of an exported one that is not part of the export.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not earlier:
        raise UserError(f"{out}: this path already exists and is not an export. Choose another folder.")
    if not overwrite:
        raise UserError(f"{out}: this folder already contains an export. Pass --overwrite to replace it.")
    replaced = _files_of(earlier)
    if other := next(
        (out / name for name in _files_of(formats) if name not in replaced and (out / name).exists()), None
    ):
        raise UserError(
            f"{other}: this file is not part of the export in its folder. Move it, or choose another folder."
        )


def _files_of(formats: Sequence[str]) -> list[str]:
    return [name for kind in formats for name in _FILES[kind]]


@contextmanager
def published(out: Path, earlier: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder beside `out`, and move its content to `out` when the body ends without an exception.

    A new folder appears at once. In an existing folder, the files of the earlier export are deleted, and other files
    remain. If the process is killed while it replaces them, the folder is not recognised as an export.

    Args:
        out: The folder, which `check_destination` accepted.
        earlier: Formats of the export that is in it.
    """
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=parent))
    try:
        yield stage
        mask = os.umask(0)
        os.umask(mask)
        stage.chmod(0o777 & ~mask)  # mkdtemp creates a private folder
        if out.is_symlink() or (out.is_dir() and any(out.iterdir())):
            _replace(stage, out, earlier)
        else:
            os.replace(stage, out)
        files.sync_folder(parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(stage: Path, out: Path, earlier: Sequence[str]) -> None:
    for name in sorted(_files_of(earlier), key=lambda name: name not in _MARKERS):
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(stage.iterdir(), key=lambda path: path.name in _MARKERS):
        os.replace(path, out / path.name)
