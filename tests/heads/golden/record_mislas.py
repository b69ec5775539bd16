"""Record losses and gradients of MiSLAS's official loss. See README.md in this folder.

python tests/heads/golden/record_mislas.py --mislas CHECKOUT --out tests/heads/golden/mislas.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

CASES = {
    "cifar100": ([500, 283, 160, 51, 16, 5], 0.4, 0.1),
    "imagenet_lt": ([1280, 100, 20, 5, 30, 5], 0.3, 0.0),
}
"""Class counts, smoothing of the head and smoothing of the tail."""


def case_inputs(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels, weights, biases and factors, as exact binary fractions."""
    rng = np.random.default_rng(7)

    def grid(*shape: int) -> np.ndarray:
        return rng.integers(-32, 33, shape) / 16

    return grid(8, 4), np.arange(8) % classes, grid(classes, 4), grid(classes), 1 + grid(classes) / 4


def main() -> None:
    """Run the official loss and LWS layer on the cases, in float64, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mislas", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("methods", options.mislas / "methods.py")
    assert spec is not None and spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    commit = subprocess.run(
        ["git", "-C", str(options.mislas), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    cases = {}
    for name, (counts, head, tail) in CASES.items():
        z, labels, weight, bias, scale = case_inputs(len(counts))
        criterion = official.LabelAwareSmoothing(counts, smooth_head=head, smooth_tail=tail)
        classifier = torch.nn.Linear(z.shape[1], len(counts)).double()
        factors = official.LearnableWeightScaling(len(counts)).double()
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(weight))
            classifier.bias.copy_(torch.from_numpy(bias))
            factors.learned_norm.copy_(torch.from_numpy(scale))
        loss = criterion(factors(classifier(torch.from_numpy(z))), torch.from_numpy(labels))
        loss.backward()
        cases[name] = {
            "smoothing": criterion.smooth.tolist(),
            "loss": loss.item(),
            "weight": classifier.weight.grad.tolist(),
            "bias": classifier.bias.grad.tolist(),
            "scale": factors.learned_norm.grad.flatten().tolist(),
        }
    about = {
        "code": "dvlab-research/MiSLAS, methods.py",
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    options.out.write_text(json.dumps({**about, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
