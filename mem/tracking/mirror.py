"""The mirror: the only writer to MLflow. It reads the logs that stages write and sends each line once.

It keeps no state of its own. How much of a log was sent stands as a tag on the MLflow run that took it; where the
mirror died between sending and tagging, the points that arrived are found in the run's history and passed over. So it
can be killed, started again, or pointed at another server at any time, and ends with every point there exactly once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mem.errors import UserError
from mem.runs.folder import RunFolder
from mem.tracking import server
from mem.tracking.registry import register

POLL_SECONDS = 2.0
"""Rest between two passes over the logs, where little is new."""
_LONGEST_SECONDS = 6.0
_CORE_SHARE = 0.03
"""Share of a core that sending takes: a pass that cost more than a rest is worth is followed by a longer one."""
_BATCH = 800
"""Metrics in one request; MLflow takes at most 1000 items."""
_SENT = "mem.sent."
_LOG = "mem.log_id"
_NEVER = sys.maxsize
"""Stands for `sent` where the user deleted the MLflow run: it stays deleted."""
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass
class Target:
    """The MLflow run that takes a log's lines."""

    run_id: str
    log_id: str
    sent: int
    """Bytes of the log that were sent."""
    inode: int
    """Which file it was: a finished run that is made once more begins a new log under the old name."""
    verified: bool = False
    """Whether the history was checked for points that arrived without their tag."""


@dataclass
class Mirror:
    """Sends the logs under `root`/runs to one tracking server."""

    root: Path
    uri: str
    lines: int = 0
    """Lines sent by this mirror."""
    _client: Any = field(init=False)
    _targets: dict[str, Target] = field(init=False, default_factory=dict)
    _known: dict[str, Any] = field(init=False, default_factory=dict)
    """MLflow runs that were there when the mirror started, by the id of their log."""
    _experiments: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._client = server.client(self.uri)
        for run in server.all_runs(self._client):
            if _LOG in run.data.tags:
                self._remember(run)

    def send_new(self) -> None:
        """One pass over all logs."""
        for pattern in ("log*.jsonl", "rank-*.jsonl"):
            for path in sorted(self.root.glob(f"runs/*/*/*/{pattern}")):
                try:
                    self._send(path)
                except FileNotFoundError:  # a run that is made once more sets its log aside
                    self._targets.pop(str(path), None)

    # --- one log --------------------------------------------------------------------------------------

    def _send(self, path: Path) -> None:
        state = path.stat()
        target = self._targets.get(str(path))
        if target is not None and (target.inode != state.st_ino or state.st_size < target.sent != _NEVER):
            target = None
        if target is None:
            target = self._find(path, state.st_ino)
            if target is None:
                self._targets.pop(str(path), None)
                return
            self._targets[str(path)] = target
        if state.st_size <= target.sent:
            return
        for events, end in _chunks(path, target.sent):
            self._send_events(path, target, events, end)
            self.lines += len(events)
        target.verified = True

    def _find(self, path: Path, inode: int) -> Target | None:
        """The log's MLflow run, made if it is not there; nothing while the log has no start."""
        log_id, start = _identity(path)
        if log_id is None or start is None:
            return None
        if start["event"] == "beside":
            known = self._known.get(start["log"])
            return None if known is None else self._target(known.info.run_id, log_id, inode)
        if start["stage"] == "evaluate":
            # Scores stand beside the settings of the head that they belong to.
            head = RunFolder(self.root / start["inputs"]["head"]).log
            self._send(head)
            found = self._targets.get(str(head))
            return None if found is None else self._target(found.run_id, log_id, inode)
        run = self._known.get(log_id) or self._known.get(_report_of(start["stage"], start["key"]))
        if run is None:
            run = self._create(path, log_id, start)
            self._remember(run)
            return Target(run.info.run_id, log_id, 0, inode, verified=True)
        if run.info.lifecycle_stage == "deleted":
            return Target(run.info.run_id, log_id, _NEVER, inode)
        return Target(run.info.run_id, log_id, int(run.data.tags.get(_SENT + log_id, 0)), inode)

    def _target(self, run_id: str, log_id: str, inode: int) -> Target:
        """An MLflow run that takes the lines of a second log."""
        run = self._client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            return Target(run_id, log_id, _NEVER, inode)
        return Target(run_id, log_id, int(run.data.tags.get(_SENT + log_id, 0)), inode)

    def _remember(self, run: Any) -> None:
        tags = run.data.tags
        self._known[tags[_LOG]] = run
        if tags["stage"] == "report" and run.info.lifecycle_stage == "active":
            self._known[_report_of(tags["stage"], tags["config_digest"])] = run

    def _create(self, path: Path, log_id: str, start: Mapping[str, Any]) -> Any:
        tags = {
            _LOG: log_id,
            "stage": start["stage"],
            "dataset": start["dataset"],
            "backbone": start["backbone"],
            "config_digest": start["key"],
            "folder": str(path.parent.relative_to(self.root)),
            **{name: str(value) for name, value in start["labels"].items()},
        }
        parent = self._parent(start)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        labels = start["labels"]
        words = [str(labels.get("variant") or start["stage"])]
        words += [f"{name[0]}{labels[name]}" for name in ("order", "seed") if name in labels]
        experiment = self._experiment(start["dataset"])
        return self._client.create_run(
            experiment,
            start_time=round(1000 * start["time"]),
            tags=tags,
            run_name=" ".join([*words, start["key"][:4]]),
        )

    def _parent(self, start: Mapping[str, Any]) -> str | None:
        """MLflow id of the run that this one grew from: pretrain > finetune > features and heads."""
        inputs = start["inputs"]
        match start["stage"]:
            case "finetune":
                name = inputs.get("encoder")
            case "features":
                name = inputs.get("classifier", inputs.get("encoder"))
            case "train_head":
                features = _identity(RunFolder(self.root / inputs["features"]).log)[1]
                above = features["inputs"] if features else {}
                name = above.get("classifier", above.get("encoder", inputs["features"])) if features else None
            case _:
                name = None
        if name is None:
            return None
        log = RunFolder(self.root / name).log
        if not log.exists():
            return None
        self._send(log)
        target = self._targets.get(str(log))
        return target.run_id if target else None

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = server.experiment(self._client, name, self.root, self.uri)
        return self._experiments[name]

    def _send_events(self, path: Path, target: Target, events: Sequence[Mapping[str, Any]], end: int) -> None:
        metrics = [
            (name, value, round(1000 * event["time"]), event["step"])
            for event in events
            if event["event"] == "metrics"
            for name, value in event["metrics"].items()
        ]
        if metrics and not target.verified:
            there = server.points(self._client, target.run_id, {name for name, *_ in metrics})
            metrics = [point for point in metrics if (point[0], *point[2:]) not in there]
        start = next((event for event in events if event["event"] == "start"), None)
        is_own = start is None or start["stage"] != "evaluate"
        params = _params(start) if start and is_own else {}
        tags = _attempt_tags(start) if start and is_own else {}
        tags[f"{_SENT}{target.log_id}"] = str(end)
        for event in events:
            if event["event"] == "artifact":
                self._send_artifact(target, event)
            elif event["event"] == "model":
                self._send_model(target, event)
        if start and is_own and (images := self._images(start)):
            server.log_dataset(self._client, target.run_id, start["dataset"], *images)
        server.send(self._client, target.run_id, metrics, params, tags)
        target.sent = end
        for event in events:
            self._status(path, target, event)

    def _send_artifact(self, target: Target, event: Mapping[str, Any]) -> None:
        path = self.root / event["path"]
        if path.is_dir():
            self._client.log_artifacts(target.run_id, str(path), event["to"])
        elif path.exists():
            self._client.log_artifact(target.run_id, str(path), event["to"])
        else:
            print(f"{path} is gone and is not sent to MLflow.", file=sys.stderr, flush=True)

    def _send_model(self, target: Target, event: Mapping[str, Any]) -> None:
        path = self.root / event["path"]
        if not (path / "MLmodel").is_file():
            print(f"{path} is gone and is not registered in MLflow.", file=sys.stderr, flush=True)
            return
        names = (event["name"], event["alias"], event["key"])
        register(self._client, target.run_id, path, *names, event["tags"])

    def _images(self, start: Mapping[str, Any]) -> tuple[str, Path, dict[str, Any]] | None:
        """Key, folder and manifest of the data set that a run sees, where it sees one."""
        name = start["inputs"].get("images")
        if name is None and (features := start["inputs"].get("features")):
            made_of = _identity(RunFolder(self.root / features).log)[1]
            name = made_of["inputs"].get("images") if made_of else None
        manifest = self.root / name / "dataset.json" if name else None
        if name is None or manifest is None or not manifest.is_file():
            return None
        return name.rsplit("-", 1)[1], manifest.parent, json.loads(manifest.read_text())

    def _status(self, path: Path, target: Target, event: Mapping[str, Any]) -> None:
        if event["event"] == "start" and event["stage"] != "evaluate":
            self._client.update_run(target.run_id, status="RUNNING")
        elif event["event"] == "end":
            _, start = _identity(path)
            if start is not None and start["stage"] != "evaluate":
                self._client.set_terminated(target.run_id, _STATUS[event["status"]], round(1000 * event["time"]))


def _report_of(stage: str, key: str) -> str:
    """Second name of a report's run: made once more, a report goes into the run that it had. Other stages have none."""
    return f"{stage} {key}"


def _identity(path: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Id of a log, and its first start event, or what says which log it stands beside."""
    try:
        with open(path, "rb") as file:
            lines = [line for line in (file.readline(), file.readline()) if line.endswith(b"\n")]
    except FileNotFoundError:
        return None, None
    if not lines:
        return None, None
    return json.loads(lines[0]).get("id"), json.loads(lines[1]) if len(lines) > 1 else None


def _chunks(path: Path, start: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The whole lines from a position on, in portions that fit one request, each with the position after it."""
    with open(path, "rb") as file:
        file.seek(start)
        events: list[dict[str, Any]] = []
        size, end = 0, start
        for line in file:
            if not line.endswith(b"\n"):
                break
            event = json.loads(line)
            count = len(event.get("metrics", {}))
            if events and size + count > _BATCH:
                yield events, end
                events, size = [], 0
            events.append(event)
            size += count
            end += len(line)
        if events:
            yield events, end


def _params(start: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run, flat."""
    flat: dict[str, str] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else key)
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else str(value)

    if start["stage"] != "report":
        walk(start["settings"], "")
    return {**flat, **{name: str(value) for name, value in start["labels"].items()}}


def _attempt_tags(start: Mapping[str, Any]) -> dict[str, str]:
    """What may differ between attempts at the same run."""
    slurm = start["machine"]["slurm"] or {}
    return {
        "git_sha": str(start["git"]["commit"]),
        "git_dirty": str(start["git"]["dirty"]),
        "host": start["machine"]["host"],
        "slurm_job_id": slurm.get("job_id", ""),
        "restarts": slurm.get("restart_count", "0"),
    }


# --- commands -------------------------------------------------------------------------------------------


def sync(root: Path) -> int:
    """Send what was not sent yet, once."""
    uri = server.tracking_uri(root)
    with server.sole_writer(root, wait_seconds=60) as alone:
        if not alone:
            raise UserError("Another mirror is at work here; it sends everything. See logs/mlflow-mirror.log.")
        try:
            mirror = Mirror(root, uri)
            mirror.send_new()
        except server.unreachable() as error:
            raise UserError(server.explain(uri, error)) from None
    print(f"Sent {mirror.lines:,} lines to {uri}. `mem track ui` opens the MLflow UI.")
    return 0


def follow(root: Path, parent: int | None) -> int:
    """Keep sending until the parent process ends or SIGTERM comes, then send the rest."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workflow's head says when to stop
    os.nice(5)
    uri = server.tracking_uri(root)
    with server.sole_writer(root, wait_seconds=0) as alone:
        if not alone:
            print("Another mirror is at work here.", flush=True)
            return 0
        mirror: Mirror | None = None
        complained = ""
        while True:
            began = time.process_time()
            last = bool(stopping) or (parent is not None and not psutil.pid_exists(parent))
            try:
                mirror = mirror or Mirror(root, uri)
                mirror.send_new()
                if complained:
                    print(f"{time.strftime('%H:%M:%S')} {uri} answers again.", flush=True)
                complained = ""
            except server.unreachable() as error:
                mirror = None  # what arrived is asked anew
                text = server.explain(uri, error)
                if text != complained:
                    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
                complained = text
            if last:
                return 1 if complained else 0
            deadline = time.monotonic() + _rest(time.process_time() - began)
            while time.monotonic() < deadline and not stopping:
                time.sleep(0.1)


def _rest(spent: float) -> float:
    """Seconds until the next pass, after one that took so much of a core."""
    return min(max(POLL_SECONDS, spent / _CORE_SHARE), _LONGEST_SECONDS)
