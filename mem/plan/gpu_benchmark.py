"""Measured rates of a GPU: the file that `benchmarks/gpu.py` writes.

The benchmark runs the models of the paper's recipes. A training whose model it did not run takes the rate (FLOP/s) of
the measured model of the same stage whose FLOPs per image are closest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.config import Study
from mem.errors import UserError

SCHEMA = 1
"""Version of the file's format. Increase it when the meaning of a field changes."""
DEFAULT_FILE = Path("gpu-benchmark.json")
"""File in the current folder that is used if it exists."""
_UNCOSTED = ("name", "center_crop", "norm_batch")
"""Settings of a backbone that do not change its FLOPs."""


@dataclass(frozen=True)
class MeasuredRate:
    """The rate at which a GPU computes a stage, and where it is from."""

    flops_per_second: float
    """Model FLOPs per second on one GPU."""
    source: str
    """Description of the measurement, for the plan."""


@dataclass(frozen=True)
class GpuBenchmark:
    """A measurement of one GPU."""

    path: Path
    device: str
    memory_gb: float | None
    date: str
    matrix_tflops: float
    """Measured rate of bfloat16 matrix products."""
    cases: tuple[Mapping[str, Any], ...]
    """The cases that succeeded."""
    loader_images_per_core: float | None
    """Images that one core decodes and crops per second, on the machine of the GPU."""

    def rate(self, stage: str, study: Study, flops_per_image: float) -> MeasuredRate | None:
        """Return the rate of a stage in bfloat16, or None if the benchmark measured no model of this stage.

        Of several measurements of a model, the one that is compiled, or not compiled, like the stage is preferred.
        """
        cases = [case for case in self.cases if case["stage"] == stage and case["precision"] == "bf16"]
        if not cases or not flops_per_image:
            return None
        compiled = getattr(study.compute, stage).compile
        settings = model_settings(stage, study)

        def distance(case: Mapping[str, Any]) -> tuple[bool, float, bool]:
            far = abs(math.log(case["flops_per_image"] / flops_per_image))
            return case["model"] != settings, round(far, 6), case["compile"] != compiled

        case = min(cases, key=distance)
        rate = case["images_per_s"] * case["flops_per_image"]
        how = "compiled" if case["compile"] else "not compiled"
        text = f"{case['name']}, {how}, {case['images_per_s']:,.0f} images/s"
        if case["model"] != settings:
            ratio = flops_per_image / case["flops_per_image"]
            text = f"scaled by FLOPs ({ratio:.3g}x) from {text}, the nearest measured model"
        return MeasuredRate(rate, f"{text} ({100 * rate / self.matrix_tflops / 1e12:.0f} % of the matrix rate)")


def model_settings(stage: str, study: Study) -> dict[str, Any]:
    """Return the settings that determine the cost of a study's model in a stage, as the benchmark records them."""
    backbone = study.backbone.model_dump(mode="json")
    content: dict[str, Any] = {"backbone": {name: v for name, v in backbone.items() if name not in _UNCOSTED}}
    if stage == "pretrain" and study.pretrain is not None:
        decoder = study.pretrain.decoder.model_dump(mode="json")
        content |= {"decoder": decoder, "mask_ratio": study.pretrain.mask_ratio}
    return content


def find_benchmark(path: Path | None) -> GpuBenchmark | None:
    """Read the given file or, without one, the file `DEFAULT_FILE` if it exists.

    Raises:
        UserError: The file is missing, or is not the result of the benchmark.
    """
    if path is None:
        return read_benchmark(DEFAULT_FILE) if DEFAULT_FILE.is_file() else None
    return read_benchmark(path)


def read_benchmark(path: Path) -> GpuBenchmark:
    """Read the result of `benchmarks/gpu.py`.

    Raises:
        UserError: The file is missing, damaged, of another version, or the result of a test with tiny models.
    """
    advice = "Run `python benchmarks/gpu.py` on a GPU to write it."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: this file has format {content['schema']}, but this version reads format {SCHEMA}. {advice}"
            )
        if content["quick"]:
            raise UserError(f"{path}: written with --quick, which measures tiny models. {advice}")
        succeeded = [case for case in content["cases"] if case["status"] == "ok"]
        loader = next((case["images_per_s_per_core"] for case in succeeded if case["stage"] == "loader"), None)
        cases = tuple(case for case in succeeded if "flops_per_image" in case)
        for case in cases:
            _ = case["stage"], case["precision"], case["compile"], case["model"], case["name"]
            if not case["images_per_s"] * case["flops_per_image"] > 0:
                raise ValueError(f"case {case['name']} has no speed")
        device = content["device"]
        matrix = float(content["matrix_tflops"])
        return GpuBenchmark(path, device["name"], device["memory_gb"], content["date"], matrix, cases, loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. {advice}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a result of benchmarks/gpu.py ({type(error).__name__}: {error}). {advice}"
        ) from None
