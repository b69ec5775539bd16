"""Class weights by the effective number of samples (Cui et al. 2019)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mem import longtail


def inverse_effective_numbers(class_counts: np.ndarray, beta: float) -> Float64[np.ndarray, " classes"]:
    """Return the inverse of the effective number of samples of each class: (1 - beta) / (1 - beta^n_k).

    Source: Cui et al. 2019, section 3. It is 1 for a class with one image, and approaches 1 - beta for a class with
    many images.
    """
    # expm1 keeps the digits of 1 - beta^n when beta is close to 1.
    return (1 - beta) / -np.expm1(longtail.positive_counts(class_counts) * np.log(beta))
