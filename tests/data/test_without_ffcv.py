"""Without FFCV, files and pixels are the same, bit for bit.

Tests that compare both are skipped where FFCV is not installed. The other tests of this folder then run without it.
"""

from __future__ import annotations

import base64
import io
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mem.data.beton import complete_images
from mem.data.beton import crops as crops_module
from mem.data.beton.crops import Stored, crop_complete_images, crop_images, crop_table, native_library
from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.writer import BetonWriter, publish_all
from mem.data.codecs import decode, libffcv, turbojpeg
from tests.data.test_crops import FORMATS, cropped_images, jpeg, photo, table_of

UNUSUAL_SAMPLING = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7"
    "gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8"
    "fHx8fHx8fHz/wAARCAAUABoDATEAAhEBAxEB/8QAGAAAAwEBAAAAAAAAAAAAAAAAAAMEAgb/xAAgEAABBAEEAwAAAAAAAAAAAAAA"
    "AQIDYQQREyFRFFKR/8QAGQEAAgMBAAAAAAAAAAAAAAAAAwUABAYB/8QAIxEAAgEDAgcBAAAAAAAAAAAAAAECAwQSERMUISNBUWGh"
    "0f/aAAwDAQACEQMRAD8A5qPGoqjxaKo8SgaWRctao7w6ADuwNd4zFjUWxYtFLYEbxpqpKU1GDm+xmLapzQ3Zd6p8AAXGVvC+/o3z"
    "QiGNvRaxiNYqonI6GJvQLXpRXszdrJ6lW03oALOCGuTP/9k="
)
"""A JPEG file of 26 x 20 pixels with the sampling factors 3x1, 1x1 and 1x1 (cjpeg -quality 40 -sample 3x1)."""

with_ffcv = pytest.mark.skipif(libffcv.library() is None, reason="FFCV is not installed")


@pytest.fixture
def without_ffcv(monkeypatch):
    monkeypatch.setattr(libffcv, "library", lambda: None)
    monkeypatch.setattr(complete_images, "functions", complete_images.without_ffcv)
    crops_module._load.cache_clear()
    yield
    crops_module._load.cache_clear()


def outcome(function, *arguments, **named):
    """Return the pixels, or how the decoding failed."""
    try:
        return function(*arguments, **named)
    except turbojpeg.Damaged as damage:
        return f"{damage}, fatal: {damage.fatal}"


def both(table: np.ndarray, scratch_bytes: int, rows: int, columns: int) -> list[tuple[int, np.ndarray]]:
    results = []
    for functions in (complete_images.functions(), complete_images.without_ffcv()):
        out = np.zeros((len(table), rows, columns, 3), np.uint8)
        results.append((crop_complete_images(table, np.empty(scratch_bytes, np.uint8), out, functions), out))
    return results


@with_ffcv
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=50, deadline=None)
@given(image=cropped_images(), side=st.integers(1, 70), other=st.integers(1, 70), seed=st.integers(0, 5))
def test_crops_of_jpeg_images_are_the_same(kind, image, side, other, seed):
    size, crop, mirrored = image
    table, _arrays = table_of([jpeg(photo(*size, seed), kind)], [size], [crop], np.array([mirrored]))
    (failed, found), (expected_failure, expected) = both(table, size[0] * size[1] * 3, side, other)
    assert failed == expected_failure == (0 if kind == "CMYK" else -1)
    np.testing.assert_array_equal(found, expected)


@with_ffcv
@settings(max_examples=250, deadline=None)
@given(image=cropped_images(), side=st.integers(1, 70), other=st.integers(1, 70), seed=st.integers(0, 5))
def test_crops_of_raw_images_are_the_same(image, side, other, seed):
    size, crop, mirrored = image
    pixels = photo(*size, seed)
    stored = Stored(*(np.array([value]) for value in (pixels.ctypes.data, -1, *size)))
    (_, found), (_, expected) = both(crop_table(stored, np.array([crop]), np.array([mirrored])), 0, side, other)
    np.testing.assert_array_equal(found, expected)


@with_ffcv
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fast", [False, True])
def test_decoded_files_are_the_same(kind, fast, request):
    components = {"gray": 1, "CMYK": 4}.get(kind, 3)
    size = 90, 75
    content = jpeg(photo(*size, 0), kind)
    damaged = content[:-300] + bytes(8) + content[-292:]
    contents = [content, content[: len(content) // 2], damaged, content[:-2]]
    expected = [outcome(turbojpeg.decode, part, *size, components, fast=fast) for part in contents]
    request.getfixturevalue("without_ffcv")
    found = [outcome(turbojpeg.decode, part, *size, components, fast=fast) for part in contents]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("version", [b"\x03\x01", b"\x00\x00"])
def test_files_with_a_harmless_warning_in_their_header_are_decoded(without_ffcv, version):
    content = jpeg(photo(30, 40, 0), "420")
    position = content.index(b"JFIF\0") + 5
    changed = content[:position] + version + content[position + 2 :]
    np.testing.assert_array_equal(decode.decode(changed), decode.decode(content))


@with_ffcv
def test_files_that_simplejpeg_does_not_support_have_the_same_pixels(request):
    expected = decode.decode(UNUSUAL_SAMPLING)
    request.getfixturevalue("without_ffcv")
    np.testing.assert_array_equal(decode.decode(UNUSUAL_SAMPLING), expected)


@pytest.mark.parametrize("kept", [20, 100, 300, -40])
def test_truncated_files_are_rejected(without_ffcv, kept):
    for content in (UNUSUAL_SAMPLING, jpeg(photo(30, 30, 0), "420")):
        with pytest.raises(decode.Unreadable, match="truncated"):
            decode.decode(content[:kept])


@with_ffcv
@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_beton_file_is_the_same(tmp_path, storage, request):
    sources = [jpeg(photo(40 + i, 60 - i, i), kind) for i, kind in enumerate(FORMATS)]
    sources += [photo(30, 20, 1)]

    def content(name: str) -> bytes:
        with BetonWriter(tmp_path / name, len(sources), {}) as writer:
            for source in sources:
                writer.add(encode(source, Encoding(storage, 90, 32, "area")))
            writer.finish(np.arange(len(sources)))
        publish_all([writer])
        return (tmp_path / name).read_bytes()

    expected = content("with.beton")
    request.getfixturevalue("without_ffcv")
    assert content("without.beton") == expected


def test_compiled_code_calls_the_functions_of_the_python_packages(without_ffcv, caplog):
    """Progressive files and whole-number factors are passed to functions for complete images."""
    with caplog.at_level(logging.WARNING, "mem"):
        assert native_library() is not None, caplog.text
    sizes = [(64, 48), (64, 48), (20, 30)]
    contents = [jpeg(photo(*size, i), kind) for i, (size, kind) in enumerate(zip(sizes, FORMATS[3:6], strict=True))]
    contents[0] = jpeg(photo(64, 48, 0), "progressive")
    table, _arrays = table_of(contents, sizes, [[0, 0, 64, 48], [0, 0, 64, 48], [2, 3, 15, 20]], np.array([True] * 3))
    scratch, (found, expected) = np.empty(64 * 48 * 3, np.uint8), np.zeros((2, 3, 32, 24, 3), np.uint8)
    assert crop_images(table, scratch, found) is None
    assert crop_complete_images(table, scratch, expected) == -1
    np.testing.assert_array_equal(found, expected)
    broken, _arrays = table_of([contents[0][:-200]], [(64, 48)], [[0, 0, 64, 48]])
    assert crop_images(broken, scratch, found[:1]) == 0


def test_an_image_of_another_size_is_damaged(without_ffcv):
    content = jpeg(photo(64, 48, 0), "420")
    for size in ((64, 50), (32, 24), (65, 48)):
        table, _arrays = table_of([content], [size], [[0, 0, *size]])
        assert crop_complete_images(table, np.empty(64 * 50 * 3, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)) == 0


def test_every_error_of_the_decoder_is_a_damaged_image(monkeypatch):
    """An exception would not reach the callers in compiled code, which would use the memory as a decoded image."""

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(complete_images.simplejpeg, "decode_jpeg", out_of_memory)
    table, _arrays = table_of([jpeg(photo(64, 48, 0), "420")], [(64, 48)], [[0, 0, 64, 48]])
    scratch, out = np.empty(64 * 48 * 3, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    assert crop_complete_images(table, scratch, out, complete_images.without_ffcv()) == 0


def test_files_with_too_many_scans_are_rejected(without_ffcv):
    file = io.BytesIO()
    Image.fromarray(photo(16, 16, 0)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    assert decode.decode(content).shape == (16, 16, 3)
    with pytest.raises(decode.Unreadable, match="more than 500 scans"):
        decode.decode(content[:last] + content[last:-2] * 501 + content[-2:])


def test_an_installed_ffcv_that_cannot_be_loaded_is_reported(tmp_path, monkeypatch, caplog):
    package = tmp_path / "ffcv"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: type("Spec", (), {"origin": str(package / "__init__.py")})
    )
    load = libffcv.library.__wrapped__
    assert load() is None
    (package / "_libffcv.so").write_bytes(b"not a library")
    assert load() is None
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["The installed FFCV is not used"] * 2
    assert "cannot be loaded" in caplog.text
