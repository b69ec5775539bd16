"""Curves of finetuning and of heads, read from run logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mem.config import Study
from mem.report import class_figures, training_curves
from mem.report.chosen_methods import ChosenMethods
from mem.report.plot_elements import RenderedFigure
from mem.runs.dag import Run, study_runs
from mem.tracking.log import JsonLines, read_curve, read_curves

CHOSEN = ChosenMethods("crt", "the best method on val", "ce", ("ce", "crt", "mem"))


@pytest.fixture
def drawn(monkeypatch) -> list[dict[str, Any]]:
    """The lines of every figure, which are not drawn."""
    figures: list[dict[str, Any]] = []
    monkeypatch.setattr(
        class_figures, "curve_panels", lambda lines, labels: figures.append(lines) or RenderedFigure("<svg/>", b"")
    )
    return figures


@pytest.fixture
def runs(tmp_path, mini: Study, monkeypatch) -> list[Run]:
    """Runs of the mini study, some of which have logs: 250 steps in 10 epochs."""
    monkeypatch.chdir(tmp_path)
    found = study_runs(mini)
    for run in found:
        if run.stage == "finetune" or (run.labels.get("variant") in ("crt", "lws") and run.stage == "train_head"):
            with JsonLines(run.folder / "log.jsonl") as log:
                for step in range(1, 251):
                    log.scalars({"train/loss": float(step % 2), "train/epoch": step / 25}, step)
                    if step % 50 == 0:
                        log.scalars({"val/acc1": step / 5}, step)
    return found


def test_figures_show_finetuning_and_the_chosen_heads_that_were_trained(runs, drawn):
    figures = training_curves.training_curves(runs, CHOSEN)
    assert [figure.name for figure in figures] == ["finetune", "heads"]
    finetune, heads = drawn
    assert [name for name, _ in finetune["val/acc1"]] == ["finetune"]
    np.testing.assert_allclose(finetune["val/acc1"][0][1], [(2, 10), (4, 20), (6, 30), (8, 40), (10, 50)])
    assert [name for name, _ in heads["train/loss"]] == ["crt"]
    assert "Without training: ce, mem." in figures[1].caption
    assert "accuracy on val" in figures[0].caption


def test_more_methods_than_colours_have_different_lines():
    styles = class_figures.line_styles([f"head_{i}" for i in range(3 * len(class_figures.SERIES))])
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == len(styles)


def test_long_curves_are_averaged_over_equal_parts(runs, drawn):
    training_curves.training_curves(runs, CHOSEN)
    points = np.array(drawn[0]["train/loss"][0][1])
    assert len(points) == training_curves.MAX_POINTS
    assert points[:, 1].mean() == pytest.approx(0.5, abs=0.02)
    assert set(np.round(points[:, 1], 3)) <= {0.333, 0.5, 0.667}
    assert (np.diff(points[:, 0]) > 0).all()


def test_a_study_without_logs_has_no_curves(runs, drawn):
    for path in Path().glob("runs/**/log.jsonl"):
        path.unlink()
    assert training_curves.training_curves(runs, CHOSEN) == []


def test_a_damaged_log_has_no_curves(runs, drawn):
    log = next(run.folder / "log.jsonl" for run in runs if run.stage == "finetune")
    with open(log, "ab") as file:
        file.write(b"\0\0\0\n")  # a power failure can leave such bytes
    assert [figure.name for figure in training_curves.training_curves(runs, CHOSEN)] == ["heads"]


def test_several_curves_are_read_at_once(runs):
    log = next(run.folder / "log.jsonl" for run in runs if run.stage == "finetune")
    metrics = ("train/loss", "val/acc1", "absent")
    assert read_curves(log, metrics) == {metric: read_curve(log, metric) for metric in metrics}


def test_an_axis_of_losses_is_logarithmic_only_over_a_large_range():
    small = class_figures.curve_panels({"train/loss": [("ce", [(1, 1.0), (2, 0.5)])]}, {"train/loss": "loss"})
    large = class_figures.curve_panels({"train/loss": [("ce", [(1, 1.0), (2, 1e-4)])]}, {"train/loss": "loss"})
    assert "10^{-3}" not in small.svg
    assert "$\\mathdefault{10^{-3}}$" in large.svg
