"""A tiny CLIP model of open_clip with random weights, and weights of a backbone with the same projection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional as F

from mem.config import ImageBackbone, VisionTransformer
from mem.models.backbones import build, seed_torch
from mem.models.weights.tensors import save_weights
from tests.data.test_class_names import WORDS
from tests.stages.running import MINI_VALUES

NAME, EMBEDDING = "mem-tiny", 8
PROMPTS = ["a photo of a {}.", "the digit {}"]
TEXT_WEIGHTS = Path("clip", "clip.pt")
BACKBONE_WEIGHTS = Path("backbone.safetensors")
_NAMES = Path("names.txt")
BACKBONE: VisionTransformer = TypeAdapter(ImageBackbone).validate_python(MINI_VALUES["backbone"])
_CONFIG = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_text_model(folder: Path) -> Path:
    """Make the model known to open_clip, and write its weights to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(_CONFIG))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    path = folder / "clip.pt"
    torch.save(load_text_model(None).state_dict(), path)
    return path


def load_text_model(weights: Path | None) -> torch.nn.Module:
    """Return the model, with random weights if no file is given."""
    return open_clip.create_model(NAME, pretrained=None if weights is None else str(weights)).eval()


def write_clip_files(folder: Path) -> None:
    """Write the files of `clip_values`: a text model, a backbone that was trained with it, and class names.

    The backbone has the model's projection in place of its classifier, as in timm's CLIP networks.
    """
    weights = write_text_model(folder / TEXT_WEIGHTS.parent)
    projection = load_text_model(weights).visual.proj.detach().T.contiguous()  # type: ignore[union-attr]
    seed_torch(5)
    state = build(BACKBONE, EMBEDDING).backbone.state_dict()
    del state["head.bias"]
    save_weights(folder / BACKBONE_WEIGHTS, {**state, "head.weight": projection}, {})
    (folder / _NAMES).write_text("\n".join(WORDS))


def text_embeddings(folder: Path) -> dict[str, Any]:
    """Return class embeddings of the text model in the folder of `write_clip_files`."""
    return {"source": "text", "model": NAME, "file": str(folder / TEXT_WEIGHTS), "prompts": PROMPTS}


def clip_values(folder: Path) -> dict[str, Any]:
    """Return the mini study with the files in the folder of `write_clip_files`, without pretraining."""
    return MINI_VALUES | {
        "dataset": MINI_VALUES["dataset"] | {"class_names": str(folder / _NAMES)},
        "pretrain": None,
        "initial": {"file": str(folder / BACKBONE_WEIGHTS)},
        "features": {"views": 0, "tokens": False},
        "compute": {},
    }


@torch.no_grad()
def expected_rows(weights: Path, names: Sequence[str]) -> Tensor:
    """Return the initial weight vectors from text features, computed with open_clip alone."""
    model, tokenizer = load_text_model(weights), open_clip.get_tokenizer(NAME)
    rows = []
    for name in names:
        features = model.encode_text(tokenizer([prompt.format(name) for prompt in PROMPTS]))  # type: ignore[operator]
        rows.append(F.normalize(features, dim=1).mean(dim=0))
    return F.normalize(torch.stack(rows) @ model.visual.proj.T, dim=1)  # type: ignore[union-attr]
