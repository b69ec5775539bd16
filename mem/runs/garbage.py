"""`mem runs gc`: find and remove the runs that no study needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.config import Glyphs, Study
from mem.config.class_embeddings import embeddings_file
from mem.config.load import load_study
from mem.config.study_names import OWN_STUDIES, SUFFIXES, study_folders
from mem.errors import UserError, first_of
from mem.runs.dag import study_runs
from mem.runs.font_files import find_fonts, font_folder
from mem.runs.removal import MLFLOW_KEEPS, Ask, counted, remove, run_line, size_text, sole_process
from mem.runs.stored import (
    StoredRun,
    dependents,
    dependents_first,
    foreign_files,
    locked_keys,
    size_and_use,
    stored_runs,
    with_inputs,
)

_OWN_KEYS = re.compile(r"(?:^|[{,])[ \t]*[\"']?(study|extends)[\"']?\s*:", re.MULTILINE)
"""Settings of which a study file has at least one. Other YAML files only override settings."""
_EXTENDS = re.compile(r"(?:^|[{,])[ \t]*[\"']?extends[\"']?\s*:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
"""The file that a study extends, or the beginning of its name."""


@dataclass(frozen=True)
class NeededRuns:
    """What the studies of a folder need."""

    keys: frozenset[str]
    studies: tuple[str, ...]
    """Names of the studies that have runs on the stored data sets."""
    notes: tuple[str, ...]
    """Sentences about files in `config/` whose runs are not known."""


def collect_garbage(named: Sequence[Path], root: Path, ask: Ask, *, only: bool = False) -> int:
    """Remove the runs that no study needs, after asking.

    Args:
        named: Files of studies whose runs are kept.
        root: The working folder.
        ask: Asks the user a question.
        only: Whether to keep only the runs of the named studies. Otherwise, those of the studies in `config/` and of
            the studies that are delivered with mem are kept, too.

    Returns:
        The exit status: 1 if the user answers no.

    Raises:
        UserError: The needs of a study cannot be determined, or a workflow process is running.
    """
    if only and not named:
        raise UserError("--only: name the studies whose runs to keep.")
    with sole_process(root):
        runs, others = stored_runs(root)
        needed = needed_runs(named, runs, only=only)
        if not needed.studies and runs:
            raise UserError(
                "No study uses the data sets in runs/, so all runs would be removed. Name the studies whose runs to "
                "keep, or delete the folders in runs/ yourself."
            )
        kept = with_inputs(runs, needed.keys)
        unneeded = [run for run in runs if run.key not in kept]
        chosen, notes = _removable(unneeded, runs, root)
        for text in (*others, *notes):
            print(f"Left alone: {text}")
        for text in needed.notes:
            print(text)
        studies = f"{len(needed.studies):,} {'study' if len(needed.studies) == 1 else 'studies'}"
        if not chosen:
            print(f"There is nothing to remove: {counted(runs)} in runs/, {studies} considered.")
            return 0
        _print_garbage(chosen, runs, root)
        total = sum(size_and_use(root / run.folder)[0] for run in chosen)
        summary = f"{counted(chosen)} of {len(runs):,}, {size_text(total)}"
        print(f"{summary}. Not needed by these {studies}: {first_of(needed.studies)}")
        print("Runs of studies elsewhere, and of settings that you overrode with --config, are in this list. To keep")
        print("the runs of a study, name its file. Pages in results/ are kept.")
        if not ask(f"Remove {summary}?"):
            print("Nothing was removed.")
            return 1
        print(f"Removed {size_text(remove(chosen, root))}. {MLFLOW_KEEPS}")
    return 0


def needed_runs(named: Sequence[Path], runs: Sequence[StoredRun], *, only: bool) -> NeededRuns:
    """Return the keys of the runs that studies need.

    Args:
        named: Files of studies.
        runs: The stored runs. Studies of other data sets need none of them.
        only: As in `collect_garbage`.

    Raises:
        UserError: A named study or one in `config/` is invalid, or a file that is part of the keys of such a study, or
            of a delivered study that was started here, is missing.
    """
    keys: set[str] = set()
    studies: dict[str, None] = {}
    remarks: list[str] = []
    datasets = {run.folder.parts[1] for run in runs}
    started = {str(run.labels.get("study")) for run in runs if run.stage == "report"}
    own = [] if only else _study_files(OWN_STUDIES)
    packaged = [] if only else [path for folder in study_folders() for path in _study_files(folder)]
    for path in dict.fromkeys([*named, *own, *packaged]):
        if path not in named and not _mentions(path, datasets):
            if path in own and not _is_study(path):
                remarks.append(
                    f"{path} is not a study of its own. To keep runs with its settings, write them to a study."
                )
            continue
        study = None
        try:
            study = load_study([path])
            if study.dataset.name not in datasets:
                continue
            if study.initial is not None and study.initial.missing_revision:
                # A workflow of this study cannot start, so it has no runs.
                remarks.append(f"{path} cannot be started, because initial.revision is missing. It needs no runs.")
                continue
            _require_files(study, path)
            keys |= {run.key for run in study_runs(study)}
        except UserError as error:
            if path in named or path in own or (study is not None and study.study in started - studies.keys()):
                raise UserError(
                    f"{error}\nIt is therefore unknown which runs {path} needs. Nothing was removed. Correct the "
                    "study, move it out of config/, or name the studies to keep and add --only."
                ) from None
            continue
        studies[study.study] = None
    return NeededRuns(frozenset(keys), tuple(studies), tuple(remarks))


def _study_files(folder: Path) -> list[Path]:
    """Return the YAML files below a folder, also those in linked folders: `config/` can contain links to studies.

    Raises:
        OSError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, onerror=fail, followlinks=True) if folder.is_dir() else ():
        if (real := os.path.realpath(path)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        found += [Path(path, name) for name in names if name.endswith(SUFFIXES)]
    return sorted(found)


def _mentions(path: Path, datasets: set[str], seen: frozenset[Path] = frozenset()) -> bool:
    """Return whether the text of a study, or of a file that it extends, contains the name of a data set.

    A study whose text does not is not read, which takes much longer. A file that cannot be read counts as if it did.
    """
    if path in seen:
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return True
    if any(name in text for name in datasets):
        return True
    bases = _EXTENDS.findall(text)
    return any(_mentions(Path(os.path.normpath(path.parent / base)), datasets, seen | {path}) for base in bases)


def _is_study(path: Path) -> bool:
    """Return whether a file has a setting that only studies have."""
    return _OWN_KEYS.search(path.read_text(encoding="utf-8")) is not None


def _require_files(study: Study, path: Path) -> None:
    """Check that the files exist whose digests are part of keys. Without a file, the study's keys would be others.

    Raises:
        UserError: A file is missing.
    """
    missing = [str(file) for file in _files_in_keys(study) if not Path(file).is_file()]
    if isinstance(study.dataset, Glyphs) and not find_fonts(fonts := font_folder(study.dataset.root)):
        missing.append(f"fonts in {fonts}")
    if study.initial is not None and study.initial.folder is not None and study.initial.custom_file is None:
        missing.append(f"weights in {study.initial.folder}")
    if missing:
        raise UserError(f"{path}: {first_of(missing)} not found, but the digest of this file is part of run keys.")


def _files_in_keys(study: Study) -> Iterator[Any]:
    yield from study.dataset.index_files().values()
    if study.initial is not None and study.initial.custom_file is not None:
        yield study.initial.custom_file
    if (module := getattr(study.backbone, "file", None)) is not None:
        yield Path(module).expanduser()
    sections = [each.initial_classifier for each in study.finetunings.values()]
    sections += [getattr(head, "embeddings", None) for head in study.heads.values()]
    yield from (file for section in sections if (file := embeddings_file(section)) is not None)


def _removable(
    unneeded: Iterable[StoredRun], runs: Sequence[StoredRun], root: Path
) -> tuple[list[StoredRun], list[str]]:
    """Return the runs that can be removed, and the reasons why others are kept.

    A run is kept if a process works in it, if it is behind a link, or if it contains files of the user. The same
    applies to its inputs.
    """
    unneeded = list(unneeded)
    locked = locked_keys(runs, root)
    notes = [f"{run.folder}: in use by {locked[run.key]}" for run in unneeded if run.key in locked]
    foreign: set[str] = set()
    for run in unneeded:
        if run.link is not None:
            foreign.add(run.key)
            notes.append(f"{run.link}: this is a link")
        elif names := foreign_files(root / run.folder):
            foreign.add(run.key)
            notes.append(f"{run.folder}: no stage writes {first_of(names)}. Move your own files elsewhere")
    held = with_inputs(runs, {*locked, *foreign})
    return [run for run in unneeded if run.key not in held], list(dict.fromkeys(notes))


def _print_garbage(chosen: Sequence[StoredRun], runs: Sequence[StoredRun], root: Path) -> None:
    """Print the runs, largest first, with the time at which each was last written or read by a run."""
    facts = {run.key: size_and_use(root / run.folder) for run in runs}
    print("      size   last used  run")
    for run in sorted(dependents_first(chosen), key=lambda run: -facts[run.key][0]):
        readers = dependents(runs, [run.key])
        used = max(facts[each.key][1] for each in [run, *readers])
        print(run_line(run, facts[run.key][0], used))
