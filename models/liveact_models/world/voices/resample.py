"""Samples at another rate, in time with the old ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from liveact_models.training import MissingExtra


def resampled(samples: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """Float32 samples [n] at `rate` (Hz) as samples at `wanted`, to within 0.2 % of the ratio; sample 0 stays sample 0.

    Raises MissingExtra without scipy.
    """
    ratio = Fraction(wanted / rate).limit_denominator(500)
    if ratio == 1:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise MissingExtra("scipy") from error
    return resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)
