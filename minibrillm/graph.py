"""TokenGraph: the nodes, the private edges grouped by source, and what counting knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minibrillm.checks import Ids, Settings, UserError, as_documents
from minibrillm.counting import BigramPrior, KneserNey, PairIndex
from minibrillm.functional import logsumexp

Array = np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class TokenGraph:
    """A directed graph whose nodes are tokens and whose private edges are bigrams of a text.

    Edges are stored by source (compressed sparse rows): those that leave node u have the indices
    ``indptr[u]:indptr[u + 1]``, with ascending ``targets``.
    """

    n_nodes: int  # V
    indptr: Array  # (V + 1,) int64
    targets: Array  # (E,) int64, target of each private edge
    counts: Array  # (E,) how often its bigram was seen
    node_counts: Array  # (V,) how often each token was seen: the unigram
    prior: BigramPrior | None  # π(v|u), or None for π = 0
    ngrams: KneserNey | None = None  # counts of longer contexts, for the prior "ngrams"

    @classmethod
    def for_config(cls, config: Settings, ids: Ids, n_nodes: int) -> TokenGraph:
        """The graph that a model of this config needs; ``ids`` as in `from_ids`."""
        order = config.prior_order if config.prior == "ngrams" else 0
        prior = config.prior != "none"
        return cls.from_ids(ids, n_nodes, min_count=config.min_count, prior=prior, order=order)

    @classmethod
    def from_ids(
        cls, ids: Ids, n_nodes: int, *, min_count: int = 1, prior: bool = True, order: int = 0
    ) -> TokenGraph:
        """Build from a stream of token ids (N,), or from documents (bigrams stay inside).

        A bigram seen less often than ``min_count`` gets no private edge. ``prior`` fits the Hebbian
        prior, ``order`` an n-gram prior of that order (0: none). Ids that are no integers in
        0 … V - 1, or no bigram at all, are a `UserError`.
        """
        documents = as_documents(ids, n_nodes)
        if not any(len(d) > 1 for d in documents):
            read = sum(map(len, documents))
            raise UserError(f"a graph needs at least one bigram; got {read} token(s)")
        # Bigram (u, v) as one integer, u V + v: sorted, they lie by source, then by target.
        keys = np.concatenate([d[:-1] * n_nodes + d[1:] for d in documents])
        keys, counts = np.unique(keys, return_counts=True)
        kept = counts >= min_count
        keys, counts = keys[kept], counts[kept]
        return cls(
            n_nodes=n_nodes,
            indptr=np.searchsorted(keys, np.arange(n_nodes + 1) * n_nodes),
            targets=keys % n_nodes,
            counts=counts,
            node_counts=np.bincount(np.concatenate(documents), minlength=n_nodes),
            prior=BigramPrior.fit(documents, n_nodes) if prior else None,
            ngrams=KneserNey.fit(documents, n_nodes, order) if order else None,
        )

    def __repr__(self) -> str:
        return f"TokenGraph({self.n_nodes:,} nodes, {self.n_edges:,} private edges)"

    @property
    def n_edges(self) -> int:
        """E, the number of private edges."""
        return len(self.targets)

    @cached_property
    def sources(self) -> Array:
        """Source of each private edge, (E,)."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.indptr))

    @property
    def out_degree(self) -> Array:
        """Private edges that leave each node, (V,)."""
        return np.diff(self.indptr)

    @cached_property
    def _index(self) -> PairIndex:
        return PairIndex(self.indptr, self.targets)

    def edge(self, sources: Array, targets: Array) -> Array:
        """Index of the private edge u→v of every pair, -1 where it has none or v is -1."""
        return self._index.find(sources, targets)

    def column(self, sources: Array | int, targets: Array) -> Array:
        """Place of each target among its source's private edges; the class of others is last."""
        sources, targets = np.broadcast_arrays(sources, targets)
        edge = self.edge(sources, targets)
        return np.where(edge >= 0, edge - self.indptr[sources], self.out_degree[sources])

    def log_prior(self, sources: Array | int, targets: Array) -> Array:
        """π(v|u) pair by pair, float64; zero without a prior. Shapes broadcast."""
        sources, targets = np.broadcast_arrays(sources, targets)
        return (
            np.zeros(targets.shape) if self.prior is None else self.prior.lookup(sources, targets)
        )

    def prior_row(self, u: int) -> Array:
        """π(v|u) of every v, float64 (V,)."""
        return np.zeros(self.n_nodes) if self.prior is None else self.prior.row(u)

    @cached_property
    def log_unseen_weight(self) -> Array:
        """What the class of targets without a private edge weighs at each node, (V,) (eq. 9).

        log(V − outdegree(u)) without a prior, log P_KN(no private edge | u) with one.
        """
        if self.prior is None:
            with np.errstate(divide="ignore"):
                return np.log(self.n_nodes - self.out_degree)
        out = np.empty(self.n_nodes)
        for u in range(self.n_nodes):
            row = self.prior_row(u)
            row[self.targets[self.indptr[u] : self.indptr[u + 1]]] = -np.inf
            out[u] = logsumexp(row)
        return out
