"""Compute the plan of a study from its YAML files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.config import Study
from mem.config.load import load_study
from mem.errors import UserError
from mem.plan.core_rate import core_rate
from mem.plan.estimate import Estimate, Estimator
from mem.plan.gpu_benchmark import find_benchmark
from mem.plan.hours import CoreRate, Rates
from mem.plan.image_counts import ImageCounts, count_images
from mem.plan.known_costs import check_backbone
from mem.plan.render import render_plan
from mem.runs.dag import study_runs


@dataclass(frozen=True)
class AssumedGpu:
    """Description of a GPU by the options of `mem plan`. None means that an option is not given."""

    peak_tflops: float | None = None
    """bfloat16 matrix-product rate, in TFLOP/s."""
    utilisation: float | None = None
    """Share of the peak rate that training reaches."""
    memory_gb: float | None = None
    """Memory in GB."""
    benchmark: Path | None = None
    """Result of benchmarks/gpu.py."""

    def rates(self, core_gflops: float, core: CoreRate | None) -> Rates:
        """Return the rates of all devices.

        The benchmark in the current folder is not used if a rate is given. An option takes precedence over a benchmark.
        """
        assumed = self.peak_tflops is not None or self.utilisation is not None
        measured = None if assumed and self.benchmark is None else find_benchmark(self.benchmark)
        defaults = Rates()
        return Rates(
            self.peak_tflops or (measured.matrix_tflops if measured else defaults.peak_tflops),
            self.utilisation or defaults.utilisation,
            core_gflops,
            self.memory_gb or (measured and measured.memory_gb) or defaults.device_gb,
            core,
            measured,
        )


def plan_text(
    files: Sequence[str | Path],
    *,
    given: Mapping[str, int],
    gpu: AssumedGpu,
    cpu_gflops: float | None,
) -> str:
    """Return the plan of a study as text.

    Args:
        files: The study's YAML file, and files that override its settings.
        given: Numbers of images and classes, for datasets whose size is unknown before conversion.
        gpu: The options that describe a GPU.
        cpu_gflops: float32 matrix-product rate of a CPU core, in GFLOP/s. If `None`, it is measured on
            this machine, or it is the stored result of an earlier measurement.

    Raises:
        UserError: As in `load_study`, `check_backbone`, `find_benchmark` and `count_images`.
    """
    study = load_study(files)
    note = check_backbone(study)
    measured = core_rate() if cpu_gflops is None else None
    rates = gpu.rates(measured.gflops if measured else cpu_gflops or 0.0, measured)
    images, estimates = estimate_study(study, given, rates)
    plan = render_plan(study, images, estimates, rates, shutil.disk_usage(Path()).free)
    return f"{plan}\n{note}" if note else plan


def estimate_study(study: Study, given: Mapping[str, int], rates: Rates) -> tuple[ImageCounts, list[Estimate]]:
    """Return the image counts of a study and the estimates of its runs in topological order.

    Raises:
        UserError: As in `count_images`, or an objective is not defined for the number of classes.
    """
    runs = list({run.key: run for run in study_runs(study)}.values())
    images = count_images(study, runs[0], given)
    try:
        study.check_classes(images.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    estimator = Estimator(study, images, rates)
    return images, [estimator.estimate(run) for run in runs]
