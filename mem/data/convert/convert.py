"""Conversion of a dataset to one .beton file per split and a manifest.

Worker processes decode and encode images, and this process writes them in order. An interrupted conversion leaves
partial files in the destination folder (see `mem.data.beton.writer`), from which the next conversion resumes. All files
are renamed to their final names together, after every split is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from mem.data.beton.encoding import Encoding, ImageSource
from mem.data.beton.writer import BetonWriter, publish_all
from mem.data.codecs.limits import Unreadable
from mem.data.convert.storage import StorageFormat, choose_storage
from mem.data.convert.unreadable import UnreadableImage, remove_failure_record, report_skipped, unreadable_error
from mem.data.convert.worker_pool import InProcess, Pool, Task, WorkerLost, WorkerPool
from mem.data.convert.worker_process import ResultKind, TaskKind
from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.file_listing import require_files
from mem.data.datasets.manifest import describe, names_digest, write_image_list
from mem.errors import UserError
from mem.longtail import class_counts
from mem.progress import Progress

SPLITS = ("train", "val", "test")
_FORMAT = 2
"""Format version. Increase it when a code change alters the bytes that the same images and settings produce, so that a
conversion started with the previous version is not resumed."""
_IMAGES_PER_WORKER = 64
"""Minimum number of images per worker. Converting fewer images takes less time than starting a process."""

logger = logging.getLogger("mem")


def convert(
    images: ImageSet, settings: ImageData, out: Path, workers: int, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Convert a dataset: write `train.beton`, `val.beton`, `test.beton`, `images.csv` and `dataset.json` to `out`.

    Args:
        images: The dataset to convert.
        settings: Storage settings, and how to handle files that are not complete images.
        out: Destination folder.
        workers: Number of worker processes.
        say: Called with each message for the user.

    Returns:
        The manifest, as in `dataset.json`: classes, counts per class and split, shot groups, a digest of each split,
        and the storage format.

    Raises:
        UserError: Files are missing or are not images, a class has no training images, a worker exited, or the disk is
            full.
    """
    _require_training_images(images)
    require_files(images, empty_too=settings.unreadable == "fail")
    writers: dict[str, BetonWriter] = {}
    try:
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(_pool(images, workers))
            storage = _choose_storage(images, settings, pool)
            pool.configure(storage.encoding)
            for name, split in images.splits.items():
                writer = BetonWriter(
                    out / f"{name}.beton",
                    len(split),
                    _settings(split, storage.encoding),
                    keep_skipped=settings.unreadable == "skip",
                )
                writers[name] = stack.enter_context(writer)
            _write(images, writers, settings, out, pool, say)
            return _publish(images, writers, settings, storage, out, say)
    except OSError as error:
        if error.errno not in files.DISK_FULL_ERRORS:
            raise
        done = sum(writer.count for writer in writers.values())
        raise UserError(
            f"{error.filename or out}: the disk is full after {done:,} of {_total(images):,} images. The converted "
            f"images are kept in {out}/.*.partial. Free some space and run the same command to resume."
        ) from None


def _total(images: ImageSet) -> int:
    return sum(map(len, images.splits.values()))


def _source(split: ImageSplit, i: int) -> ImageSource:
    if split.files is not None:
        return split.files[i]
    try:
        return split.read(i)
    except Unreadable as error:
        return error


def _pool(images: ImageSet, workers: int) -> contextlib.AbstractContextManager[Pool]:
    """Return a process pool, or an in-process pool if the reader returns pixels or there are few images."""
    in_memory = any(
        split.files is None and isinstance(_source(split, 0), np.ndarray | Unreadable)
        for split in images.splits.values()
        if len(split)
    )
    total = _total(images)
    if in_memory or total < _IMAGES_PER_WORKER:
        return contextlib.nullcontext(InProcess())
    return WorkerPool(min(workers, -(-total // _IMAGES_PER_WORKER)))


def _choose_storage(images: ImageSet, settings: ImageData, pool: Pool) -> StorageFormat:
    """Call `choose_storage` with the images of all splits, numbered consecutively across splits."""
    splits = list(images.splits.values())
    ends = np.cumsum([len(split) for split in splits])

    def locate(number: int) -> tuple[ImageSplit, int]:
        k = int(np.searchsorted(ends, number, side="right"))
        return splits[k], number - (int(ends[k - 1]) if k else 0)

    with _worker_lost_as_user_error(lambda number: _label(*locate(number))):
        return choose_storage(settings, _total(images), lambda number: _source(*locate(number)), pool)


def _settings(split: ImageSplit, encoding: Encoding) -> dict[str, Any]:
    """Return everything that determines a split file's bytes. Journals contain it, so its keys must not change."""
    return {
        "format": _FORMAT,
        "images": names_digest(split),
        "encoding": dataclasses.asdict(encoding),
        "libraries": {"opencv": cv2.__version__, "pillow": PIL.__version__},
    }


def _write(
    images: ImageSet,
    writers: dict[str, BetonWriter],
    settings: ImageData,
    out: Path,
    pool: Pool,
    say: Callable[[str], None],
) -> None:
    """Convert all images. With `unreadable: fail`, check all images before raising, to report every unreadable one."""
    total, done = _total(images), sum(writer.count for writer in writers.values())
    if done:
        say(f"An earlier run converted {done:,} of {total:,} images; resuming from there.")
    unreadable: list[UnreadableImage] = []
    with Progress(f"convert {settings.name}", total, start=done, folder=out) as progress:
        for name, split in images.splits.items():
            with _worker_lost_as_user_error(lambda i, split=split: _label(split, i)):
                unreadable += _write_split(name, split, writers[name], settings, pool, progress)
            if writers[name].count == len(split):
                writers[name].finish(split.labels)
    if unreadable:
        raise unreadable_error(unreadable, total, out)


def _write_split(
    name: str, split: ImageSplit, writer: BetonWriter, settings: ImageData, pool: Pool, progress: Progress
) -> list[UnreadableImage]:
    """Write the remaining images of a split.

    With `unreadable: fail`, images after the first unreadable one are only checked.

    Returns:
        The unreadable images.
    """
    unreadable: list[UnreadableImage] = []

    def tasks() -> Iterator[Task]:
        for i in range(writer.count, len(split)):
            yield Task(TaskKind.CHECK if unreadable else TaskKind.ENCODE, i, _source(split, i))

    for result in pool.results(tasks()):
        if result.kind in (ResultKind.UNREADABLE, ResultKind.FILE_ERROR):
            if settings.unreadable == "fail":
                unreadable.append(UnreadableImage(name, result.number, _label(split, result.number), result.text))
            elif result.kind == ResultKind.FILE_ERROR:
                raise UserError(
                    f"{_label(split, result.number)}: {result.text}. `unreadable: skip` skips files that are not "
                    "complete images, but not files that the file system cannot read. Restore access to the file or "
                    "remove it from the dataset."
                )
            else:
                writer.skip(result.text)
        elif result.kind == ResultKind.ENCODED and not unreadable:
            writer.add(result.image)
        count = len(unreadable) + len(writer.skipped)
        progress.advance(1, f"{count} unreadable" if count else "")
    return unreadable


def _publish(
    images: ImageSet,
    writers: dict[str, BetonWriter],
    settings: ImageData,
    storage: StorageFormat,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Rename the files to their final names, write the image list and the manifest, and remove the journals."""
    written = {name: np.asarray(writer.written, dtype=np.int64) for name, writer in writers.items()}
    skipped = [
        UnreadableImage(name, i, _label(images.splits[name], i), reason)
        for name, writer in writers.items()
        for i, reason in sorted(writer.skipped.items())
    ]
    if skipped:
        images = dataclasses.replace(images, **{name: images.splits[name].take(i) for name, i in written.items()})
        report_skipped(skipped, sum(map(len, written.values())) + len(skipped), out, say)
        _require_training_images(images)
    remove_failure_record(out)
    publish_all(list(writers.values()))
    write_image_list(images, out / "images.csv")
    size = sum(writer.path.stat().st_size for writer in writers.values())
    manifest = {
        **describe(images),
        "kept": {
            **storage.document(),
            "gb": round(size / 1e9, 3),
            "files_as_they_were": sum(writer.copied for writer in writers.values()),
        },
        "skipped": {name: len(writer.skipped) for name, writer in writers.items()},
    }
    files.write_text(out / "dataset.json", json.dumps(manifest, indent=2) + "\n")
    if settings.size_budget_gb is not None:
        kind = "raw pixels" if storage.encoding.storage == "raw" else f"JPEG with quality {storage.encoding.quality}"
        say(f"The files use {size / 1e9:.3g} GB of the {settings.size_budget_gb:g} GB budget, stored as {kind}.")
    for writer in writers.values():
        writer.remove_journal()
    return manifest


def _require_training_images(images: ImageSet) -> None:
    counts = class_counts(images.train.labels, len(images.classes))
    empty = [images.classes[i] for i in np.flatnonzero(counts == 0)]
    if not empty:
        return
    more = f" and {len(empty) - 10:,} more" if len(empty) > 10 else ""
    verb = "has" if len(empty) == 1 else "have"
    raise UserError(
        f"{len(empty):,} of {len(images.classes):,} classes {verb} no readable training images: "
        f"{', '.join(empty[:10])}{more}. Add training images or remove the class."
    )


def _label(split: ImageSplit, i: int) -> str:
    """Return the file path of an image for messages, or the image name if the image is not in a separate file."""
    return split.files[i] if split.files is not None else split.names[i]


@contextlib.contextmanager
def _worker_lost_as_user_error(label: Callable[[int], str]) -> Iterator[None]:
    """Convert `WorkerLost` into a `UserError` that names the image."""
    try:
        yield
    except WorkerLost as lost:
        if lost.details:
            logger.debug("%s", lost.details)
        image = label(lost.number) if lost.number is not None else "before the first image"
        raise UserError(
            f"{image}: {lost}. The conversion stopped; the converted images are kept. Run the same command to resume."
        ) from None


def train_counts(folder: Path) -> np.ndarray:
    """Return the number of training images in each class of a converted dataset."""
    manifest = json.loads((folder / "dataset.json").read_text())
    return np.asarray(manifest["splits"]["train"]["counts"], dtype=np.int64)


def train_counts_before_holdout(folder: Path) -> np.ndarray:
    """Return the number of training images in each class of a converted dataset, with those of `dataset.holdout`.

    They equal `train_counts` if the dataset has no holdout. A branch of `selection` with held-out images reads the same
    files, so that its held-out images count as well.
    """
    manifest = json.loads((folder / "dataset.json").read_text())
    counts = manifest.get("counts_before_holdout", manifest["splits"]["train"]["counts"])
    return np.asarray(counts, dtype=np.int64)
