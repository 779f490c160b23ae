"""Training with negatives: a softmax of the target and a few others, as the released code does."""

from __future__ import annotations

import numpy as np

from minibrillm.checks import Graph

Array = np.ndarray


def most_frequent_successors(graph: Graph, k: int) -> Array:
    """The k likeliest targets of every source, for training with negatives (V, k).

    Seen successors by count, then the most frequent tokens of the text: the released training.
    """
    k = min(k, graph.n_nodes)
    everyone = np.argsort(-graph.node_counts, kind="stable")
    out = np.empty((graph.n_nodes, k), np.int64)
    for u in range(graph.n_nodes):
        low, high = graph.indptr[u], graph.indptr[u + 1]
        own = graph.targets[low:high][np.argsort(-graph.counts[low:high], kind="stable")][:k]
        rest = everyone[~np.isin(everyone, own)][: k - len(own)]
        out[u] = np.concatenate([own, rest])
    return out


def with_negatives(tokens: Array, successors: Array) -> Array:
    """Candidates of every position: the target, then its source's successors but the target.

    (B, n + 1), (V, k) -> (B, n, k): the target takes the place of itself or of the last one.
    """
    chosen = successors[tokens[:, :-1]].copy()  # (B, n, k)
    truth = tokens[:, 1:, None]
    hit = chosen == truth
    place = np.where(hit.any(axis=2), hit.argmax(axis=2), chosen.shape[2] - 1)[..., None]
    np.put_along_axis(chosen, place, chosen[..., :1], axis=2)
    chosen[..., :1] = truth
    return chosen
