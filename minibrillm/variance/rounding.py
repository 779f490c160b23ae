"""Small probabilities rounded at random: no bias, some noise, much less work (eq. 11b)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Rounding(NamedTuple):
    """Probabilities that are small are rounded at random where gradients are made (eq. 11b)."""

    below: float  # τ: what is smaller becomes 0 or τ
    draws: Array  # (B, n) one number in [0, 1) for each position

    def rounded(self, p: Array, rows: Array) -> Array:
        """Probabilities (N, K) of the flat positions ``rows`` (N,), rounded."""
        return round_at_random(p, self.below, self.draws.reshape(-1)[rows])


def round_at_random(p: Array, below: float, draws: Array) -> Array:
    """Round probabilities below τ to 0 or τ, each on average to itself (MODEL.md, eq. 11b).

    Systematic sampling: the small ones, as lengths p / τ side by side, make a line that begins at
    the draw; those in which a whole number lies become τ.

    Parameters
    ----------
    p : array (N, K)
    below : float
        τ > 0.
    draws : float64 array (N,)
        In [0, 1), one for each row.

    Returns
    -------
    array (N, K)
    """
    small = p < below
    lengths = np.where(small, p.astype(np.float64) / below, 0)
    line = np.cumsum(np.concatenate([draws[:, None], lengths], axis=1), axis=1)
    hit = np.diff(np.floor(line), axis=1)  # 0 or 1, for every length is below 1
    return np.where(small, (hit * below).astype(p.dtype), p)
