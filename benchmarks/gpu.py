"""Measure training and feature extraction on one GPU within a time budget, and write one JSON file.

    python benchmarks/gpu.py --out gpu-benchmark.json             # on one GPU, at most 8 minutes
    python benchmarks/gpu.py --device cpu --quick --out FILE      # the same code with tiny models

`mem plan` takes its hours from the file (docs/how-to/plan.md). docs/performance/gpu.md describes its content.

The cases run mem's training loop and step, and the stage `features`, with the models of `config/paper/`, in bfloat16,
eagerly and compiled. Images come from main memory, so that only the copies to the GPU are part of a step. MFU is the
share of the matrix rate that is measured at the beginning. The real loader is measured separately: alone, and as the
source of MAE ViT-B's pretraining. A case that fails is recorded with its error; cases for which no time is left are
recorded as skipped.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.convert import write_beton
from benchmarks.gpu_cases import CASES, Case, TimedBatches, extract, study_of, train, workload
from benchmarks.machine import processor
from benchmarks.synthetic_photos import synthetic_photo
from mem import provenance
from mem.config import Augmentation
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.plan.gpu_benchmark import SCHEMA, model_settings
from mem.train.checkpoints import Checkpoints
from mem.train.step import StepOptions

FIRST_SECONDS: dict[bool | None, float] = {True: 60.0, False: 20.0}
"""Expected duration of the first compiled case and of the first other case, in seconds."""
Result = dict[str, Any]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark.json"), help="file to write (%(default)s)")
    parser.add_argument("--json", action="store_true", help="also print the content of the file as the last line")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=480, metavar="S", help="seconds for everything (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6, metavar="S", help="timed seconds per case (%(default)s)")
    parser.add_argument("--photos", type=int, default=512, help="synthetic photos for the loader (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models and short cases, for a test of this script")
    parser.add_argument("--no-compile", action="store_true", help="run only the eager cases")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these texts")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device. `--device cpu --quick` tests this script without one.", file=sys.stderr)
        return 2
    if options.quick:
        options.seconds, options.photos = min(options.seconds, 0.1), min(options.photos, 16)
    result = measure(options, Budget(options.budget))
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.out}: {result['seconds']:.0f} s")
    if options.json:
        print(json.dumps(result))
    return 0


@dataclass
class Budget:
    """The time for all cases."""

    seconds: float

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def allows(self, seconds: float) -> bool:
        """Return whether so much time is left."""
        return self.seconds - self.used >= seconds


def measure(options: argparse.Namespace, budget: Budget) -> Result:
    """Return the content of the file."""
    device = torch.device(options.device)
    rates = matrix_rates(device, quick=options.quick)
    result: Result = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": options.quick,
        "device": describe_device(device),
        "processor": processor(),
        "cores": provenance.cpus(),
        "torch": torch.__version__,
        "git": provenance.git_state(),
        "budget_s": options.budget,
        "matrix_tflops": max(rates.values()),
        "matrix_tflops_by_size": rates,
        "cases": [],
    }
    print(f"{result['device']['name']}: {result['matrix_tflops']:.3g} TFLOP/s in bfloat16", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for about, run in _parts(options, device, Path(folder)):
            result["cases"].append(about)
            attempt(about, run, budget, result["cases"])
            if "flops_per_image" in about:
                rate = about["images_per_s"] * about["flops_per_image"]
                about["mfu"] = round(rate / (result["matrix_tflops"] * 1e12), 4)
            print(json.dumps({k: v for k, v in about.items() if k != "model"}), flush=True)
    result["seconds"] = round(budget.used, 1)
    return result


def _parts(
    options: argparse.Namespace, device: torch.device, folder: Path
) -> Iterator[tuple[Result, Callable[[], Result]]]:
    """Yield a description of each part of the measurement, and a function that runs it."""
    speeds: list[Result] = []
    for compiled in (False,) if options.no_compile else (False, True):
        for case in CASES:
            about: Result = {"name": case.name, "stage": case.stage, "precision": "bf16", "compile": compiled}
            speeds.append(about)
            if any(text in case.name for text in options.only or [""]):
                yield about, lambda case=case, compiled=compiled: run_case(case, compiled, options, device)
            if about is speeds[0]:  # the loader is compared with the speed of the most important case
                for name, run in (
                    ("loader", lambda: run_loader(options, device, folder, speeds[0].get("images_per_s"))),
                    ("checkpoint", lambda: run_checkpoint(options, device, folder)),
                ):
                    if not options.only or name in options.only:
                        yield {"name": name, "stage": name}, run


def attempt(about: Result, run: Callable[[], Result], budget: Budget, cases: Sequence[Result]) -> None:
    """Run a case if the budget allows it, and add its result to `about`.

    The expected duration of a case is the mean of the earlier ones that are compiled, or not compiled, like it.
    """
    similar = [c["seconds"] for c in cases if c.get("compile") == about.get("compile") and "seconds" in c]
    if not budget.allows(statistics.fmean(similar) if similar else FIRST_SECONDS.get(about.get("compile"), 0.0)):
        about["status"] = "skipped"
        return
    began = time.monotonic()
    try:
        about |= {"status": "ok", **run()}
    except torch.OutOfMemoryError as error:
        about |= {"status": "out of memory", "error": str(error).splitlines()[0]}
    except Exception as error:  # one case must not end the others
        about |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    about["seconds"] = round(time.monotonic() - began, 1)


def run_case(case: Case, compiled: bool, options: argparse.Namespace, device: torch.device) -> Result:
    """Measure one case."""
    torch.manual_seed(0)
    study = study_of(case, options.quick)
    side = study.backbone.image_size  # type: ignore[union-attr]
    batch = 8 if options.quick else case.batch
    data = TimedBatches(device, batch, side, options.seconds)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    messages: list[str] = []
    if case.stage == "features":
        flops = extract(study, device, data, compiled=compiled)
    else:
        work = workload(case, study, device, batch)
        flops = work.flops
        _, messages = train(work, data, device, StepOptions(precision="bf16", compile=compiled))
    return {
        "batch": batch,
        "steps": data.steps,
        "images_per_s": round(data.images_per_second, 2),
        "flops_per_image": flops,
        "peak_memory_gb": round(provenance.peak_gpu_memory_gb() or provenance.peak_memory_gb(), 3),
        "messages": messages,
        "model": model_settings(case.stage, study),
    }


def run_loader(options: argparse.Namespace, device: torch.device, folder: Path, without: float | None) -> Result:
    """Measure the loader on synthetic photos (JPEG, shorter side 256): alone, and as the source of MAE ViT-B.

    `without` is the training's speed (images/s) with images in main memory.
    """
    case = CASES[0]
    study = study_of(case, options.quick)
    side, batch = study.backbone.image_size, 8 if options.quick else case.batch  # type: ignore[union-attr]
    encoding = Encoding("jpeg", 90, 256, "area")
    path = folder / "photos.beton"
    write_beton(path, (encode(synthetic_photo(i), encoding) for i in range(options.photos)), options.photos)
    images, cores = Beton(path), provenance.cpus()
    augmentation = Augmentation(crop_scale=(0.2, 1.0), flip=True)
    data = TrainingImages(images, InstanceSampler(len(images), 0), batch, side, augmentation, 0, cores)
    began, loaded = time.perf_counter(), 0
    for loaded_batch in data.from_step(0, 1_000_000):
        loaded += len(loaded_batch)
        if time.perf_counter() - began > options.seconds:
            break
    alone = loaded / (time.perf_counter() - began)
    work = workload(case, study, device, batch)
    step_options = StepOptions(precision="bf16")
    train(work, data, device, step_options, steps=3)  # warm-up
    steps = max(3, round(options.seconds * min(alone, without or alone) / batch))
    speed, _ = train(work, data, device, step_options, steps)
    return {
        "images_per_s": round(alone, 1),
        "images_per_s_per_core": round(alone / cores, 1),
        "training": case.name,
        "training_images_per_s": round(speed.images_per_second, 2),
        "training_images_per_s_without_loader": without,
        "host_data_wait": round(speed.data_wait, 4),
        "data_wait": None if not without else round(max(0.0, 1 - speed.images_per_second / without), 4),
    }


def run_checkpoint(options: argparse.Namespace, device: torch.device, folder: Path) -> Result:
    """Measure how long training waits for a checkpoint of MAE ViT-B, and when the checkpoint is on disk."""
    case = CASES[0]
    study = study_of(case, options.quick)
    work = workload(case, study, device, batch=2)
    data = TimedBatches(device, 2, study.backbone.image_size, 0.0)  # type: ignore[union-attr]
    train(work, data, device, StepOptions(precision="bf16", micro_batch=2))
    checkpoints = Checkpoints(folder / "checkpoints", "benchmark", 0, print)
    waits: list[float] = []
    on_disk: list[float] = []
    for _ in range(2):
        work.state.step += 1
        began = time.perf_counter()
        checkpoints.save(work.state)
        waits.append(round(time.perf_counter() - began, 3))
        checkpoints.wait()
        on_disk.append(round(time.perf_counter() - began, 3))
    size = max(path.stat().st_size for path in checkpoints.folder.iterdir())
    shutil.rmtree(checkpoints.folder)
    return {"bytes": size, "training_waits_s": waits, "on_disk_after_s": on_disk}


def matrix_rates(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return the rate of bfloat16 matrix products of several sizes, in TFLOP/s."""
    rates: dict[str, float] = {}
    sides = (2048, 4096, 8192, 16384) if device.type == "cuda" and not quick else (256, 512)
    for side in sides:
        a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        repeats = max(3, round(2e13 / side**3)) if device.type == "cuda" else 3
        for count in (3, repeats):
            began = time.perf_counter()
            for _ in range(count):
                torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - began
        rates[str(side)] = round(2 * side**3 * repeats / elapsed / 1e12, 3)
    return rates


def describe_device(device: torch.device) -> Result:
    """Return the name, the memory and the driver of the device."""
    if device.type == "cpu":
        return {"name": processor(), "memory_gb": None, "driver": None, "cuda": None}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = None
    properties = torch.cuda.get_device_properties(device)
    memory = round(properties.total_memory / 1e9, 1)
    return {"name": properties.name, "memory_gb": memory, "driver": driver, "cuda": torch.version.cuda}


if __name__ == "__main__":
    sys.exit(main())
