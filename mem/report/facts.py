"""The key facts at the top of the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mem import config, longtail
from mem.config.study_names import study_names
from mem.report.cost import format_duration, gpu_count
from mem.report.figure_set import training_counts
from mem.runs.dag import Run, data_run
from mem.runs.keys import HOLDOUT


def key_facts(study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the key facts of a study by name.

    Args:
        study: The study.
        runs: All runs of the study except the report.
        records: Content of `run.json` by run key, with the time of all attempts as `seconds`.
    """
    manifest = records[data_run(runs).key]["results"]
    splits = manifest["splits"]
    groups = longtail.shot_groups(training_counts(manifest, study), study.shots)
    classes = np.bincount(groups, minlength=len(longtail.SHOT_NAMES))
    by_group = " / ".join(f"{n} {group}" for group, n in zip(longtail.SHOT_NAMES, classes, strict=True))
    return {
        "runs of each head": _repeats(study),
        "classes": f"{len(groups):,}: {by_group} ({study.shots})",
        "images (train / val / test)": " / ".join(f"{splits[name]['images']:,}" for name in ("train", "val", "test")),
        **_selection(study, runs, records),
        **({} if study.evaluate is None else {"evaluation": f"mean logits of {study.evaluate.crops} (evaluate.crops)"}),
        "date": _dates(records.values()),
        "processor": _processors(records.values()),
        **_precision(records.values()),
        "compute time, all runs": format_duration(sum(record["seconds"] for record in records.values())),
        "command": f"mem run {_name(study)}",
    }


def _name(study: config.Study) -> str:
    """Return the name by which commands find the study, for example `paper/imagenet_lt_vit_base`."""
    names = study_names()
    return next((name for name in names if name.rpartition("/")[2] == study.study), study.study)


def _repeats(study: config.Study) -> str:
    """Describe the seeds and class orders, for example `9: 3 seeds (0, 1, 2), 3 class orders (0, 1, 2)`."""
    parts = [
        f"{len(values)} {name}{'s' * (len(values) > 1)} ({', '.join(map(str, values))})"
        for name, values in (("seed", study.seeds), ("class order", study.orders))
    ]
    return f"{len(study.seeds) * len(study.orders)}: {', '.join(parts)}"


def _selection(study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return how many training images a study with `selection` holds out in its first class order."""
    if study.selection is None:
        return {}
    results = next(records[run.key]["results"] for run in runs if HOLDOUT in run.settings)
    held_out = f"{results['held_out_images']:,} held-out training images (seed {study.selection.holdout.seed})"
    return {"selection": f"on {held_out}, with heads trained on the other {results['training_images']:,}"}


def _dates(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the day of the first and of the last run (UTC); runs are shared, so that they can be years apart."""
    starts = [record["started"] for record in records if "started" in record]
    days = [time.strftime("%Y-%m-%d", time.gmtime(start)) for start in (min(starts), max(starts))] if starts else []
    return " to ".join(dict.fromkeys(days)) or "unknown"


def _processor(machine: Mapping[str, Any]) -> str | None:
    """Return the processor with its vector instructions, if they are recorded."""
    name, instructions = machine.get("processor"), machine.get("instructions")
    return f"{name} with {instructions}" if name and instructions else name


def _precision(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return how many runs of each stage used float32 because their device lacks the precision of the settings."""
    stages = Counter(record["stage"] for record in records if "used_precision" in record["results"])
    if not stages:
        return {}
    runs = ", ".join(f"{number} {stage}" for stage, number in stages.items())
    return {"precision": f"float32 instead of the precision of the settings, which the device lacks, in runs: {runs}"}


def _processors(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the processors or GPUs of the runs with the largest number that a run used, the most frequent first."""
    runs: Counter[tuple[str, str]] = Counter()
    numbers: dict[tuple[str, str], int] = {}
    for record in records:
        machine, gpus = record["machine"], gpu_count(record)
        on_gpu, unit = (machine.get("gpu"), "GPU") if gpus else (_processor(machine), "core")
        kind = on_gpu or "not recorded", unit
        runs[kind] += 1
        numbers[kind] = max(numbers.get(kind, 0), gpus or machine.get("cpus", 0))
    return "; ".join(
        name + (f", {numbers[name, unit]} {unit}{'s' * (numbers[name, unit] > 1)}" if numbers[name, unit] else "")
        for name, unit in (kind for kind, _ in runs.most_common())
    )
