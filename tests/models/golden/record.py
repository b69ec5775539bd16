"""Record golden tensors from the official code. See README.md in this folder.

python tests/models/golden/record.py --mae CHECKOUT --convmae CHECKOUT --timm FOLDER --commits MAE CONVMAE --out FOLDER
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import platform
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import recipe


def main() -> None:
    """Run both official models, and write one file of golden tensors per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mae", "convmae", "timm", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--commits", nargs=2, required=True, help="commits of the MAE and ConvMAE checkouts")
    options = parser.parse_args()
    for name, folder, commit in (
        ("mae", options.mae, options.commits[0]),
        ("convmae", options.convmae, options.commits[1]),
    ):
        content = record(name, folder, options.timm) | {"commit": commit}
        (options.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        print(name, content["loss"], len(content["gradients"]))


def record(name: str, folder: Path, timm: Path) -> dict[str, object]:
    """Return the loss and gradients of an official model, computed in float32 on one thread."""
    torch.set_num_threads(1)
    with official(folder, timm):
        model = mae() if name == "mae" else convmae()
    recipe.fill(model.named_parameters())
    # The official forward pass uses random numbers only for the mask.
    with mock.patch.object(torch, "rand", lambda *shape, device: recipe.noise().to(device)):
        loss, _, mask = model(recipe.images(), mask_ratio=0.75)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": "0.3.2"},
        "loss": float(loss.double()),
        "visible": [sorted(np.flatnonzero(row == 0).tolist()) for row in mask.numpy()],
        "gradients": recipe.summary(gradients),
    }


def mae() -> nn.Module:
    """Build MAE with the shape of ViT-B at depth 2 and a one-block decoder."""
    import models_mae  # type: ignore[import-not-found]

    return models_mae.MaskedAutoencoderViT(
        img_size=recipe.SIDE,
        patch_size=recipe.VIT["patch_size"],
        embed_dim=recipe.VIT["width"],
        depth=recipe.VIT["depth"],
        num_heads=recipe.VIT["heads"],
        decoder_embed_dim=recipe.DECODER["width"],
        decoder_depth=recipe.DECODER["depth"],
        decoder_num_heads=recipe.DECODER["heads"],
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    )


def convmae() -> nn.Module:
    """Build ConvMAE-B with two transformer blocks and a one-block decoder."""
    import models_convmae  # type: ignore[import-not-found]

    return models_convmae.MaskedAutoencoderConvViT(
        img_size=[recipe.SIDE, 56, 28],
        patch_size=list(recipe.CONVMAE["patch_sizes"]),
        embed_dim=list(recipe.CONVMAE["widths"]),
        depth=list(recipe.CONVMAE["depths"]),
        num_heads=recipe.CONVMAE["heads"],
        decoder_embed_dim=recipe.DECODER["width"],
        decoder_depth=recipe.DECODER["depth"],
        decoder_num_heads=recipe.DECODER["heads"],
        mlp_ratio=[4, 4, 4],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    )


@contextmanager
def official(folder: Path, timm: Path) -> Iterator[None]:
    """Within this context, make one unchanged checkout and timm 0.3.2 importable with current torch and numpy."""
    six = types.ModuleType("torch._six")
    six.container_abcs = collections.abc  # type: ignore[attr-defined]
    before = set(sys.modules)
    sys.modules["torch._six"] = six
    with (
        mock.patch.object(sys, "path", [str(folder), str(timm), *sys.path]),
        mock.patch.object(np, "float", float, create=True),
    ):
        yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("timm", "util", "vision_transformer", "models_mae", "models_convmae"):
            del sys.modules[name]


if __name__ == "__main__":
    main()
