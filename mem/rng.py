"""Random numbers that depend on the sample's position, not on the generator's history.

Numbers depend only on (seed, stream, sample index). The n-th sample of a training run gets the same numbers for any
number of workers, ranks and micro-batches, and after any interruption. Philox (Salmon et al. 2011) is a counter-based
random number generator, which can start at any position in its sequence.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float64, Int64

_NUMBERS_PER_COUNT = 4
"""Number of doubles per step of the Philox counter."""
_CONTIGUOUS_PER_START = 200
"""Starting the generator takes about as long as generating the numbers of this many consecutive samples."""


def uniforms(seed: int, stream: str, start: int, count: int, width: int) -> Float64[np.ndarray, "{count} {width}"]:
    """Return `width` uniform numbers in [0, 1) for each of the samples `start` to `start + count - 1`.

    Args:
        seed: The run's seed.
        stream: Purpose of the numbers. Different streams are independent.
        start: Index of the first sample, counted from 0 over the complete training run.
        count: Number of consecutive samples.
        width: Number of values per sample. Always use the same width for a stream.
    """
    steps = -(-width // _NUMBERS_PER_COUNT)
    bits = np.random.Philox(counter=start * steps, key=_key(seed, stream))
    numbers = np.random.Generator(bits).random((count, steps * _NUMBERS_PER_COUNT))
    return np.ascontiguousarray(numbers[:, :width])


def uniforms_at(
    seed: int, stream: str, samples: Int64[np.ndarray, " samples"], width: int
) -> Float64[np.ndarray, "samples {width}"]:
    """Return the numbers of `uniforms` for the given samples, which may be in any order."""
    if not len(samples):
        return np.empty((0, width))
    low, high = int(samples.min()), int(samples.max()) + 1
    if high - low <= _CONTIGUOUS_PER_START * len(samples):
        return uniforms(seed, stream, low, high - low, width)[samples - low]
    return np.concatenate([uniforms(seed, stream, sample, 1, width) for sample in samples.tolist()])


def permutation(seed: int, stream: str, number: int, length: int) -> Int64[np.ndarray, " {length}"]:
    """Return the `number`-th permutation of 0 to `length - 1` in a stream."""
    return np.random.default_rng([seed, number, _stream_hash(stream)]).permutation(length)


def generator(seed: int, stream: str) -> np.random.Generator:
    """Return a new random number generator whose sequence depends only on the seed and the stream."""
    return np.random.default_rng([seed, _stream_hash(stream)])


def _key(seed: int, stream: str) -> int:
    return (seed << 64) | _stream_hash(stream)


def _stream_hash(stream: str) -> int:
    """Return a 64-bit hash of the stream's name."""
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
