"""Describe the progress of a study: the output of `mem status`."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from mem.config.load import load_study
from mem.config.study_names import OWN_STUDIES, find_study, relative_to_working_folder, study_names
from mem.errors import UserError, first_of
from mem.progress import format_duration
from mem.projects.last_start import LastStart, read_last_start
from mem.projects.run_states import RunState, is_locked, run_state
from mem.projects.time_left import TimeLeft, time_left
from mem.report.table_formats import text_table
from mem.runs.dag import STAGES, study_runs
from mem.runs.working_folder import LOCK_FILE

_STATES = ("done", "running", "waiting", "interrupted", "failed")
_SHOWN = 10
"""Maximum number of runs of a state that are listed."""


def study_status(name: str | None, root: Path = Path()) -> str:
    """Return a description of the progress of a study in a working folder.

    Args:
        name: Path or name of the study. None is the study that was started last in the folder or, if none was started,
            the only study in its folder `config/`.
        root: The working folder.

    Raises:
        UserError: There is no such folder or study, or none was started and the folder contains several.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Expected the working folder of a study.")
    file, last = _chosen_study(name, read_last_start(root), root)
    paths, overrides = ([file.absolute()], {}) if last is None else (last.study_files, last.overrides)
    # As in the workflow process, relative paths in a study start at the working folder. Digests of files are in keys.
    with contextlib.chdir(root):
        study = load_study(paths, overrides)
        runs = {run.key: run for run in study_runs(study)}
    now = time.time()
    states = [run_state(run, now, root) for run in runs.values()]
    running = is_locked(root / LOCK_FILE) is True
    done = sum(state.state == "done" for state in states)
    lines = [f"Study {study.study} ({file}): {done:,} of {len(states):,} runs are done. {_process(running, root)}", ""]
    lines += [text_table(_table(states)), ""]
    lines += _listed("Running", [state for state in states if state.state == "running"])
    lines += _listed("Failed", [state for state in states if state.state == "failed"])
    lines += _listed("Interrupted", [state for state in states if state.state == "interrupted"])
    if done == len(states):
        results = f"mem results {study.study}" + _directory(root)
        return "\n".join([*lines, f"The study is complete. Results: {results}"])
    cores, started = (last.cores, last.time) if last is not None else (1, now)
    left = time_left(states, lambda stage: getattr(study.compute, stage).threads, cores, started)
    lines.append(_left(left))
    if not running:
        command = shlex.join(["mem", "run", str(name or file), *_changes(last)]) + _directory(root)
        lines.append(f"No workflow process is running. To start or resume the study: {command}")
    return "\n".join(lines)


def _changes(last: LastStart | None) -> list[str]:
    """Return the arguments of Snakemake that changed settings at the last start. Without them, other runs start."""
    if last is None:
        return []
    files = [str(path) for path in last.study_files[1:]]
    values = [f"{setting}={json.dumps(value, ensure_ascii=False)}" for setting, value in last.overrides.items()]
    return [*(["--configfile", *files] if files else []), *(["--config", *values] if values else [])]


def _chosen_study(name: str | None, last: LastStart | None, root: Path) -> tuple[Path, LastStart | None]:
    """Return the study's file, and the last start of a workflow process if it is of this study."""
    if name is not None:
        file = find_study(name)
        if last is None or last.study_files[0] != file.absolute():
            return file, None
    elif last is None:
        folder = root / OWN_STUDIES
        names = study_names([folder])
        if len(names) != 1:
            found = (
                f"{folder} contains several studies: {first_of(names)}" if names else f"{folder} contains no studies"
            )
            raise UserError(f"No study was started in this folder, and {found}. Run: mem status STUDY")
        return folder / f"{names[0]}.yaml", None
    assert last is not None
    return relative_to_working_folder(last.study_files[0]), last


def _process(running: bool, root: Path) -> str:
    if not running:
        return ""
    holder = (root / LOCK_FILE).read_text(encoding="utf-8", errors="replace").strip()
    return f"Workflow: {holder}."


def _table(states: Sequence[RunState]) -> list[list[str]]:
    """Return a table with the number of runs of each stage in each state, and the mean duration of finished runs."""
    shown = [name for name in _STATES if name in _STATES[:3] or any(state.state == name for state in states)]
    lines = [["stage", "runs", *shown, "time per run"]]
    for stage in STAGES:
        of_stage = [state for state in states if state.run.stage == stage]
        if not of_stage:
            continue
        seconds = [state.seconds for state in of_stage if state.state == "done" and state.seconds > 0]
        counts = [sum(state.state == name for state in of_stage) for name in shown]
        duration = format_duration(sum(seconds) / len(seconds)) if seconds else "-"
        lines.append([stage, str(len(of_stage)), *(str(count) if count else "-" for count in counts), duration])
    return lines


def _listed(title: str, states: Sequence[RunState]) -> list[str]:
    """Return lines that describe runs, with the reason and the path of the messages."""
    if not states:
        return []
    lines = [f"{title}:"]
    for state in states[:_SHOWN]:
        parts = [] if state.share is None else [f"{100 * state.share:.0f} %"]
        if state.state == "running":
            left = state.seconds_left
            parts.append(
                f"{format_duration(left)} left" if left is not None else f"{format_duration(state.seconds)} so far"
            )
        parts += [" ".join(state.reason.split())] if state.reason else []
        lines += [f"  {state.name}: {', '.join(parts)}", f"    log: {state.log}"]
    if len(states) > _SHOWN:
        lines.append(f"  and {len(states) - _SHOWN:,} more")
    return [*lines, ""]


def _left(left: TimeLeft) -> str:
    """Return a sentence about the remaining time."""
    if not left.unknown_stages:
        return f"Time left: about {format_duration(left.seconds)}"
    stages = ", ".join(left.unknown_stages)
    if left.seconds < 1:
        return f"Time left: unknown until a run of these stages has finished: {stages}. `mem plan STUDY` estimates it."
    return f"Time left: about {format_duration(left.seconds)}, without stages of which no run has finished: {stages}"


def _directory(root: Path) -> str:
    return "" if root == Path() else f" --directory {shlex.quote(str(root))}"
