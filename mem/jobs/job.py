"""What every stage run shares: configuration, folder, lock, log, world, provenance, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem import files, provenance
from mem.distributed import World, world_from_environment
from mem.errors import Stopped, UserError
from mem.jobs.signals import StopSignals, watch_workflow_process
from mem.runs.folder import RunConfig, RunFolder, read_config
from mem.tracking.log import JsonLines, Log, NullLog
from mem.tracking.system import SystemMetrics, watched
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext

EXIT_USER_ERROR = 2
EXIT_STOPPED = 143
"""As after SIGTERM: the run is not done, and goes on when started again."""
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

logger = logging.getLogger("mem")


@dataclass(frozen=True)
class Job:
    """A stage run at work."""

    run: RunConfig
    folder: RunFolder
    inputs: Mapping[str, Path]
    """Folder of each input run, by name."""
    world: World
    log: Log
    stop: StopSignals

    def say(self, text: str) -> None:
        """Tell the user, on the terminal and in the log file; rank 0 only."""
        if self.world.is_main:
            logger.info(text)

    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(
            self.folder.checkpoints,
            self.run.key,
            every_seconds=60 * self.run.compute.checkpoint_minutes,
            warn=self.say,
            world=self.world,
        )

    def fit_context(self, name: str = "") -> FitContext:
        """Return the surroundings of a training in this run; `name` is the trained model's name in messages."""
        return FitContext(
            title=self.run.title,
            world=self.world,
            checkpoints=self.checkpoints(),
            log=self.log,
            stop=self.stop,
            say=self.say,
            name=name,
        )

    @property
    def seed(self) -> int:
        """The run's seed."""
        assert self.run.seed is not None
        return self.run.seed


Stage = Callable[[Job], Mapping[str, Any]]
"""Does the work; returns what run.json should say of it."""


def run_stage(
    stage: str, work: Stage, config: Path, out: Path | None, log_file: Path | None, inputs: Mapping[str, Path]
) -> int:
    """Run a stage from its configuration to its run.json.

    Returns:
        The exit status: 0, or `EXIT_USER_ERROR`, or `EXIT_STOPPED`.
    """
    began = time.time()
    rank = int(os.environ.get("RANK", "0") or 0)
    try:
        with _log_to(log_file, rank):
            return _guarded(stage, work, config, out, inputs, began)
    except OSError as error:
        print(f"mem {stage}: {_explained(error)}", file=sys.stderr)
        return EXIT_USER_ERROR


def _guarded(stage: str, work: Stage, config: Path, out: Path | None, inputs: Mapping[str, Path], began: float) -> int:
    stop = StopSignals()
    try:
        run = read_config(config, stage)
        folder = RunFolder(out or run.path.parent)
        with stop, world_from_environment() as world, contextlib.ExitStack() as stack:
            watch_workflow_process(stop)
            if world.is_main:
                stack.enter_context(folder.locked(say=logger.info))
            world.barrier()
            found = _resolve_inputs(run, inputs)
            log = _open_log(folder, world, stack)
            _begin(log, run)
            logger.debug("%s, key %s, in %s", run.title, run.key, folder.path)
            try:
                _watch(folder, run.stage, world, log, stack)
                results = work(Job(run, folder, found, world, log, stop))
            except Stopped:
                log.event("end", status="stopped", reason=stop.reason)
                raise
            except BaseException as error:
                log.event("end", status="failed", reason=f"{type(error).__name__}: {error}")
                raise
            world.barrier()
            if world.is_main:
                _finish(folder, run, log, results, began)
        return 0
    except Stopped as stopped:
        logger.warning("%s (%s) The same command goes on from there.", stopped, stop.reason)
        return EXIT_STOPPED
    except UserError as error:
        logger.error("mem %s: %s", stage, error)
    except OSError as error:
        if error.errno not in files.DISK_FULL_ERRORS | _FORBIDDEN:
            logger.exception("mem %s failed", stage)
            return 1
        logger.error("mem %s: %s", stage, _explained(error))
    except KeyboardInterrupt:
        logger.error("mem %s: interrupted", stage)
        return 130
    except Exception:
        logger.exception("mem %s failed; this is a fault of the program, not of your settings", stage)
        return 1
    return EXIT_USER_ERROR


def _resolve_inputs(run: RunConfig, given: Mapping[str, Path]) -> dict[str, Path]:
    """Folder of each input: the one given, else the one in the configuration; each must be finished."""
    unknown = set(given) - set(run.inputs)
    if unknown:
        raise UserError(
            f"{run.path}: this run has no input {', '.join(sorted(unknown))}; it has {', '.join(run.inputs)}"
        )
    found: dict[str, Path] = {}
    for name, recorded in run.inputs.items():
        folder = given.get(name, Path(recorded))
        folder = folder.parent if folder.is_file() else folder
        if not RunFolder(folder).finished():
            state = "is not finished" if folder.is_dir() else "does not exist"
            raise UserError(
                f"{folder}: the {name} of this run {state}. Make it first: mem {folder.name.rsplit('-', 1)[0]}"
            )
        key = json.loads(RunFolder(folder).record.read_text())["key"]
        expected = recorded.rsplit("-", 1)[1]
        if key != expected:
            raise UserError(f"{folder}: is run {key}, but this run was configured for {name} {expected}")
        found[name] = folder
    return found


def _open_log(folder: RunFolder, world: World, stack: contextlib.ExitStack) -> Log:
    if not world.is_main:
        return NullLog()
    if folder.finished():
        # A finished run that is made once more begins a new log; the old one stays.
        if folder.log.exists():
            number = len(list(folder.path.glob("log-*.jsonl"))) + 1
            folder.log.rename(folder.path / f"log-{number}.jsonl")
        folder.record.unlink()
    return stack.enter_context(JsonLines(folder.log))


def _watch(folder: RunFolder, stage: str, world: World, log: Log, stack: contextlib.ExitStack) -> None:
    """Log what this rank's node and GPU do: rank 0 into the run's own log, others beside it."""
    log_id = world.from_main(log.id if isinstance(log, JsonLines) else None)
    if not watched(world):
        return
    if not isinstance(log, JsonLines):
        try:
            log = stack.enter_context(JsonLines(folder.rank_log(world.rank, log_id)))
            log.event("beside", log=log_id)
        except (OSError, ValueError) as error:
            logger.warning("Rank %d logs no system metrics: %s", world.rank, error)
            return
    # An evaluation's log goes into its head's run in MLflow.
    stack.enter_context(SystemMetrics(log, folder.path, world, stage if stage == "evaluate" else ""))


def _begin(log: Log, run: RunConfig) -> None:
    log.event(
        "start",
        stage=run.stage,
        key=run.key,
        dataset=run.dataset,
        backbone=run.backbone,
        labels=dict(run.labels),
        seed=run.seed,
        settings=dict(run.settings),
        inputs=dict(run.inputs),
        git=provenance.git_state(),
        machine=provenance.machine(),
        versions=provenance.versions(),
    )


def _finish(folder: RunFolder, run: RunConfig, log: Log, results: Mapping[str, Any], began: float) -> None:
    seconds = time.time() - began
    attempts = log.attempts + 1 if isinstance(log, JsonLines) else 1
    record = {
        "stage": run.stage,
        "key": run.key,
        "dataset": run.dataset,
        "backbone": run.backbone,
        "labels": dict(run.labels),
        "seed": run.seed,
        "settings": dict(run.settings),
        "inputs": dict(run.inputs),
        "compute": run.compute.model_dump(mode="json"),
        "git": provenance.git_state(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "started": round(began, 3),
        "seconds": round(seconds, 3),
        "attempts": attempts,
        "peak_memory_gb": round(provenance.peak_memory_gb(), 3),
        "results": dict(results),
    }
    files.write_text(folder.record, json.dumps(record, indent=2) + "\n")
    log.event("end", status="finished", results=dict(results), seconds=round(seconds, 3), attempts=attempts)
    logger.info("%s: done in %.0f s.", run.title, seconds)


@contextlib.contextmanager
def _log_to(path: Path | None, rank: int) -> Iterator[None]:
    """Messages go to the terminal, and with details to the log file; other ranks write beside it."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [terminal]
    if path is not None:
        own = path if rank == 0 else path.with_name(f"{path.name}.rank{rank}")
        own.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(own, mode="a", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers.append(file)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _explained(error: OSError) -> str:
    where = error.filename or "the file"
    if error.errno in files.DISK_FULL_ERRORS:
        return f"{where}: the disk is full. Nothing half-written was left; free some space and run the same command."
    if error.errno in _FORBIDDEN:
        return f"{where}: no permission to write there."
    return str(error)
