"""Draw the figure on the start page of the site from the recorded scores of Glyphs-LT.

`make tables` runs this script. The plotted values are in the file's metadata, which a test compares with results.csv.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mem.metrics import Interval
from mem.report.results import SHOTS, from_csv, summarise
from mem.style import MATPLOTLIB_SETTINGS, SERIES

DOCS = Path(__file__).parents[1]
RESULTS = DOCS / "results" / "glyphs_readings"
FIGURE = DOCS / "images" / "glyphs-shots.svg"
METHODS = {
    "ce": "CE",
    "logit_adjustment": "logit adjustment",
    "crt": "cRT",
    "balanced_softmax": "balanced softmax",
    "mem": "MEM",
}
GROUPS = {"many": "many-shot", "medium": "medium-shot", "few": "few-shot", "all": "all classes"}
VALUES = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)


def plotted_values() -> dict[str, dict[str, list[float]]]:
    """Return the mean and the half width of the 95 % interval of each method and shot group, rounded, in percent."""
    summary = summarise(from_csv(RESULTS / "results.csv"), "test")
    return {name: {shot: _rounded(summary[method][shot]) for shot in SHOTS} for method, name in METHODS.items()}


def recorded_values(figure: Path = FIGURE) -> Any:
    """Return the values in the metadata of the figure."""
    found = VALUES.search(figure.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def draw(values: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return the figure as SVG: one panel per shot group, one point with its interval per method."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**MATPLOTLIB_SETTINGS, "font.size": 11}):
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        axes = figure.subplots(2, 2, sharey=True)
        for axis, (shot, title) in zip(axes.flat, GROUPS.items(), strict=True):
            axis.set_title(title, fontsize=11, fontweight="bold")
            for row, (colour, groups) in enumerate(zip(SERIES, values.values(), strict=False)):
                mean, half_width = groups[shot]
                axis.errorbar(mean, row, xerr=half_width, fmt="o", color=colour, capsize=3, markersize=6)
                axis.annotate(f"{mean:.1f}", (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=9)
            axis.set_yticks(range(len(values)), list(values))
            axis.set_ylim(len(values) - 0.4, -0.8)
            axis.set_xlim(45, 100)
            axis.grid(visible=False, axis="y")
        for axis in axes[-1]:
            axis.set_xlabel("accuracy on test (%)")
        figure.patch.set_facecolor("white")
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Description": json.dumps(values)})
    return target.getvalue()


def _rounded(value: Interval) -> list[float]:
    assert value.half_width is not None
    return [round(value.mean, 2), round(value.half_width, 2)]


if __name__ == "__main__":
    FIGURE.write_text(draw(plotted_values()), encoding="utf-8")
