"""Estimate how long the remaining runs of a study take, from the runs that have finished."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mem.projects.run_states import RunState

_FEWEST_RUNS = 3
"""Number of finished runs from which the time between jobs is estimated."""
_LARGEST_FACTOR = 5.0


@dataclass(frozen=True)
class TimeLeft:
    """The estimated remaining time of a study."""

    seconds: float
    unknown_stages: tuple[str, ...]
    """Stages without a finished run, whose waiting runs are not part of the time."""


def time_left(states: Sequence[RunState], threads: Callable[[str], int], cores: int | None, started: float) -> TimeLeft:
    """Estimate the remaining time of a study.

    A waiting run takes as long as finished runs of the same stage and head, or of the same stage. The runs are
    distributed over the cores in the order of the study. The result is scaled by the ratio of the real to the
    computed duration of the runs that have finished since the start of the workflow, which includes the time
    between jobs.

    Args:
        states: The runs in topological order.
        threads: Function that returns the number of cores of a run of a stage.
        cores: Number of cores; None if all runs can run at once.
        started: Time of the start of the workflow process in seconds since 1970.
    """
    seconds, unknown = dict[str, float](), dict[str, None]()
    durations = _typical_durations(states)
    for state in states:
        if state.state == "done":
            continue
        typical = durations.get(_kind(state)) or durations.get((state.run.stage, ""))
        if state.seconds_left is not None:
            seconds[state.run.key] = state.seconds_left
        elif typical is not None:
            elapsed = state.seconds if state.state == "running" else (state.share or 0.0) * typical
            seconds[state.run.key] = max(0.0, typical - elapsed)
        else:
            seconds[state.run.key] = 0.0
            unknown[state.run.stage] = None
    left = _scheduled([state for state in states if state.state != "done"], seconds, threads, cores)
    return TimeLeft(left * _factor(states, threads, cores, started), tuple(unknown))


def _kind(state: RunState) -> tuple[str, str]:
    return state.run.stage, str(state.run.labels.get("variant", ""))


def _typical_durations(states: Sequence[RunState]) -> dict[tuple[str, str], float]:
    """Return the median duration of finished runs by stage and head, and by stage.

    A running run whose remaining time is known counts if its stage has no finished run.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for state in states:
        if state.state == "done" and state.seconds > 0:
            found.setdefault(_kind(state), []).append(state.seconds)
            found.setdefault((state.run.stage, ""), []).append(state.seconds)
    for state in states:
        stage = (state.run.stage, "")
        if state.seconds_left is not None and stage not in found:
            found[stage] = [state.seconds + state.seconds_left]
    return {kind: statistics.median(values) for kind, values in found.items()}


def _factor(states: Sequence[RunState], threads: Callable[[str], int], cores: int | None, started: float) -> float:
    """Return the ratio of the real to the computed duration of the runs that finished since the start."""
    finished = [state for state in states if state.state == "done" and state.ended > started and state.seconds > 0]
    if len(finished) < _FEWEST_RUNS or cores is None:
        return 1.0
    computed = _scheduled(finished, {state.run.key: state.seconds for state in finished}, threads, cores)
    real = max(state.ended for state in finished) - started
    return min(max(real / computed, 1.0), _LARGEST_FACTOR) if computed > 0 else 1.0


def _scheduled(
    states: Sequence[RunState], seconds: Mapping[str, float], threads: Callable[[str], int], cores: int | None
) -> float:
    """Return the time after which all runs are done, if each starts as soon as its inputs and enough cores are free.

    Args:
        states: The runs in topological order.
        seconds: Duration of each run, by key.
        threads: Function that returns the number of cores of a run of a stage.
        cores: Number of cores; None if there is no limit.
    """
    ends: dict[str, float] = {}
    free = [0.0] * (cores or 0)
    """Time from which each core is free."""
    for state in states:
        run = state.run
        ready = max((ends.get(parent.key, 0.0) for parent in run.inputs.values()), default=0.0)
        if cores is not None:
            used = min(threads(run.stage), cores)
            free.sort()
            ready = max(ready, free[used - 1])
            free[:used] = [ready + seconds[run.key]] * used
        ends[run.key] = ready + seconds[run.key]
    return max(ends.values(), default=0.0)
