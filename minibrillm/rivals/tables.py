"""A graph as tables that PyTorch can index: whole rows, filled up to one width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from minibrillm.graph import TokenGraph


def graph_tables(graph: TokenGraph, shared: bool) -> dict[str, np.ndarray | None]:
    """The arrays of a graph that a `minibrillm.rivals.twin.Twin` keeps, by name.

    ``shared``: the edges without parameters of their own are one class at each source. The shapes
    stand in `Twin`.
    """
    n_nodes, degree = graph.n_nodes, graph.out_degree
    slot = np.zeros((n_nodes, n_nodes + 1), np.int64)
    slot[graph.sources, graph.targets] = np.arange(graph.n_edges) + 1
    prior = None
    if graph.prior is not None:
        prior = np.stack([graph.prior.row(u) for u in range(n_nodes)])
    log_weight = np.zeros((n_nodes, n_nodes)) if prior is None else prior
    columns = np.broadcast_to(np.arange(n_nodes), log_weight.shape).copy()
    if shared:
        everyone = log_weight
        columns = np.full((n_nodes, degree.max() + 1), n_nodes)
        log_weight = np.full(columns.shape, -np.inf)
        for u, n in enumerate(degree):
            own = graph.targets[graph.indptr[u] : graph.indptr[u + 1]]
            columns[u, :n] = own
            log_weight[u, :n] = everyone[u, own]
            log_weight[u, n] = graph.log_unseen_weight[u]
    return {
        "slot": slot,
        "first": graph.indptr[:-1],
        "degree": degree,
        "sources": graph.sources,
        "targets": np.append(graph.targets, n_nodes),
        "columns": columns,
        "log_weight": log_weight,
        "prior": prior,
    }
