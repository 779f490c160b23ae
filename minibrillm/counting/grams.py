"""Counting: the distinct k-grams of a text, each named by its rank among those of its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minibrillm.checks import UserError, as_documents

Array = np.ndarray


class Grams(NamedTuple):
    """The distinct k-grams of a text, (N_k,) each, and how many (k-1)-grams there are."""

    keys: Array  # rank of the first k-1 tokens · V + last token, ascending
    suffix: Array  # rank of the last k-1 tokens
    counts: Array  # how often
    n_contexts: int


def count_grams(ids: Array | Sequence[Array], n_nodes: int, max_order: int) -> list[Grams]:
    """Count all k-grams for k = 1 … max_order, each order named by ranks in the one below."""
    if max_order < 1:
        raise UserError(f"the order of an n-gram model must be at least 1; got {max_order}")
    documents = [d for d in as_documents(ids, n_nodes) if d.size]
    if not documents:
        raise UserError("ids is empty: counting n-grams needs at least one token")
    stream = np.concatenate(documents)
    depth = np.concatenate([np.arange(len(d)) for d in documents])  # tokens before, in the document

    tokens = np.arange(n_nodes)
    nothing = np.zeros(n_nodes, np.int64)
    counts = np.bincount(stream, minlength=n_nodes)
    tables = [Grams(tokens, nothing, counts, 1)]
    rank = stream  # of the (k-1)-gram that ends at each place
    for k in range(2, max_order + 1):
        ends = np.flatnonzero(depth >= k - 1)
        keys, where, inverse, counts = np.unique(
            rank[ends - 1] * n_nodes + stream[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        suffix = rank[ends[where]]
        tables.append(Grams(keys, suffix, counts, len(tables[-1].keys)))
        rank = np.full(len(stream), -1)
        rank[ends] = inverse
    return tables


def find(keys: Array, wanted: Array) -> Array:
    """Index of each wanted key in the ascending ``keys``, -1 where it is not there."""
    if not keys.size:
        return np.full(wanted.shape, -1)
    index = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[index] == wanted, index, -1)


def shift(gram: Array) -> Array:
    """What ends at a place is the context of the next one; before the first there is none."""
    return np.concatenate([[-1], gram[:-1]])


class PairIndex:
    """Finds pairs u→v that are stored by source (compressed sparse rows, targets ascending)."""

    _TABLE_UP_TO = 1024  # nodes; a table of all pairs then takes 4 MB at most

    def __init__(self, indptr: Array, targets: Array) -> None:
        self.n_nodes = len(indptr) - 1
        keys = np.repeat(np.arange(self.n_nodes), np.diff(indptr)) * self.n_nodes + targets
        self._keys = keys
        self._table: Array | None = None
        if self.n_nodes <= self._TABLE_UP_TO:
            self._table = np.full(self.n_nodes**2, -1, np.int32)
            self._table[keys] = np.arange(keys.size)

    def find(self, sources: Array, targets: Array) -> Array:
        """Index of every pair, -1 where there is none or the target is negative.

        Integer arrays of one shape (or that broadcast) -> int64 array of that shape.
        """
        wanted = np.asarray(sources, np.int64) * self.n_nodes + targets
        if self._table is None:
            index = find(self._keys, wanted)
        else:
            index = self._table[wanted].astype(np.int64)
        return np.where(np.asarray(targets) >= 0, index, -1)
