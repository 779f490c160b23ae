"""The Hebbian prior: what fired together is wired together, before any gradient step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minibrillm.counting.grams import PairIndex
from minibrillm.counting.kneser_ney import KneserNey

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class BigramPrior:
    """The Hebbian prior π(v|u) = log p(v|u), a `KneserNey` bigram (MODEL.md, "The Hebbian prior").

    Seen bigrams are stored by source (compressed sparse rows): those of node u have the indices
    ``indptr[u]:indptr[u + 1]``, with ascending ``targets``. Any other bigram (u, v) has
    ``log_backoff[u] + log_unigram[v]``. All logarithms are natural.

    Parameters
    ----------
    indptr : int64 array (V + 1,)
    targets : int64 array (B,)
        Target of each seen bigram.
    log_probability : float64 array (B,)
        log p(v|u) of each seen bigram.
    log_backoff : float64 array (V,)
        log λ(u); 0 where nothing was seen after u, so that the unigram stands alone.
    log_unigram : float64 array (V,)
        log p(v), from the number of distinct tokens seen before v.
    """

    indptr: Array
    targets: Array
    log_probability: Array
    log_backoff: Array
    log_unigram: Array

    @classmethod
    def fit(cls, ids: Array | Sequence[Array], n_nodes: int) -> BigramPrior:
        """Estimate as `KneserNey.fit` with order 2, from a stream or documents, and as strictly."""
        one, two = KneserNey.fit(ids, n_nodes, 2).levels
        source, target = np.divmod(two.keys, n_nodes)
        unigram = one.share + one.backoff / n_nodes
        return cls(
            indptr=np.searchsorted(two.keys, np.arange(n_nodes + 1) * n_nodes),
            targets=target,
            log_probability=np.log(two.share + two.backoff[source] * unigram[target]),
            log_backoff=np.log(two.backoff),
            log_unigram=np.log(unigram),
        )

    @property
    def size(self) -> int:
        """How many logarithms it holds."""
        return self.log_probability.size + self.log_backoff.size + self.log_unigram.size

    def row(self, u: int) -> Array:
        """log p(v|u) of every v: a new float64 array (V,), nats."""
        row = self.log_backoff[u] + self.log_unigram
        seen = slice(self.indptr[u], self.indptr[u + 1])
        row[self.targets[seen]] = self.log_probability[seen]
        return row

    def lookup(self, sources: Array, targets: Array) -> Array:
        """log p(v|u) pair by pair.

        Parameters
        ----------
        sources, targets : integer arrays of one shape

        Returns
        -------
        float64 array of that shape, nats
        """
        log_p = np.asarray(self.log_backoff[sources] + self.log_unigram[targets])
        bigram = self._index.find(sources, targets)
        seen = bigram >= 0
        log_p[seen] = self.log_probability[bigram[seen]]
        return log_p

    @cached_property
    def _index(self) -> PairIndex:
        return PairIndex(self.indptr, self.targets)
