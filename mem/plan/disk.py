"""What a run leaves on disk, and what it needs while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from mem.config import FeatureFiles, Study
from mem.plan.arithmetic import Arithmetic
from mem.plan.image_counts import Images, beton_bytes
from mem.plan.memory import FLOAT, STATES
from mem.train.checkpoints import KEPT
from mem.train.loop import LOGGED_POINTS

RECORDS = 3_000.0
"""config.yaml, site.yaml and run.json."""
POINT = {"backbone": 310.0, "head": 330.0, "mem": 425.0}
"""What log.jsonl takes for a point of a training's curves."""
CANDIDATE = 185.0
"""What log.jsonl and run.json take for a candidate of tau."""
NAME = 40.0
"""A line of images.csv."""
PREDICTION = 31.0
"""An image's row of predictions.parquet."""
PARQUET = 3_000.0
"""What else stands in that file."""
REPORT = 750_000.0
"""Page, tables, and figures as SVG and PNG."""


@dataclass(frozen=True)
class Disk:
    """Bytes of a run."""

    stays: float
    while_running: float = 0.0
    """Checkpoints, which go when the run is done."""


def convert(study: Study, images: Images) -> Disk:
    """.beton files and the list of images. `fit` keeps within its budget."""
    betons = sum(beton_bytes(number, images.picture_bytes) for number in images.splits.values())
    assert not isinstance(study.dataset, FeatureFiles)
    if study.dataset.size_budget_gb is not None:
        betons = min(betons, 1e9 * study.dataset.size_budget_gb)
    return Disk(betons + NAME * images.total + 30 * images.classes + RECORDS)


def training(model: Arithmetic, weights: int, optimizer: str, steps: int, *, average: bool) -> Disk:
    """Final files with so many `weights`, the curves, and while it trains the newest checkpoints."""
    checkpoint = FLOAT * (model.parameters * (1 + average) + STATES[optimizer] * model.trained)
    return Disk(FLOAT * weights + POINT["backbone"] * _points(steps) + RECORDS, (KEPT + 1) * checkpoint)


TOKEN_BYTES = {"float32": 4, "float16": 2}
"""Of each number of a stored token, by `features.dtype`."""


def features(study: Study, images: Images, width: int, tokens: int, *, online: bool) -> Disk:
    """Features of every view of every image, and the classifier; `online` leaves the features out."""
    views = study.features.views if study.features else 0
    seen = 0 if online else images.total + views * images.train
    each_token = TOKEN_BYTES[study.features.dtype] if study.features else FLOAT
    each = width * (FLOAT + each_token * tokens * study.may_have_tokens)
    return Disk(seen * each + 8 * images.total + FLOAT * images.classes * (width + 1) + RECORDS)


def head(
    model: Arithmetic, classes: int, optimizer: str, steps: int, candidates: int = 0, *, kind: str = "head"
) -> Disk:
    """Weights, counts per class, curves where it learns, the score of each candidate where one is chosen."""
    state = FLOAT * (model.parameters + model.trained * STATES[optimizer])
    stays = FLOAT * model.parameters + 9 * classes + POINT[kind] * _points(steps) + CANDIDATE * candidates + RECORDS
    return Disk(stays, (KEPT + 1) * state if steps else 0.0)


def evaluate(images: Images, groups: int = 0) -> Disk:
    """Predictions (compressed) and scores per class of val and test; with MEM's weights and norms of its `groups`."""
    rows = (PREDICTION + 2 * FLOAT * groups) * (images.val + images.test)
    return Disk(rows + 60.0 * images.classes + PARQUET + 2.1 * RECORDS)


def _points(steps: int) -> float:
    return steps / max(1, steps // LOGGED_POINTS)
