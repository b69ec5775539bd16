"""Publish a study in MLflow when its report is finished: tags of its runs, summary runs, views, and their addresses.

The mirror calls this module, so that it remains the only writer to MLflow. Everything can be repeated: if a mirror is
killed while it publishes, the next one completes the rest, because a tag of the report's MLflow run is set last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mem import files
from mem.tracking import server
from mem.tracking.addresses import is_embedded, without_secrets
from mem.tracking.artifacts import say
from mem.tracking.published_studies import PublishedView, publish_addresses
from mem.tracking.run_description import LOG_ID
from mem.tracking.run_names import earlier_run_name, joined, run_name
from mem.tracking.study_members import Member, study_members
from mem.tracking.study_views import SUMMARY, VIEWS, member_tag, study_views
from mem.tracking.summaries import Summary, read_summaries
from mem.tracking.view_addresses import addresses_page, note_with, share_key
from mem.tracking.view_state import TAG, is_known_version

_PUBLISHED = "mem.published"
"""Tag of a report's MLflow run that contains the version of this module and the id of the published log."""
_VERSION = "1"
"""Change this number if studies that are already published have to be published again."""
_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
"""Name of a study. Logs may come from another person, and a name with `/` would lead out of the working folder."""
_OUTDATED = "outdated summary"
"""Value of the tag `stage` of the summary of a head that the study no longer has."""
_NOTE = "mlflow.note.content"
"""Tag with the description of an experiment or a run, in Markdown."""


@dataclass(frozen=True)
class _Report:
    """A finished report."""

    study: str
    start: Mapping[str, Any]
    run_id: str
    experiment: str
    milliseconds: int
    """Time at which the report was finished."""
    mark: str
    """Value of the tag `_PUBLISHED` after the report was published."""
    is_published: bool


@dataclass
class Publisher:
    """Publishes the newest report of each study once."""

    client: Any
    """MLflow's client."""
    root: Path
    uri: str
    _reports: dict[str, _Report] = field(init=False, default_factory=dict)
    """Newest report by study."""

    def add(self, run: Any, log_id: str, start: Mapping[str, Any], milliseconds: int) -> None:
        """Add a report that was finished.

        Args:
            run: Its MLflow run.
            log_id: Id of its log.
            start: Start event of its log.
            milliseconds: Time at which it was finished.
        """
        study, mark = str(start["labels"].get("study", "")), f"{_VERSION} {log_id}"
        newest = self._reports.get(study)
        if _STUDY.fullmatch(study) and (newest is None or milliseconds >= newest.milliseconds):
            published = run.data.tags.get(_PUBLISHED) == mark
            experiment = run.info.experiment_id
            self._reports[study] = _Report(study, start, run.info.run_id, experiment, milliseconds, mark, published)

    def publish(self) -> None:
        """Publish the reports that were added and are not published yet.

        Raises:
            Exception: The server is not available (one of `server.tracking_errors`).
        """
        for study, report in self._reports.items():
            if report.is_published:
                continue
            self._reports[study] = replace(report, is_published=True)
            try:
                self._publish(report)
            except Exception as error:
                if isinstance(error, server.tracking_errors()) and not server.is_rejection(error):
                    self._reports[study] = report
                    raise
                cause = without_secrets(f"{type(error).__name__}: {error}")
                say(f"The views of the study {study} cannot be created in MLflow: {cause}")

    def _publish(self, report: _Report) -> None:
        if server.is_deleted(self.client, report.run_id):
            return
        active = {run.data.tags.get(LOG_ID): run for run in server.find_runs(self.client, report.experiment)}
        members = [member for member in study_members(self.root, report.start) if member.log_id in active]
        self._tag_members(report, members, active)
        self._rename(self.client.get_run(report.run_id), report.start)
        folder = self.root / "results" / report.study / "report"
        try:
            self._write_summaries(report, read_summaries(folder / "results.csv"), members)
        except (OSError, ValueError) as error:
            say(f"MLflow shows no means over runs for the study {report.study}: {error}")
        views = self._write_views(report, members)
        self._write_note(report, views)
        try:
            page = addresses_page(report.study, server.ui_address(self.uri), is_embedded(self.uri), views)
            files.write_text(folder / "mlflow.html", page)
        except OSError as error:
            say(f"{folder / 'mlflow.html'}: cannot write this file ({error}). `mem track ui` prints its content.")
        self.client.set_tag(report.run_id, _PUBLISHED, report.mark)

    def _tag_members(self, report: _Report, members: list[Member], active: Mapping[str | None, Any]) -> None:
        """Mark the runs of the study, and no others. Give names to runs that have the name of an earlier version.

        Args:
            report: The report.
            members: The runs of the study.
            active: All MLflow runs of the experiment that are not deleted, by the id of their log.
        """
        tag = member_tag(report.study)
        marked = {run.info.run_id: run.data.tags[tag] for run in active.values() if tag in run.data.tags}
        for member in members:
            run = active[member.log_id]
            if marked.pop(run.info.run_id, None) != (value := server.storable(member.head or member.stage)):
                self.client.set_tag(run.info.run_id, tag, value)
            self._rename(run, member.start)
        for run_id in marked:
            self.client.delete_tag(run_id, tag)

    def _rename(self, run: Any, start: Mapping[str, Any]) -> None:
        """Give a run its name, if it still has the name that an earlier version of mem gave to it."""
        if run.info.run_name == server.storable(earlier_run_name(start)):
            self.client.update_run(run.info.run_id, name=server.storable(run_name(start)))

    def _write_summaries(self, report: _Report, summaries: list[Summary], members: list[Member]) -> None:
        """Create or update a run per head with its means. A study with one run per head has no means."""
        query = f"tags.study = '{report.study}' AND tags.stage LIKE '%{SUMMARY}'"
        existing = {
            run.data.tags["variant"]: run
            for run in server.find_runs(self.client, report.experiment, query, deleted=True)
        }
        starts = {member.head: member.start for member in members if member.head}
        several = any(summary.runs > 1 for summary in summaries)
        for summary in summaries if several else ():
            run, start = existing.pop(summary.head, None), starts.get(summary.head)
            if start is None or (run is not None and run.info.lifecycle_stage == "deleted"):
                continue
            self._write_summary(report, summary, start, run)
        for run in existing.values():
            if run.info.lifecycle_stage == "active":
                self.client.set_tag(run.info.run_id, "stage", _OUTDATED)

    def _write_summary(self, report: _Report, summary: Summary, start: Mapping[str, Any], run: Any) -> None:
        """Create or update the summary run of a head. The name contains the settings of the head's first run."""
        described = {**start, "labels": {"variant": summary.head}}
        name = server.storable(joined(run_name(described), summary.repeats))
        tags = {
            "stage": SUMMARY,
            "study": report.study,
            "dataset": start["dataset"],
            "backbone": start["backbone"],
            "variant": summary.head,
            "method": summary.method,
            "seeds": summary.seeds,
            "orders": summary.orders,
            "mlflow.runName": name,
            _NOTE: f"Scores of the head `{summary.head}` of the study `{report.study}`: {summary.repeats} (seeds "
            f"{summary.seeds}; class orders {summary.orders}). `NAME_low` and `NAME_high` are the ends of the 95 % "
            f"interval. Report: `results/{report.study}/report/index.html`",
        }
        tags = {key: server.storable(value) for key, value in tags.items()}
        if run is None:
            run = self.client.create_run(report.experiment, report.milliseconds, tags, name)
        point = ("runs", report.milliseconds, 0)
        is_sent = point in server.points(self.client, run.info.run_id, {"runs"})  # one request contains all metrics
        points = [(metric, value, report.milliseconds, 0) for metric, value in summary.metrics.items()]
        server.send(self.client, run.info.run_id, [] if is_sent else points, {}, tags)
        self.client.set_terminated(run.info.run_id, "FINISHED", report.milliseconds)

    def _write_views(self, report: _Report, members: list[Member]) -> list[PublishedView]:
        """Store the views as tags of the experiment, and return their addresses."""
        is_known = is_known_version(server.ui_version(self.uri))
        stored = self.client.get_experiment(report.experiment).tags
        outdated = {TAG + share_key(report.study, name) for name in VIEWS} & stored.keys()
        published: list[PublishedView] = []
        for number, view in enumerate(study_views(report.study, members)):
            # The UI lists the newest view first.
            value = view.encoded(f"{report.study}: {view.title}", report.milliseconds - number) if is_known else None
            key = share_key(report.study, view.name)
            if value is not None:
                self.client.set_experiment_tag(report.experiment, TAG + key, value)
                outdated.discard(TAG + key)
            address = view.address(report.experiment, None if value is None else key)
            published.append(PublishedView(view.title, address))
        for tag in outdated:
            self.client.delete_experiment_tag(report.experiment, tag)
        publish_addresses(self.client, report.experiment, report.study, published)
        return published

    def _write_note(self, report: _Report, views: list[PublishedView]) -> None:
        """Write the study's part of the experiment's description. All other parts are kept."""
        tags = self.client.get_experiment(report.experiment).tags
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.milliseconds / 1000))
        self.client.set_experiment_tag(
            report.experiment, _NOTE, note_with(tags.get(_NOTE, ""), report.study, date, views)
        )
