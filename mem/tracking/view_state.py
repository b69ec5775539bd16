"""The format in which MLflow's UI stores a view of an experiment: a JSON document in a tag of the experiment.

The format is not documented. It is used only for the versions in `KNOWN_VERSIONS`, with which the tests open the views
in a browser. For other versions, a view has an address with a filter and an order, which all versions understand.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

KNOWN_VERSIONS = ("3.17",)
"""Minor versions of MLflow whose format of views is known."""
TAG = "mlflow.sharedViewState."
"""Prefix of the experiment's tags that contain views. The id of the view follows the prefix."""
_LONGEST_TAG = 20_000
"""Maximum length of the value of an experiment's tag."""
MACHINE_LEARNING = "workflowType=machine_learning"
"""Parameter of an address that selects the pages of the UI for model training instead of those for LLMs."""
_ALL_RUNS: Mapping[str, Any] = {"startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs"}
"""Filters of the page that exclude no run."""


@dataclass(frozen=True)
class Section:
    """Charts under a common title."""

    title: str
    charts: Sequence[Mapping[str, Any]]
    columns: int = 2
    """Number of charts next to each other."""
    height: int = 360
    """Height of a chart in pixels."""


@dataclass(frozen=True)
class View:
    """A table or charts of some runs of an experiment."""

    name: str
    """Identifies the view among those of its study."""
    title: str
    query: str
    """Filter in MLflow's search syntax."""
    order_by: str
    """Column by which runs are sorted, in descending order. If it is the time, the UI nests runs in their parents."""
    charts: bool = False
    """Whether the page shows charts at first. One click changes between charts and table."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Columns, groups and charts, by the names of MLflow's fields."""

    def encoded(self, title: str, milliseconds: int) -> str | None:
        """Return the value of the tag that stores the view, or None if it is too long.

        Args:
            title: Name of the view in the UI's list of saved views.
            milliseconds: Time at which the view was created.
        """
        facets = {"searchFilter": self.query, "orderByKey": self.order_by, "orderByAsc": False, "datasetsFilter": []}
        content = json.dumps({**_ALL_RUNS, **facets, **self.state})
        state = "deflate;" + base64.b64encode(zlib.compress(content.encode())).decode()
        value = json.dumps({"name": title, "createdAt": milliseconds, "state": state})
        return value if len(value) <= _LONGEST_TAG else None

    def address(self, experiment: str, share_key: str | None) -> str:
        """Return the address of the view, relative to the address of the UI.

        Args:
            experiment: Id of the experiment.
            share_key: Id of the stored view, or None for an address that contains only the filter and the order.
        """
        if share_key is not None:  # the page ignores a stored view if its address contains a filter, too
            parameters = {"viewStateShareKey": share_key}
        else:
            parameters = {**_ALL_RUNS, "searchFilter": self.query, "orderByKey": self.order_by, "orderByAsc": "false"}
        parameters["compareRunsMode"] = "CHART" if self.charts else "TABLE"
        return f"#/experiments/{quote(experiment)}/runs?{MACHINE_LEARNING}&{urlencode(parameters, quote_via=quote)}"


def is_known_version(version: str | None) -> bool:
    """Return whether the format of views is known for a version of MLflow."""
    return version is not None and ".".join(version.split(".")[:2]) in KNOWN_VERSIONS


def column(kind: str, name: str) -> str:
    """Return MLflow's id of a column. `kind` is `attributes`, `metrics`, `params` or `tags`."""
    return f"{kind}.`{name}`"


def table(columns: Sequence[str], widths: Mapping[str, int]) -> dict[str, Any]:
    """Return the state of a table with the given columns, in this order, and widths in pixels.

    The UI always shows the columns with the name and the date of a run, at the left.
    """
    first = [column("attributes", "Run Name")]
    return {
        "selectedColumns": list(columns),
        "columnOrder": [*first, *columns],
        "columnWidths": dict(widths),
        "runsHiddenMode": "SHOW_ALL",
    }


def mean_by_tag(tag: str, values: Sequence[str]) -> dict[str, Any]:
    """Return the state of a table whose rows are grouped by a tag and show means. The groups are folded."""
    return {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": tag}]},
        "groupsExpanded": {f"tag.{tag}.{value}": False for value in values},
        "useGroupedValuesInCharts": False,
    }


def parallel_chart(uuid: str, params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Return a chart with parallel coordinates: an axis per param, followed by an axis per metric.

    The chart omits runs that lack one of the params or metrics. The last metric determines the colours.
    """
    chart = {"selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": True}
    return _chart("PARALLEL", uuid, "") | chart


def bar_chart(uuid: str, metric: str) -> dict[str, Any]:
    """Return a bar chart of a metric."""
    return _chart("BAR", uuid, metric) | {"metricKey": metric}


def line_chart(uuid: str, metric: str) -> dict[str, Any]:
    """Return a chart with the curve of a metric over the training steps of each run."""
    axis = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "selectedXAxisMetricKey": ""}
    line = {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "range": {}}
    return _chart("LINE", uuid, metric) | {"metricKey": metric, "selectedMetricKeys": [metric], **axis, **line}


def chart_page(sections: Sequence[Section], folded: Sequence[str]) -> dict[str, Any]:
    """Return the state of a page with charts in sections.

    Args:
        sections: The sections that are open.
        folded: Titles of further sections, to which the UI adds charts of other metrics by the start of their names.
    """
    all_sections = [*sections, *(Section(title, (), 3) for title in folded)]
    return {
        "compareRunCharts": [
            {**chart, "metricSectionId": f"mem-section-{number}"}
            for number, section in enumerate(all_sections)
            for chart in section.charts
        ],
        "compareRunSections": [
            {
                "uuid": f"mem-section-{number}", "name": section.title, "display": number < len(sections),
                "columns": section.columns, "cardHeight": section.height,
                "isReordered": True, "deleted": False, "isGenerated": number >= len(sections),
            }
            for number, section in enumerate(all_sections)
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }  # fmt: skip


def _chart(kind: str, uuid: str, title: str) -> dict[str, Any]:
    common = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return {"type": kind, "uuid": f"mem-{uuid}", "displayName": title, **common}
