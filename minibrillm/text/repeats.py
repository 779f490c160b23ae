"""How often a token stands in a row: what makes the signal of a model without bound run away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def longest_run(documents: Sequence[Array]) -> tuple[int, int]:
    """How often the same token stands in a row at the most, and which token that is."""
    best = 0, 0
    for ids in documents:
        if len(ids):
            start = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
            length = np.diff(np.r_[start, len(ids)])
            k = int(length.argmax())
            best = max(best, (int(length[k]), int(ids[start[k]])))
    return best
