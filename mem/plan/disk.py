"""What a run leaves on disk, and what it needs while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from mem.checkpoints import KEPT
from mem.config import Study
from mem.fit import LOGGED_POINTS
from mem.plan.arithmetic import Arithmetic
from mem.plan.images import Images, beton_bytes
from mem.plan.memory import FLOAT, STATES

RECORDS = 3_000.0
"""config.yaml, site.yaml and run.json."""
POINT = {"backbone": 310.0, "head": 330.0, "mem": 425.0}
"""What log.jsonl takes for a point of a training's curves."""
CANDIDATE = 185.0
"""What log.jsonl and run.json take for a candidate of tau."""
NAME = 40.0
"""A line of images.csv."""
REPORT = 195_000.0
"""Page, figures and tables."""


@dataclass(frozen=True)
class Disk:
    """Bytes of a run."""

    stays: float
    while_running: float = 0.0
    """Checkpoints, which go when the run is done."""


def convert(study: Study, images: Images) -> Disk:
    """.beton files and the list of images. `fit` keeps within its budget."""
    betons = sum(beton_bytes(number, images.picture_bytes) for number in images.splits.values())
    if study.dataset.size_budget_gb is not None:
        betons = min(betons, 1e9 * study.dataset.size_budget_gb)
    return Disk(betons + NAME * images.total + 30 * images.classes + RECORDS)


def training(model: Arithmetic, weights: int, optimizer: str, steps: int, *, average: bool) -> Disk:
    """Final files with so many `weights`, the curves, and while it trains the newest checkpoints."""
    checkpoint = FLOAT * (model.parameters * (1 + average) + STATES[optimizer] * model.trained)
    return Disk(FLOAT * weights + POINT["backbone"] * _points(steps) + RECORDS, (KEPT + 1) * checkpoint)


def features(study: Study, images: Images, width: int, tokens: int) -> Disk:
    """float32 features of every view of every image, and the classifier."""
    seen = images.total + study.features.views * images.train
    each = FLOAT * width * (1 + tokens * study.features.tokens)
    return Disk(seen * each + 8 * images.total + FLOAT * images.classes * (width + 1) + RECORDS)


def head(
    model: Arithmetic, classes: int, optimizer: str, steps: int, candidates: int = 0, *, kind: str = "head"
) -> Disk:
    """Weights, counts per class, curves where it learns, the score of each candidate where one is chosen."""
    state = FLOAT * (model.parameters + model.trained * STATES[optimizer])
    stays = FLOAT * model.parameters + 9 * classes + POINT[kind] * _points(steps) + CANDIDATE * candidates + RECORDS
    return Disk(stays, (KEPT + 1) * state if steps else 0.0)


def evaluate(images: Images) -> Disk:
    """Predictions (compressed) and scores per class of val and test."""
    return Disk(3.0 * (images.val + images.test) + 60.0 * images.classes + 1.5 * RECORDS)


def _points(steps: int) -> float:
    return steps / max(1, steps // LOGGED_POINTS)
