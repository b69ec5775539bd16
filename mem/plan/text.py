"""`mem plan`: from a study's files to the printed plan."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mem.config import Study
from mem.config.load import load_study
from mem.plan.estimate import Estimate, Estimator
from mem.plan.hours import Rates, core_gflops
from mem.plan.image_counts import Images, images_of
from mem.plan.table import rendered
from mem.runs.dag import study_runs


def plan_text(
    files: Sequence[str | Path],
    *,
    given: Mapping[str, int],
    peak_tflops: float,
    utilisation: float,
    cpu_gflops: float | None,
    device_gb: float,
) -> str:
    """What a study takes, as text.

    Args:
        files: The study's YAML, and files laid over it.
        given: Numbers of images that cannot be known otherwise.
        peak_tflops: Rate of one GPU in bfloat16.
        utilisation: Share of it that is reached.
        cpu_gflops: float32 matrix rate of a core; measured here where it is not given.
        device_gb: Memory of a GPU.

    Raises:
        UserError: As in `load_study` and `images_of`.
    """
    study = load_study(files)
    rates = Rates(peak_tflops, utilisation, core_gflops() if cpu_gflops is None else cpu_gflops, device_gb)
    images, estimates = estimated(study, given, rates)
    return rendered(study, images, estimates, rates, shutil.disk_usage(Path()).free)


def estimated(study: Study, given: Mapping[str, int], rates: Rates) -> tuple[Images, list[Estimate]]:
    """Images of a study and the estimates of its runs, each run once and after its inputs."""
    runs = list({run.key: run for run in study_runs(study)}.values())
    images = images_of(study, runs[0], given)
    estimator = Estimator(study, images, rates)
    return images, [estimator.estimate(run) for run in runs]
