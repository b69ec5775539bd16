"""Logs and the results of a finished study with several heads and seeds, as the stages write them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mem.tracking.log import JsonLines
from tests.tracking.logs import MACHINE

STUDY = "mini"
SHOTS = ("many", "medium", "few", "all")
HEADS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce", "training": None},
    "crt": {"method": "crt", "training": {"epochs": 10.0, "lr": 0.1, "sampler": "class_balanced"}},
    "mem": {
        "method": "mem", "classifier": "frozen", "classifier_from": "ce", "weight": "softmax", "xi": 20.0,
        "training": {"epochs": 10.0, "lr": 0.001, "sampler": "class_balanced"},
    },
    "mem_wide": {
        "method": "mem", "classifier": "frozen", "classifier_from": "ce", "weight": "softmax", "xi": 40.0,
        "training": {"epochs": 10.0, "lr": 0.001, "sampler": "class_balanced"},
    },
}  # fmt: skip


def accuracy(head: str, seed: int, shot: str) -> float:
    """Return the accuracy of a head on test. It is 3 points lower on val."""
    return 60.0 + 5 * list(HEADS).index(head) + seed - 10 * SHOTS.index(shot)


def folder(stage: str, number: int, key: int = 0) -> str:
    return f"runs/set/vit/{stage}-{key:02d}{number:010d}"


def write_study(root: Path, heads: tuple[str, ...] = tuple(HEADS), seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Write the logs of the runs of a study, and of its report with `results.csv`."""
    for seed in seeds:
        _write(root, folder("pretrain", seed), {"pretrain": {"epochs": 5.0}}, {}, seed)
        _write(
            root, folder("finetune", seed), {"finetune": {"epochs": 5.0}}, {"encoder": folder("pretrain", seed)}, seed
        )
        _write(root, folder("features", seed), {}, {"classifier": folder("finetune", seed)}, seed)
        for head in heads:
            write_head(root, head, seed)
    write_report(root, heads, seeds)


def write_head(root: Path, head: str, seed: int) -> None:
    """Write the logs of a head and its evaluation, unless they exist."""
    number, labels = list(HEADS).index(head), {"method": HEADS[head]["method"], "variant": head}
    inputs = {"features": folder("features", seed)}
    run = folder("train_head", seed, number)
    if (root / run).exists():
        return
    _write(root, run, {"head": HEADS[head]}, inputs, seed, **labels)
    scores = {f"test/{shot}": accuracy(head, seed, shot) for shot in SHOTS}
    scores |= {f"val/{shot}": accuracy(head, seed, shot) - 3 for shot in SHOTS}
    _write(root, folder("evaluate", seed, number), {}, {"head": run, **inputs}, seed, scores, **labels)


def write_report(root: Path, heads: tuple[str, ...], seeds: tuple[int, ...], study: str = STUDY) -> None:
    """Write the log of a report, as a recomputed one if the study has a report, and `results.csv`."""
    log = root / folder("report", 0, len(heads)) / "log.jsonl"
    if log.exists():
        log.rename(log.with_name(f"log-{len(list(log.parent.iterdir()))}.jsonl"))
    rows = [f"study,method,variant,seed,order,split,{','.join(SHOTS)}"]
    for head in heads:
        for seed in seeds:
            for split, lower in (("val", 3), ("test", 0)):
                scores = ",".join(f"{accuracy(head, seed, shot) - lower:.4f}" for shot in SHOTS)
                rows.append(f"{study},{HEADS[head]['method']},{head},{seed},0,{split},{scores}")
    results = root / "results" / study / "report" / "results.csv"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("\n".join(rows) + "\n")
    evaluations = {
        f"{head}-o0-s{seed}": folder("evaluate", seed, list(HEADS).index(head)) for head in heads for seed in seeds
    }
    time.sleep(0.002)  # the times of two reports differ by at least a millisecond, as in reality
    _write(root, str(log.parent.relative_to(root)), {}, evaluations, None, study=study)


def _write(
    root: Path,
    run: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    seed: int | None,
    scores: dict[str, float] | None = None,
    **labels: str,
) -> None:
    stage, key = Path(run).name.split("-")
    repeat = {} if seed is None else {"order": 0, "seed": seed}
    with JsonLines(root / run / "log.jsonl") as log:
        log.event(
            "start", stage=stage, key=key, dataset="set", backbone="vit", labels=repeat | labels, seed=seed,
            settings=settings, inputs=inputs, git={"commit": "abc", "dirty": False}, machine=MACHINE, versions={},
        )  # fmt: skip
        if stage in ("pretrain", "finetune"):
            for step in range(1, 4):
                log.scalars({"train/loss": 1 / step}, step)
        if scores:
            log.scalars(scores, 0)
        log.event("end", status="finished")
