"""The views of a study in MLflow's UI: a table of its heads, charts that compare them, and curves of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mem.tracking.run_description import run_params
from mem.tracking.study_members import Member
from mem.tracking.view_state import (
    Section,
    View,
    bar_chart,
    chart_page,
    column,
    line_chart,
    mean_by_tag,
    parallel_chart,
    table,
)

SHOTS = ("many", "medium", "few", "all")
"""Accuracies of a head: those of the shot groups and that of all classes."""
VIEWS = ("means", "heads", "compare", "summary", "pretrain", "finetune")
"""Names of all views. A study has those for which it has runs."""
SUMMARY = "summary"
"""Value of the tag `stage` of the runs that contain the means of a head over its runs."""
_LABELS = frozenset({"variant", "method", "order", "seed", "branch", "finetuning", "transductive", "crops", "study"})
_MOST_SETTINGS = 8
"""Maximum number of columns or axes with settings."""
_MOST_METHODS = 4
"""Maximum number of methods that have a chart of their own."""
_FOLDED = ("test", "val", "train", "select", "system", "Model metrics", "System metrics")
"""Sections in which the UI puts charts of metrics by the start of their names."""


def member_tag(study: str) -> str:
    """Return the tag of the runs of a study. Its value is the name of the head in this study, or the stage."""
    return f"study.{study}"


def study_views(study: str, members: Sequence[Member]) -> list[View]:
    """Return the views of a study. The first one is the table of its heads, or of their means over several runs.

    Args:
        study: Name of the study.
        members: The runs of the study.
    """
    heads = [member for member in members if member.head]
    names = list(dict.fromkeys(member.head for member in heads))
    views = [_heads(study, heads), _comparison(study, heads)]
    if len(names) < len(heads):
        views = [_means(study, names, heads), *views, _summaries(study)]
    titles = {"pretrain": "curves of pretraining", "finetune": "curves of finetuning"}
    for stage, title in titles.items():
        if any(member.stage == stage for member in members):
            views.append(_curves(study, stage, title))
    return views


def differing_settings(heads: Sequence[Member], *, in_all: bool) -> list[str]:
    """Return the names of the settings that differ between heads, those that most heads have first.

    Args:
        heads: The heads.
        in_all: Whether to omit settings that some of the heads do not have.
    """
    params = [_settings(head) for head in heads]
    counts = Counter(name for found in params for name in found)
    differing = [
        name
        for name in counts
        if len({found[name] for found in params if name in found}) > 1 and not (in_all and counts[name] < len(params))
    ]
    return sorted(differing, key=lambda name: -counts[name])


def _settings(head: Member) -> dict[str, str]:
    """Return the params of a head that are settings and have a value. Labels of the run are not settings."""
    params = run_params(head.start)
    return {name: value for name, value in params.items() if name not in _LABELS and value != "None"}


def _stage_query(study: str, stage: str) -> str:
    return f"tags.stage = '{stage}' AND tags.`{member_tag(study)}` LIKE '%'"


def _head_state(heads: Sequence[Member], first: Sequence[str], score_width: int = 105) -> dict[str, Any]:
    """Return the columns and charts that all views of heads have.

    Args:
        heads: The heads.
        first: Params in the first columns.
        score_width: Width of the columns with scores, in pixels.
    """
    settings = [name for name in differing_settings(heads, in_all=False) if name != "head.method"]
    columns = [column("params", name) for name in first]
    columns += [column("metrics", f"{split}/{shot}") for split in ("test", "val") for shot in SHOTS]
    columns += [column("params", name) for name in settings[:_MOST_SETTINGS]]
    widths = {column("attributes", "Run Name"): 330}
    widths |= {column("metrics", f"{split}/{shot}"): score_width for split in ("test", "val") for shot in SHOTS}
    widths |= {column("params", name): 90 for name in first}
    return {**table(columns, widths), **chart_page([*_parallel_charts(heads), _bars()], _FOLDED)}


def _bars() -> Section:
    return Section("Accuracy on test", [bar_chart(f"test-{shot}", f"test/{shot}") for shot in SHOTS])


def _heads(study: str, heads: Sequence[Member]) -> View:
    orders = ["order"] if len({_label(head, "order") for head in heads}) > 1 else []
    state = _head_state(heads, ["method", *orders, "seed"])
    query, order_by = _stage_query(study, "train_head"), column("metrics", "test/all")
    return View("heads", "all heads by shot group", query, order_by, state=state)


def _means(study: str, names: Sequence[str], heads: Sequence[Member]) -> View:
    # MLflow writes "(average)" after each mean, and shows no params of groups.
    state = {**_head_state(heads, [], 160), **mean_by_tag(member_tag(study), names)}
    query, order_by = _stage_query(study, "train_head"), column("metrics", "test/all")
    return View("means", "heads by shot group, mean over runs", query, order_by, state=state)


def _comparison(study: str, heads: Sequence[Member]) -> View:
    view = _heads(study, heads)
    return View("compare", "parallel coordinates: settings and accuracy", view.query, view.order_by, True, view.state)


def _summaries(study: str) -> View:
    names = [f"test/{shot}{end}" for shot in SHOTS for end in ("", "_low", "_high")]
    names += [f"val/{shot}" for shot in SHOTS]
    columns = [column("metrics", name) for name in ("runs", *names)]
    widths = {column("attributes", "Run Name"): 330, **dict.fromkeys(columns, 115)}
    state = {**table(columns, widths), **chart_page([_bars()], _FOLDED)}
    query = f"tags.stage = '{SUMMARY}' AND tags.study = '{study}'"
    return View("summary", "mean and 95 % interval over runs", query, column("metrics", "test/all"), state=state)


def _curves(study: str, stage: str, title: str) -> View:
    metrics = ["train/loss", "val/acc1", "val/loss", "train/acc1", "train/lr"]
    shown = metrics if stage == "finetune" else ["train/loss", "train/lr"]
    section = Section("Curves", [line_chart(name.replace("/", "-"), name) for name in shown])
    columns = [column("params", "seed"), *(column("metrics", name) for name in shown)]
    state = {**table(columns, {column("attributes", "Run Name"): 330}), **chart_page([section], _FOLDED)}
    query, order_by = _stage_query(study, stage), column("metrics", "train/loss")
    return View(stage, title, query, order_by, True, state)


def _parallel_charts(heads: Sequence[Member]) -> list[Section]:
    """Return charts of all heads, of the trained heads, and of each method with several heads.

    A chart shows only runs that have all of its params, so that each chart has the settings that its heads share.
    """
    groups: dict[str, list[Member]] = {"all heads": list(heads)}
    groups["trained heads"] = [head for head in heads if "head.training.epochs" in _settings(head)]
    methods = Counter(_label(head, "method") for head in heads)
    for method, _ in methods.most_common(_MOST_METHODS):
        groups[method] = [head for head in heads if _label(head, "method") == method]
    several_seeds = ["seed"] if len({_label(head, "seed") for head in heads}) > 1 else []
    sections: list[Section] = []
    for name, group in groups.items():
        settings = [name for name in differing_settings(group, in_all=True) if name != "head.method"]
        if sections and (not settings or len(group) == len(heads)):
            continue
        axes = ["variant", *several_seeds, *settings[:_MOST_SETTINGS]]
        chart = parallel_chart(f"parallel-{len(sections)}", axes, [f"test/{shot}" for shot in SHOTS])
        sections.append(Section(f"Settings and accuracy on test: {name}", [chart], columns=1, height=420))
    return sections


def _label(head: Member, name: str) -> str:
    return str(head.start["labels"].get(name))
