"""Cost and provenance of a study's runs, and the table that lists them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mem.runs.dag import Run
from mem.runs.labels import names_of

MAX_LISTED_RUNS = 200
"""Maximum number of runs listed on the report page. `runs.csv` lists all runs."""
_RATIO_COLUMN = 3
"""Index of the column with the time relative to `finetune`, after the time."""


def cost_by_stage(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a table with one line per stage and finetuning: time, throughput, memory, restarts and parameters.

    With variants of finetuning, a column has the mean time of a variant's finetune runs divided by that of `finetune`.
    `seconds` in the records is the time of all attempts. The throughput is that of training itself, which the last
    attempt measured. An attempt that resumed after the last step has no throughput. Parameters are those that were
    trained; runs of one stage, such as heads, can differ in their number.
    """
    lines = [
        [
            "stage",
            "runs",
            "time",
            "GPU time",
            "images/s",
            "data wait",
            "peak memory",
            "restarts",
            "trained parameters",
        ]
    ]
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        grouped.setdefault((run.stage, str(run.labels.get("finetuning", ""))), []).append(records[run.key])
    stages = list(dict.fromkeys(stage for stage, _ in grouped))
    for stage, finetuning in sorted(grouped, key=lambda group: stages.index(group[0])):
        stage_records = grouped[stage, finetuning]
        stage_results = [record["results"] for record in stage_records]
        seconds = sum(record["seconds"] for record in stage_records)
        gpu_seconds = sum(record["seconds"] * gpu_count(record) for record in stage_records)
        rates = [results["images_per_s"] for results in stage_results if results.get("images_per_s")]
        waits = [wait for results in stage_results if (wait := _data_wait(results)) is not None]
        lines.append(
            [
                f"{stage} {finetuning}".strip(),
                str(len(stage_records)),
                format_duration(seconds),
                format_duration(gpu_seconds) if gpu_seconds else "-",
                f"{statistics.median(rates):,.0f}" if rates else "-",
                f"{100 * statistics.median(waits):.1f} %" if waits else "-",
                f"{max(record['peak_memory_gb'] for record in stage_records):.2f} GB",
                str(sum(record["attempts"] - 1 for record in stage_records)),
                _parameters([results["parameters"] for results in stage_results if "parameters" in results]),
            ]
        )
        if any(name for _, name in grouped):
            lines[-1].insert(_RATIO_COLUMN, _time_ratio(stage, stage_records, grouped.get((stage, ""))))
    if any(name for _, name in grouped):
        lines[0].insert(_RATIO_COLUMN, "time / finetune")
    return lines


def _parameters(numbers: Sequence[int]) -> str:
    """Return the number of trained parameters of a stage's runs as a range; in millions if all are large."""
    if not numbers:
        return "-"
    low, high = min(numbers), max(numbers)
    millions = low >= 1000
    shown = dict.fromkeys(f"{number / 1e6:.3g}" if millions else f"{number:,}" for number in (low, high))
    return " to ".join(shown) + (" M" if millions else "")


def _time_ratio(
    stage: str, stage_records: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]] | None
) -> str:
    """Return the mean time of finetune runs divided by that of the runs of `finetune`; `-` for other stages."""
    if stage != "finetune" or not base:
        return "-"
    seconds = [statistics.mean(record["seconds"] for record in group) for group in (stage_records, base)]
    return f"{seconds[0] / seconds[1]:.2f}" if seconds[1] else "-"


def cost_by_run(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a table with one line per run, for the first `MAX_LISTED_RUNS` runs."""
    lines = [["run", "time", "images/s", "data wait", "peak memory", "attempts"]]
    for run in runs[:MAX_LISTED_RUNS]:
        record = records[run.key]
        rate, wait = record["results"].get("images_per_s"), _data_wait(record["results"])
        lines.append(
            [
                f"{run.stage} {run_label(run)}".strip(),
                format_duration(record["seconds"]),
                f"{rate:,.0f}" if rate else "",
                "" if wait is None else f"{100 * wait:.1f} %",
                f"{record['peak_memory_gb']:.2f} GB",
                str(record["attempts"]),
            ]
        )
    return lines


def _data_wait(results: Mapping[str, Any]) -> float | None:
    """Return the share of the time that training waited for data, or None if it was not measured."""
    return results.get("data_wait") if results.get("images_per_s") else None


def gpu_count(record: Mapping[str, Any]) -> int:
    """Return the total number of GPUs that a run used."""
    compute = record["compute"]
    return compute["nodes"] * compute["gpus_per_node"]


def run_label(run: Run) -> str:
    """Return a run's head or finetuning, branch, class order and seed: `mem refit order 0 seed 1`."""
    numbers = [f"{name} {run.labels[name]}" for name in ("order", "seed") if name in run.labels]
    return " ".join([*names_of(run.labels), *numbers])


def runs_table(runs: Sequence[Run]) -> list[list[str]]:
    """Return a table with one line per run: its labels, its folder and the keys of its inputs."""
    labels = ("order", "seed", "method", "variant")
    columns = ("stage", "key", "dataset", "backbone", *labels, "folder", "inputs", "branch", "finetuning")
    lines: list[list[str]] = [list(columns)]
    for run in runs:
        values = {
            **run.labels,
            "stage": run.stage,
            "key": run.key,
            "dataset": run.dataset,
            "backbone": run.backbone,
            "folder": str(run.folder),
            "inputs": " ".join(f"{name}={parent.key}" for name, parent in run.inputs.items()),
        }
        lines.append([str(values.get(name, "")) for name in columns])
    return lines


def provenance(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the commits, hosts and package versions that the runs used."""
    commits: set[str] = set()
    hosts: set[str] = set()
    versions: dict[str, set[str]] = {}
    for record in records:
        commits.add(_describe_commit(record["git"]))
        hosts.add(record["machine"]["host"])
        for package, version in record["versions"].items():
            versions.setdefault(package, set()).add(version)
    return {
        "commit": ", ".join(sorted(commits)),
        "hosts": ", ".join(sorted(hosts)),
        **{package: ", ".join(sorted(used)) for package, used in versions.items()},
    }


def format_duration(seconds: float) -> str:
    """Format a duration in a unit that suits it: `0.4 s`, `14 min`, `3.1 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _describe_commit(git: Mapping[str, Any]) -> str:
    if git["commit"] is None:
        return "not a git checkout"
    return git["commit"][:12] + (" with uncommitted changes" if git["dirty"] else "")
