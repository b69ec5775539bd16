"""Reduction of samples of more than 8 bits to 8 bits, according to the depth that a file declares.

Some cameras store 10, 12 or 14 bits in samples of 16 bits. The high byte of such a sample would be nearly black.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

from mem.data.codecs.limits import Unreadable


def declared_bits(bits: int, max_sample_value: int | None) -> int:
    """Return the number of bits that the samples of a TIFF file use.

    `MaxSampleValue` is a statistic of the pixels in some files and the depth of the sensor in others. It is a depth if
    it is the largest number of some bits, for example 4095.
    """
    if max_sample_value is None or max_sample_value < 1 or max_sample_value & (max_sample_value + 1):
        return bits
    return min(bits, max_sample_value.bit_length())


def used_bits(values: Integer[np.ndarray, "height width"], significant_bits: int) -> int:
    """Return the number of bits that the 16-bit samples of a PNG file use.

    The standard requires that samples with fewer significant bits are scaled to 16 bits, by zeros or by repeating the
    high bits. Some programs do not scale them; their values then do not exceed the significant bits.
    """
    padding = 16 - significant_bits
    if not 0 < padding < 16 or not values.size or values.max() >> significant_bits:
        return 16
    low = values & ((1 << padding) - 1)
    scaled = not low.any() or (padding <= 8 and np.array_equal(low, values >> significant_bits))
    return 16 if scaled else significant_bits


def to_8_bits(values: Integer[np.ndarray, "rows columns"], bits: int) -> UInt8[np.ndarray, "rows columns"]:
    """Return the 8 highest of the used bits. Values of fewer than 8 bits are scaled to the full range."""
    largest = (1 << bits) - 1
    values = np.minimum(values, largest)
    return (values >> (bits - 8) if bits >= 8 else values.astype(np.uint32) * 255 // largest).astype(np.uint8)


def reject_unscaled(largest: int, significant_bits: int) -> None:
    """Check the 8-bit values of a colour PNG file of 16 bits, whose low bytes the decoder discards.

    Args:
        largest: Largest high byte of the image.
        significant_bits: Number of significant bits that the file declares.

    Raises:
        Unreadable: The samples are not scaled to 16 bits.
    """
    if largest and 8 < significant_bits < 16 and not largest >> (significant_bits - 8):
        raise Unreadable(
            f"declares {significant_bits} significant bits per sample, but its samples are not scaled to 16 bits; "
            "convert them to the full range"
        )


def reject_declared(max_sample_value: int | None) -> None:
    """Check the declared depth of a colour TIFF file of 16 bits, whose low bytes the decoder discards.

    Raises:
        Unreadable: The file declares fewer than 16 bits.
    """
    bits = declared_bits(16, max_sample_value)
    if bits < 16:
        raise Unreadable(f"has colour samples of 16 bits that use only {bits} bits; convert them to the full range")
