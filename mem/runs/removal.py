"""Remove runs: `mem runs redo` and `mem runs rm`. Nothing that a process works on is removed.

A run folder is first moved to `runs/.trash/`, in one step, and deleted there. If the command is killed, each run is
therefore complete or gone, and the next command deletes what remains in the trash.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mem.errors import UserError, first_of
from mem.runs.folder import RunFolder
from mem.runs.stored import (
    StoredRun,
    dependents,
    dependents_first,
    foreign_files,
    locked_keys,
    size_and_use,
    stored_runs,
    try_lock,
)
from mem.runs.working_folder import claim_runs, lock_working_folder

TRASH = Path("runs", ".trash")
"""Folder for runs that are being deleted, relative to the working folder."""
_REGISTRY = Path(".snakemake", "submitit", "registry")
"""Folder of the executor plugin with a file for each submission whose jobs have not all ended."""
_KEPT = ("config.yaml", "site.yaml")
"""Files of a run that `redo` keeps: its settings."""
MLFLOW_KEEPS = "MLflow keeps its copies of the curves and scores. Delete them in the MLflow UI."
Ask = Callable[[str], bool]
"""Function that asks the user a question, and returns whether the answer is yes."""


@contextmanager
def sole_process(root: Path) -> Iterator[None]:
    """Lock the working folder, so that no workflow process runs or starts in it, and check that no SLURM job waits.

    Raises:
        UserError: There is no `runs/`, it belongs to another working folder, a workflow process is running, or jobs of
            an earlier one may be queued.
    """
    if not (root / "runs").is_dir():
        raise UserError(f"{root.resolve()}: this folder has no runs/. Change to the working folder of your studies.")
    with lock_working_folder(root, "It may need these runs. Wait until it ends, or stop it with Ctrl-C."):
        claim_runs(root)
        registry = root / _REGISTRY
        if registry.is_dir() and any(path.suffix in (".json", ".jsonl") for path in registry.iterdir()):
            raise UserError(
                f"{registry}: SLURM jobs of an earlier workflow process may still be queued or running. Run the "
                "workflow again, which re-attaches to them, or cancel them with scancel and delete this folder."
            )
        _empty_trash(root)
        yield


def redo(folder: Path, root: Path, ask: Ask) -> int:
    """Remove the outputs of a run and of all runs that depend on it, so that the next workflow repeats them.

    The settings of the runs are kept. The same applies to the report in `results/`, until the workflow writes it again.

    Returns:
        The exit status: 1 if the user answers no.

    Raises:
        UserError: The run is not in `runs/`, or a process works in one of the runs.
    """
    with sole_process(root):
        run, others = _run_and_dependents(folder, root)
        if run.stage == "report":
            raise UserError(
                f"{run.folder}: a report has no outputs in runs/. Repeat it with "
                "`--forcerun report`, see docs/how-to/redo-and-resume.md."
            )
        chosen = [run, *(other for other in others if other.stage != "report")]
        print(f"The outputs of {counted(chosen)} are removed, because they are repeated together:")
        _print_runs(chosen, root)
        if not ask("Remove these outputs?"):
            return _nothing_removed()
        freed = remove(chosen, root, keep_settings=True)
        print(f"Removed {size_text(freed)}. The next `mem run` of a study with these runs repeats them.")
        print(MLFLOW_KEEPS)
    return 0


def remove_run(folder: Path, root: Path, ask: Ask) -> int:
    """Remove a run and all runs that depend on it.

    Returns:
        The exit status: 1 if the user answers no.

    Raises:
        UserError: As in `redo`.
    """
    with sole_process(root):
        run, others = _run_and_dependents(folder, root)
        chosen = [run, *others]
        print(f"{counted(chosen)} {'is' if len(chosen) == 1 else 'are'} removed:")
        _print_runs(chosen, root)
        if any(each.stage == "report" for each in chosen):
            print("The pages in results/ are kept.")
        if not ask("Remove these runs?"):
            return _nothing_removed()
        freed = remove(chosen, root)
        print(f"Removed {size_text(freed)}. {MLFLOW_KEEPS}")
    return 0


def remove(runs: Sequence[StoredRun], root: Path, *, keep_settings: bool = False) -> int:
    """Remove runs, each after those that depend on it. Call it within `sole_process`.

    Args:
        runs: The runs.
        root: The working folder.
        keep_settings: Whether the folders remain, with the settings of the runs.

    Returns:
        The number of bytes in the removed files.

    Raises:
        UserError: A process has started to work in a run, or a folder cannot be moved. Other runs may be removed.
    """
    freed = 0
    for run in dependents_first(runs):
        path = root / run.folder
        lock = try_lock(path)
        if lock is None:
            raise UserError(
                f"{run.folder}: a process has started to work in it. Wait until it ends, and run this again."
            )
        with lock:
            size, _ = size_and_use(path)
            moved = _move_to_trash(path, root)
            if keep_settings:
                path.mkdir()
                for name in _KEPT:
                    if (moved / name).is_file():
                        os.rename(moved / name, path / name)
            freed += size
        _remove_messages(run, root)
        if not keep_settings:
            _remove_empty_parents(path, root)
    _empty_trash(root)
    return freed


def counted(runs: Sequence[StoredRun]) -> str:
    """Return the number of runs as text."""
    return "1 run" if len(runs) == 1 else f"{len(runs):,} runs"


def size_text(size: int) -> str:
    """Return a number of bytes in a suitable unit."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{size} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


def require_removable(runs: Sequence[StoredRun], root: Path, all_runs: Sequence[StoredRun]) -> None:
    """Check that no process works in runs or in their dependents, and that the folders contain only files of stages.

    Raises:
        UserError: Otherwise, or if a run is behind a link. The message names the process, the files or the link.
    """
    keys = {run.key for run in runs}
    locked = locked_keys([*runs, *dependents(all_runs, keys)], root)
    if locked:
        run = next(run for run in all_runs if run.key in locked)
        raise UserError(
            f"{run.folder} is in use by {locked[run.key]}. Wait until it ends, or stop it, and run this again."
        )
    for run in runs:
        if run.link is not None:
            raise UserError(
                f"{run.link}: this is a link, and {run.folder} depends on this run. Runs behind links are not removed. "
                "Replace the link by the folder, and run this again."
            )
        if names := foreign_files(root / run.folder):
            raise UserError(
                f"{run.folder}: no stage writes {first_of(names)}. Move your own files elsewhere, and run this again."
            )


def _run_and_dependents(folder: Path, root: Path) -> tuple[StoredRun, list[StoredRun]]:
    runs, others = stored_runs(root)
    inside = os.path.relpath(os.path.abspath(root / folder), os.path.abspath(root))
    run = next((run for run in runs if run.folder == Path(inside)), None)
    if run is None:
        reason = next((text for text in others if text.startswith(f"{inside}: ")), f"{folder}: not a run of this runs/")
        raise UserError(f"{reason}. It is left alone. `mem runs STUDY` lists the runs of a study.")
    if run.link is not None:
        raise UserError(f"{run.link}: this is a link. It is left alone, with what is behind it.")
    found = dependents(runs, [run.key])
    require_removable([run, *found], root, runs)
    return run, found


def _print_runs(runs: Sequence[StoredRun], root: Path) -> None:
    for run in runs:
        print(run_line(run, *size_and_use(root / run.folder)))


def run_line(run: StoredRun, size: int, used: float) -> str:
    """Return a line about a run: its size, the day of its last use, its folder and its labels."""
    day = time.strftime("%Y-%m-%d", time.localtime(used))
    return f"  {size_text(size):>10}  {day}  {run.folder}  {run.description}".rstrip()


def _nothing_removed() -> int:
    print("Nothing was removed.")
    return 1


def _move_to_trash(path: Path, root: Path) -> Path:
    trash = root / TRASH
    if trash.is_symlink():
        raise UserError(f"{trash}: this is a link. Runs are moved there before they are deleted. Remove the link.")
    trash.mkdir(exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=trash))
    try:
        os.rename(path, target)
    except OSError as error:
        target.rmdir()
        if error.errno == errno.EXDEV:
            raise UserError(
                f"{path}: on another file system than runs/, so it cannot be removed in one step. Delete this folder "
                "with rm -r, while no workflow runs."
            ) from None
        raise
    return target


def _remove_messages(run: StoredRun, root: Path) -> None:
    """Remove the messages of all ranks. Without log.jsonl, they would look like those of a run that failed at once.

    The executor writes those of ranks in a folder.
    """
    path = root / RunFolder(run.folder).messages
    for found in path.parent.glob(f"{path.name}*"):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _empty_trash(root: Path) -> None:
    trash = root / TRASH
    if trash.is_dir() and not trash.is_symlink():
        shutil.rmtree(trash)


def _remove_empty_parents(path: Path, root: Path) -> None:
    """Remove the folders of the backbone and of the dataset, if they are empty."""
    for parent in (path.parent, path.parent.parent):
        if parent == root / "runs" or any(parent.iterdir()):
            return
        parent.rmdir()
