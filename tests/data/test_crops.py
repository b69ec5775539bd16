"""The compiled crop decoder. Its pixels equal those of FFCV's complete decoding and resizing, bit for bit."""

from __future__ import annotations

import io
import logging
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mem.config import Augmentation
from mem.data.beton import crops as crops_module
from mem.data.beton.crops import Stored, crop_complete_images, crop_images, crop_table, native_library
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from tests.beton_files import write_beton

GUARD = 64
"""Number of bytes before and after a buffer that must not change."""
SAMPLINGS = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "440": 0x121111, "411": 0x411111}
FORMATS = (*SAMPLINGS, "progressive", "restarts", "optimised", "gray", "CMYK", "RGB")


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """Return an RGB image with smooth parts, edges and noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += rng.integers(-12, 13, image.shape, dtype=np.int16)
    image[height // 3 : height // 2, width // 4 :] = rng.integers(0, 256, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, kind: str) -> bytes:
    """Return JPEG data with the given sampling or structure."""
    if kind in SAMPLINGS:
        options = [int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR), SAMPLINGS[kind], int(cv2.IMWRITE_JPEG_QUALITY), 90]
        return cv2.imencode(".jpg", image, options)[1].tobytes()
    mode = {"gray": "L", "CMYK": "CMYK"}.get(kind, "RGB")
    extra = {
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 3},
        "optimised": {"optimize": True},
        "RGB": {"keep_rgb": True},
    }
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=85, **extra.get(kind, {}))
    return file.getvalue()


def table_of(contents: list[bytes], sizes, crops, mirrored=None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a crop table for JPEG data, and the arrays that it refers to."""
    arrays = [np.frombuffer(content, np.uint8) for content in contents]
    sizes = np.array(sizes)
    stored = Stored(
        np.array([array.ctypes.data for array in arrays]),
        np.array([array.size for array in arrays]),
        sizes[:, 0],
        sizes[:, 1],
    )
    return crop_table(stored, np.array(crops), mirrored), arrays


def guarded(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return memory with guards, and the part between the guards."""
    memory = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    return memory, memory[GUARD : GUARD + size]


def both(table: np.ndarray, scratch_bytes: int, rows: int, columns: int):
    """Return failure and pixels of the library and of FFCV's functions, and check that nothing else is written."""
    results = []
    for function in (crop_images, crop_complete_images):
        scratch_memory, scratch = guarded(scratch_bytes)
        out_memory, out = guarded(len(table) * rows * columns * 3)
        pixels = out.reshape(len(table), rows, columns, 3)
        failed = function(table, scratch, pixels)
        for memory in (scratch_memory, out_memory):
            assert (memory[:GUARD] == 0xA5).all() and (memory[-GUARD:] == 0xA5).all()
        results.append((None if failed == -1 else failed, pixels))
    return results


def random_crop(draw, height: int, width: int) -> list[int]:
    crop_height, crop_width = draw(st.integers(1, height)), draw(st.integers(1, width))
    top, left = draw(st.integers(0, height - crop_height)), draw(st.integers(0, width - crop_width))
    return [top, left, crop_height, crop_width]


@st.composite
def cropped_images(draw, smallest: int = 1, largest: int = 90):
    height, width = draw(st.integers(smallest, largest)), draw(st.integers(smallest, largest))
    return (height, width), random_crop(draw, height, width), draw(st.booleans())


def test_the_library_is_compiled_on_this_installation():
    assert native_library() is not None


def test_the_package_description_names_each_source_file():
    folder = Path(crops_module.__file__).parent / "native"
    described = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    assert {Path(name).name for name in (*described["sources"], *described["depends"])} == {
        path.name for path in folder.iterdir()
    }


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60, deadline=None)
@given(image=cropped_images(), side=st.integers(1, 70), other=st.integers(1, 70), seed=st.integers(0, 5))
def test_crops_of_jpeg_images_equal_those_of_the_complete_decoding(kind, image, side, other, seed):
    size, crop, mirrored = image
    table, _arrays = table_of([jpeg(photo(*size, seed), kind)], [size], [crop], np.array([mirrored]))
    (failed, found), (expected_failure, expected) = both(table, size[0] * size[1] * 3, side, other)
    assert failed == expected_failure
    if failed is None:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [1, 2, 3, 0.5])
@settings(max_examples=40, deadline=None)
@given(image=cropped_images(2, 60), seed=st.integers(0, 5))
def test_resizing_by_a_whole_factor_equals_opencvs(scale, image, seed):
    size, (top, left, height, width), mirrored = image
    pixels = photo(*size, seed)
    rows, columns = max(1, int(height / scale)), max(1, int(width / scale))
    stored = Stored(*(np.array([value]) for value in (pixels.ctypes.data, -1, *size)))
    table = crop_table(stored, np.array([[top, left, height, width]]), np.array([mirrored]))
    (_, found), (_, expected) = both(table, 0, rows, columns)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=150, deadline=None)
@given(image=cropped_images(1, 300), side=st.integers(1, 256), other=st.integers(1, 256))
def test_resized_raw_crops_equal_opencvs(image, side, other):
    size, crop, mirrored = image
    pixels = photo(*size, 1)
    stored = Stored(*(np.array([value]) for value in (pixels.ctypes.data, -1, *size)))
    table = crop_table(stored, np.array([crop]), np.array([mirrored]))
    (_, found), (_, expected) = both(table, 0, side, other)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["420", "422", "444", "restarts"])
@settings(max_examples=150, deadline=None)
@given(data=st.data(), image=cropped_images(20, 80), seed=st.integers(0, 5))
def test_damaged_files_are_rejected_as_by_the_complete_decoding(kind, data, image, seed):
    """A crop may be read although the file is damaged below it. The complete image is rejected as before."""
    size, crop, _ = image
    content = bytearray(jpeg(photo(*size, seed), kind))
    if data.draw(st.booleans(), label="truncated"):
        del content[data.draw(st.integers(2, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    whole, _arrays = table_of([bytes(content)], [size], [[0, 0, *size]])
    # The library's decoder is new for each image. FFCV's keeps the tables of the previous file, so give it this file's.
    scratch = np.empty(size[0] * size[1] * 3, np.uint8)
    crop_complete_images(whole, scratch, np.empty((1, 8, 8, 3), np.uint8))
    (failed, found), (expected_failure, expected) = both(whole, scratch.size, 24, 24)
    assert failed == expected_failure
    if failed is None:
        np.testing.assert_array_equal(found, expected)
    part, _arrays = table_of([bytes(content)], [size], [crop])
    (failed, found), (expected_failure, expected) = both(part, scratch.size, 24, 24)
    if expected_failure is None:
        assert failed is None
        np.testing.assert_array_equal(found, expected)


def test_a_crop_above_the_damage_has_the_original_pixels():
    original = jpeg(photo(96, 80, 0), "420")
    truncated = original[: len(original) * 3 // 4]
    for crop, readable in (([0, 0, 16, 80], True), ([40, 30, 8, 20], True), ([64, 0, 32, 80], False)):
        tables = [table_of([content], [(96, 80)], [crop]) for content in (truncated, original)]
        (failed, found), _ = both(tables[0][0], 96 * 80 * 3, 20, 20)
        _, (_, expected) = both(tables[1][0], 96 * 80 * 3, 20, 20)
        assert (failed is None) == readable
        if readable:
            np.testing.assert_array_equal(found, expected)


def test_images_whose_header_has_another_size_are_decoded_as_before():
    content = jpeg(photo(64, 48, 0), "420")
    for size in ((64, 50), (32, 24), (20, 20)):
        table, _arrays = table_of([content], [size], [[0, 0, *size]])
        (failed, found), (expected_failure, expected) = both(table, 64 * 50 * 3, 16, 16)
        assert failed == expected_failure
        if failed is None:
            np.testing.assert_array_equal(found, expected)


def test_one_call_for_a_group_equals_one_call_per_image():
    sizes = [(40 + 7 * i, 90 - 5 * i) for i in range(8)]
    contents = [jpeg(photo(*size, i), FORMATS[i % 5]) for i, size in enumerate(sizes)]
    crops = [[i, 2 * i, 20 + i, 25] for i in range(8)]
    table, _arrays = table_of(contents, sizes, crops, np.arange(8) % 3 == 0)
    scratch = np.empty(100 * 100 * 3, np.uint8)
    together, alone = np.zeros((2, 8, 24, 24, 3), np.uint8)
    assert crop_images(table, scratch, together) is None
    for i in range(8):
        assert crop_images(table[i : i + 1], scratch, alone[i : i + 1]) is None
    np.testing.assert_array_equal(together, alone)


def test_the_first_damaged_image_of_a_group_is_named():
    contents = [jpeg(photo(32, 32, i), "420") for i in range(4)]
    contents[2] = contents[2][:300] + bytes(len(contents[2]) - 300)
    table, _arrays = table_of(contents, [(32, 32)] * 4, [[0, 0, 32, 32]] * 4)
    assert crop_images(table, np.empty(32 * 32 * 3, np.uint8), np.empty((4, 8, 8, 3), np.uint8)) == 2
    assert crop_images(table[:2], np.empty(32 * 32 * 3, np.uint8), np.empty((2, 8, 8, 3), np.uint8)) is None


@pytest.mark.parametrize("crop", [[0, 0, 0, 5], [0, 0, 5, 0], [-1, 0, 5, 5], [0, 6, 5, 5], [6, 0, 5, 5]])
def test_a_crop_outside_its_image_is_rejected(crop):
    with pytest.raises(ValueError, match="not inside its image"):
        table_of([b"\xff"], [(10, 10)], [crop])


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(crops_module, "EXTENSION_SUFFIXES", [".none"])
    crops_module._load.cache_clear()
    yield
    crops_module._load.cache_clear()


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_batches_are_the_same_without_the_library(tmp_path, storage, request, caplog):
    images = [photo(30 + 3 * i, 60 - 2 * i, i) for i in range(12)]
    write_beton(tmp_path / "a.beton", images, np.arange(12), storage=storage)

    def batches() -> list[np.ndarray]:
        augmentation = Augmentation(crop_scale=(0.2, 1.0), flip=True)
        data = TrainingImages(
            Beton(tmp_path / "a.beton"), InstanceSampler(12, 0), 8, 16, augmentation, seed=0, workers=2
        )
        return [batch.inputs.numpy().copy() for batch in data.from_step(0, 3)]

    with caplog.at_level(logging.WARNING, "mem"):
        expected = batches()
        assert not caplog.records
        request.getfixturevalue("without_library")
        found = batches()
    np.testing.assert_array_equal(found, expected)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "The library mem/data/beton/_crops is not used"
    ]


def test_a_library_with_other_results_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(crops_module, "crop_complete_images", lambda table, scratch, out: out.fill(7) or -1)
    crops_module._load.cache_clear()
    assert native_library() is None
    assert "differ" in caplog.text
    crops_module._load.cache_clear()
