"""The image decoder, shrinking, and the JPEG header parser."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mem.data.codecs import jpeg_header
from mem.data.codecs.decode import Unreadable, decode, shrink


def smooth(height: int = 40, width: int = 56, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Create an asymmetric image that JPEG compression hardly changes."""
    slopes = np.random.default_rng(seed).uniform(-2, 2, (channels, 2))
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + a * (y - height / 2) + b * (x - width / 2) for a, b in slopes]
    return np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)


def noisy(height: int = 200, width: int = 300, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    return np.clip(smooth(height, width) + noise, 0, 255).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def reason(content: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(content)
    return str(caught.value)


# --- JPEG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_files_have_the_pixels_that_pillow_decodes(progressive, subsampling):
    content = saved(noisy(), "JPEG", quality=90, progressive=progressive, subsampling=subsampling)
    np.testing.assert_array_equal(decode(content), np.asarray(Image.open(io.BytesIO(content))))


def test_a_grayscale_jpeg_has_three_equal_channels():
    gray = smooth()[:, :, 0]
    found = decode(saved(gray, "JPEG", quality=98))
    assert np.abs(found.astype(int) - gray[:, :, None]).max() <= 3
    assert (found[:, :, 0] == found[:, :, 2]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation, kind):
    upright = smooth()
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {})
    found = decode(saved(np.ascontiguousarray(turned), kind, exif=exif, **options))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (8 if kind == "JPEG" else 0)


def test_cmyk_becomes_the_colours_on_paper():
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, :8] = (255, 0, 0, 0)
    inks[:, 8:16] = (0, 255, 255, 0)
    inks[:, 16:24] = (0, 0, 0, 128)
    found = decode(saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)).astype(int)
    for column, colour in ((4, (0, 255, 255)), (12, (255, 0, 0)), (20, (127, 127, 127)), (28, (255, 255, 255))):
        assert np.abs(found[8, column] - colour).max() <= 3, (column, found[8, column])


def test_ycck_is_decoded_as_pillow_decodes_it():
    content = bytearray(saved(Image.fromarray(smooth(channels=4), "CMYK"), "JPEG", quality=98))
    adobe = content.index(b"Adobe")
    content[adobe + 11] = 2  # declares the first three components as Y, Cb and Cr
    expected = np.asarray(Image.open(io.BytesIO(bytes(content))).convert("RGB")).astype(int)
    assert np.abs(decode(bytes(content)) - expected).max() <= 1
    assert np.abs(decode(bytes(content)) - decode(bytes(content[: adobe + 11]) + b"\0" + content[adobe + 12 :])).any()


@pytest.mark.parametrize("kept", [0.999, 0.99, 0.7, 0.3, 0.1])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_truncated_jpeg_is_rejected(mode, progressive, kept):
    content = saved(Image.fromarray(noisy()).convert(mode), "JPEG", quality=90, progressive=progressive)
    assert "damaged or truncated" in reason(content[: int(kept * len(content))])


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_jpeg_without_its_end_marker_is_rejected(cut):
    assert "truncated" in reason(saved(noisy(), "JPEG")[:-cut])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_ends_in_zeros_is_rejected(progressive):
    """Interrupted downloads leave such files if their disk space was allocated in advance."""
    content = saved(noisy(), "JPEG", quality=90, progressive=progressive)
    half = len(content) // 2
    assert "damaged or truncated" in reason(content[:half] + bytes(len(content) - half))


def test_a_jpeg_with_a_hole_is_rejected():
    content = saved(noisy(), "JPEG", quality=90)
    third = len(content) // 3
    assert "damaged or truncated" in reason(content[:third] + bytes(4096) + content[third + 4096 :])


def test_a_jpeg_that_is_truncated_in_its_header_is_rejected():
    assert "truncated in its header" in reason(saved(noisy(), "JPEG")[:200])
    assert "header" in reason(b"\xff\xd8\xff")


def test_padding_around_the_end_of_a_jpeg_is_ignored():
    content = saved(noisy(), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(content + b"maker notes" * 100), decode(content))
    np.testing.assert_array_equal(decode(content[:-2] + bytes(20) + content[-2:]), decode(content))


# --- other formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_their_pixels(kind):
    np.testing.assert_array_equal(decode(saved(smooth(), kind)), smooth())


def test_grayscale_and_bilevel_images_are_expanded_to_rgb():
    gray = smooth()[:, :, 0]
    np.testing.assert_array_equal(decode(saved(gray, "PNG")), np.repeat(gray[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(decode(saved(Image.fromarray(gray > 128), "PNG"))[:, :, 1], (gray > 128) * 255)


def test_a_palette_image_has_its_palettes_colours():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    for kind in ("PNG", "GIF"):
        found = decode(saved(image, kind))
        np.testing.assert_array_equal(found, [[[255, 0, 0], [0, 255, 0]], [[10, 20, 30], [0, 255, 0]]])


def test_transparent_parts_are_composited_on_white():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)]
    np.testing.assert_array_equal(decode(saved(rgba, "PNG")), [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]])
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    for kind in ("PNG", "GIF"):
        content = saved(palette, kind, transparency=0)
        np.testing.assert_array_equal(decode(content), [[[255, 255, 255], [0, 255, 0]]])
    gray = Image.fromarray(np.array([[[7, 255], [7, 0]]], dtype=np.uint8), "LA")
    np.testing.assert_array_equal(decode(saved(gray, "PNG")), [[[7, 7, 7], [255, 255, 255]]])


def png_of_16_bit(image: np.ndarray) -> bytes:
    """Create a PNG file with 16 bits per channel, which Pillow cannot write for colour images."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, channels = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    kind = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_values_are_scaled_and_not_clipped(channels):
    values = np.linspace(0, 65_535, 24 * channels).astype(np.uint16).reshape(4, 6, channels)
    np.testing.assert_array_equal(decode(png_of_16_bit(values)), np.broadcast_to(values >> 8, (4, 6, 3)))
    if channels == 1:
        for kind in ("TIFF", "PNG"):
            found = decode(saved(Image.fromarray(values[:, :, 0]), kind))
            np.testing.assert_array_equal(found, np.broadcast_to(values >> 8, (4, 6, 3)))


def test_16_bit_values_of_a_colour_tiff_are_scaled():
    import cv2

    values = np.linspace(0, 65_535, 72).astype(np.uint16).reshape(4, 6, 3)
    content = cv2.imencode(".tiff", values[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(content), values >> 8)


def test_32_bit_values_are_rejected():
    assert "32-bit" in reason(saved(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_decoded(kind):
    frames = [Image.fromarray(np.full((8, 9, 3), value, dtype=np.uint8)) for value in (10, 120, 240)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(content), np.full((8, 9, 3), 10))


@pytest.mark.parametrize("kept", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_of_other_formats_are_rejected(kind, kept):
    content = saved(noisy(), kind)
    reason(content[: int(kept * len(content))])


def test_a_damaged_png_is_rejected():
    content = bytearray(saved(noisy(), "PNG"))
    content[len(content) // 2] ^= 0x55
    assert "damaged" in reason(bytes(content))


# --- invalid files -------------------------------------------------------------------------------------------


def test_an_empty_file_is_rejected():
    assert reason(b"") == "is empty (0 bytes)"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>404", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(1000)])
def test_the_message_about_an_unknown_format_has_its_first_bytes(content):
    assert f"it starts with {content[:8].hex()}" in reason(content)


def test_a_file_that_announces_a_giant_image_is_rejected(monkeypatch):
    monkeypatch.setattr("mem.data.codecs.decode.MAX_PIXELS", 1000)
    for kind in ("JPEG", "PNG"):
        assert reason(saved(smooth(40, 56), kind)) == "declares 56 x 40 pixels; the limit is 1,000"
    monkeypatch.undo()
    bomb = bytearray(saved(smooth(), "PNG"))
    bomb[16:24] = struct.pack(">II", 100_000, 100_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    assert "declares 100000 x 100000 pixels" in reason(bytes(bomb))


# --- shrinking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", ["area", "lanczos"])
def test_shrinking_sets_the_shorter_side_and_keeps_the_aspect_ratio(resample):
    assert shrink(smooth(100, 150), 50, resample).shape == (50, 75, 3)
    assert shrink(smooth(333, 100), 50, resample).shape == (166, 50, 3)
    assert shrink(smooth(1000, 3), 2, resample).shape == (667, 2, 3)


@pytest.mark.parametrize("resample", ["area", "lanczos"])
def test_smaller_images_are_not_enlarged(resample):
    image = smooth(40, 60)
    for side in (None, 40, 41, 1000):
        assert shrink(image, side, resample) is image


def test_area_is_the_mean_of_the_area_that_a_pixel_covers():
    image = noisy(40, 60)
    means = image.reshape(20, 2, 30, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(shrink(image, 20, "area") - means).max() <= 0.51


def test_lanczos_equals_pillows():
    image = noisy(40, 60)
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(shrink(image, 20, "lanczos"), expected)
    assert (expected != shrink(image, 20, "area")).any()


# --- headers -----------------------------------------------------------------------------------------------


def test_the_quality_is_estimated_from_the_quantisation_table():
    for quality in (1, 10, 49, 50, 75, 90, 95, 100):
        header = jpeg_header.read_header(saved(noisy(), "JPEG", quality=quality))
        assert header.at_most(quality)
        assert quality == 1 or not header.at_most(quality - 1)


def test_plain_jpeg_files_are_recognised():
    def plain(content: bytes) -> bool:
        return jpeg_header.read_header(content).is_plain()

    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain(saved(smooth(), "JPEG"))
    assert not plain(saved(smooth(), "JPEG", progressive=True))
    assert not plain(saved(smooth(), "JPEG", exif=exif))
    assert not plain(saved(smooth()[:, :, 0], "JPEG"))
    assert not plain(saved(Image.fromarray(smooth(channels=4), "CMYK"), "JPEG"))


def test_removing_metadata_shrinks_the_file_and_keeps_the_pixels():
    exif = Image.Exif()
    exif[0x010E] = "a long description " * 100
    content = saved(noisy(), "JPEG", exif=exif, comment=b"hello", icc_profile=b"p" * 3000)
    bare = jpeg_header.without_metadata(content, jpeg_header.read_header(content))
    assert len(content) - len(bare) > 4900
    np.testing.assert_array_equal(decode(bare), decode(content))
    assert b"hello" not in bare
