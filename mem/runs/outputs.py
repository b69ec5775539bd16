"""The files that the stages write, as in the rules of the workflow, and the files that a finished run lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mem.runs.dag import Run
from mem.runs.folder import RunFolder

WEIGHTS_FILE = "weights.json"
"""Output file of `adapt`: the weights of the experts."""
OUTPUT_FILES: Mapping[str, tuple[str, ...]] = {
    "convert": ("train.beton", "val.beton", "test.beton", "dataset.json", "images.csv"),
    "pretrain": ("encoder.safetensors", "autoencoder.safetensors"),
    "finetune": ("model.safetensors",),
    "features": ("train-labels.npy", "val-labels.npy", "test-labels.npy", "features.json"),
    "adapt": (WEIGHTS_FILE,),
    "train_head": ("head.json", "head.safetensors"),
    "evaluate": ("metrics.json", "predictions.parquet"),
}
"""Output files by stage, without run.json. `report` writes to `results/` instead of its run folder."""
POOLED_FEATURES = ("train-pooled.npy", "val-pooled.npy", "test-pooled.npy")
"""Additional output files of `features`, unless `features.online` is set."""
TOKENS = ("train-tokens.npy", "val-tokens.npy", "test-tokens.npy")
"""Additional output files of `features` if `features.tokens` is set and `features.online` is not."""
CLASSIFIER = "classifier.safetensors"
"""Additional output file of `features` for a finetuned backbone."""
BATCH_NORM_STATISTICS = "batch-norm.safetensors"
"""Additional output file of `features` if `features.batch_norm` is set."""
REPORT_FILES = (
    "report/index.html",
    "report/results.csv",
    "report/table.md",
    "runs.csv",
    *(f"tables/table{number}.{kind}" for number in range(1, 6) for kind in ("html", "md", "csv")),
    *(f"figures/figure{number}.{kind}" for number in (1, 3, 4) for kind in ("svg", "png", "md", "csv")),
)
"""Output files of `report`, relative to `results/<study>/`."""


def output_files(stage: str, settings: Mapping[str, Any], inputs: Iterable[str] = ()) -> tuple[str, ...] | None:
    """Return the names of a run's output files, or None if the stage does not write them to its run folder.

    Args:
        stage: The stage.
        settings: Settings of the run, as sections or as mappings. A mapping can omit settings with their default value.
        inputs: Names of the run's inputs.
    """
    names = OUTPUT_FILES.get(stage)
    if names is None or stage != "features":
        return names
    features = settings.get("features") or {}
    values = features if isinstance(features, Mapping) else features.model_dump()
    if not values.get("online", False):
        names += POOLED_FEATURES + (TOKENS if values.get("tokens", False) else ())
    if values.get("batch_norm"):
        names += (BATCH_NORM_STATISTICS,)
    return (*names, CLASSIFIER) if "classifier" in inputs else names


def missing_outputs(
    folder: Path, stage: str, settings: Mapping[str, Any], inputs: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the names of the output files that are not in a run folder. For `report`, the result is empty."""
    return tuple(name for name in output_files(stage, settings, inputs) or () if not (folder / name).is_file())


def missing_files(run: Run, root: Path = Path()) -> list[Path]:
    """Return the output files that a finished run lacks, relative to `root`.

    For an unfinished run, return only the file that is written last: run.json or, for the report, its page in
    `results/`.
    """
    last = _last_file(run)
    if not (root / last).is_file():
        return [last]
    if run.stage == "report":
        paths = [last.parents[1] / name for name in REPORT_FILES]
        return [path for path in paths if not (root / path).is_file()]
    return [run.folder / name for name in missing_outputs(root / run.folder, run.stage, run.settings, run.inputs)]


def _last_file(run: Run) -> Path:
    if run.stage == "report":
        return Path("results", str(run.labels["study"]), REPORT_FILES[0])
    return RunFolder(run.folder).record


def shown_files(paths: Sequence[Path]) -> str:
    """Return the names of at most two files, and the number of other files."""
    names = ", ".join(path.name for path in paths[:2])
    return names if len(paths) <= 2 else f"{names} and {len(paths) - 2} more"


def files_to_restore(runs: Sequence[Run], root: Path = Path()) -> list[str]:
    """Return the deleted files that Snakemake would not create again by itself.

    Snakemake creates a file of an intermediate run only if another run that is missing requires it. It considers a run
    that has its run.json as complete, and it does not look at a run if all runs that depend on it are complete. The
    files that an unfinished study lacks for other reasons are not listed.
    """
    missing = {run.key: missing_files(run, root) for run in runs}
    unfinished = {run.key for run in runs if _last_file(run) in missing[run.key]}
    needed_by_finished = {parent.key for run in runs if run.key not in unfinished for parent in run.inputs.values()}
    restored = {
        str(path): None
        for run in runs
        if run.stage != "report" and (run.key not in unfinished or run.key in needed_by_finished)
        for path in missing[run.key]
    }
    return list(restored)
