"""Limits for the sizes of images and files, which are checked before memory is allocated."""

from __future__ import annotations

import gzip
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mem.data.check.contents import decode_all
from mem.data.check.findings import Findings, Severity
from mem.data.codecs import decode as decoder
from mem.data.codecs import limits
from mem.data.codecs.decode import Unreadable, decode, shrink
from mem.data.codecs.limits import read_image_file
from mem.data.convert.convert import convert
from mem.data.datasets import archives
from mem.data.datasets.base import ImageSet, empty_split, split_of_files
from mem.data.datasets.fashion_mnist import read_idx
from mem.errors import UserError
from tests.data import miniatures
from tests.data.conversions import settings_for
from tests.data.image_files import chunk, picture, saved, tiff
from tests.data.reading import refusal

LARGEST = {"ImageNet": (9331, 6530), "iNaturalist": (2048, 2048), "a phone with 108 megapixels": (12_032, 9024)}
"""Width and height of the largest pictures in datasets, in pixels."""


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes that declares a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    content = saved(picture(), "JPEG")
    position = content.index(b"\xff\xc0") + 5
    return content[:position] + struct.pack(">HH", height, width) + content[position + 4 :]


def webp_header(width: int, height: int) -> bytes:
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + sizes + saved(picture(), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_header(width: int, height: int) -> bytes:
    content = saved(picture(), "TIFF")
    for tag, value in ((256, width), (257, height)):
        entry = next(i for i in range(len(content)) if content[i : i + 2] == struct.pack("<H", tag))
        content = content[:entry] + struct.pack("<HHII", tag, 4, 1, value) + content[entry + 12 :]
    return content


def gif_header(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + saved(picture().quantize(4), "GIF")[10:]


TOO_LARGE = {
    "PNG": png_header(14_142, 14_142),
    "JPEG": jpeg_header(14_142, 14_142),
    "WebP": webp_header(14_142, 14_142),
    "TIFF": tiff_header(14_142, 14_142),
    "GIF": gif_header(14_142, 14_142),
    "wide PNG": png_header(200_000_000, 1),
    "tall PNG": png_header(1, 100_001),
    "wide TIFF": tiff_header(100_001, 2),
    "wide WebP": webp_header(16_777_216, 8),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_small_file_that_declares_a_large_image_is_rejected_with_the_limit(case):
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match=r"declares \d+ x \d+ pixels; (the limit is|sides are limited to) "):
            decode(TOO_LARGE[case])
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dataset", LARGEST)
def test_the_largest_pictures_of_datasets_are_within_the_limits(dataset):
    width, height = LARGEST[dataset]
    assert width * height <= limits.MAX_PIXELS < 14_142**2
    with pytest.raises(Unreadable, match="damaged or truncated"):  # the size is accepted, but the file has few pixels
        decode(png_header(width, height))


def test_a_tiff_with_a_large_tile_is_rejected():
    content = tiff(bytes(64), (8, 8), {258: [8], 262: [1], 277: [1], 322: [60_000], 323: [60_000]})
    with pytest.raises(Unreadable, match=r"has tiles of 3,600,000,000 pixels; the limit is"):
        decode(content)


def test_images_at_the_limit_for_sides_can_be_shrunk():
    wide = np.zeros((300, limits.MAX_SIDE, 3), np.uint8)
    for resample in ("area", "lanczos"):
        assert shrink(wide, 3, resample).shape == (3, 1000, 3)


def test_check_and_conversion_reject_the_same_large_images(tmp_path):
    (tmp_path / "good.png").write_bytes(saved(picture(), "PNG"))
    for name, content in TOO_LARGE.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (66_000, 2)).save(tmp_path / "stored.png")
    names = [*TOO_LARGE, "stored.png"]
    images = ImageSet(
        ("one",),
        split_of_files(str(tmp_path), ["good.png"], ["good.png"], np.zeros(1, np.int64)),
        empty_split(),
        split_of_files(str(tmp_path), names, names, np.zeros(len(names), np.int64)),
    )
    findings = Findings()
    decode_all(images, set(), None, findings, lambda count: None)
    assert [finding.text for finding in findings.of(Severity.ERROR)] == ["10 of 11 existing images cannot be decoded"]
    settings = settings_for(tmp_path, short_side=None, unreadable="skip")
    manifest = convert(images, settings, tmp_path / "out", 1, lambda text: None)
    assert manifest["skipped"]["test"] == len(names)


def test_memory_that_runs_out_is_an_error_of_the_machine(monkeypatch):
    """An image must not be skipped as unreadable because other processes use the memory."""

    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(decoder.with_pillow, "read", full)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        decode(saved(picture(), "PNG"))


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 1_000_000)
    path = tmp_path / "sparse.tif"
    with open(path, "wb") as file:
        file.truncate(6 << 30)
    for read in (
        lambda: read_image_file(str(path)),
        lambda: read_image_file("/dev/zero"),
        lambda: decode(bytes(1_000_001)),
    ):
        with pytest.raises(Unreadable, match="the limit for an image file is 1,000,000 bytes"):
            read()


# --- archives --------------------------------------------------------------------------------------------


def cifar_with(tmp_path: Path, member: tarfile.TarInfo, size: int) -> dict:
    """Write an archive whose first member has `size` zeros."""
    path = tmp_path / "cifar-10-python.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(member.tobuf(format=tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            stream.write(bytes(1 << 20))
    return miniatures.PIXELS | {
        "source": "cifar10",
        "name": "c",
        "root": str(path),
        "cut": {"imbalance": 100, "seed": 0, "val_per_class": 0},
    }


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_large_member_of_an_archive_is_not_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 20)
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size, member.type = 4 << 20, kind
    values = cifar_with(tmp_path, member, member.size)
    tracemalloc.start()
    try:
        assert "1,048,576 bytes, which is the limit" in refusal(values)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_a_large_file_of_an_unpacked_archive_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 20)
    for name in ("batch", "batch.gz"):
        path = tmp_path / name
        path.write_bytes(bytes(4 << 20) if name == "batch" else gzip.compress(bytes(4 << 20)))
        with pytest.raises(UserError, match=r"has more than 1,048,576 bytes, which is the limit"):
            archives.read_bounded(path)
        with pytest.raises(UserError, match=r"has more than 1,048,576 bytes, which is the limit"):
            read_idx(path)
