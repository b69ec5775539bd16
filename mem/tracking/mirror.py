"""The mirror, which is the only writer to MLflow. It reads the logs written by stages and sends each line once.

The mirror stores no local state. A tag of each MLflow run records how many bytes of the log were sent. If a mirror is
killed after sending points and before setting the tag, the next mirror finds these points in the run's history and
skips them. A mirror can therefore be killed, restarted, or pointed at another server at any time, and every point
arrives exactly once.
"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mem.runs.folder import RunFolder
from mem.tracking import server
from mem.tracking.addresses import without_secrets
from mem.tracking.artifacts import input_folder, refusal, say, send_artifact, send_model
from mem.tracking.log import read_chunks, read_identity
from mem.tracking.log_events import STATUSES
from mem.tracking.log_state import NOTHING_TO_SEND, SENT, LogState, state_of
from mem.tracking.publish import Publisher
from mem.tracking.run_description import LOG_ID, attempt_tags, run_params, run_tags
from mem.tracking.run_names import run_name

_METRICS_PER_REQUEST = 800
"""Maximum number of metrics per request. MLflow accepts at most 1000 items in one request."""


@dataclass
class Mirror:
    """Sends the logs in `root`/runs to a tracking server."""

    root: Path
    uri: str
    lines: int = 0
    """Number of log lines sent by this mirror."""
    failed: dict[Path, str] = field(default_factory=dict)
    """Messages about logs that cannot be sent although the server is available. Only a new mirror tries again."""
    _client: Any = field(init=False)
    _states: dict[str, LogState] = field(init=False, default_factory=dict)
    """States by the path of the log."""
    _mlflow_runs: dict[str, Any] = field(init=False, default_factory=dict)
    """MLflow runs by the id of the log. Report runs are also stored by `_report_name`."""
    _publisher: Publisher = field(init=False)
    _said: set[str] = field(init=False, default_factory=set)
    """Messages about deleted experiments that were printed."""

    def __post_init__(self) -> None:
        self._client = server.client(self.uri)
        self._publisher = Publisher(self._client, self.root, self.uri)
        for run in server.all_runs(self._client):
            if LOG_ID in run.data.tags:
                self._remember(run)

    def send_new(self) -> None:
        """Send all lines that were written to the logs since the last call, then publish studies with a new report.

        A log that cannot be read or that the server rejects is added to `failed`. The other logs are sent.

        Raises:
            Exception: The server is not available (one of `server.tracking_errors`).
        """
        for pattern in ("log*.jsonl", "rank-*.jsonl"):
            for path in sorted(self.root.glob(f"runs/*/*/*/{pattern}")):
                self._send_if_possible(path)
        self._publisher.publish()

    # --- one log --------------------------------------------------------------------------------------

    def _send_if_possible(self, path: Path) -> None:
        if path in self.failed:
            return
        try:
            self._send(path)
        except FileNotFoundError:  # the run is being recomputed, and the old log was renamed
            self._states.pop(str(path), None)
        except Exception as error:
            if isinstance(error, server.tracking_errors()):
                if not server.is_rejection(error):
                    raise
                if self._was_deleted_meanwhile(path):
                    return
            cause = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))
            self.failed[path] = (
                f"{path}: the rest of this log cannot be sent to MLflow ({cause[:500]}). The other logs are sent. "
                "Solve this problem, then run `mem track sync`."
            )

    def _send(self, path: Path) -> None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise OSError("this is not a file")  # reading a pipe would block the mirror
        if path.is_symlink() and (problem := refusal(self.root, path.parent, path)):
            raise OSError(problem)
        state = self._states.get(str(path))
        if state is not None and (state.inode != status.st_ino or state.is_longer_than(status.st_size)):
            state = None
        if state is not None and state.is_deleted and state.may_be_restored(status.st_size):
            state = self._check_restored(state)
        if state is None:
            state = self._find_state(path, status.st_ino)
            if state is None:
                self._states.pop(str(path), None)
                return
        self._states[str(path)] = state
        if state.is_deleted:
            state.skipped_size = status.st_size
        if status.st_size <= state.sent_bytes:
            return
        for events, end in read_chunks(path, state.sent_bytes, _METRICS_PER_REQUEST):
            self._send_events(path, state, events, end)
            self.lines += len(events)
        state.verified = True

    def _find_state(self, path: Path, inode: int) -> LogState | None:
        """Return the state of a log. Create the MLflow run if it does not exist.

        Returns:
            The state, or None if the log has no first event yet, or if the MLflow run that it is sent to does not
            exist yet.
        """
        log_id, start = read_identity(path)
        if log_id is None or start is None:
            return None
        if start["event"] == "beside":
            run = self._mlflow_runs.get(start["log"])
            return None if run is None else self._state_in(run.info.run_id, log_id, inode)
        if start["stage"] == "evaluate":
            # Scores are sent to the head's MLflow run, so that MLflow shows them next to the head's settings.
            head = self._input_log(start["inputs"]["head"])
            self._send_if_possible(head)
            head_state = self._states.get(str(head))
            return None if head_state is None else self._state_in(head_state.run_id, log_id, inode)
        run = self._mlflow_runs.get(log_id) or self._mlflow_runs.get(_report_name(start["stage"], start["key"]))
        if run is None:
            try:
                run = self._create_run(path, log_id, start)
            except server.DeletedExperiment as error:
                self._say_once(str(error))
                return LogState("", log_id, NOTHING_TO_SEND, inode)
            self._remember(run)
            return LogState(run.info.run_id, log_id, 0, inode, verified=True)
        state = state_of(run, log_id, inode)
        is_current = path == RunFolder(path.parent).log and state.sent_bytes > 0
        if start["stage"] == "report" and run.info.status == "FINISHED" and is_current:
            self._publisher.add(run, log_id, start, run.info.end_time or 0)
        return state

    def _state_in(self, run_id: str, log_id: str, inode: int) -> LogState:
        """Return the state of a log whose events are sent to the MLflow run of another log."""
        if not run_id:
            return LogState("", log_id, NOTHING_TO_SEND, inode)
        return state_of(self._client.get_run(run_id), log_id, inode)

    # --- deleted MLflow runs --------------------------------------------------------------------------

    def _was_deleted_meanwhile(self, path: Path) -> bool:
        """Return whether the user deleted the MLflow run of a log, and skip the log in this case."""
        state = self._states.get(str(path))
        if state is None or not state.run_id or not server.is_deleted(self._client, state.run_id):
            return False
        self._states[str(path)] = LogState(state.run_id, state.log_id, NOTHING_TO_SEND, state.inode)
        return True

    def _check_restored(self, state: LogState) -> LogState | None:
        """Return the current state of a log whose run was deleted, or None if it has to be found again."""
        state.checked = time.monotonic()
        if not state.run_id:
            return None
        if server.is_deleted(self._client, state.run_id):
            return state
        return self._state_in(state.run_id, state.log_id, state.inode)

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            say(message)

    # --- MLflow runs ----------------------------------------------------------------------------------

    def _remember(self, run: Any) -> None:
        tags = run.data.tags
        self._mlflow_runs[tags[LOG_ID]] = run
        if tags.get("stage") == "report" and "config_digest" in tags and run.info.lifecycle_stage == "active":
            self._mlflow_runs[_report_name(tags["stage"], tags["config_digest"])] = run

    def _create_run(self, path: Path, log_id: str, start: Mapping[str, Any]) -> Any:
        tags = run_tags(log_id, str(path.parent.relative_to(self.root)), start)
        parent = self._parent(start)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        return self._client.create_run(
            server.experiment(self._client, start["dataset"], self.root, self.uri),
            start_time=round(1000 * start["time"]),
            tags={name: server.storable(value) for name, value in tags.items()},
            run_name=server.storable(run_name(start)),
        )

    def _parent(self, start: Mapping[str, Any]) -> str | None:
        """Return the id of the parent MLflow run. Runs are nested: pretrain > finetune > features.

        Heads are not nested, so that MLflow's UI lists them without unfolding other runs.
        """
        inputs = start["inputs"]
        match start["stage"]:
            case "finetune":
                folder = inputs.get("encoder")
            case "features":
                folder = inputs.get("classifier", inputs.get("encoder", inputs.get("features")))
            case "adapt":
                folder = inputs.get("classifier")
            case _:
                folder = None
        if folder is None:
            return None
        log = self._input_log(folder)
        if not log.exists():
            return None
        self._send_if_possible(log)
        state = self._states.get(str(log))
        return state.run_id if state else None

    def _input_log(self, folder: str) -> Path:
        """Return the path of the log of an input run."""
        return RunFolder(input_folder(self.root, folder)).log

    # --- events ---------------------------------------------------------------------------------------

    def _send_events(self, path: Path, state: LogState, events: Sequence[Mapping[str, Any]], end: int) -> None:
        metrics = [
            (name, value, round(1000 * event["time"]), event["step"])
            for event in events
            if event["event"] == "metrics"
            for name, value in event["metrics"].items()
        ]
        if metrics and not state.verified:
            present = server.points(self._client, state.run_id, {name for name, *_ in metrics})
            metrics = [point for point in metrics if (point[0], *point[2:]) not in present]
        start = next((event for event in events if event["event"] == "start"), None)
        has_own_run = start is None or start["stage"] != "evaluate"
        params = run_params(start) if start and has_own_run else {}
        tags = attempt_tags(start) if start and has_own_run else {}
        tags[f"{SENT}{state.log_id}"] = str(end)
        for event in events:
            if event["event"] == "artifact":
                send_artifact(self._client, state.run_id, self.root, path.parent, event)
            elif event["event"] == "model":
                send_model(self._client, state.run_id, self.root, path.parent, event)
        if start and has_own_run and (dataset := self._dataset(start)):
            server.log_dataset(self._client, state.run_id, start["dataset"], *dataset)
        server.send(self._client, state.run_id, metrics, params, tags)
        state.sent_bytes = end
        for event in events:
            self._update_status(path, state, event)

    def _dataset(self, start: Mapping[str, Any]) -> tuple[str, Path, dict[str, Any]] | None:
        """Return the key, folder and manifest of the dataset that a run uses, or None if the run uses no dataset."""
        inputs = start["inputs"]
        # The features of a branch with held-out images can be a copy of those of another run.
        for _ in range(2):
            if "images" not in inputs and "features" in inputs:
                features_start = self._start_of(inputs["features"])
                inputs = features_start["inputs"] if features_start else {}
        folder = inputs.get("images")
        manifest = input_folder(self.root, folder) / "dataset.json" if folder else None
        if folder is None or manifest is None or not manifest.is_file():
            return None
        if manifest.is_symlink() and (problem := refusal(self.root, manifest.parent, manifest)):
            say(f"{manifest}: {problem}. MLflow shows its runs without their dataset.")
            return None
        try:
            return folder.rsplit("-", 1)[1], manifest.parent, json.loads(manifest.read_text())
        except (OSError, ValueError, RecursionError) as error:
            say(f"{manifest}: cannot read this file ({error}). MLflow shows its runs without their dataset.")
            return None

    def _start_of(self, folder: str) -> dict[str, Any] | None:
        """Return the "start" event of an input run, or None if there is none or its log is damaged."""
        log = self._input_log(folder)
        try:
            return read_identity(log)[1]
        except (OSError, ValueError):
            return None

    def _update_status(self, path: Path, state: LogState, event: Mapping[str, Any]) -> None:
        if event["event"] == "start" and event["stage"] != "evaluate":
            self._client.update_run(state.run_id, status="RUNNING")
        elif event["event"] == "end":
            _, start = read_identity(path)
            if start is not None and start["stage"] != "evaluate":
                milliseconds = round(1000 * event["time"])
                self._client.set_terminated(state.run_id, STATUSES[event["status"]], milliseconds)
                if start["stage"] == "report" and event["status"] == "finished":
                    self._publisher.add(self._client.get_run(state.run_id), state.log_id, start, milliseconds)


def _report_name(stage: str, key: str) -> str:
    """Return the additional key of a report's MLflow run in `Mirror._mlflow_runs`.

    A recomputed report is sent to the existing MLflow run. In all other stages, a new log starts a new MLflow run.
    """
    return f"{stage} {key}"
