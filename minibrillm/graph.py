"""TokenGraph: the nodes, the private edges grouped by source, and the Hebbian prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.counting import BigramPrior, KneserNey, Level, PairIndex
from minibrillm.functional import logsumexp

if TYPE_CHECKING:
    import networkx

    from minibrillm.config import ModelConfig

Array = np.ndarray


@dataclass(frozen=True)
class TokenGraph:
    """A directed graph whose nodes are tokens and whose edges are the bigrams of a text.

    Private edges are stored by source (compressed sparse rows): those of node u have the
    indices ``indptr[u]:indptr[u + 1]``, with ascending ``targets``.

    Parameters
    ----------
    n_nodes : int
        V.
    indptr : int64 array (V + 1,)
    targets : int64 array (E,)
        Target of each private edge.
    counts : int64 array (E,)
        How often its bigram was seen.
    node_counts : int64 array (V,)
        How often each token was seen: the unigram.
    n_bigrams : int
        Bigrams of the text, those without a private edge included.
    prior : BigramPrior or None
        π(v|u), or None for π = 0.
    ngrams : KneserNey or None
        What a prior of longer contexts counts beside ``prior``.
    """

    n_nodes: int
    indptr: Array
    targets: Array
    counts: Array
    node_counts: Array
    n_bigrams: int
    prior: BigramPrior | None
    ngrams: KneserNey | None = None

    @classmethod
    def for_config(
        cls, config: ModelConfig, ids: Array | Sequence[Array], n_nodes: int
    ) -> TokenGraph:
        """The graph a model of this config needs; ``ids`` as in `from_ids`."""
        return cls.from_ids(
            ids,
            n_nodes,
            min_count=config.min_count,
            prior=config.prior != "none",
            order=config.prior_order if config.prior == "ngrams" else 0,
        )

    @classmethod
    def from_ids(
        cls,
        ids: Array | Sequence[Array],
        n_nodes: int,
        *,
        min_count: int = 1,
        prior: bool = True,
        order: int = 0,
    ) -> TokenGraph:
        """Build from a stream of token ids, or from a list of documents (bigrams stay inside).

        Parameters
        ----------
        ids : integer array (N,), or a list of them
        n_nodes : int
            V; every id lies in 0 … V-1.
        min_count : int
            A bigram seen less often gets no private edge.
        prior : bool
            Fit the Hebbian prior.
        order : int
            Fit an n-gram prior of that order; 0: none.

        Raises
        ------
        UserError
            No bigram at all, or an id outside 0 … V-1.
        """
        documents = as_documents(ids)
        if any(d.ndim != 1 or not (d.size == 0 or d.dtype.kind in "iu") for d in documents):
            raise UserError("token ids must be a 1-D array of integers, or a list of such arrays")
        documents = [d.astype(np.int64) for d in documents]
        stream = np.concatenate(documents) if documents else np.empty(0, np.int64)
        if not any(len(d) > 1 for d in documents):
            raise UserError(f"a graph needs at least one bigram; got {stream.size} token(s)")
        if stream.min() < 0 or stream.max() >= n_nodes:
            raise UserError(
                f"token ids must lie in 0 … {n_nodes - 1}; got {stream.min()} … {stream.max()}"
            )
        keys = np.concatenate([d[:-1] * n_nodes + d[1:] for d in documents])
        n_bigrams = len(keys)
        keys, counts = np.unique(keys, return_counts=True)
        kept = counts >= min_count
        keys, counts = keys[kept], counts[kept]
        return cls(
            n_nodes=n_nodes,
            indptr=np.searchsorted(keys, np.arange(n_nodes + 1) * n_nodes),
            targets=keys % n_nodes,
            counts=counts,
            node_counts=np.bincount(stream, minlength=n_nodes),
            n_bigrams=n_bigrams,
            prior=BigramPrior.fit(documents, n_nodes) if prior else None,
            ngrams=KneserNey.fit(documents, n_nodes, order) if order else None,
        )

    @property
    def n_edges(self) -> int:
        """E, the number of private edges."""
        return len(self.targets)

    @cached_property
    def sources(self) -> Array:
        """Source of each private edge, (E,)."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.indptr))

    @cached_property
    def incoming_edges(self) -> tuple[Array, Array, Array]:
        """Private edges by target: those of v have, in the second and third array, the places
        ``indptr[v]:indptr[v + 1]``.

        Returns
        -------
        indptr (V + 1,), index of each edge (E,), its source (E,), all int64; sources ascend
        """
        order = np.argsort(self.targets, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(self.in_degree)])
        return indptr, order, self.sources[order]

    @cached_property
    def _index(self) -> PairIndex:
        return PairIndex(self.indptr, self.targets)

    def edge(self, sources: Array, targets: Array) -> Array:
        """Index of the private edge u→v of every pair, -1 where it has none (or v is negative).

        Parameters
        ----------
        sources, targets : integer arrays of one shape

        Returns
        -------
        int64 array of that shape
        """
        return self._index.find(sources, targets)

    def column(self, sources: Array, targets: Array) -> Array:
        """Place of each target among its source's private edges; the class of all others is last.

        Integer arrays that broadcast against each other -> int64 array of their common shape.
        """
        sources, targets = np.broadcast_arrays(sources, targets)
        edge = self.edge(sources, targets)
        return np.where(edge >= 0, edge - self.indptr[sources], self.out_degree[sources])

    def log_prior(self, sources: Array, targets: Array) -> Array:
        """π(v|u) pair by pair, float64; zero without a prior. Shapes broadcast as in `column`."""
        sources, targets = np.broadcast_arrays(sources, targets)
        if self.prior is None:
            return np.zeros(targets.shape)
        return self.prior.lookup(sources, targets)

    @cached_property
    def log_unseen_weight(self) -> Array:
        """What the class of targets without a private edge weighs in each softmax, (V,).

        log(V − outdegree(u)) without a prior, log P_KN(no private edge | u) with one; -inf where
        the class is empty (MODEL.md, eq. 9).
        """
        out = np.empty(self.n_nodes)
        if self.prior is None:
            with np.errstate(divide="ignore"):
                return np.log(self.n_nodes - self.out_degree)
        for u in range(self.n_nodes):
            row = self.prior.row(u)
            row[self.targets[self.indptr[u] : self.indptr[u + 1]]] = -np.inf
            out[u] = logsumexp(row)
        return out

    @property
    def n_counted(self) -> int:
        """How many numbers the priors hold: what counting knows, beside what training learns."""
        size = sum(level.counts.size for level in self.ngrams.levels) if self.ngrams else 0
        if self.prior is not None:
            logs = self.prior.log_probability, self.prior.log_backoff, self.prior.log_unigram
            size += sum(array.size for array in logs)
        return size

    @property
    def out_degree(self) -> Array:
        """Private edges that leave each node, (V,)."""
        return np.diff(self.indptr)

    @cached_property
    def in_degree(self) -> Array:
        """Private edges that reach each node, (V,)."""
        return np.bincount(self.targets, minlength=self.n_nodes)

    def statistics(self) -> dict[str, float]:
        """Size and degrees; ``density`` is E / V², ``coverage`` the share of bigram tokens that
        cross a private edge, ``out_degree_met`` the mean out-degree met while reading the text."""
        degree = self.out_degree
        return {
            "nodes": self.n_nodes,
            "edges": self.n_edges,
            "density": self.n_edges / self.n_nodes**2,
            "mean_out_degree": float(degree.mean()),
            "max_out_degree": int(degree.max()),
            "max_in_degree": int(self.in_degree.max()),
            "sinks": int((degree == 0).sum()),
            "coverage": float(self.counts.sum() / max(self.n_bigrams, 1)),
            "out_degree_met": float(degree @ self.node_counts / max(self.node_counts.sum(), 1)),
        }

    def to_networkx(self, labels: Sequence[str] | None = None) -> networkx.DiGraph:
        """The private edges as a ``networkx.DiGraph``: node attributes ``count`` (and ``label``),
        edge attribute ``count``."""
        import networkx

        graph = networkx.DiGraph()
        for node in range(self.n_nodes):
            extra = {} if labels is None else {"label": labels[node]}
            graph.add_node(node, count=int(self.node_counts[node]), **extra)
        rows = zip(self.sources.tolist(), self.targets.tolist(), self.counts.tolist(), strict=True)
        graph.add_edges_from((u, v, {"count": c}) for u, v, c in rows)
        return graph

    def to_arrays(self) -> dict[str, Array]:
        """Every array by name, for a checkpoint; `from_arrays` takes them back."""
        arrays = {
            "graph.indptr": self.indptr,
            "graph.targets": self.targets,
            "graph.counts": self.counts,
            "graph.node_counts": self.node_counts,
            "graph.n_bigrams": np.array([self.n_bigrams]),
        }
        if self.prior is not None:
            for name in _PRIOR_ARRAYS:
                arrays[f"prior.{name}"] = getattr(self.prior, name)
        for k, level in enumerate(self.ngrams.levels if self.ngrams else (), start=1):
            for name in _LEVEL_ARRAYS:
                arrays[f"prior.{k}.{name}"] = getattr(level, name)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> TokenGraph:
        """Rebuild from `to_arrays`; a missing or inconsistent array is a `UserError`."""
        try:
            indptr, targets, counts, node_counts, n_bigrams = (
                arrays[f"graph.{name}"]
                for name in ("indptr", "targets", "counts", "node_counts", "n_bigrams")
            )
            prior = None
            if "prior.indptr" in arrays:
                prior = BigramPrior(**{name: arrays[f"prior.{name}"] for name in _PRIOR_ARRAYS})
            levels: list[Level] = []
            while f"prior.{len(levels) + 1}.keys" in arrays:
                k, below = len(levels) + 1, len(levels[-1].keys) if levels else 1
                named = {name: arrays[f"prior.{k}.{name}"] for name in _LEVEL_ARRAYS}
                levels.append(Level(len(node_counts), below, **named))
        except KeyError as error:
            raise UserError(f"the graph lacks the array {error}") from None
        n_nodes = len(node_counts)
        fits = _is_csr(indptr, targets, n_nodes) and counts.shape == targets.shape
        fits = fits and n_bigrams.shape == (1,)
        if prior is not None:
            fits = fits and _is_csr(prior.indptr, prior.targets, n_nodes)
            fits = fits and prior.log_probability.shape == prior.targets.shape
            logs = (prior.log_probability, prior.log_backoff, prior.log_unigram)
            fits = fits and logs[1].shape == logs[2].shape == (n_nodes,)
            fits = fits and all(np.isfinite(a).all() for a in logs)
        fits = fits and all(map(_is_level, levels))
        fits = fits and (not levels or len(levels[0].keys) == n_nodes)
        if not fits:
            raise UserError("the arrays of the graph do not fit each other; is the file damaged?")
        ngrams = KneserNey(n_nodes, tuple(levels)) if levels else None
        return cls(n_nodes, indptr, targets, counts, node_counts, int(n_bigrams[0]), prior, ngrams)


def _is_csr(indptr: Array, targets: Array, n_nodes: int) -> bool:
    """Whether these are the rows of a graph of ``n_nodes``: the kernels trust them."""
    if indptr.dtype != np.int64 or targets.dtype != np.int64 or indptr.shape != (n_nodes + 1,):
        return False
    steps = np.diff(indptr)
    if indptr[0] != 0 or indptr[-1] != len(targets) or (steps < 0).any():
        return False
    if len(targets) == 0:
        return True
    keys = np.repeat(np.arange(n_nodes), steps) * n_nodes + targets
    inside = targets.min() >= 0 and targets.max() < n_nodes
    return bool(inside and (np.diff(keys) > 0).all())


def _is_level(level: Level) -> bool:
    """Whether these are the k-grams of one order: the kernels trust them."""
    keys, counts = level.keys, level.counts
    if keys.dtype != np.int64 or counts.dtype != np.int64 or keys.shape != counts.shape:
        return False
    if level.discounts.shape != (3,) or level.discounts.dtype != np.float64:
        return False
    fits = np.isfinite(level.discounts).all() and counts.min(initial=0) >= 0
    if keys.size:  # there are none where all documents are shorter
        inside = keys[0] >= 0 and keys[-1] < level.n_contexts * level.n_nodes
        fits = fits and inside and (np.diff(keys) > 0).all()
    return bool(fits)


_LEVEL_ARRAYS = ("keys", "counts", "discounts")
_PRIOR_ARRAYS = ("indptr", "targets", "log_probability", "log_backoff", "log_unigram")
