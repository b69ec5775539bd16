"""Compute the plan of a study from its YAML files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mem.config import Study
from mem.config.load import load_study
from mem.plan.core_rate import core_rate
from mem.plan.estimate import Estimate, Estimator
from mem.plan.hours import Rates
from mem.plan.image_counts import ImageCounts, count_images
from mem.plan.known_costs import check_backbone
from mem.plan.render import render_plan
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
    """Return the plan of a study as text.

    Args:
        files: The study's YAML file, and files that override its settings.
        given: Numbers of images and classes, for datasets whose size is unknown before conversion.
        peak_tflops: bfloat16 matrix-product rate of one GPU, in TFLOP/s.
        utilisation: Share of the peak rate that training reaches.
        cpu_gflops: float32 matrix-product rate of a CPU core, in GFLOP/s. If `None`, it is measured on
            this machine, or it is the stored result of an earlier measurement.
        device_gb: Memory of a GPU in GB.

    Raises:
        UserError: As in `load_study`, `check_backbone` and `count_images`.
    """
    study = load_study(files)
    note = check_backbone(study)
    measured = core_rate() if cpu_gflops is None else None
    rates = Rates(peak_tflops, utilisation, measured.gflops if measured else cpu_gflops or 0.0, device_gb, measured)
    images, estimates = estimate_study(study, given, rates)
    plan = render_plan(study, images, estimates, rates, shutil.disk_usage(Path()).free)
    return f"{plan}\n{note}" if note else plan


def estimate_study(study: Study, given: Mapping[str, int], rates: Rates) -> tuple[ImageCounts, list[Estimate]]:
    """Return the image counts of a study and the estimates of its runs in topological order."""
    runs = list({run.key: run for run in study_runs(study)}.values())
    images = count_images(study, runs[0], given)
    estimator = Estimator(study, images, rates)
    return images, [estimator.estimate(run) for run in runs]
