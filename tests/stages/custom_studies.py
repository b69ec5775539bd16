"""Studies without finetuning. They use a pretrained encoder, a user-provided module, or features in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.stages.running import MINI_VALUES

LINEAR_PROBE = {"training": MINI_VALUES["heads"]["lws"]["training"] | {"sampler": "instance"}}
HEADS = MINI_VALUES["heads"] | {"ce": LINEAR_PROBE}
FEW_HEADS = {name: HEADS[name] for name in ("ce", "tau", "crt", "mem_on_crt")}
MODULE = """
import torch
from torch import nn


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3 * 4, 16)

    def forward(self, images):
        patches = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        tokens = self.embed(patches).relu()
        return tokens.mean(dim=1), tokens


def backbone():
    torch.manual_seed(1)
    return Mean()


def nothing():
    return 3


def broken():
    raise RuntimeError("weights are not here")
"""


def frozen_study(**changes) -> dict:
    """Return the mini study without finetuning, with the given changes."""
    return MINI_VALUES | {"finetune": None, "heads": HEADS} | changes


def module_study(folder: Path, function: str = "backbone", **changes) -> dict:
    """Write `mine.py` and return a study whose backbone is a function in this file."""
    (folder / "mine.py").write_text(MODULE)
    backbone = {"name": "mine", "kind": "module", "module": f"{folder / 'mine.py'}:{function}"}
    backbone |= {"image_size": 8, "center_crop": 1.0}
    return frozen_study(study="own_module", backbone=backbone, pretrain=None) | changes


def feature_file_study(folder: Path, **changes) -> dict:
    """Write feature files (.npy for train, safetensors for val and test) and return a study that uses them."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(6, 8))

    def sample_features(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(6), counts)
        features = centres[labels][:, None] + rng.normal(size=(len(labels), 4, 8))
        return features.astype(np.float32), labels

    features, labels = sample_features([120, 110, 60, 40, 15, 10])
    np.save(folder / "train.npy", features)
    np.save(folder / "labels.npy", labels)
    for split in ("val", "test"):
        features, labels = sample_features([10] * 6)
        save_file({"features": features, "labels": labels}, folder / f"{split}.safetensors")
    (folder / "names.txt").write_text("\n".join(["ant", "bee", "cat", "dog", "elk", "fox"]))
    files = {"train_features": "train.npy", "train_labels": "labels.npy", "class_names": "names.txt"}
    files |= {f"{split}_features": f"{split}.safetensors" for split in ("val", "test")}
    dataset = {"source": "features", "name": "mine", **{key: str(folder / name) for key, name in files.items()}}
    unused = dict.fromkeys(("pretrain", "finetune", "features"))
    values = MINI_VALUES | unused | {"study": "own_features", "dataset": dataset, "heads": FEW_HEADS}
    return values | {"backbone": {"name": "elsewhere", "kind": "none"}} | changes
