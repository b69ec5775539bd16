"""Files of weights in a repository of the hub or in a folder: which one is used, and who wrote `config.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mem.errors import UserError

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
"""Files beside the weights that describe them: of timm (or of another library), and of open_clip."""
TIMM_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""File names of the weights of a timm network, in the order of preference."""
OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""File names of the weights of an open_clip model, which consists of an image and a text encoder."""
WEIGHTS_FILES = (*TIMM_FILES, *OPEN_CLIP_FILES)


def preferred_file(names: Iterable[str], config: Path | None) -> str | None:
    """Return the name of the weights file among the names of the files in a folder, or None if there is none.

    If `config.json` shows that the files of timm's names belong to another library, such as transformers, those of
    open_clip are preferred.

    Args:
        names: Names of files.
        config: Path of the folder's `config.json`. It may be missing.

    Raises:
        UserError: `config.json` is damaged.
    """
    available = set(names)
    content = None if config is None else read_json(config)
    is_of_another_library = content is not None and "architecture" not in content
    ordered = (*OPEN_CLIP_FILES, *TIMM_FILES) if is_of_another_library else WEIGHTS_FILES
    return next((name for name in ordered if name in available), None)


def weights_in_folder(folder: Path) -> Path | None:
    """Return the weights file in a folder, or None if there is none.

    Raises:
        UserError: As in `preferred_file`.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    name = preferred_file(names, folder / CONFIG)
    return None if name is None else folder / name


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file beside weights, or None if there is no such file.

    Raises:
        UserError: The file cannot be read, or it contains no JSON object.
    """
    replace = "Write it again. For weights of the hub, run `mem weights get`, which replaces it."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a valid JSON file: {error}. {replace}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object. {replace}")
    return content
