"""Dropout: numbers of a signal that do not compete, the same ones along a sequence."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def dropout_mask(
    share: float, n_sequences: int, d: int, dtype: np.dtype, rng: np.random.Generator
) -> Array:
    """What signals are multiplied by where they compete: 0, or 1 / (1 - share), (B, d).

    MODEL.md, "Dropout".
    """
    kept = rng.random((n_sequences, d)) >= share
    mask: Array = kept.astype(dtype) / dtype.type(1 - share)
    return mask
