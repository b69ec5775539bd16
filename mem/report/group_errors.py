"""Table of the errors of all methods by shot group, with numbers of images."""

from __future__ import annotations

from mem.longtail import SHOT_NAMES
from mem.report.captions import summed_over_runs
from mem.report.collect import StudyResults
from mem.report.page import CaptionedTable
from mem.report.ranking import sorted_variants


def group_error_table(results: StudyResults) -> CaptionedTable:
    """Return how many errors each method makes in each shot group, and the shot groups of the wrong predictions."""
    lines = [["method", "true shot group", "n", "errors", *(f"predicted {shot}" for shot in SHOT_NAMES)]]
    for variant in sorted_variants(results.rows):
        images = results.shot_images.get(variant)
        for group, shot in enumerate(SHOT_NAMES):
            counts = results.wrong_counts[variant][group]
            errors, n = float(counts.sum()), None if images is None else float(images[group])
            cells = [_with_share(count, errors) for count in counts.tolist()]
            lines.append([variant, shot, "-" if n is None else f"{n:,.0f}", _with_share(errors, n), *cells])
    caption = (
        "For each method and shot group: the number n of test images, the number of errors and their percentage of n, "
        "and the shot groups of the wrong predictions, with their percentage of the errors."
        f"{summed_over_runs(results.rows)}"
    )
    return CaptionedTable("Errors by shot group", caption, lines, folded=True)


def _with_share(count: float, total: float | None) -> str:
    return f"{count:,.0f} ({100 * count / total:.0f} %)" if total else f"{count:,.0f}"
