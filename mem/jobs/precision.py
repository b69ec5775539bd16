"""The precision of a job's forward passes, which depends on the settings and on the devices of all ranks."""

from __future__ import annotations

from mem import precision
from mem.jobs.job import Job
from mem.precision import Precision

_NAMES: dict[Precision, str] = {"bf16": "bfloat16", "fp16": "float16"}


def precision_of(job: Job, requested: Precision) -> Precision:
    """Return the precision of the job's forward passes: `requested`, or `fp32` if the device of a rank lacks it.

    All ranks must call this function.
    """
    return "fp32" if job.world.any(not precision.is_supported(requested, job.world.device)) else requested


def precision_record(job: Job, requested: Precision, used: Precision) -> dict[str, str]:
    """Return the used precision for run.json, and print a message, if it is not the requested one."""
    if used == requested:
        return {}
    device = "processor" if job.world.device.type == "cpu" else "GPU"
    job.say(
        f"The {device} has no instructions for {_NAMES[requested]}, in which it would be slower than in float32. "
        f"The forward passes use float32 instead of precision {requested}."
    )
    return {"used_precision": used}
