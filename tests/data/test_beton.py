"""The writer and reader for .beton files, compatibility with FFCV, and damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.reader import Beton
from mem.data.beton.tables import HEADER, read_tables
from mem.data.beton.writer import BetonWriter
from mem.data.codecs import libffcv
from mem.errors import UserError
from tests.beton_files import write_beton


def smooth_images(count: int, seed: int = 0, smallest: int = 5, largest: int = 40) -> list[np.ndarray]:
    """Create smooth colour images of several sizes, which JPEG compression hardly changes."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = rng.integers(smallest, largest, 2)
        y, x = np.mgrid[0:height, 0:width]
        slopes = rng.uniform(-2, 2, (3, 2))
        planes = [128 + a * (y - height / 2) + b * (x - width / 2) for a, b in slopes]
        images.append(np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8))
    return images


def write(path: Path, images: list[np.ndarray], storage: str = "raw") -> np.ndarray:
    labels = np.arange(len(images), dtype=np.int64) % 7
    write_beton(path, images, labels, storage=storage, jpeg_quality=95)
    return labels


def decoded(beton: Beton, index: int) -> np.ndarray:
    height, width = int(beton.heights[index]), int(beton.widths[index])
    out = np.zeros((height, width, 3), dtype=np.uint8)
    beton.crop(index, 0, 0, height, width, out)
    return out


def test_raw_images_are_read_unchanged(tmp_path):
    images = smooth_images(50)
    labels = write(tmp_path / "a.beton", images)
    beton = Beton(tmp_path / "a.beton")
    np.testing.assert_array_equal(beton.labels, labels)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(decoded(beton, i), image)


def test_jpeg_images_are_read_nearly_unchanged(tmp_path):
    images = smooth_images(20)
    write(tmp_path / "a.beton", images, storage="jpeg")
    beton = Beton(tmp_path / "a.beton")
    for i, image in enumerate(images):
        assert np.abs(decoded(beton, i).astype(int) - image).mean() < 3


def test_a_crop_is_the_requested_part_of_the_image(tmp_path):
    images = smooth_images(1, smallest=30)
    write(tmp_path / "a.beton", images)
    out = np.zeros((6, 9, 3), dtype=np.uint8)
    Beton(tmp_path / "a.beton").crop(0, 4, 11, 6, 9, out)
    np.testing.assert_array_equal(out, images[0][4:10, 11:20])


def test_the_same_images_give_the_same_bytes(tmp_path):
    images = smooth_images(300, largest=12)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.beton", images, storage="jpeg")
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


@pytest.mark.stage
@pytest.mark.skipif(libffcv.library() is None, reason="FFCV is not installed")
@pytest.mark.parametrize("page_bytes", [8 << 20, 1 << 8])
def test_ffcvs_own_loader_reads_the_same_pixels_and_labels(tmp_path, monkeypatch, page_bytes):
    monkeypatch.setattr("mem.data.beton.writer.PAGE_BYTES", page_bytes)  # the page size grows from 256 to 512 bytes
    images = [np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8) for i in range(40)]
    labels = write(tmp_path / "a.beton", images)
    # Run in another process, because importing ffcv changes the threads of this one (see mem/data/codecs/libffcv.py).
    code = f"""
import numpy as np, torch
from ffcv.loader import Loader, OrderOption
from ffcv.fields.decoders import SimpleRGBImageDecoder, IntDecoder
from ffcv.transforms import ToTensor
for cached in (True, False):
    loader = Loader({str(tmp_path / "a.beton")!r}, batch_size=16, num_workers=1, order=OrderOption.SEQUENTIAL,
                    drop_last=False, os_cache=cached,
                    pipelines={{"image": [SimpleRGBImageDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]}})
    batches = [(images.clone(), labels.clone()) for images, labels in loader]
    np.save({str(tmp_path)!r} + f"/images-{{cached}}.npy", torch.cat([b[0] for b in batches]).numpy())
    np.save({str(tmp_path)!r} + f"/labels-{{cached}}.npy", torch.cat([b[1] for b in batches])[:, 0].numpy())
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)
    for cached in (True, False):
        np.testing.assert_array_equal(np.load(tmp_path / f"images-{cached}.npy"), np.stack(images))
        np.testing.assert_array_equal(np.load(tmp_path / f"labels-{cached}.npy"), labels)


def test_images_do_not_cross_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("mem.data.beton.writer.PAGE_BYTES", 1 << 21)
    images = [np.full((400, 600, 3), i, dtype=np.uint8) for i in range(12)]
    write(tmp_path / "a.beton", images)
    beton = Beton(tmp_path / "a.beton")
    starts, ends = beton._positions, beton._positions + beton._sizes - 1
    np.testing.assert_array_equal(starts // (1 << 21), ends // (1 << 21))
    np.testing.assert_array_equal(decoded(beton, 11), images[11])


def test_pages_grow_with_the_largest_image(tmp_path, monkeypatch):
    monkeypatch.setattr("mem.data.beton.writer.PAGE_BYTES", 1 << 16)
    sides = (100, 300, 90, 200, 120, 301, 40, 40)
    images = [np.full((side, side, 3), i, dtype=np.uint8) for i, side in enumerate(sides)]
    write(tmp_path / "a.beton", images)
    beton = Beton(tmp_path / "a.beton")
    page = read_tables(tmp_path / "a.beton").page_bytes
    assert page == 1 << 19
    np.testing.assert_array_equal(beton._positions // page, (beton._positions + beton._sizes - 1) // page)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(decoded(beton, i), image)


def test_a_file_without_images_can_be_opened(tmp_path):
    write(tmp_path / "a.beton", [])
    beton = Beton(tmp_path / "a.beton")
    assert len(beton) == 0
    assert beton.labels.shape == (0,)


def test_an_exception_while_writing_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.beton"
    write(path, smooth_images(3))
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), BetonWriter(path, 5, {}) as writer:
        writer.add(encode(smooth_images(1)[0], Encoding("raw", 90, None, "area")))
        raise ZeroDivisionError
    assert path.read_bytes() == before


def test_the_journal_has_the_format_of_interrupted_conversions(tmp_path):
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    with BetonWriter(tmp_path / "a.beton", 3, {"images": "digest"}) as writer:
        writer.add(encode(image, Encoding("raw", 90, None, "area")))
        writer.skip("is empty (0 bytes)")
        writer.add(encode(image, Encoding("raw", 90, None, "area")))
        writer.finish(np.zeros(3, dtype=np.int64))
    lines = (tmp_path / ".a.beton.journal").read_text().splitlines()
    size = (tmp_path / ".a.beton.partial").stat().st_size
    assert lines == [
        '{"images": "digest", "planned": 3}', "r 4 5 60", 'u "is empty (0 bytes)"', "r 4 5 60", f"whole {size}",
    ]  # fmt: skip


def test_a_file_that_cannot_grow_never_gets_its_final_name(tmp_path, file_limit):
    with file_limit(1 << 20), pytest.raises(OSError, match=r"File too large: .*\.a\.beton\.partial"):
        write(tmp_path / "a.beton", smooth_images(4))
    assert not (tmp_path / "a.beton").exists()


@pytest.mark.parametrize("kept", [0, 10, 600, 5000, -100])
def test_a_truncated_file_is_rejected(tmp_path, kept):
    write(tmp_path / "a.beton", smooth_images(30))
    content = (tmp_path / "a.beton").read_bytes()
    (tmp_path / "a.beton").write_bytes(content[:kept])
    with pytest.raises(UserError, match=r"a\.beton: .*(incomplete|not an FFCV file)"):
        Beton(tmp_path / "a.beton")


def test_a_file_in_another_format_is_rejected(tmp_path):
    (tmp_path / "a.beton").write_bytes(os.urandom(20_000))
    with pytest.raises(UserError, match="not an FFCV file, or an incomplete one"):
        Beton(tmp_path / "a.beton")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.beton: no such file"):
        Beton(tmp_path / "none.beton")


def test_an_image_with_damaged_jpeg_data_is_named(tmp_path):
    write(tmp_path / "a.beton", smooth_images(2, smallest=30), storage="jpeg")
    beton = Beton(tmp_path / "a.beton")
    position, size = int(beton._positions[1]), int(beton._sizes[1])
    with open(tmp_path / "a.beton", "r+b") as file:
        file.seek(position)
        file.write(b"\0" * size)
    with pytest.raises(UserError, match="image 1 cannot be decoded"):
        decoded(Beton(tmp_path / "a.beton"), 1)


@pytest.mark.parametrize(("column", "value"), [("ptr", 1 << 40), ("ptr", 1 << 63), ("size", 5), ("size", 1 << 50)])
def test_an_image_outside_the_file_is_rejected(tmp_path, column, value):
    write(tmp_path / "a.beton", smooth_images(3, smallest=10))
    content = bytearray((tmp_path / "a.beton").read_bytes())
    table = read_tables(tmp_path / "a.beton").allocations
    table[column][1] = value
    start = int(np.frombuffer(content, HEADER, 1)[0]["alloc_table_ptr"])
    content[start : start + table.nbytes] = table.tobytes()
    (tmp_path / "a.beton").write_bytes(content)
    with pytest.raises(UserError, match="the position or size of image 1 is wrong"):
        Beton(tmp_path / "a.beton")
