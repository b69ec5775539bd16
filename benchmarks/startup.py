"""Measure the time of commands that have nothing to compute, and of `snakemake -n` for a large study.

    python benchmarks/startup.py [--json] [--heads 75] [--seeds 9] [--rounds 5] [--before cd0e35e]

**commands** is the time of `mem results`, `mem plan`, `mem runs`, `mem data check` and others, divided by the time of
`python -c "import torch"` in the same round. `mem plan` runs once before the measurement, so that the costs of the
models are stored, and with `--core-gflops`, so that it measures nothing. `results.csv` contains random scores.

**snakemake** is the time of `snakemake -n` for a study with `heads` x `seeds` heads and as many evaluations, divided by
the time of `snakemake -n` for a plain workflow in the same round. The plain workflow has the same numbers of jobs,
inputs and outputs, but its rules read nothing and write no configurations. "first" is the first start in a new folder.

With `--before`, the same commands are also measured with the code of an earlier commit. All commands of a round run one
after the other. CPU time is the user and system time of a command and its child processes; the wall-clock times are
meaningful only on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.head_sweep import measure, write_features, write_study
from benchmarks.machine import OtherLoad, processor
from mem.report.results import SCORES, ScoreRow, to_csv

REPOSITORY = Path(__file__).parents[1]
DIGITS, TIMM = "config/digits_lt.yaml", "config/paper/inat18_resnext50.yaml"
"""Studies of the measured version of the code: each version reads its own."""
PLAN = ["plan", "--core-gflops", "50"]
COMMANDS = {
    "mem --help": ["--help"],
    "mem results (the large study)": ["results", "sweep"],
    "mem plan (Digits-LT)": [*PLAN, DIGITS],
    "mem plan (a timm network)": [*PLAN, TIMM],
    "mem plan (the large study)": [*PLAN, "study.yaml"],
    "mem runs (a timm network)": ["runs", TIMM],
    "mem runs (the large study)": ["runs", "study.yaml"],
    "mem data check (Digits-LT)": ["data", "check", DIGITS],
    "mem config --check (a timm network)": ["config", "--check", TIMM],
    "mem weights list": ["weights", "list"],
}
"""Arguments of `mem` by the name of the measurement."""
PLAIN = """
KEYS = [f"{number:012x}" for number in range(HEADS)]

rule all:
    input: "report.txt"

rule features:
    output: "runs/features/run.json"
    shell: "touch {output}"

rule train_head:
    input: features="runs/features/run.json"
    output:
        about="runs/train_head-{key}/head.json",
        weights="runs/train_head-{key}/head.safetensors",
        run="runs/train_head-{key}/run.json",
    log: "logs/train_head-{key}.log"
    resources: mem_mb=4000, runtime=60
    shell: "touch {output}"

rule evaluate:
    input: head="runs/train_head-{key}/run.json", features="runs/features/run.json"
    output:
        metrics="runs/evaluate-{key}/metrics.json",
        predictions="runs/evaluate-{key}/predictions.parquet",
        run="runs/evaluate-{key}/run.json",
    log: "logs/evaluate-{key}.log"
    resources: mem_mb=4000, runtime=60
    shell: "touch {output}"

rule report:
    input: expand("runs/evaluate-{key}/run.json", key=KEYS)
    output: "report.txt"
    shell: "touch {output}"
"""
"""A workflow without mem. `HEADS` is its number of heads."""
SNAKEMAKE = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
Times = dict[str, list[tuple[float, float]]]
"""CPU and wall-clock seconds of each round, by the name of the measurement."""


@contextmanager
def earlier_code(commit: str | None) -> Iterator[tuple[Path, Path] | None]:
    """Check out an earlier commit, and yield its folder and a folder for the module path that contains its `mem`."""
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkout, path = Path(temporary, "checkout"), Path(temporary, "path")
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), commit], check=True)
        try:
            link_code(checkout, path)
            yield checkout, path
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def link_code(checkout: Path, path: Path) -> None:
    """Fill a folder for the module path with links to `mem` and to the folders and files that it reads beside itself.

    The Snakefile moves its own folder to the end of the module path, so that another `mem` could precede it.
    """
    path.mkdir()
    for name in ("mem", "Snakefile", "workflow", "config", "slurm", "local", "profiles"):
        if (checkout / name).exists():
            (path / name).symlink_to(checkout / name)


def prepare(folder: Path, heads: int, seeds: int) -> None:
    """Write features, a large study, a report with random scores, the plain workflow, and a module path."""
    write_features(folder)
    write_study(folder, heads, seeds)
    rng = np.random.default_rng(0)
    rows = [
        ScoreRow("sweep", "synthetic", "synthetic", "crt", f"crt{head}", seed, 0, split, "thresholds", key="0" * 12,
                 **dict(zip(SCORES, rng.uniform(20, 90, len(SCORES)).tolist(), strict=True)))
        for head in range(heads) for seed in range(seeds) for split in ("val", "test")
    ]  # fmt: skip
    report = folder / "results" / "sweep" / "report"
    report.mkdir(parents=True)
    (report / "results.csv").write_text(to_csv(rows))
    link_code(REPOSITORY, folder / "path")
    (folder / "plain").mkdir()
    (folder / "plain" / "Snakefile").write_text(PLAIN.replace("HEADS", str(heads * seeds)))


def measure_code(folder: Path, checkout: Path, path: Path, prefix: str, times: Times) -> None:
    """Measure all commands of one version of the code, and append the results to `times`."""
    variables = {"PYTHONPATH": str(path), "MEM_PLAN_CACHE": str(folder / "answers")}
    for name, arguments in COMMANDS.items():
        own = [str(checkout / argument) if argument in (DIGITS, TIMM) else argument for argument in arguments]
        command = [sys.executable, "-P", "-m", "mem.cli", *own]
        times.setdefault(prefix + name, []).append(measure(command, folder, **variables))
    snakemake = [*SNAKEMAKE, "--snakefile", str(checkout / "Snakefile"), "--config", "study=study.yaml"]
    for start in ("first", "again"):
        if start == "first":
            shutil.rmtree(folder / "runs", ignore_errors=True)
        times.setdefault(f"{prefix}snakemake -n, {start}", []).append(measure(snakemake, folder, **variables))


def measure_all(folder: Path, rounds: int, earlier: tuple[Path, Path] | None) -> Times:
    """Run all commands `rounds` times."""
    times: Times = {}
    for number in range(rounds + 1):
        times_of_round: Times = {}
        python = [sys.executable, "-c", "import torch"]
        times_of_round["import torch"] = [measure(python, folder)]
        plain = [*SNAKEMAKE, "--directory", "plain", "--snakefile", "plain/Snakefile"]
        times_of_round["plain workflow"] = [measure(plain, folder)]
        measure_code(folder, REPOSITORY, folder / "path", "", times_of_round)
        if earlier is not None:
            measure_code(folder, *earlier, "before: ", times_of_round)
        if number:  # the first round stores costs, compiles modules to bytecode, and fills the file cache
            for name, values in times_of_round.items():
                times.setdefault(name, []).extend(values)
    return times


def summarise(times: Times) -> dict[str, dict[str, Any]]:
    """Return the median times, and the median and range of the ratio to the peer, by measurement."""
    result: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        peer = "plain workflow" if "snakemake" in name else "import torch"
        ratios = [cpu / peer_cpu for (cpu, _), (peer_cpu, _) in zip(values, times[peer], strict=True)]
        result[name] = {
            "cpu_s": round(statistics.median(cpu for cpu, _ in values), 2),
            "wall_s": round(statistics.median(wall for _, wall in values), 2),
            "peer": peer,
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--heads", type=int, default=75)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="COMMIT", help="earlier commit to measure as well")
    options = parser.parse_args()
    load = OtherLoad()
    with tempfile.TemporaryDirectory() as temporary, earlier_code(options.before) as earlier:
        folder = Path(temporary)
        prepare(folder, options.heads, options.seeds)
        result = summarise(measure_all(folder, options.rounds, earlier))
    about = {"processor": processor(), "other_load_cores": round(load.cores(), 1), "rounds": options.rounds}
    if not options.json:
        print("| | CPU s | wall s | CPU ratio | range |\n|---|---:|---:|---:|---:|")
        for name, row in result.items():
            low, high = row["ratio_range"]
            print(f"| {name} | {row['cpu_s']} | {row['wall_s']} | {row['ratio']} | {low} to {high} |")
    print(json.dumps({**about, "times": result}))


if __name__ == "__main__":
    main()
