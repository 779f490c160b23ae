"""Streams of token ids: one document, or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minibrillm.checks.arguments import check_ids

Array = np.ndarray


def as_documents(ids: Array | Sequence[Array]) -> list[Array]:
    """A stream of token ids (N,) is one document; a sequence of streams is a list of them."""
    if isinstance(ids, np.ndarray) or len(ids) == 0 or np.ndim(ids[0]) == 0:
        return [np.asarray(ids)]
    return [np.asarray(d) for d in ids]


def checked_documents(ids: Array | Sequence[Array], n_nodes: int) -> list[Array]:
    """The same as int64, all ids in 0 … V - 1, or a `UserError`."""
    return [check_ids(d, n_nodes) for d in as_documents(ids)]
