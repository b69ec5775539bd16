"""Links to a study's views: in the description of an MLflow experiment, and in a page next to the report."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Sequence

from mem.tracking.published_studies import PublishedView

_LONGEST_NOTE = 15_000
"""Maximum length of a description. MLflow accepts at most 20,000 characters."""


def share_key(study: str, view: str) -> str:
    """Return the id under which MLflow stores a view."""
    return f"mem.{study}.{view}"


def note_with(note: str, study: str, date: str, views: Sequence[PublishedView]) -> str:
    """Return the description of an experiment in which the part about a study is replaced or added.

    Args:
        note: The description, which may contain other text.
        study: Name of the study.
        date: Date of the study's report.
        views: The views of the study.
    """
    begin, end = f"<!-- mem: {study} -->", f"<!-- end of {study} -->"
    links = "\n".join(f"- [{view.title}]({view.address})" for view in views)
    part = f"{begin}\n**Study {study}** (report of {date}: `results/{study}/report/index.html`)\n\n{links}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(note):
        return pattern.sub(lambda found: part, note)
    longer = f"{note.rstrip()}\n\n{part}" if note.strip() else part
    return longer if len(longer) <= _LONGEST_NOTE else note


def addresses_page(study: str, ui: str, is_local: bool, views: Sequence[PublishedView]) -> str:
    """Return a page with links to the views of a study.

    Args:
        study: Name of the study.
        ui: Address of the UI.
        is_local: Whether `mem track ui` starts the UI.
        views: The views of the study.
    """
    command = html.escape(f"mem track ui {shlex.quote(study)}")
    start = (
        f"<p>Start the MLflow UI in the working folder of the study: <code>{command}</code>. "
        f"The links below are for its default address, {html.escape(ui)}.</p>"
        if is_local
        else f"<p>The runs are on the tracking server {html.escape(ui)}.</p>"
    )
    items = "\n".join(
        f'<li><a href="{html.escape(f"{ui}/{view.address}")}">{html.escape(view.title)}</a></li>' for view in views
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(study)}: runs in MLflow</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}</style>
</head>
<body>
<h1>{html.escape(study)}: compare the runs in MLflow</h1>
{start}
<ul>
{items}
</ul>
<p><a href="index.html">Report of the study</a></p>
</body>
</html>
"""
