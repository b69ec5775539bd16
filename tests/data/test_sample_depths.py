"""Samples of 12 and 16 bits are scaled by their declared depth, or the file is rejected."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mem.data.codecs.decode import Unreadable, decode
from tests.data.image_files import chunk, packed_12_bits, png, tiff

VALUES = np.linspace(0, 4095, 96).round().astype(np.uint16).reshape(8, 12)
EXPECTED = VALUES >> 4


def gray(content: bytes) -> np.ndarray:
    image = decode(content)
    assert (image[:, :, 0] == image[:, :, 1]).all()
    assert (image[:, :, 0] == image[:, :, 2]).all()
    return image[:, :, 0]


def gray_tiff(values: np.ndarray, order: str = "<", **tags) -> bytes:
    fields = {258: [16], 262: [1], 277: [1], **{int(name[1:]): value for name, value in tags.items()}}
    return tiff(values.astype(f"{order}u2").tobytes(), values.shape, fields, order)


def test_packed_12_bit_samples_have_their_full_range():
    content = tiff(packed_12_bits(VALUES), VALUES.shape, {258: [12], 262: [1], 277: [1]})
    np.testing.assert_array_equal(gray(content), EXPECTED)
    inverted = tiff(packed_12_bits(VALUES), VALUES.shape, {258: [12], 262: [0], 277: [1]})
    np.testing.assert_array_equal(gray(inverted), 255 - EXPECTED)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_samples_with_white_as_zero_are_inverted(order):
    values = VALUES * 16
    np.testing.assert_array_equal(gray(gray_tiff(values, order, t262=[0])), (65_535 - values) >> 8)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_with_a_declared_depth_is_scaled_by_it(order, bits):
    values = VALUES >> 12 - bits if bits < 12 else VALUES << bits - 12
    content = gray_tiff(values, order, t281=[2**bits - 1])
    np.testing.assert_array_equal(gray(content), values >> bits - 8)
    white_is_zero = gray_tiff(values, order, t281=[2**bits - 1], t262=[0])
    if order == "<":
        np.testing.assert_array_equal(gray(white_is_zero), 255 - (values >> bits - 8))


def test_a_declared_depth_of_fewer_than_8_bits_and_values_above_it_are_clipped():
    content = gray_tiff(np.array([[0, 5, 15, 16, 40_000]]), t281=[15])
    np.testing.assert_array_equal(gray(content), [[0, 85, 255, 255, 255]])


def test_the_largest_sample_of_a_tiff_is_a_statistic_unless_it_is_the_end_of_a_range():
    """TIFF 6.0 defines MaxSampleValue as a statistic, which must not affect the pixels."""
    np.testing.assert_array_equal(gray(gray_tiff(VALUES, t281=[4000])), VALUES >> 8)
    np.testing.assert_array_equal(gray(gray_tiff(VALUES, t281=[4095])), EXPECTED)


def test_a_png_whose_samples_are_not_scaled_to_16_bits_is_scaled():
    depth = chunk(b"sBIT", b"\x0c")
    np.testing.assert_array_equal(gray(png(VALUES, 16, depth)), EXPECTED)
    # The standard requires scaled samples, by repeating the high bits or with zeros.
    for scaled in (VALUES << 4, (VALUES << 4) | (VALUES >> 8), (VALUES >> 4) << 4):
        np.testing.assert_array_equal(gray(png(scaled, 16, depth)), scaled >> 8)


def test_colour_samples_with_fewer_bits_than_stored_are_rejected():
    colour = np.repeat(VALUES[:, :, None], 3, axis=2)
    with pytest.raises(Unreadable, match="declares 12 significant bits per sample, but its samples are not scaled"):
        decode(png(colour, 16, chunk(b"sBIT", b"\x0c\x0c\x0c")))
    fields = {258: [16] * 3, 262: [2], 277: [3]}
    with pytest.raises(Unreadable, match="colour samples of 16 bits that use only 12 bits"):
        decode(tiff(colour.tobytes(), VALUES.shape, {**fields, 281: [4095] * 3}))
    np.testing.assert_array_equal(decode(tiff((colour * 16).tobytes(), VALUES.shape, fields)), colour >> 4)


def test_signed_samples_are_rejected():
    for bits in (8, 16):
        content = tiff(bytes(8 * 12 * bits // 8), (8, 12), {258: [bits], 262: [1], 277: [1], 339: [2]})
        with pytest.raises(Unreadable, match="has signed samples; convert them"):
            decode(content)


def test_samples_that_cannot_be_read_are_named():
    content = tiff(bytes(200), (8, 12), {258: [10], 262: [1], 277: [1]})
    with pytest.raises(
        Unreadable, match=r"unsupported samples \(photometric interpretation 1, unsigned samples, bits 10"
    ):
        decode(content)


@pytest.mark.parametrize(("bits", "value"), [(2, 1), (4, 7), (16, 513)])
def test_the_transparent_gray_value_of_a_png_has_its_own_depth(bits, value):
    values = np.array([[0, value, value, 2**bits - 1]])
    found = gray(png(values, bits, chunk(b"tRNS", struct.pack(">H", value))))
    assert found[0, 1] == found[0, 2] == 255
    assert found[0, 0] == 0
    assert gray(png(values, bits))[0, 1] < 255


def test_the_transparent_colour_of_a_png_of_16_bits_is_composited_on_white():
    values = np.zeros((1, 3, 3), dtype=np.uint16)
    values[0, 1] = (0x1234, 0x5678, 0x9ABC)
    values[0, 2] = (0x3434, 0x7878, 0xBCBC)
    content = png(values, 16, chunk(b"tRNS", values[0, 1].astype(">u2").tobytes()))
    np.testing.assert_array_equal(decode(content), [[[0, 0, 0], [255, 255, 255], [0x34, 0x78, 0xBC]]])
