"""What is wrong with a data set, told in one go: counts, labels, files, contents. Nothing stops at the first fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mem.config import Study
from mem.data.check.contents import check_some_headers, decode_all
from mem.data.check.counts_and_labels import check_counts, check_duplicates, check_empty_classes, check_labels
from mem.data.check.findings import Findings, Severity, few, number
from mem.data.check.missing_files import explain_missing_files
from mem.data.datasets import ImageSet, read_unchecked
from mem.data.datasets.file_listing import FolderListing, list_folders, require_files
from mem.data.datasets.manifest import names_digest, write_label_map
from mem.longtail import SHOT_NAMES, class_counts, shot_groups
from mem.progress import Progress

__all__ = ["check", "files_present"]

SIZE_SECONDS = 40
"""How long sizes of files are asked for, so that a check ends within a minute on a slow file system too."""


def check(images: ImageSet, *, deep: bool = False, done: Callable[[int], None] = lambda count: None) -> Findings:
    """Check a data set without changing anything.

    Args:
        images: As its reader gives it, before `require_disjoint`.
        deep: Ask the size of every file however long it takes, and decode every image.
        done: With `deep`, told of each decoded image.
    """
    findings = Findings()
    check_counts(images, findings)
    check_empty_classes(images, findings)
    check_duplicates(images, findings)
    check_labels(images, findings)
    looked = list_folders(images.splits.values(), None if deep else SIZE_SECONDS)
    _tell_files(looked, findings)
    absent = {f"{at.folder}/{name}" for at in looked for name in (*at.missing, *at.empty)}
    if deep:
        decode_all(images, absent, findings, done)
    else:
        check_some_headers(images, absent, findings)
    for note in images.notes:
        findings.add(Severity.NOTE, note.rstrip("."))
    findings.fine.append(f"digest of names and labels: {digest(images)[:16]}")
    return findings


def check_study(study: Study, files: Sequence[Path], order: int | None, deep: bool, labels: Path | None) -> int:
    """Check the images of a study and print what was found.

    Args:
        study: The study.
        files: Its YAML files, for the command to run next.
        order: Order of the classes along the tail; without it the study's first.
        deep: Decode every image.
        labels: Where to write the label map.

    Returns:
        The exit status: 0, or 1 where something is wrong or doubtful.

    Raises:
        UserError: The data set cannot be read at all.
    """
    images = read_unchecked(study.dataset, study.orders[0] if order is None else order)
    total = sum(len(split) for split in images.splits.values())
    with Progress("check", total, quiet=not deep) as progress:
        findings = check(images, deep=deep, done=progress.advance)
    if labels is not None:
        write_label_map(images, labels)
        findings.fine.append(f"label map: {labels}")
    print("\n".join([*_heading(study, images), *findings.lines(), _next(study, files, findings)]))
    return findings.status


def _heading(study: Study, images: ImageSet) -> list[str]:
    counts = class_counts(images.train.labels, len(images.classes))
    groups = shot_groups(counts, study.shots)
    shots = " / ".join(f"{(groups == g).sum():,} {name}" for g, name in enumerate(SHOT_NAMES))
    splits = ", ".join(f"{len(split):,} {name}" for name, split in images.splits.items())
    return [
        f"{study.dataset.name}: {splits} images in {len(images.classes):,} classes",
        f"  {counts.max():,} to {counts.min():,} training images a class; {shots} ({study.shots})",
    ]


def _next(study: Study, files: Sequence[Path], findings: Findings) -> str:
    names = " ".join(map(str, files))
    if not findings.status:
        return f"Next: mem data show {names}, or the study itself: snakemake --configfile {names}"
    first = min(findings.found, key=lambda finding: finding.gravity)
    what = "Mend what is wrong" if first.gravity == Severity.WRONG else "See whether what is doubtful is meant so"
    return f"Next: {what[0].lower()}{what[1:]}, from the top; then again: mem data check {names}"


def digest(images: ImageSet) -> str:
    """SHA-256 over the names and labels of all splits."""
    parts = (f"{name} {names_digest(split)}\n" for name, split in images.splits.items())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# --- files ---------------------------------------------------------------------------------------------


def _tell_files(looked: Sequence[FolderListing], findings: Findings) -> None:
    if not looked:
        findings.fine.append("no files to look for: the images come from the data set's own few files, read in full")
        return
    explain_missing_files(looked, findings)
    empty = [f"{at.folder}/{name}" for at in looked for name in at.empty]
    if empty:
        findings.add(
            Severity.WRONG,
            f"{number(len(empty), 'listed file is', 'listed files are')} empty (0 bytes)",
            empty,
            advice="A download or an unpacking broke off, or the disk was full: get them again.",
        )
    surplus = sum(at.surplus for at in looked)
    if surplus:
        most = sorted((at for at in looked if at.surplus), key=lambda at: -at.surplus)
        findings.add(
            Severity.NOTE,
            f"{number(surplus, 'image file', 'image files')} in {len(most):,} of the listed folders "
            f"{'is' if surplus == 1 else 'are'} in no list",
            [f"{at.folder} ({at.surplus:,}: {few(at.surplus_named)})" for at in most[:2]],
            count=len(most),
            advice="That is so where a list takes a part of a larger data set; they are not used.",
        )
    unsized = sum(at.unsized for at in looked)
    if unsized:
        findings.add(Severity.NOTE, f"{unsized:,} sizes were not asked for, as time was over; --deep asks for all")
    listed = sum(len(at.listed) for at in looked)
    absent = sum(len(at.missing) for at in looked)
    if not absent:
        sizes = "" if empty or unsized else ", none is empty"
        findings.fine.append(f"{listed:,} files in {number(len(looked), 'folder', 'folders')} are all there{sizes}")
