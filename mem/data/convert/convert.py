"""From an image set to one .beton file per split, with a manifest of what went in.

Images are decoded and encoded by processes and written in order by this one. However a conversion ends, what it has
done stays beside the final names (see `mem.data.beton.writer`), and the next one goes on from there. The files take their
names together, once all splits are whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from mem import files
from mem.config import ImageData
from mem.data.beton.encoding import Encoded, Encoding, ImageSource
from mem.data.beton.writer import BetonWriter, publish_all
from mem.data.convert.storage import Decision, decide
from mem.data.convert.unreadable import UnreadableImage, remove_failure_record, report_skipped, unreadable_error
from mem.data.convert.worker_pool import InProcess, Pool, Task, WorkerLost, WorkerPool
from mem.data.convert.worker_process import ENCODE, ENCODED, LOOK, NO_FILE, UNREADABLE
from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.file_listing import require_files
from mem.data.datasets.manifest import describe, names_digest, write_image_list
from mem.errors import UserError
from mem.longtail import class_counts
from mem.progress import Progress

SPLITS = ("train", "val", "test")
_FORMAT = 1
"""Raised when the same images and settings give other bytes, so that no file is made by two versions."""
_FEW = 64
"""So few images are converted before processes would have started."""
_FULL = {errno.ENOSPC, errno.EDQUOT}

logger = logging.getLogger("mem")


def convert(
    images: ImageSet, settings: ImageData, out: Path, workers: int, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write `train.beton`, `val.beton`, `test.beton`, `images.csv` and `dataset.json` to `out`.

    Args:
        images: What to write.
        settings: How, and what becomes of files that are no whole image.
        out: The folder.
        workers: Processes that decode and encode.
        say: Tells the user.

    Returns:
        The manifest, as in `dataset.json`: classes, counts per class and split, groups, a digest of each split, and
        how images are kept.

    Raises:
        UserError: Files are missing or no images, a class has no training image, a worker died, the disk is full.
    """
    _refuse_empty_classes(images)
    require_files(images, empty_too=settings.unreadable == "fail")
    partials: dict[str, BetonWriter] = {}
    try:
        with contextlib.ExitStack() as stack:
            crew = stack.enter_context(_crew(images, workers))
            decision = _decide(images, settings, crew)
            crew.settle(decision.encoding)
            for name, split in images.splits.items():
                partial = BetonWriter(
                    out / f"{name}.beton",
                    len(split),
                    _settings(split, decision.encoding),
                    keep_skipped=settings.unreadable == "skip",
                )
                partials[name] = stack.enter_context(partial)
            _write(images, partials, settings, out, crew, say)
            return _publish(images, partials, settings, decision, out, say)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        done = sum(partial.count for partial in partials.values())
        raise UserError(
            f"{error.filename or out}: the disk is full, after {done:,} of {_total(images):,} images. No file has its "
            f"final name yet; what is done stays in {out}/.*.partial. Free some space and run the same command: it "
            "goes on from there."
        ) from None


def _total(images: ImageSet) -> int:
    return sum(map(len, images.splits.values()))


def _source(split: ImageSplit, i: int) -> ImageSource:
    return split.files[i] if split.files is not None else split.read(i)


def _crew(images: ImageSet, workers: int) -> contextlib.AbstractContextManager[Pool]:
    """Processes; or none, where pixels are in memory already or images are few."""
    in_memory = any(
        split.files is None and isinstance(split.read(0), np.ndarray) for split in images.splits.values() if len(split)
    )
    total = _total(images)
    return (
        contextlib.nullcontext(InProcess())
        if in_memory or total < _FEW
        else WorkerPool(min(workers, -(-total // _FEW)))
    )


def _decide(images: ImageSet, settings: ImageData, crew: Pool) -> Decision:
    """`decide`, with the splits' images numbered through."""
    splits = list(images.splits.values())
    ends = np.cumsum([len(split) for split in splits])

    def place(number: int) -> tuple[ImageSplit, int]:
        at = int(np.searchsorted(ends, number, side="right"))
        return splits[at], number - (int(ends[at - 1]) if at else 0)

    def name(number: int) -> str:
        split, i = place(number)
        return _shown(split, i)

    with _lost_named(name):
        return decide(settings, _total(images), lambda number: _source(*place(number)), crew)


def _settings(split: ImageSplit, encoding: Encoding) -> dict[str, Any]:
    """What the bytes of a split's file depend on."""
    return {
        "format": _FORMAT,
        "images": names_digest(split),
        "encoding": dataclasses.asdict(encoding),
        "libraries": {"opencv": cv2.__version__, "pillow": PIL.__version__},
    }


def _write(
    images: ImageSet,
    partials: dict[str, BetonWriter],
    settings: ImageData,
    out: Path,
    crew: Pool,
    say: Callable[[str], None],
) -> None:
    """Go through all images; those that cannot be read are all known before the policy `fail` ends the conversion."""
    total, done = _total(images), sum(partial.count for partial in partials.values())
    if done:
        say(f"{done:,} of {total:,} images were converted by an earlier run; going on from there.")
    unread: list[UnreadableImage] = []
    with Progress(f"convert {settings.name}", total, start=done) as progress:
        for name, split in images.splits.items():
            with _lost_named(lambda i, split=split: _shown(split, i)):
                unread += _write_split(name, split, partials[name], settings, crew, progress)
            if partials[name].count == len(split):
                partials[name].finish(split.labels)
    if unread:
        raise unreadable_error(unread, total, out)


def _write_split(
    name: str, split: ImageSplit, partial: BetonWriter, settings: ImageData, crew: Pool, progress: Progress
) -> list[UnreadableImage]:
    """Write the rest of a split, up to the first image that cannot be read; with `skip`, beyond it."""
    unread: list[UnreadableImage] = []

    def tasks() -> Iterator[Task]:
        for i in range(partial.count, len(split)):
            yield Task(LOOK if unread else ENCODE, i, _source(split, i))

    for answer in crew.answers(tasks()):
        if answer.kind in (UNREADABLE, NO_FILE):
            reason = bytes(answer.content).decode()
            if settings.unreadable == "fail":
                unread.append(UnreadableImage(name, answer.number, _shown(split, answer.number), reason))
            elif answer.kind == NO_FILE:
                raise UserError(
                    f"{_shown(split, answer.number)}: {reason}. `unreadable: skip` leaves out files that are no whole "
                    "images, not those that the file system does not give."
                )
            else:
                partial.skip(reason)
        elif answer.kind == ENCODED and not unread:
            partial.add(Encoded(answer.mode, answer.height, answer.width, answer.content, answer.kept))
        progress.advance(1, f"{len(unread) + len(partial.skipped)} unreadable" if unread or partial.skipped else "")
    return unread


def _publish(
    images: ImageSet,
    partials: dict[str, BetonWriter],
    settings: ImageData,
    decision: Decision,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Name the files and write the tables that go with them."""
    written = {name: np.asarray(partial.images, dtype=np.int64) for name, partial in partials.items()}
    skipped = [
        UnreadableImage(name, i, _shown(images.splits[name], i), reason)
        for name, partial in partials.items()
        for i, reason in sorted(partial.skipped.items())
    ]
    if skipped:
        images = dataclasses.replace(images, **{name: images.splits[name].take(i) for name, i in written.items()})
        report_skipped(skipped, sum(map(len, written.values())) + len(skipped), out, say)
        _refuse_empty_classes(images)
    remove_failure_record(out)
    publish_all(list(partials.values()))
    write_image_list(images, out / "images.csv")
    size = sum(partial.path.stat().st_size for partial in partials.values())
    manifest = {
        **describe(images),
        "kept": {
            **decision.document(),
            "gb": round(size / 1e9, 3),
            "files_as_they_were": sum(partial.kept for partial in partials.values()),
        },
        "skipped": {name: len(partial.skipped) for name, partial in partials.items()},
    }
    files.write_text(out / "dataset.json", json.dumps(manifest, indent=2) + "\n")
    if settings.size_budget_gb is not None:
        kind = "raw" if decision.encoding.storage == "raw" else f"JPEG of quality {decision.encoding.quality}"
        say(f"{size / 1e9:.3g} GB of the {settings.size_budget_gb:g} GB allowed, as {kind}.")
    for partial in partials.values():
        partial.forget()
    return manifest


def _refuse_empty_classes(images: ImageSet) -> None:
    counts = class_counts(images.train.labels, len(images.classes))
    empty = [images.classes[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - 10:,} more" if len(empty) > 10 else ""
        raise UserError(
            f"{len(empty):,} of {len(images.classes):,} classes have no training image that can be read: "
            f"{', '.join(empty[:10])}{more}. A class cannot be learned from nothing: add images, or take it out."
        )


def _shown(split: ImageSplit, i: int) -> str:
    """An image as its user knows it: its file, or its name."""
    return split.files[i] if split.files is not None else split.names[i]


@contextlib.contextmanager
def _lost_named(name: Callable[[int], str]) -> Iterator[None]:
    """Say on which image a worker was lost."""
    try:
        yield
    except WorkerLost as lost:
        if lost.details:
            logger.debug("%s", lost.details)
        who = name(lost.number) if lost.number is not None else "before its first image"
        raise UserError(
            f"{who}: {lost}. The conversion has stopped; the images that were converted stay, and the same command "
            "goes on from there."
        ) from None


def train_counts(folder: Path) -> np.ndarray:
    """Training images per class of a converted data set."""
    manifest = json.loads((folder / "dataset.json").read_text())
    return np.asarray(manifest["splits"]["train"]["counts"], dtype=np.int64)
