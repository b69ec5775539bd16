"""Compare two runs: settings, inputs and the inputs' settings, results, cost, and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.errors import UserError
from mem.runs.attempts import total_seconds
from mem.runs.find import find_run
from mem.runs.folder import RunFolder, read_record
from mem.runs.run_config import read_config

_ABSENT = "-"
_MAX_WIDTH = 40
"""Maximum number of characters per value in the table."""
_COST_FIELDS = ("seconds", "attempts", "peak_memory_gb")


@dataclass(frozen=True)
class _RunSummary:
    """A run whose nested values are flattened to dotted names."""

    folder: Path
    stage: str
    settings: dict[str, Any]
    labels: dict[str, Any]
    inputs: Mapping[str, str]
    results: dict[str, Any]
    cost: dict[str, Any]
    versions: dict[str, Any]
    finished: bool


def compare(a: str, b: str, root: Path) -> str:
    """Return the differences between two runs as text.

    Args:
        a: Folder, key or key prefix of the first run.
        b: Folder, key or key prefix of the second run.
        root: Folder that contains `runs/`.

    Raises:
        UserError: A run does not exist, a prefix is ambiguous, or the runs are of different stages.
    """
    runs = (_read(find_run(a, root), root), _read(find_run(b, root), root))
    if runs[0].stage != runs[1].stage:
        raise UserError(
            f"{runs[0].folder} is a {runs[0].stage} run and {runs[1].folder} a {runs[1].stage} run; "
            "only runs of the same stage can be compared"
        )
    lines = [
        f"{letter}  {run.folder}{'' if run.finished else '  (not finished)'}"
        for letter, run in zip("AB", runs, strict=True)
    ]
    if runs[0].folder == runs[1].folder:
        return "\n".join([*lines, "", "A and B are the same run."])
    sections = [
        ("run", _differences(*(run.labels for run in runs)), False),
        ("settings", _differences(*(run.settings for run in runs)), False),
        ("inputs", list(_input_differences(runs, root)), False),
        ("results", _differences(*(run.results for run in runs)), True),
        ("cost", _differences(*(run.cost for run in runs)), True),
        ("versions", _differences(*(run.versions for run in runs)), False),
    ]
    for title, rows, numbers in sections:
        if rows:
            lines += ["", *_table(title, rows, numbers)]
    equal = [title for title, rows, _ in sections[:4] if not rows]
    return "\n".join([*lines, *(["", f"No difference in: {', '.join(equal)}."] if equal else [])])


def _read(folder: Path, root: Path) -> _RunSummary:
    stage = folder.resolve().name.rsplit("-", 1)[0]
    finished = RunFolder(root / folder).finished()
    record: Mapping[str, Any]
    if finished:
        record = read_record(root / folder)
    else:
        run = read_config(RunFolder(root / folder).config, stage)
        record = {"settings": run.settings, "labels": run.labels, "inputs": run.inputs, "seed": run.seed}
    versions = {"commit": (record.get("git") or {}).get("commit"), **record.get("versions", {})}
    results = dict(_flattened(record.get("results", {}))) | _metrics(root / folder)
    if stage == "train_head":
        results |= _scores(folder, root)
    return _RunSummary(
        folder=folder,
        stage=stage,
        settings={**dict(_flattened(record["settings"])), "seed": record["seed"]},
        labels=dict(record["labels"]),
        inputs=record["inputs"],
        results=results,
        cost=_cost(record, RunFolder(root / folder)),
        versions=versions if finished else {},
        finished=finished,
    )


def _cost(record: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Return the cost of a run over all its attempts, or an empty mapping if the run is not finished."""
    cost = {name: record[name] for name in _COST_FIELDS if name in record}
    return cost | ({"seconds": total_seconds(record, folder.log)} if "seconds" in cost else {})


def _scores(head: Path, root: Path) -> dict[str, Any]:
    """Return the scores from all finished evaluations of a head."""
    found: dict[str, Any] = {}
    for path in sorted((root / head).resolve().parent.glob("evaluate-*/run.json")):
        record = json.loads(path.read_text())
        if Path(record["inputs"]["head"]).name == head.resolve().name:
            found |= dict(_flattened(record["results"])) | _metrics(path.parent)
    return found


def _metrics(evaluation: Path) -> dict[str, Any]:
    """Return all scores of an evaluation by dotted name, or an empty mapping for a run of another stage.

    Accuracies have the same names as in the results of `run.json`, such as `test.all`.
    """
    path = evaluation / "metrics.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    scores = {name.replace(".accuracy.", "."): value for name, value in _flattened(content["splits"])}
    return scores | {name: content[name] for name in ("thresholds", "class_counts") if name in content}


def _input_differences(runs: Sequence[_RunSummary], root: Path, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the inputs that differ, each followed by the differences in the input's settings and inputs."""
    a, b = runs
    for name in dict.fromkeys([*a.inputs, *b.inputs]):
        folders = [run.inputs.get(name) for run in runs]
        if folders[0] == folders[1]:
            continue
        first, second = (Path(folder).name if folder else _ABSENT for folder in folders)
        yield f"{prefix}{name}", first, second
        present = [Path(folder) for folder in folders if folder]
        if len(present) < 2 or not all((root / folder / "config.yaml").is_file() for folder in present):
            continue
        below = [_read(folder, root) for folder in present]
        for setting, one, other in _differences(below[0].settings, below[1].settings):
            yield (f"{prefix}{name}: {setting}", one, other)
        yield from _input_differences(below, root, f"{prefix}{name} < ")


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the names of the values that differ, with both values as text. Values are compared before formatting."""
    rows: list[tuple[str, str, str]] = []
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            first, second = (_shortened(_text(run[name])) if name in run else _ABSENT for run in (a, b))
            rows.append((name, first, second))
        elif not _equal(a[name], b[name]):
            rows.append((name, *_formatted_pair(a[name], b[name])))
    return rows


def _equal(a: Any, b: Any) -> bool:
    """Return whether two values are equal. Lists and tuples can be equal, and NaN equals NaN."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b or (a != a and b != b)


def _formatted_pair(a: Any, b: Any) -> tuple[str, str]:
    """Return two different values as different texts, shortened if they are long."""
    texts = _text(a), _text(b)
    if texts[0] == texts[1]:  # numbers that agree in six digits
        return repr(a), repr(b)
    if max(map(len, texts)) > _MAX_WIDTH and isinstance(a, list | tuple) and isinstance(b, list | tuple):
        first, second = list(_numbers(a)), list(_numbers(b))
        if len(first) == len(second):
            gaps = [
                abs(x - y) if x is not None and y is not None else math.nan for x, y in zip(first, second, strict=True)
            ]
            known = [gap for gap in gaps if gap > 0]
            largest = f", by up to {max(known):.6g}" if known else ""
            return f"{len(first):,} values", f"{sum(gap != 0 for gap in gaps):,} differ{largest}"
    shortened = _shortened(texts[0]), _shortened(texts[1])
    if shortened[0] == shortened[1]:
        return f"...{texts[0][3 - _MAX_WIDTH :]}", f"...{texts[1][3 - _MAX_WIDTH :]}"
    return shortened


def _numbers(value: Any) -> Iterator[float | None]:
    """Yield the numbers in nested lists; None for other values."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
    else:
        yield value if isinstance(value, int | float) else None


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 3] + "..."


def _flattened(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values with dotted names. Lists and empty mappings count as single values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _table(title: str, rows: Sequence[tuple[str, str, str]], numbers: bool) -> list[str]:
    """Return the lines of a table with the columns name, A and B and, for numbers, B - A."""
    cells = [(title, "A", "B", "B - A" if numbers else "")]
    cells += [(name, a, b, _subtracted(a, b) if numbers else "") for name, a, b in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    align = str.rjust if numbers else str.ljust
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(align(row[column], widths[column]) for column in (1, 2, 3))]).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _subtracted(a: str, b: str) -> str:
    """Return B - A if both values are numbers, otherwise an empty string."""
    try:
        return f"{float(b) - float(a):+.6g}"
    except ValueError:
        return ""
