"""Negative log-likelihood and calibration error of a head at many temperatures, computed while it predicts.

Temperature scaling (Guo et al. 2017, section 4.2) divides the logits by one number, which is fitted on val. With
`selection`, the head that is evaluated on val and the head that is evaluated on test are different runs, so that an
evaluation does not know the temperature. It therefore computes the scores at a grid of temperatures, and the report
takes the temperature with the smallest negative log-likelihood on val. See
docs/decisions/0077-temperatures-on-a-grid.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem import metrics

STEPS, OCTAVES = 8, 8
"""Number of temperatures per factor of two, and number of factors of two."""
LARGEST = 16.0
TEMPERATURES = tuple(
    sorted(LARGEST * 2.0 ** -(octave + step / STEPS) for octave in range(OCTAVES) for step in range(STEPS))
)
"""The temperatures in ascending order, from 0.068 to 16. Temperature 1 is one of them."""
_DIGITS = 4


class TemperatureScores:
    """Sums over the images of a split, from which its scores at each temperature are computed."""

    def __init__(self) -> None:
        self._losses: list[Float[np.ndarray, "images temperatures"]] = []
        self._confidences: list[Float[np.ndarray, "images temperatures"]] = []
        self._correct: list[np.ndarray] = []

    def add(self, logits: Float[Tensor, "images classes"], labels: Int64[np.ndarray, " images"]) -> None:
        """Add a batch of images."""
        losses, confidences, correct = _at_temperatures(logits.float(), torch.from_numpy(labels).to(logits.device))
        self._losses.append(losses.cpu().numpy())
        self._confidences.append(confidences.cpu().numpy())
        self._correct.append(correct.cpu().numpy())

    def scores(self) -> dict[str, Any]:
        """Return `nll` (in nats per image) and `ece` (in percent) at each temperature, as JSON data.

        A loss is None if it is infinite, which happens if the head never predicts the class of an image.
        """
        losses = np.concatenate(self._losses).mean(axis=0, dtype=np.float64)
        confidences, correct = np.concatenate(self._confidences), np.concatenate(self._correct)
        errors = [metrics.expected_calibration_error(column, correct) for column in confidences.T]
        return {
            "nll": [round(float(loss), _DIGITS + 2) if np.isfinite(loss) else None for loss in losses],
            "ece": [round(100 * error, _DIGITS) for error in errors],
        }


def calibration_record(scores: Mapping[str, TemperatureScores]) -> dict[str, Any]:
    """Return the key `calibration` of `metrics.json`: the temperatures, and the scores of each split."""
    temperatures = [round(temperature, 6) for temperature in TEMPERATURES]
    return {"temperatures": temperatures, "splits": {name: split.scores() for name, split in scores.items()}}


def _at_temperatures(
    logits: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]
) -> tuple[Float[Tensor, "images temperatures"], Float[Tensor, "images temperatures"], Tensor]:
    """Return the loss and the largest probability of each image at `TEMPERATURES`, and whether it is correct."""
    largest, predicted = logits.max(dim=1, keepdim=True)
    gaps = largest - logits
    label_gaps = gaps.gather(1, labels[:, None])
    normalisers: dict[float, Tensor] = {}
    for step in range(STEPS):
        temperature = LARGEST * 2.0 ** -(step / STEPS)
        powers = torch.exp(gaps / -temperature)
        for _ in range(OCTAVES):
            normalisers[temperature] = powers.sum(dim=1)
            # Half the temperature squares every power, which takes much less time than a new exponential.
            powers.square_()
            temperature /= 2
    by_temperature = torch.stack([normalisers[temperature] for temperature in sorted(normalisers)], dim=1)
    inverse = torch.tensor([1 / temperature for temperature in sorted(normalisers)], device=logits.device)
    return by_temperature.log() + label_gaps * inverse, 1 / by_temperature, predicted[:, 0] == labels
