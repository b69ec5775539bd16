"""Stage `report`: a study's tables and figures, from what its runs left."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mem import config, files, longtail
from mem.report import figures
from mem.report.page import Figure, Page
from mem.report.results import Row, read_evaluation, rows_of, summarised, table, to_csv, to_markdown
from mem.runfolder import RunFolder, read_record
from mem.runs import Run, plan
from mem.stages.job import Job
from mem.tracking.log import read_curve


def report(job: Job) -> Mapping[str, Any]:
    """Write `results/<study>/runs.csv` and `results/<study>/report/`."""
    study = job.run.section("study", config.Study)
    runs = [run for run in plan(study) if run.stage != "report"]
    records = {run.key: read_record(run.folder) for run in runs}
    rows = rows_of(study.study, job.inputs.values())
    summary = summarised(rows, "test")
    drawn = _figures(study, runs, records, list(job.inputs.values()), rows)
    page = Page(
        title=f"{study.dataset.name}, {study.backbone.name}: {study.study}",
        description=study.description.strip(),
        facts=_facts(study, runs, records),
        scores=table(summary),
        scores_caption=_caption(rows),
        selection=table(summarised(rows, "val")) if any(row.split == "val" for row in rows) else None,
        figures=drawn,
        cost=_cost(runs, records),
        runs=_runs_table(runs),
        provenance=_provenance(records),
        study=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    results = Path("results", study.study)
    folder = results / "report"
    for figure in drawn:
        files.write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
    files.write_text(folder / "table.md", to_markdown(table(summary)))
    files.write_text(folder / "results.csv", to_csv(rows))
    files.write_text(results / "runs.csv", _csv(_runs_table(runs)))
    files.write_text(folder / "index.html", page.html())
    for path in ("index.html", "results.csv", "table.md", "figures"):
        job.log.event("artifact", path=str(folder / path), to="report" if path != "figures" else "report/figures")
    return {variant: {shot: score.mean for shot, score in scores.items()} for variant, scores in summary.items()}


def _figures(
    study: config.Study,
    runs: Sequence[Run],
    records: Mapping[str, Mapping[str, Any]],
    evaluations: Sequence[Path],
    rows: Sequence[Row],
) -> list[Figure]:
    converted = next(run for run in runs if run.stage == "convert")
    manifest = records[converted.key]["results"]
    counts = np.asarray(manifest["splits"]["train"]["counts"])
    groups = longtail.shot_groups(counts, study.shots)
    several = f" Class order {converted.labels['order']}." if len(study.orders) > 1 else ""
    drawn = [
        Figure(
            "shots",
            "Accuracy by shot",
            f"Mean over the classes of each shot ({study.shots}), and over all images of the test split.",
            figures.shot_bars(summarised(rows, "test")),
        ),
        Figure(
            "confusion",
            "Where wrong predictions land",
            "Of the test images of each shot that are wrong, the percentage predicted as a class of each shot "
            "(the paper's figure 1a), summed over seeds and orders.",
            figures.group_confusion(_confusion_shares(evaluations)),
        ),
        Figure(
            "histogram",
            "The data",
            f"{counts.sum():,} training images in {len(counts)} classes, "
            f"imbalance {manifest['imbalance']:.0f}.{several}",
            figures.class_histogram(counts.tolist(), groups, manifest["classes"]),
        ),
    ]
    for stage, metric, title, what in (
        ("pretrain", "train/loss", "Pretraining", "reconstruction loss"),
        ("finetune", "val/acc1", "Finetuning", "accuracy on val, %"),
    ):
        # Without val there is no curve of the accuracy on it.
        lines = {_words(run): line for run in runs if run.stage == stage and (line := _by_epoch(run, metric))}
        if lines:
            caption = f"{what[0].upper() + what[1:]} over the epochs of {title.lower()}."
            drawn.append(Figure(stage, title, caption, figures.curves(lines, "epoch", what)))
    return drawn


def _by_epoch(run: Run, metric: str) -> list[tuple[float, float]]:
    log = RunFolder(run.folder).log
    epochs = read_curve(log, "train/epoch")
    if not epochs:
        return []
    steps_per_epoch = epochs[-1][0] / epochs[-1][1]
    return [(step / steps_per_epoch, value) for step, value in read_curve(log, metric)]


def _confusion_shares(evaluations: Sequence[Path]) -> dict[str, np.ndarray]:
    totals: dict[str, np.ndarray] = {}
    for folder in evaluations:
        record, metrics = read_evaluation(folder)
        confusion = np.asarray(metrics["splits"]["test"]["wrong_by_group"], dtype=np.float64)
        variant = record["labels"]["variant"]
        totals[variant] = totals.get(variant, 0) + confusion
    with np.errstate(invalid="ignore"):
        return {variant: 100 * total / total.sum(axis=1, keepdims=True) for variant, total in totals.items()}


def _facts(study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    manifest = records[next(run.key for run in runs if run.stage == "convert")]["results"]
    splits = manifest["splits"]
    seconds = sum(record["seconds"] for record in records.values())
    return {
        "classes": " / ".join(f"{n} {name}" for name, n in manifest["groups"].items()),
        "images (train / val / test)": " / ".join(f"{splits[s]['images']:,}" for s in ("train", "val", "test")),
        "thresholds": str(study.shots),
        "seeds": ", ".join(map(str, study.seeds)),
        "class orders": ", ".join(map(str, study.orders)),
        "compute, all runs": f"{seconds / 60:.1f} min",
    }


def _caption(rows: Sequence[Row]) -> str:
    repeats = len({(row.seed, row.order) for row in rows})
    over = (
        f"Mean and 95 % interval (Student's t) over {repeats} runs."
        if repeats > 1
        else "One run: differences of a few points may be chance."
    )
    chosen = (
        "Settings were chosen on val; test was read once, after training."
        if any(row.split == "val" for row in rows)
        else "There is no val split: settings were given, not chosen here; test was read once, after training."
    )
    return (
        f"Percentages; shots are {rows[0].thresholds} training images, and each is the mean over its classes. {over} "
        f"{chosen}"
    )


def _cost(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    lines = [["run", "seconds", "images/s", "data wait", "peak memory", "attempts"]]
    for run in runs:
        record = records[run.key]
        results = record["results"]
        rate = results.get("images_per_s")
        wait = results.get("data_wait")
        lines.append(
            [
                f"{run.stage} {_words(run)}".strip(),
                f"{record['seconds']:.1f}",
                "" if rate is None else f"{rate:,.0f}",
                "" if wait is None else f"{100 * wait:.1f} %",
                f"{record['peak_memory_gb']:.2f} GB",
                str(record["attempts"]),
            ]
        )
    return lines


def _words(run: Run) -> str:
    return " ".join(
        str(run.labels[name]) if name == "variant" else f"{name} {run.labels[name]}"
        for name in ("variant", "order", "seed")
        if name in run.labels
    )


def _runs_table(runs: Sequence[Run]) -> list[list[str]]:
    names = ("stage", "key", "dataset", "backbone", "order", "seed", "method", "variant", "folder", "inputs")
    lines: list[list[str]] = [list(names)]
    for run in runs:
        known = {
            "stage": run.stage,
            "key": run.key,
            "dataset": run.dataset,
            "backbone": run.backbone,
            "folder": str(run.folder),
            "inputs": " ".join(f"{name}={parent.key}" for name, parent in run.inputs.items()),
        }
        lines.append([str(known.get(name, run.labels.get(name, ""))) for name in names])
    return lines


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _provenance(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    commits = {_commit(record["git"]) for record in records.values()}
    versions: dict[str, set[str]] = {}
    for record in records.values():
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(version)
    hosts = {record["machine"]["host"] for record in records.values()}
    return {
        "commit": ", ".join(sorted(commits)),
        "hosts": ", ".join(sorted(hosts)),
        **{name: ", ".join(sorted(found)) for name, found in versions.items()},
    }


def _commit(git: Mapping[str, Any]) -> str:
    if git["commit"] is None:
        return "no checkout"
    return git["commit"][:12] + (" with changes" if git["dirty"] else "")
