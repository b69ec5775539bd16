"""Run a stage: configuration, folder lock, inputs, log, provenance, run record and exit status."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem import files, provenance
from mem.config.compute import MULTI_RANK_STAGES
from mem.distributed import World, single_process, world_from_environment
from mem.distributed.variables import shown_rank
from mem.errors import Stopped, UserError
from mem.jobs.allocator import keep_freed_memory
from mem.jobs.messages import message_handlers
from mem.jobs.run_record import is_complete, write_record
from mem.jobs.signals import StopSignals, watch_workflow_process
from mem.jobs.threads import stage_threads
from mem.jobs.unfinished import RESUMABLE_STAGES, discard_for_other_inputs, remove_unfinished
from mem.runs.folder import RunFolder, read_record
from mem.runs.outputs import missing_outputs
from mem.runs.run_config import RunConfig, read_config
from mem.tracking.log import JsonLines, Log, NullLog
from mem.tracking.system import SystemMetrics, has_system_metrics
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext

EXIT_USER_ERROR = 2
EXIT_STOPPED = 143
"""Exit status of a stage that stopped on request, equal to that of a process ended by SIGTERM. The run is unfinished
and resumes when it is restarted."""

logger = logging.getLogger("mem")


@dataclass(frozen=True)
class Job:
    """The run that a stage function computes, with its inputs, log and processes."""

    run: RunConfig
    folder: RunFolder
    inputs: Mapping[str, Path]
    """Folder of each input run, by name."""
    world: World
    log: Log
    stop: StopSignals
    threads: int = 1
    """Number of threads of PyTorch's operations, and of the loader."""

    def say(self, text: str) -> None:
        """Print a message on the terminal and write it to the log file, on rank 0 only."""
        if self.world.is_main:
            logger.info(text)

    def checkpoints(self) -> Checkpoints:
        """Return the run's checkpoints."""
        return Checkpoints(
            self.folder.checkpoints,
            self.run.key,
            every_seconds=60 * self.run.compute.checkpoint_minutes,
            warn=self.say,
            world=self.world,
        )

    def fit_context(self, name: str = "") -> FitContext:
        """Return the context for a training loop in this run. `name` is the model's name in error messages."""
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


StageFunction = Callable[[Job], Mapping[str, Any]]
"""Function that computes a stage and returns the results for run.json."""


def run_stage(
    stage: str,
    function: StageFunction,
    config: Path,
    out: Path | None,
    log_file: Path | None,
    inputs: Mapping[str, Path],
) -> int:
    """Run a stage: read the configuration, compute the outputs, and write run.json.

    Args:
        stage: Name of the stage.
        function: Stage function, which computes the outputs.
        config: The run's config.yaml, or the folder that contains it.
        out: Run folder. None selects the folder of `config`.
        log_file: File for messages. Ranks other than 0 append `.rankN` to the file name.
        inputs: Folders of input runs by name. They override the folders in the configuration.

    Returns:
        The exit status: 0 for success, `EXIT_USER_ERROR`, `EXIT_STOPPED`, 130 for a SIGINT after an earlier stop
        signal, or 1 for an unexpected error.
    """
    start_time = time.time()
    rank = shown_rank() if stage in MULTI_RANK_STAGES else 0
    try:
        with message_handlers(logger, log_file, rank):
            return _exit_status(stage, function, config, out, inputs, start_time)
    except OSError as error:
        print(f"mem {stage}: {files.describe_os_error(error, log_file or config)}", file=sys.stderr)
        return EXIT_USER_ERROR


def _exit_status(
    stage: str,
    function: StageFunction,
    config: Path,
    out: Path | None,
    inputs: Mapping[str, Path],
    start_time: float,
) -> int:
    """Run the stage, report errors as messages, and return the exit status."""
    stop = StopSignals()
    folder = RunFolder(out or (config if config.is_dir() else config.parent))
    try:
        run = read_config(config, stage)
        # A stage that runs as one process ignores the variables of several ranks, for example those of a shell.
        world_context = world_from_environment(logger.warning) if stage in MULTI_RANK_STAGES else single_process()
        with stop, world_context as world, contextlib.ExitStack() as stack:
            watch_workflow_process(stop)
            if world.from_main(_lock(folder, run, world, stack)):
                return 0
            input_folders = _resolve_inputs(run, inputs)
            if world.is_main and stage in RESUMABLE_STAGES:
                discard_for_other_inputs(folder, input_folders, logger.warning)
            keep_freed_memory()
            threads = stack.enter_context(stage_threads(stage, run.compute.threads, world, logger.info))
            log = _open_log(folder, world, stack)
            _log_start(log, run)
            logger.debug("%s, key %s, in %s", run.title, run.key, folder.path)
            try:
                _start_system_metrics(folder, run.stage, world, log, stack)
                results = _compute(function, Job(run, folder, input_folders, world, log, stop, threads))
            except Stopped:
                log.event("end", status="stopped", reason=stop.reason, **_peak_memory())
                raise
            except BaseException as error:
                with contextlib.suppress(OSError):  # on a full disk, report the first error
                    log.event("end", status="failed", reason=f"{type(error).__name__}: {error}", **_peak_memory())
                raise
            world.barrier()
            if world.is_main:
                stop.hold()
                write_record(folder, run, log, results, start_time)
                _remove_unfinished(folder)
        return 0
    except Stopped as stopped:
        logger.warning("%s (%s) Run the same command to resume.", stopped, stop.reason)
        return EXIT_STOPPED
    except UserError as error:
        logger.error("mem %s: %s", stage, error)
    except OSError as error:
        if error.errno not in files.USER_ERRORS:
            logger.exception("mem %s failed", stage)
            return 1
        logger.error("mem %s: %s", stage, files.describe_os_error(error, folder.path))
    except KeyboardInterrupt:
        logger.error("mem %s: interrupted", stage)
        return 130
    except Exception:
        logger.exception(
            "mem %s failed with an unexpected error. This is a bug in mem, not an error in your settings", stage
        )
        return 1
    return EXIT_USER_ERROR


def _compute(function: StageFunction, job: Job) -> Mapping[str, Any]:
    """Return the results of a stage.

    Raises:
        UserError: The stage did not find a file, and an input run lacks an output file.
    """
    try:
        return function(job)
    except FileNotFoundError:
        for name, folder in job.inputs.items():
            record = read_record(folder)
            if missing := missing_outputs(folder, record["stage"], record["settings"], record["inputs"]):
                raise UserError(
                    f"{folder}: input {name} of this run lacks {', '.join(missing)}. Run it again: "
                    f"mem {record['stage']} --config {RunFolder(folder).config}"
                ) from None
        raise


def _lock(folder: RunFolder, run: RunConfig, world: World, stack: contextlib.ExitStack) -> bool:
    """Lock the run folder on rank 0. Return whether another process finished the run while this one waited."""
    if not world.is_main:
        return False
    finished_meanwhile = stack.enter_context(folder.locked(say=logger.info))
    if not (finished_meanwhile and is_complete(folder, run)):
        return False
    logger.info("%s: another process finished this run in the meantime. Nothing is left to do.", run.title)
    return True


def _remove_unfinished(folder: RunFolder) -> None:
    """Remove checkpoints, which are needed until run.json exists. The run is finished even if this fails."""
    try:
        remove_unfinished(folder)
    except OSError as error:
        logger.warning("%s: files of earlier attempts cannot be removed: %s", folder.path, error)


def _peak_memory() -> dict[str, float]:
    """Return the field of an "end" event with the peak memory of an unfinished attempt."""
    return {"peak_memory_gb": round(provenance.peak_memory_gb(), 3)}


def _resolve_inputs(run: RunConfig, given: Mapping[str, Path]) -> dict[str, Path]:
    """Return the folder of each input: the given folder, or the folder in the configuration.

    Raises:
        UserError: An input is unknown, is not finished, or is not the configured run.
    """
    unknown = set(given) - set(run.inputs)
    if unknown:
        raise UserError(
            f"{run.path}: this run has no input {', '.join(sorted(unknown))}. Its inputs: {', '.join(run.inputs)}."
        )
    folders: dict[str, Path] = {}
    for name, recorded in run.inputs.items():
        folder = given.get(name, Path(recorded))
        folder = folder.parent if folder.is_file() else folder
        if not RunFolder(folder).finished():
            state = "is not finished" if folder.is_dir() else "does not exist"
            raise UserError(
                f"{folder}: input {name} of this run {state}. Run the study, or "
                f"this stage first: mem {folder.name.rsplit('-', 1)[0]} --config {RunFolder(folder).config}"
            )
        key = read_record(folder)["key"]
        expected = recorded.rsplit("-", 1)[1]
        if key != expected:
            raise UserError(
                f"{folder}: this is run {key}, but this run needs {name} {expected}. Pass the folder of that run."
            )
        folders[name] = folder
    return folders


def _open_log(folder: RunFolder, world: World, stack: contextlib.ExitStack) -> Log:
    """Open the run's log on rank 0. If the run is already finished, mark it as unfinished and rename its old log."""
    if not world.is_main:
        return NullLog()
    if folder.finished():
        if folder.log.exists():
            number = len(list(folder.path.glob("log-*.jsonl"))) + 1
            folder.log.rename(folder.path / f"log-{number}.jsonl")
        folder.record.unlink()
    return stack.enter_context(JsonLines(folder.log))


def _start_system_metrics(folder: RunFolder, stage: str, world: World, log: Log, stack: contextlib.ExitStack) -> None:
    """Log system metrics of this rank's node and GPU. Rank 0 uses the run's log; other ranks use separate files."""
    log_id = world.from_main(log.id if isinstance(log, JsonLines) else None)
    if not has_system_metrics(world):
        return
    if not isinstance(log, JsonLines):
        try:
            log = stack.enter_context(JsonLines(folder.rank_log(world.rank, log_id)))
            log.event("beside", log=log_id)
        except (OSError, ValueError) as error:
            logger.warning("Rank %d does not log system metrics: %s", world.rank, error)
            return
    # In MLflow, an evaluation belongs to the run of its head, so its metrics need a prefix.
    stack.enter_context(SystemMetrics(log, folder.path, world, stage if stage == "evaluate" else ""))


def _log_start(log: Log, run: RunConfig) -> None:
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
