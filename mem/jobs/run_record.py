"""The record of a finished run, and the decision whether a stage can use the record of another process."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from mem import files, provenance
from mem.errors import UserError
from mem.runs.folder import RunFolder, read_record
from mem.runs.outputs import OUTPUT_FILES, missing_outputs
from mem.runs.run_config import RunConfig
from mem.tracking.log import JsonLines, Log

logger = logging.getLogger("mem")


def is_complete(folder: RunFolder, run: RunConfig) -> bool:
    """Return whether the folder contains the record and all output files of this run.

    Snakemake deletes the outputs of a job before it starts the job, possibly while another process still writes them.
    The report stage has no output files in its run folder and is never complete.
    """
    try:
        record = read_record(folder.path)
    except UserError:
        return False
    missing = missing_outputs(folder.path, run.stage, run.settings, run.inputs)
    return record.get("key") == run.key and run.stage in OUTPUT_FILES and not missing


def write_record(folder: RunFolder, run: RunConfig, log: Log, results: Mapping[str, Any], start_time: float) -> None:
    """Write run.json, which marks the run as finished, and the "end" event.

    Args:
        folder: The run folder.
        run: The run.
        log: Log of rank 0. It contains the "start" event of this attempt.
        results: Results of the stage.
        start_time: Time at which the process of this attempt started.
    """
    assert isinstance(log, JsonLines)
    attempts = log.attempts
    attempts[-1].last = time.time()
    attempt_seconds = [attempt.seconds for attempt in attempts]
    cost = {"seconds": round(sum(attempt_seconds), 3), "attempts": len(attempts)}
    peak_memory = max(provenance.peak_memory_gb(), *(attempt.peak_memory_gb for attempt in attempts))
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
        "started": round(start_time, 3),
        **cost,
        "attempt_seconds": attempt_seconds,
        "peak_memory_gb": round(peak_memory, 3),
        "results": dict(results),
    }
    files.write_text(folder.record, json.dumps(record, indent=2) + "\n")
    log.event("end", status="finished", results=dict(results), **cost)
    total = f", {cost['seconds']:.0f} s in {len(attempts)} attempts" if len(attempts) > 1 else ""
    logger.info("%s: done in %.0f s%s.", run.title, attempt_seconds[-1], total)
