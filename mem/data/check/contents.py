"""Checks for file contents, which read the first bytes of a sample of files or decode all images."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mem.data.check.findings import Findings, Severity, counted
from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.file_listing import THREADS

SAMPLED_FILES = 1_000
"""Number of evenly spaced files per split whose first bytes are read."""
_IMAGE_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\x00",  # TIFF
    b"MM\x00*",
    b"II+\x00",  # TIFF with 64-bit offsets
    b"MM\x00+",
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIC = "HEIC"
_OTHER_STARTS = (
    (b"\x1f\x8b", "gzip archive"),
    (b"PK\x03\x04", "zip archive"),
    (b"%PDF", "PDF"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_IN_FLIGHT = 32
"""Maximum number of images per worker thread that are queued or in progress."""


def non_image_format(start: bytes) -> str:
    """Identify the format of a file that is not an image, from its first 64 bytes. Return "" for an image."""
    if start.startswith(_IMAGE_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return ""
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return ""  # PNM
    if start[4:8] == b"ftyp":
        return _media_format(start)
    if not start:
        return "empty"
    if not start.strip(b"\x00"):
        return "zeros"
    if start.lstrip().startswith((b"<", b"{")):
        return "HTML, XML or JSON text"
    return next((name for magic, name in _OTHER_STARTS if start.startswith(magic)), "unknown format")


def _media_format(start: bytes) -> str:
    """Identify a file in the ISO base media format, which starts with a list of brands. Return "" for AVIF."""
    end = min(int.from_bytes(start[:4], "big"), len(start))
    brands = [start[8:12], *(start[i : i + 4] for i in range(16, end - 3, 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return ""
    return _HEIC if any(brand in _HEIC_BRANDS for brand in brands) else "video or other media file"


def check_first_bytes(images: ImageSet, absent: set[str], findings: Findings) -> None:
    """Check the first bytes of a sample of files in each split to detect files that are not images.

    Args:
        images: The dataset. Splits whose images are not in separate files are skipped.
        absent: Files that are known to be missing or empty.
        findings: Collection to which the findings are added.
    """
    sampled = dict.fromkeys(file for split in images.splits.values() for file in _sample(split))
    files = [file for file in sampled if file not in absent]
    if not files:
        return
    with ThreadPoolExecutor(THREADS) as pool:
        formats = list(pool.map(_non_image_format_of, files))
    wrong = [f"{file} ({found})" for file, found in zip(files, formats, strict=True) if found]
    if wrong:
        are_not_images = "is not an image" if len(wrong) == 1 else "are not images"
        unsupported = _HEIC in formats
        findings.add(
            Severity.ERROR,
            f"{len(wrong):,} of {len(files):,} sampled files {are_not_images}{' that mem can read' * unsupported}",
            wrong,
            advice=("Convert HEIC files to JPEG or PNG. " if unsupported else "Download or copy them again. ")
            + "To find all unreadable files, run the check with --deep.",
        )
    else:
        findings.passed.append(f"{len(files):,} sampled files have image signatures (use --deep to decode all)")


def _sample(split: ImageSplit) -> list[str]:
    if not split.files:
        return []
    positions = np.unique(np.linspace(0, len(split.files) - 1, SAMPLED_FILES).astype(np.int64))
    return [str(split.files[i]) for i in positions.tolist()]


def _non_image_format_of(file: str) -> str:
    try:
        with open(file, "rb") as content:
            return non_image_format(content.read(64))
    except OSError as error:
        return error.strerror or str(error)


# --- decoding of all images ----------------------------------------------------------------------------


def decode_all(
    images: ImageSet, absent: set[str], short_side: int | None, findings: Findings, done: Callable[[int], None]
) -> None:
    """Decode every image to find images that the conversion rejects, and images with identical content.

    Args:
        images: The dataset.
        absent: Files that are known to be missing or empty. They are skipped.
        short_side: Length to which the conversion shrinks the shorter side; None if it does not shrink images.
        findings: Collection to which the findings and a digest of all contents are added.
        done: Progress callback, called with 1 after each image.
    """
    all_contents = hashlib.sha256()
    unreadable: list[str] = []
    seen: dict[bytes, tuple[str, str]] = {}
    duplicates: dict[tuple[str, str], list[str]] = {}
    total = 0
    for split_name, split in images.splits.items():
        for i, (content, reason) in enumerate(_content_digests(split, absent, short_side)):
            done(1)
            total += 1
            name = split.names[i]
            all_contents.update(content)
            if reason:
                unreadable.append(f"{name} ({reason})")
            if not content:
                continue
            first_split, first_name = seen.setdefault(content, (split_name, name))
            if first_name != name:
                duplicates.setdefault((first_split, split_name), []).append(f"{name} = {first_name}")
    present = total - len(absent)
    if unreadable:
        findings.add(
            Severity.ERROR,
            f"{len(unreadable):,} of {present:,} existing images cannot be decoded",
            unreadable,
            advice="Download or copy them again, or set `unreadable: skip` in the study's dataset section.",
        )
    else:
        findings.passed.append(f"all {present:,} existing images can be decoded")
    _report_duplicate_contents(duplicates, findings)
    findings.passed.append(f"digest of contents: {all_contents.hexdigest()[:16]}")


def _report_duplicate_contents(duplicates: dict[tuple[str, str], list[str]], findings: Findings) -> None:
    for (first, second), names in duplicates.items():
        have = counted(len(names), f"image of {second} has", f"images of {second} have")
        if first == second:
            findings.add(Severity.NOTE, f"{have} the same content as an earlier image", names)
        else:
            findings.add(
                Severity.WARNING,
                f"{have} the same content as an image of {first}",
                names,
                advice=f"Scores on {second} may be too high. Remove the images from one of the lists.",
            )


def _content_digests(split: ImageSplit, absent: set[str], short_side: int | None) -> Iterator[tuple[bytes, str]]:
    """Yield the digest of each image's content and, if the conversion would reject the image, the reason."""

    def digest(i: int) -> tuple[bytes, str]:
        from mem.data.beton.encoding import Encoding, check_decodes
        from mem.data.codecs.limits import Unreadable

        if split.files and split.files[i] in absent:
            return b"", ""
        try:
            content = split.read(i)
        except OSError as error:
            return b"", error.strerror or str(error)
        except Unreadable as error:
            return b"", str(error)
        prefix = repr(content.shape).encode() if isinstance(content, np.ndarray) else b""
        content_digest = hashlib.sha256(prefix + bytes(content)).digest()
        try:
            check_decodes(content, Encoding("raw", 100, short_side, "area"))
        except OSError as error:
            return content_digest, f"cannot be decoded: {error.strerror or error}"
        except Unreadable as error:
            return content_digest, str(error)
        return content_digest, ""

    workers = len(os.sched_getaffinity(0))
    pending: deque[Future[tuple[bytes, str]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for i in range(len(split)):
                pending.append(pool.submit(digest, i))
                if len(pending) >= workers * _IN_FLIGHT:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
