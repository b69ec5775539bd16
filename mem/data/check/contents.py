"""What files hold: whether their first bytes are an image's, and, where all are decoded, whether they are whole."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mem.data.check.findings import Findings, Severity, number
from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.file_listing import THREADS

SAMPLE = 1_000
"""Files of each split whose first bytes are read, evenly spaced."""
_IMAGES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\x00",  # TIFF
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_OTHERS = (
    (b"\x1f\x8b", "gzip archive"),
    (b"PK\x03\x04", "zip archive"),
    (b"%PDF", "PDF"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_IN_FLIGHT = 32


def image_format(start: bytes) -> str:
    """What a file is that is no image, by its first 64 bytes; empty for an image."""
    if start.startswith(_IMAGES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return ""
    if start[4:8] == b"ftyp" or (start[:1] == b"P" and start[1:2] in b"1234567" and start[2:3].isspace()):
        return ""  # AVIF and HEIC; PNM
    if not start:
        return "empty"
    if not start.strip(b"\x00"):
        return "zeros"
    if start.lstrip().startswith((b"<", b"{")):
        return "HTML, XML or JSON text"
    return next((name for magic, name in _OTHERS if start.startswith(magic)), "no image format")


def check_some_headers(images: ImageSet, absent: set[str], findings: Findings) -> None:
    """Read the first bytes of some files of each split.

    Args:
        images: The data set; splits without files are passed over.
        absent: Files that are known to be missing or empty.
        findings: Takes what is found.
    """
    sampled = dict.fromkeys(file for split in images.splits.values() for file in _sample(split))
    chosen = [file for file in sampled if file not in absent]
    if not chosen:
        return
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = list(pool.map(lambda file: _kind_of(file), chosen))
    wrong = [f"{file} ({found})" for file, found in zip(chosen, kinds, strict=True) if found]
    if wrong:
        findings.add(
            Severity.WRONG,
            f"Of {len(chosen):,} files that were looked into, {number(len(wrong), 'is no image', 'are no images')}",
            wrong,
            advice="--deep decodes every file and names all that are unreadable.",
        )
    else:
        findings.fine.append(f"{len(chosen):,} files that were looked into begin as images do (--deep decodes all)")


def _sample(split: ImageSplit) -> list[str]:
    if not split.files:
        return []
    chosen = np.unique(np.linspace(0, len(split.files) - 1, SAMPLE).astype(np.int64))
    return [str(split.files[i]) for i in chosen.tolist()]


def _kind_of(file: str) -> str:
    try:
        with open(file, "rb") as content:
            return image_format(content.read(64))
    except OSError as error:
        return error.strerror or str(error)


# --- all of them ---------------------------------------------------------------------------------------


def decode_all(images: ImageSet, absent: set[str], findings: Findings, done: Callable[[int], None]) -> None:
    """Decode every image; find unreadable ones, and the same content twice.

    Args:
        images: The data set.
        absent: Files that are known to be missing or empty, which are passed over.
        findings: Takes what is found, and a digest of all contents.
        done: Told of each image.
    """
    whole = hashlib.sha256()
    unreadable: list[str] = []
    seen: dict[bytes, tuple[str, str]] = {}
    twins: dict[tuple[str, str], list[str]] = {}
    total = 0
    for split_name, split in images.splits.items():
        for i, (content, reason) in enumerate(_contents(split, absent)):
            done(1)
            total += 1
            name = split.names[i]
            whole.update(content)
            if reason:
                unreadable.append(f"{name} ({reason})")
            if not content:
                continue
            first, other = seen.setdefault(content, (split_name, name))
            if other != name:
                twins.setdefault((first, split_name), []).append(f"{name} = {other}")
    there = total - len(absent)
    if unreadable:
        findings.add(
            Severity.WRONG,
            f"{len(unreadable):,} of {there:,} images that are there cannot be decoded",
            unreadable,
            advice="Get them again; or leave them out with `unreadable: skip` in the study's dataset.",
        )
    else:
        findings.fine.append(f"all {there:,} images that are there decode")
    for (first, second), names in twins.items():
        inside = first == second
        has = number(len(names), f"image of {second} has", f"images of {second} have")
        findings.add(
            Severity.NOTE if inside else Severity.DOUBTFUL,
            f"{has} the content of {'an earlier one' if inside else f'an image of {first}'}",
            names,
            advice="" if inside else f"Scores on {second} may be too high: take these images out of one of the lists.",
        )
    findings.fine.append(f"digest of contents: {whole.hexdigest()[:16]}")


def _contents(split: ImageSplit, absent: set[str]) -> Iterator[tuple[bytes, str]]:
    """Of each image, in order: the digest of its content and why it cannot be decoded, if so."""

    def look(i: int) -> tuple[bytes, str]:
        from mem.data.codecs.decode import Unreadable, decode

        if split.files and split.files[i] in absent:
            return b"", ""
        try:
            content = split.read(i)
        except OSError as error:
            return b"", error.strerror or str(error)
        if isinstance(content, np.ndarray):
            return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).digest(), ""
        try:
            decode(content)
        except Unreadable as error:
            return hashlib.sha256(content).digest(), str(error)
        return hashlib.sha256(content).digest(), ""

    workers = len(os.sched_getaffinity(0))
    waiting: deque[Future[tuple[bytes, str]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for i in range(len(split)):
                waiting.append(pool.submit(look, i))
                if len(waiting) >= workers * _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
