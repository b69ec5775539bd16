"""`mem data check`: reports all problems in a dataset's counts, labels, files and file contents at once."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mem.config import FeatureFiles, Study
from mem.data.check.contents import check_first_bytes, decode_all
from mem.data.check.counts_and_labels import (
    check_class_names,
    check_counts,
    check_duplicates,
    check_empty_classes,
    check_labels,
)
from mem.data.check.findings import Findings, Severity, counted, first_few
from mem.data.check.missing_files import explain_missing_files
from mem.data.datasets import ImageSet, read_unchecked
from mem.data.datasets.file_listing import FolderListing, list_folders
from mem.data.datasets.manifest import names_digest, write_label_map
from mem.data.datasets.splits import describe_holdout
from mem.data.split_parts import parts_of_train
from mem.longtail import SHOT_NAMES, class_counts, shot_groups
from mem.progress import Progress
from mem.runs.workflow_command import workflow_command

SIZE_SECONDS = 40
"""Time limit for reading file sizes, in seconds, so that a check takes under a minute even on a slow file system."""


def check(
    images: ImageSet,
    *,
    deep: bool = False,
    short_side: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Findings:
    """Check a dataset without modifying it.

    Args:
        images: The dataset, as returned by `read_unchecked`.
        deep: Whether to read all file sizes without a time limit and decode every image.
        short_side: The dataset's setting, which determines whether very wide images fit into the converted files.
        done: Progress callback. If `deep` is set, it is called with 1 after each image.
    """
    findings = Findings()
    check_counts(images, findings)
    check_empty_classes(images, findings)
    check_duplicates(images, findings)
    check_labels(images, findings)
    check_class_names(images, findings)
    listings = list_folders(images.splits.values(), None if deep else SIZE_SECONDS)
    _check_files(listings, findings)
    absent = {f"{listing.folder}/{name}" for listing in listings for name in (*listing.missing, *listing.empty)}
    if deep:
        decode_all(images, absent, short_side, findings, done)
    else:
        check_first_bytes(images, absent, findings)
    for note in images.notes:
        findings.add(Severity.NOTE, note.rstrip("."))
    findings.passed.append(f"digest of names and labels: {digest(images)[:16]}")
    return findings


def check_study(study: Study, files: Sequence[Path], order: int | None, deep: bool, labels: Path | None) -> int:
    """Check the dataset of a study and print the findings.

    Args:
        study: The study.
        files: YAML files of the study, for the suggested next command.
        order: Class order. None selects the study's first class order.
        deep: Whether to decode every image.
        labels: Path to which the label map is written. None writes no label map.

    Returns:
        The exit status: 1 if there are errors or warnings, else 0.

    Raises:
        UserError: The dataset cannot be read.
    """
    images = read_unchecked(study.dataset, study.orders[0] if order is None else order)
    total = sum(len(split) for split in images.splits.values())
    with Progress("check", total, quiet=not deep) as progress:
        short_side = None if isinstance(study.dataset, FeatureFiles) else study.dataset.short_side
        findings = check(images, deep=deep, short_side=short_side, done=progress.advance)
    if note := describe_holdout(images, study.shots):
        findings.add(Severity.NOTE, note)
    _check_selection(study, images, findings)
    if labels is not None:
        write_label_map(images, labels)
        findings.passed.append(f"label map: {labels}")
    print("\n".join([*_summary(study, images), *findings.lines(), _next_step(files, findings, order, deep)]))
    return findings.status


def _check_selection(study: Study, images: ImageSet, findings: Findings) -> None:
    """Describe the training images that a study with `selection` holds out, or report that there is a val split."""
    if study.selection is None:
        return
    if len(images.val):
        findings.add(
            Severity.ERROR,
            f"the dataset has a val split of {len(images.val):,} images, but `selection` is for datasets without one",
            advice="Remove `selection` from the study. Settings are chosen on val.",
        )
        return
    parts = parts_of_train(images.train.labels, study.selection.holdout)
    train, val = (images.train.take(parts[split]) for split in ("train", "val"))
    held_out = replace(images, train=train, val=val, held_out=True)
    findings.add(Severity.NOTE, describe_holdout(held_out, study.shots, "the branch `select` of the study moves"))


def _summary(study: Study, images: ImageSet) -> list[str]:
    counts = class_counts(images.train.labels, len(images.classes))
    groups = shot_groups(images.counts_before_holdout, study.shots)
    shots = " / ".join(f"{(groups == g).sum():,} {name}" for g, name in enumerate(SHOT_NAMES))
    splits = ", ".join(f"{len(split):,} {name}" for name, split in images.splits.items())
    return [
        f"{study.dataset.name}: {splits} images in {len(images.classes):,} classes",
        f"  {counts.max():,} to {counts.min():,} training images per class; {shots} ({study.shots})",
    ]


def _next_step(files: Sequence[Path], findings: Findings, order: int | None, deep: bool) -> str:
    arguments = shlex.join([*map(str, files), *(["--order", str(order)] if order is not None else [])])
    if not findings.status:
        return f"Next: run `mem data show {arguments}`, or start the study: `{workflow_command(files)}`"
    action = "fix the errors" if findings.of(Severity.ERROR) else "decide whether the warnings are acceptable"
    return f"Next: {action}, then run `mem data check {arguments}{' --deep' * deep}` again"


def digest(images: ImageSet) -> str:
    """Return the SHA-256 digest of the image names and labels in all splits."""
    parts = (f"{name} {names_digest(split)}\n" for name, split in images.splits.items())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# --- files ---------------------------------------------------------------------------------------------


def _check_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    if not listings:
        findings.passed.append("no image files to check: the dataset was read completely")
        return
    explain_missing_files(listings, findings)
    empty = [f"{listing.folder}/{name}" for listing in listings for name in listing.empty]
    if empty:
        findings.add(
            Severity.ERROR,
            f"{counted(len(empty), 'listed file is', 'listed files are')} empty (0 bytes)",
            empty,
            advice="A download or unpacking was interrupted, or the disk was full. Download or copy the files again.",
        )
    _note_unlisted_files(listings, findings)
    unsized = sum(listing.unsized for listing in listings)
    if unsized:
        findings.add(
            Severity.NOTE,
            f"{unsized:,} file sizes were not read within {SIZE_SECONDS} s. Use --deep to read all",
        )
    listed = sum(len(listing.listed) for listing in listings)
    if not any(listing.missing for listing in listings):
        sizes = "" if empty or unsized else " and are not empty"
        findings.passed.append(f"all {listed:,} files in {counted(len(listings), 'folder', 'folders')} exist{sizes}")


def _note_unlisted_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    folders = sorted((listing for listing in listings if listing.unlisted), key=lambda listing: -listing.unlisted)
    if folders:
        unlisted = sum(listing.unlisted for listing in folders)
        findings.add(
            Severity.NOTE,
            f"{counted(unlisted, 'image file is', 'image files are')} not in any list, in "
            f"{counted(len(folders), 'folder', 'folders')}",
            [
                f"{listing.folder} ({listing.unlisted:,}: {first_few(listing.unlisted_examples)})"
                for listing in folders[:2]
            ],
            count=len(folders),
            advice="Such files are not used. This is normal if the lists select a subset of a larger dataset.",
        )
