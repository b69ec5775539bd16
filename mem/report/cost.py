"""What a study took, where its runs are, and where its numbers come from."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mem.runs.dag import Run

LISTED = 200
"""A page lists so many runs; runs.csv has all."""


def cost_by_stage(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Header and a line a stage: runs, hours, GPU-hours, images per second, data wait, memory, restarts."""
    lines = [["stage", "runs", "hours", "GPU-hours", "images/s", "data wait", "peak memory", "restarts"]]
    for stage in dict.fromkeys(run.stage for run in runs):
        mine = [records[run.key] for run in runs if run.stage == stage]
        hours = sum(record["seconds"] for record in mine) / 3600
        gpu_hours = sum(record["seconds"] * gpus(record) for record in mine) / 3600
        rates = [record["results"]["images_per_s"] for record in mine if record["results"].get("images_per_s")]
        waits = [record["results"]["data_wait"] for record in mine if record["results"].get("data_wait") is not None]
        lines.append(
            [
                stage,
                str(len(mine)),
                _hours(hours),
                _hours(gpu_hours) if gpu_hours else "-",
                f"{statistics.median(rates):,.0f}" if rates else "-",
                f"{100 * statistics.median(waits):.1f} %" if waits else "-",
                f"{max(record['peak_memory_gb'] for record in mine):.2f} GB",
                str(sum(record["attempts"] - 1 for record in mine)),
            ]
        )
    return lines


def cost_by_run(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Header and a line a run."""
    lines = [["run", "seconds", "images/s", "data wait", "peak memory", "attempts"]]
    for run in runs[:LISTED]:
        record = records[run.key]
        rate, wait = record["results"].get("images_per_s"), record["results"].get("data_wait")
        lines.append(
            [
                f"{run.stage} {words(run)}".strip(),
                f"{record['seconds']:.1f}",
                "" if rate is None else f"{rate:,.0f}",
                "" if wait is None else f"{100 * wait:.1f} %",
                f"{record['peak_memory_gb']:.2f} GB",
                str(record["attempts"]),
            ]
        )
    return lines


def gpus(record: Mapping[str, Any]) -> int:
    """GPUs that a run had."""
    compute = record["compute"]
    return compute["nodes"] * compute["gpus_per_node"]


def words(run: Run) -> str:
    """A run's variant, order and seed."""
    return " ".join(
        str(run.labels[name]) if name == "variant" else f"{name} {run.labels[name]}"
        for name in ("variant", "order", "seed")
        if name in run.labels
    )


def runs_table(runs: Sequence[Run]) -> list[list[str]]:
    """Header and a line a run: which run is which."""
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


def provenance(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Commits, hosts and versions that the runs saw."""
    commits: set[str] = set()
    hosts: set[str] = set()
    versions: dict[str, set[str]] = {}
    for record in records:
        commits.add(_commit(record["git"]))
        hosts.add(record["machine"]["host"])
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(version)
    return {
        "commit": ", ".join(sorted(commits)),
        "hosts": ", ".join(sorted(hosts)),
        **{name: ", ".join(sorted(found)) for name, found in versions.items()},
    }


def to_csv_text(lines: Sequence[Sequence[str]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _hours(value: float) -> str:
    """Hours; small ones with two digits that say something."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _commit(git: Mapping[str, Any]) -> str:
    if git["commit"] is None:
        return "no checkout"
    return git["commit"][:12] + (" with changes" if git["dirty"] else "")
