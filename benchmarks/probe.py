"""Measure how long a study of 30 heads on stored features takes, from `mem features` to the last evaluation.

    python benchmarks/probe.py [--json] [--images 10000] [--width 768] [--classes 100] [--epochs 20] [--cores 2]

The features are random: one normal distribution per class, with a long-tailed training split and balanced val and test
splits of 10 and 20 images per class. Their width is that of a ViT-B. The heads are 24 linear probes (all combinations
of six learning rates and four weight decays), cRT, LWS, balanced softmax, tau-normalisation, logit adjustment and the
nearest class mean. The study runs through Snakemake, with the fork server. CPU time is the user and system time of all
processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.head_sweep import snakemake, write_features_study, write_split
from benchmarks.machine import OtherLoad, processor

IMBALANCE = 100
"""Ratio of the largest class to the smallest."""
VAL_PER_CLASS, TEST_PER_CLASS = 10, 20
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHT_DECAYS = (0.0, 1.0e-5, 1.0e-4, 1.0e-3)
TAUS = [round(0.1 * i, 1) for i in range(21)]


def long_tail(images: int, classes: int) -> np.ndarray:
    """Return the number of training images of each class, at least one, which add up to about `images`."""
    shares = IMBALANCE ** (-np.arange(classes) / max(1, classes - 1))
    return np.maximum(1, np.round(images * shares / shares.sum())).astype(np.int64)


def write_features(folder: Path, images: int, width: int, classes: int) -> int:
    """Write the features and labels of all splits, and return the number of training images."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, width)) / np.sqrt(width)
    counts = {
        "train": long_tail(images, classes),
        "val": np.full(classes, VAL_PER_CLASS),
        "test": np.full(classes, TEST_PER_CLASS),
    }
    for split, number in counts.items():
        labels = np.repeat(np.arange(classes), number)
        features = 4 * centres[labels] + rng.standard_normal((len(labels), width)) / np.sqrt(width)
        write_split(folder, split, labels, features)
    return int(counts["train"].sum())


def heads(epochs: int) -> dict[str, dict[str, Any]]:
    """Return the settings of the 30 heads by name."""

    def training(lr: float, weight_decay: float, sampler: str = "instance") -> dict[str, Any]:
        settings = {"epochs": epochs, "global_batch": 128, "optimizer": "sgd", "lr": lr}
        return settings | {"weight_decay": weight_decay, "sampler": sampler}

    probes = {
        f"probe_{i}_{j}": {"method": "ce", "training": training(lr, weight_decay)}
        for i, lr in enumerate(LEARNING_RATES)
        for j, weight_decay in enumerate(WEIGHT_DECAYS)
    }
    first = next(iter(probes))
    probes = {"ce" if name == first else name: settings for name, settings in probes.items()}
    balanced = training(0.1, 1.0e-4, "class_balanced")
    return probes | {
        "crt": {"training": balanced},
        "lws": {"training": balanced},
        "balanced_softmax": {"training": training(0.1, 1.0e-4)},
        "tau": {"taus": TAUS},
        "logit_adjustment": {"taus": TAUS},
        "ncm": {},
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--images", type=int, default=10_000, help="number of training images (%(default)s)")
    parser.add_argument("--width", type=int, default=768, help="dimension of a feature (%(default)s)")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each trained head (%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="number of jobs that Snakemake runs at a time")
    options = parser.parse_args()
    load = OtherLoad()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = write_features(folder, options.images, options.width, options.classes)
        study = write_features_study(folder, "probe", 1, heads(options.epochs))
        cpu, wall = snakemake(folder, study, options.cores, "evaluate")
        evaluations = len(list(folder.glob("runs/*/*/evaluate-*/run.json")))
    result = {
        "processor": processor(),
        "cores_busy_with_other_programs": round(load.cores(), 1),
        "images": images,
        "width": options.width,
        "classes": options.classes,
        "epochs": options.epochs,
        "heads": evaluations,
        "cpu_minutes": round(cpu / 60, 2),
        "wall_minutes": round(wall / 60, 2),
    }
    if not options.json:
        print("| | |\n|---|---:|")
        for name, value in result.items():
            print(f"| {name} | {value} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
