"""Measure the start time of heads, and the duration of a sweep of many heads on stored features.

    python benchmarks/head_sweep.py [--json] [--heads 75] [--seeds 9] [--cores 2] [--sample 6] [--before cd0e35e]

**start** is the CPU time of `mem train_head` and `mem evaluate` on small stored features, minus the CPU time of
`import torch`. The three processes alternate.

**sweep** is the CPU time of a study with `heads` x `seeds` heads and as many evaluations, through Snakemake, divided by
the CPU time of the same commands at an earlier commit. All processes are included: Snakemake, the fork server and the
mirror. The commands of the earlier commit are measured on a sample of the runs, without Snakemake, and extrapolated.
The same sample is also measured with the current code and without the fork server.

CPU time is the user and system time of a process and its child processes. Use a small sweep (`--heads 10 --seeds 2`)
for a quick check. The fixed cost of Snakemake's start then dominates.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import OtherLoad, processor

REPOSITORY = Path(__file__).parents[1]
CLASSES, WIDTH = 10, 64
PLAN = """
import json
from pathlib import Path
from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
study = load_study([Path("study.yaml")])
runs = study_runs(study)
write_configs(runs, study)
print(json.dumps([[run.stage, str(run.folder)] for run in runs]))
"""
"""Program that writes the configuration files of a study, and prints the stages and folders of its runs in order."""
TRAINING = {"global_batch": 128, "optimizer": "sgd", "weight_decay": 5.0e-4}


def write_features(folder: Path) -> None:
    """Write random features of a long-tailed training split, and of balanced val and test splits."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH))
    long_tail = (500 * 100 ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int)
    for split, counts in (("train", long_tail), ("val", [20] * CLASSES), ("test", [50] * CLASSES)):
        labels = np.repeat(np.arange(CLASSES), counts)
        write_split(folder, split, labels, centres[labels] + 1.5 * rng.standard_normal((len(labels), WIDTH)))


def write_split(folder: Path, split: str, labels: np.ndarray, features: np.ndarray) -> None:
    """Write the features and labels of a split, which `write_features_study` names."""
    np.save(folder / f"{split}.npy", features.astype(np.float32))
    np.save(folder / f"{split}-labels.npy", labels)


def write_features_study(folder: Path, name: str, seeds: int, heads: dict[str, Any]) -> Path:
    """Write a study of heads on the features in a folder to `study.yaml`."""
    files = {f"{split}_features": f"{split}.npy" for split in ("train", "val", "test")}
    files |= {f"{split}_labels": f"{split}-labels.npy" for split in ("train", "val", "test")}
    study = {
        "study": name,
        "dataset": {"source": "features", "name": "synthetic"} | files,
        "seeds": list(range(seeds)),
        "backbone": {"name": "synthetic", "kind": "none"},
        **dict.fromkeys(("pretrain", "finetune", "features")),
        "heads": heads,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def write_study(folder: Path, heads: int, seeds: int) -> Path:
    """Write a study with a linear probe and a sweep of cRT heads, which differ in learning rate, epochs and sampler."""
    sweep = {}
    for number in range(heads - 1):
        sampler = ("class_balanced", "instance")[number % 2]
        training = TRAINING | {"lr": 0.01 * (1 + number), "epochs": 3 + number % 10, "sampler": sampler}
        sweep[f"crt{number}"] = {"method": "crt", "training": training}
    probe = {"training": TRAINING | {"lr": 0.1, "epochs": 5, "sampler": "instance"}}
    return write_features_study(folder, "sweep", seeds, {"ce": probe} | sweep)


def measure(command: Sequence[str], folder: Path, **environment: str) -> tuple[float, float]:
    """Run a command, and return the CPU seconds of its processes and the wall-clock seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    variables = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(REPOSITORY)} | environment
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def snakemake(folder: Path, study: Path, cores: int, until: str, **environment: str) -> tuple[float, float]:
    """Run a study until a rule, and return the CPU seconds and the wall-clock seconds."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--quiet", "all"]
    command += ["--directory", str(folder), "--configfile", str(study), "--cores", str(cores), "--until", until]
    return measure(command, folder, **environment)


class Sample:
    """The first runs of a study, whose commands run the code of a checkout.

    Args:
        folder: Folder for the study.
        code: The checkout.
        heads: Number of heads. Each is trained and evaluated.
    """

    def __init__(self, folder: Path, code: Path, heads: int) -> None:
        folder.mkdir()
        self._folder, self._code = folder, code
        write_features(folder)
        write_study(folder, heads, 1)
        variables = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(code)}
        printed = subprocess.run(
            [sys.executable, "-c", PLAN], cwd=folder, env=variables, stdout=subprocess.PIPE, check=True
        )
        features, *runs = json.loads(printed.stdout)
        self.measure(*features)
        self.runs: list[tuple[str, str]] = [(stage, run) for stage, run in runs if stage in ("train_head", "evaluate")]
        """Stage and folder of each run, in the order of their dependencies."""

    def measure(self, stage: str, run: str) -> float:
        """Run the command of a run, and return its CPU seconds."""
        command = [sys.executable, "-m", "mem.cli", stage, "--config", f"{run}/config.yaml"]
        return measure(command, self._folder, PYTHONPATH=str(self._code))[0]


def measure_commands(folder: Path, earlier: Path, heads: int) -> dict[str, list[float]]:
    """Return the CPU seconds of importing PyTorch, and of commands with the current and the earlier code."""
    now, before = Sample(folder / "now", REPOSITORY, heads), Sample(folder / "before", earlier, heads)
    times: dict[str, list[float]] = {name: [] for name in ("import torch", "train_head", "evaluate", "before")}
    for current, previous in zip(now.runs, before.runs, strict=True):
        times["import torch"].append(measure([sys.executable, "-c", "import torch"], folder)[0])
        times[current[0]].append(now.measure(*current))
        times["before"].append(before.measure(*previous))
    return times


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--heads", type=int, default=75)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--cores", type=int, default=2, help="number of jobs that Snakemake runs at a time")
    parser.add_argument("--sample", type=int, default=6, help="number of heads whose commands are measured separately")
    parser.add_argument("--before", default="cd0e35e", metavar="COMMIT", help="earlier commit to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, earlier = Path(temporary), Path(temporary, "earlier")
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(earlier), options.before], check=True)
        try:
            result = compare(folder, earlier, options)
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    if not options.json:
        print("| | |\n|---|---:|")
        for name, value in result.items():
            print(f"| {name} | {value} |")
    print(json.dumps(result))


def compare(folder: Path, earlier: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the sweep and the sample, and return the results by name."""
    load = OtherLoad()
    sweep = folder / "sweep"
    sweep.mkdir()
    write_features(sweep)
    study = write_study(sweep, options.heads, options.seeds)
    snakemake(sweep, study, options.cores, "features")
    sweep_cpu, sweep_wall = snakemake(sweep, study, options.cores, "evaluate")
    jobs = sum(len(list(sweep.glob(f"runs/*/*/{stage}-*/run.json"))) for stage in ("train_head", "evaluate"))
    assert jobs == 2 * options.heads * options.seeds, f"{jobs} runs"
    times = measure_commands(folder, earlier, options.sample)
    median = {name: statistics.median(values) for name, values in times.items()}
    per_job = {
        "before": statistics.mean(times["before"]),
        "without_server": statistics.mean([*times["train_head"], *times["evaluate"]]),
        "sweep": sweep_cpu / jobs,
    }
    return {
        "processor": processor(),
        "cores_busy_with_other_programs": round(load.cores(), 1),
        "jobs": jobs,
        "import_torch_s": round(median["import torch"], 2),
        "train_head_start_s": round(median["train_head"] - median["import torch"], 2),
        "evaluate_start_s": round(median["evaluate"] - median["import torch"], 2),
        "cpu_s_per_job": {name: round(value, 2) for name, value in per_job.items()},
        "sweep_cpu_minutes": {name: round(value * jobs / 60, 1) for name, value in per_job.items()},
        "sweep_wall_minutes": round(sweep_wall / 60, 1),
        "sweep_vs_before": round(per_job["sweep"] / per_job["before"], 3),
        "largest_sweep_vs_before": round(per_job["sweep"] / min(times["before"]), 3),
    }


if __name__ == "__main__":
    main()
