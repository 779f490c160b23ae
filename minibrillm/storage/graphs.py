"""A graph and its priors as named arrays, and back: the kernels trust what passes here."""

from __future__ import annotations

import numpy as np

from minibrillm.checks import UserError
from minibrillm.counting import BigramPrior, KneserNey, Level
from minibrillm.graph import TokenGraph

Array = np.ndarray

_LEVEL_ARRAYS = ("keys", "counts", "discounts")
_PRIOR_ARRAYS = ("indptr", "targets", "log_probability", "log_backoff", "log_unigram")


def graph_to_arrays(graph: TokenGraph) -> dict[str, Array]:
    """Every array by name, for a checkpoint; `graph_from_arrays` takes them back."""
    arrays = {
        "graph.indptr": graph.indptr,
        "graph.targets": graph.targets,
        "graph.counts": graph.counts,
        "graph.node_counts": graph.node_counts,
    }
    if graph.prior is not None:
        for name in _PRIOR_ARRAYS:
            arrays[f"prior.{name}"] = getattr(graph.prior, name)
    for k, level in enumerate(graph.ngrams.levels if graph.ngrams else (), start=1):
        for name in _LEVEL_ARRAYS:
            arrays[f"prior.{k}.{name}"] = getattr(level, name)
    return arrays


def graph_from_arrays(arrays: dict[str, Array]) -> TokenGraph:
    """Rebuild from `graph_to_arrays`; a missing or inconsistent array is a `UserError`."""
    try:
        indptr, targets, counts, node_counts = (
            arrays[f"graph.{name}"] for name in ("indptr", "targets", "counts", "node_counts")
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
    return TokenGraph(n_nodes, indptr, targets, counts, node_counts, prior, ngrams)


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
