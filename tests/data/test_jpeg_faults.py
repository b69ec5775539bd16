"""JPEG files that a complete image can have although libjpeg-turbo warns about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mem.data.beton.reader import Beton
from mem.data.codecs import jpeg_header
from mem.data.codecs.decode import Unreadable, decode
from mem.data.convert.convert import convert
from mem.data.datasets import read_dataset
from mem.errors import UserError
from tests.data.conversions import settings_for
from tests.data.image_files import picture, saved, training_pixels

JPEG = saved(picture(), "JPEG", quality=80)
RESTARTS = saved(picture(), "JPEG", quality=80, restart_marker_rows=1)


def before_restart(added: bytes, number: int = 0) -> bytes:
    position = RESTARTS.index(bytes([0xFF, 0xD0 + number]))
    return RESTARTS[:position] + added + RESTARTS[position:]


def with_jfif_version(major: int, minor: int) -> bytes:
    position = JPEG.index(b"JFIF\0") + 5
    return JPEG[:position] + bytes([major, minor]) + JPEG[position + 2 :]


def with_scan_header(content: bytes, values: bytes) -> bytes:
    """Replace start and end of the spectrum, and the approximation, in the header of the scan."""
    start = content.index(b"\xff\xda") + 2
    end = start + int.from_bytes(content[start : start + 2], "big")
    return content[: end - 3] + values + content[end:]


WARNINGS = {
    "ten zeros before the end": JPEG[:-2] + bytes(10) + JPEG[-2:],
    "99 bytes before the end": JPEG[:-2] + b"\x42" * 99 + JPEG[-2:],
    "two bytes before a restart": before_restart(b"\x12\x34", 1),
    "ten zeros before the first restart": before_restart(bytes(10)),
    "JFIF 3.1": with_jfif_version(3, 1),
    "JFIF 2.0": with_jfif_version(2, 0),
    "JFIF 0.0": with_jfif_version(0, 0),
}


@pytest.mark.parametrize("fault", WARNINGS)
def test_the_training_decodes_each_jpeg_that_the_conversion_accepts(fault):
    found, copied = training_pixels(WARNINGS[fault])
    assert not copied
    original = RESTARTS if "restart" in fault else JPEG
    assert np.abs(found.astype(int) - decode(original)).max() <= 8
    assert training_pixels(original)[1]


def test_a_jpeg_without_tables_does_not_use_those_of_the_previous_file():
    """A decoder of libjpeg-turbo keeps the tables of a file, so the result depended on the previous file."""
    optimised = saved(picture().rotate(90), "JPEG", quality=30, optimize=True)
    start = JPEG.index(b"\xff\xc4")
    without_huffman = JPEG[:start] + JPEG[JPEG.index(b"\xff\xda") :]
    start = JPEG.index(b"\xff\xdb")
    without_quantisation = JPEG[:start] + JPEG[JPEG.index(b"\xff\xc0") :]
    assert not jpeg_header.has_all_tables(without_huffman)
    for previous in (JPEG, optimised):
        decode(previous)
        # Motion JPEG frames omit the standard Huffman tables, which are those of `JPEG`.
        np.testing.assert_array_equal(decode(without_huffman), decode(JPEG))
        assert not training_pixels(without_huffman)[1]
        decode(previous)
        with pytest.raises(Unreadable, match="Quantization table 0x00 was not defined"):
            decode(without_quantisation)


def test_a_jpeg_that_the_fast_decoder_distorts_is_encoded_again():
    """With the largest quantisation values, the coefficients exceed the range of the fast inverse DCT."""
    start = JPEG.index(b"\xff\xdb") + 5
    content = JPEG[:start] + b"\xff" * 64 + JPEG[start + 64 :]
    found, copied = training_pixels(content)
    assert not copied
    assert np.abs(found.astype(int) - decode(content)).mean() <= 20


@pytest.mark.parametrize("values", ["000000", "010000", "013f00", "003f11", "000011", "003e00"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_baseline_scan_with_a_wrong_spectrum_has_all_coefficients(mode, values):
    original = saved(picture().convert(mode), "JPEG", quality=80)
    content = with_scan_header(original, bytes.fromhex(values))
    np.testing.assert_array_equal(decode(content), decode(original))
    found, copied = training_pixels(content)
    assert not copied
    assert np.abs(found.astype(int) - decode(original)).max() <= 8


def test_extended_sequential_files_and_restarts_may_have_a_wrong_spectrum_too():
    for original in (JPEG.replace(b"\xff\xc0", b"\xff\xc1", 1), RESTARTS):
        np.testing.assert_array_equal(decode(with_scan_header(original, bytes(3))), decode(original))


def test_a_damaged_file_with_a_wrong_spectrum_is_rejected():
    """Before, a warning about the scan header could hide a warning about the data."""
    content = with_scan_header(JPEG, bytes(3))
    np.testing.assert_array_equal(decode(content), decode(JPEG))
    for damaged in (content[:-60], content[:-2], content[:-160] + bytes(158) + content[-2:]):
        with pytest.raises(Unreadable, match="damaged or truncated"):
            decode(damaged)


@pytest.mark.stage
def test_a_dataset_of_such_files_is_converted_and_read(tmp_path):
    for split in ("train", "val", "test"):
        folder = tmp_path / "tree" / split / "one"
        folder.mkdir(parents=True)
        for i, content in enumerate(WARNINGS.values()):
            (folder / f"{i}.jpg").write_bytes(content)
        (folder / "samsung.jpg").write_bytes(with_scan_header(JPEG, bytes(3)))
    settings = settings_for(tmp_path / "tree", short_side=None)
    manifest = convert(read_dataset(settings, 0), settings, tmp_path / "out", 1, lambda text: None)
    assert manifest["kept"]["files_as_they_were"] == 0
    assert _failures(tmp_path / "out" / "train.beton") == []


def _failures(path: Path) -> list[str]:
    beton = Beton(path)
    failures: list[str] = []
    for i in range(len(beton)):
        pixels = np.zeros((int(beton.heights[i]), int(beton.widths[i]), 3), np.uint8)
        try:
            beton.crop(i, 0, 0, *pixels.shape[:2], pixels)
        except UserError as error:
            failures.append(str(error))
    return failures
