"""What differs between two runs: settings, inputs up the lineage, results, what made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.errors import UserError
from mem.runs.folder import RunFolder, read_config, read_record

_ABSENT = "-"
_WIDEST = 40
"""Characters of a value in the table."""
_COST = ("seconds", "attempts", "peak_memory_gb")


@dataclass(frozen=True)
class _Known:
    """What is known of a run, flat."""

    folder: Path
    stage: str
    settings: dict[str, Any]
    labels: dict[str, Any]
    inputs: Mapping[str, str]
    results: dict[str, Any]
    cost: dict[str, Any]
    made_by: dict[str, Any]
    finished: bool


def compare(a: str, b: str, root: Path) -> str:
    """What differs between two runs, as text.

    Args:
        a: A run's folder, its key, or the beginning of its key.
        b: The other.
        root: The folder that `runs/` is in.

    Raises:
        UserError: There is no such run, several begin alike, or the two are of different stages.
    """
    runs = (_read(find_run(a, root), root), _read(find_run(b, root), root))
    if runs[0].stage != runs[1].stage:
        raise UserError(
            f"{runs[0].folder} is a {runs[0].stage} run and {runs[1].folder} a {runs[1].stage} run; "
            "runs of one stage can be compared"
        )
    lines = [f"{letter}  {run.folder}{'' if run.finished else '  (not finished)'}" for letter, run in _lettered(runs)]
    if runs[0].folder == runs[1].folder:
        return "\n".join([*lines, "", "This is one run."])
    sections = [
        ("what", _differing(*(run.labels for run in runs)), False),
        ("settings", _differing(*(run.settings for run in runs)), False),
        ("inputs", list(_inputs(runs, root)), False),
        ("results", _differing(*(run.results for run in runs)), True),
        ("cost", _differing(*(run.cost for run in runs)), True),
        ("made by", _differing(*(run.made_by for run in runs)), False),
    ]
    for title, rows, numbers in sections:
        if rows:
            lines += ["", *_table(title, rows, numbers)]
    alike = [title for title, rows, _ in sections[:4] if not rows]
    return "\n".join([*lines, *(["", f"Alike: {', '.join(alike)}."] if alike else [])])


def find_run(name: str, root: Path) -> Path:
    """The folder of a run, by its folder, key or the beginning of its key; relative to `root`.

    Raises:
        UserError: There is none, or there are several.
    """
    if (root / name / "config.yaml").is_file():
        return Path(name)
    found = sorted(path.parent.relative_to(root) for path in root.glob("runs/*/*/*/config.yaml"))
    fits = [path for path in found if name and path.name.rsplit("-", 1)[-1].startswith(name)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise UserError(
            f"{name}: no run folder, and no key under {root / 'runs'} begins so; `mem runs STUDY` lists runs"
        )
    listed = "\n  ".join(map(str, fits[:10]))
    raise UserError(f"{name}: {len(fits)} runs have keys that begin so; give more of it:\n  {listed}")


def _read(folder: Path, root: Path) -> _Known:
    stage = folder.resolve().name.rsplit("-", 1)[0]
    finished = RunFolder(root / folder).finished()
    record: Mapping[str, Any]
    if finished:
        record = read_record(root / folder)
    else:
        run = read_config(RunFolder(root / folder).config, stage)
        record = {"settings": run.settings, "labels": run.labels, "inputs": run.inputs, "seed": run.seed}
    made_by = {"commit": (record.get("git") or {}).get("commit"), **record.get("versions", {})}
    results = dict(_flat(record.get("results", {})))
    if stage == "train_head":
        results |= _scores(folder, root)
    return _Known(
        folder=folder,
        stage=stage,
        settings={**dict(_flat(record["settings"])), "seed": record["seed"]},
        labels=dict(record["labels"]),
        inputs=record["inputs"],
        results=results,
        cost={name: record[name] for name in _COST if name in record},
        made_by=made_by if finished else {},
        finished=finished,
    )


def _scores(head: Path, root: Path) -> dict[str, Any]:
    """What the finished evaluations of a head found."""
    found: dict[str, Any] = {}
    for path in sorted((root / head).resolve().parent.glob("evaluate-*/run.json")):
        record = json.loads(path.read_text())
        if Path(record["inputs"]["head"]).name == head.resolve().name:
            found |= dict(_flat(record["results"]))
    return found


def _inputs(runs: Sequence[_Known], root: Path, above: str = "") -> Iterator[tuple[str, str, str]]:
    """The inputs that differ, each followed by what differs in its own settings, and so on upwards."""
    a, b = runs
    for name in dict.fromkeys([*a.inputs, *b.inputs]):
        folders = [run.inputs.get(name) for run in runs]
        if folders[0] == folders[1]:
            continue
        first, second = (Path(folder).name if folder else _ABSENT for folder in folders)
        yield f"{above}{name}", first, second
        present = [Path(folder) for folder in folders if folder]
        if len(present) < 2 or not all((root / folder / "config.yaml").is_file() for folder in present):
            continue
        below = [_read(folder, root) for folder in present]
        for setting, one, other in _differing(below[0].settings, below[1].settings):
            yield (f"{above}{name}: {setting}", one, other)
        yield from _inputs(below, root, f"{above}{name} < ")


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*a, *b])
    return [(name, _word(a, name), _word(b, name)) for name in names if _word(a, name) != _word(b, name)]


def _word(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return _ABSENT
    value = values[name]
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names; a list is one value, an empty mapping too."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _table(title: str, rows: Sequence[tuple[str, str, str]], numbers: bool) -> list[str]:
    lines = [(title, "A", "B", "B - A" if numbers else "")]
    lines += [(*row, _difference(row[1], row[2]) if numbers else "") for row in rows]
    widths = [max(len(line[c]) for line in lines) for c in range(4)]
    align = str.rjust if numbers else str.ljust
    made = [
        "  ".join([line[0].ljust(widths[0]), *(align(line[c], widths[c]) for c in (1, 2, 3))]).rstrip()
        for line in lines
    ]
    return [made[0], "-" * max(map(len, made)), *made[1:]]


def _difference(a: str, b: str) -> str:
    try:
        return f"{float(b) - float(a):+.6g}"
    except ValueError:
        return ""


def _lettered(runs: Sequence[_Known]) -> Iterator[tuple[str, _Known]]:
    yield from zip("AB", runs, strict=True)
