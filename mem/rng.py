"""Random numbers by position, not by history.

A draw is named by (seed, stream, sample number): the n-th sample that a training consumes gets the same numbers
on any count of workers, ranks and micro-batches, and after any interruption. Philox (Salmon et al. 2011) is a
counter-based generator, so that any stretch of its sequence can be had without the stretch before it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float64, Int64

_PER_COUNT = 4
"""Doubles that one step of Philox's counter yields."""
_NEAR = 200
"""A stretch of so many samples is drawn in the time that starting for one of them takes."""


def uniforms(seed: int, stream: str, start: int, count: int, width: int) -> Float64[np.ndarray, "{count} {width}"]:
    """`width` uniform numbers in [0, 1) for each of the samples `start` to `start + count - 1`.

    Args:
        seed: The run's seed.
        stream: What the numbers are for; streams are independent of one another.
        start: Number of the first sample, counted from 0 over the whole training.
        count: How many consecutive samples.
        width: Numbers per sample. A stream must always be read with the same width.
    """
    steps = -(-width // _PER_COUNT)
    bits = np.random.Philox(counter=start * steps, key=_key(seed, stream))
    numbers = np.random.Generator(bits).random((count, steps * _PER_COUNT))
    return np.ascontiguousarray(numbers[:, :width])


def uniforms_at(
    seed: int, stream: str, samples: Int64[np.ndarray, " samples"], width: int
) -> Float64[np.ndarray, "samples {width}"]:
    """The numbers that `uniforms` has for these samples, in any order."""
    if not len(samples):
        return np.empty((0, width))
    low, high = int(samples.min()), int(samples.max()) + 1
    if high - low <= _NEAR * len(samples):
        return uniforms(seed, stream, low, high - low, width)[samples - low]
    return np.concatenate([uniforms(seed, stream, sample, 1, width) for sample in samples.tolist()])


def permutation(seed: int, stream: str, number: int, length: int) -> Int64[np.ndarray, " {length}"]:
    """The `number`-th permutation of 0 to `length - 1` of a stream."""
    return np.random.default_rng([seed, number, _name(stream)]).permutation(length)


def generator(seed: int, stream: str) -> np.random.Generator:
    """A generator of its own for draws that are made once, in one go."""
    return np.random.default_rng([seed, _name(stream)])


def _key(seed: int, stream: str) -> int:
    return (seed << 64) | _name(stream)


def _name(stream: str) -> int:
    """The stream's name as 64 bits."""
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
