"""Sums that come out the same, to the last bit, whoever adds them up."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray

# Squares are added up in blocks, and in each block in lanes side by side: so do the kernels.
SQUARES_BLOCK, SQUARES_LANES = 1 << 16, 16


def sum_of_squares(array: Array) -> float:
    """Σ x² over all elements, in float64: towards the norm of a gradient."""
    flat, sums = array.reshape(-1), []
    for first in range(0, flat.size, SQUARES_BLOCK):
        block = flat[first : first + SQUARES_BLOCK].astype(np.float64)
        lanes = np.pad(block, (0, -block.size % SQUARES_LANES)).reshape(-1, SQUARES_LANES)
        sums.append(np.square(lanes).sum(axis=0))
    return math.fsum(x for lanes in sums for x in lanes)
