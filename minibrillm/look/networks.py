"""The graph of a model as a graph of NetworkX, to draw and to measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minibrillm.checks import UserError
from minibrillm.graph import TokenGraph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: TokenGraph, labels: Sequence[str] | None = None) -> networkx.DiGraph:
    """The private edges of a graph as a ``networkx.DiGraph``.

    Nodes have the attribute ``count``, how often the token was seen, and with ``labels`` their
    ``label``; edges have ``count``, how often the bigram was seen.

    Parameters
    ----------
    graph : TokenGraph
    labels : sequence of V strings, optional

    Raises
    ------
    UserError
        Another number of labels than nodes.
    """
    import networkx

    if labels is not None and len(labels) != graph.n_nodes:
        raise UserError(f"there are {len(labels)} labels for {graph.n_nodes} nodes; give each one")
    exported = networkx.DiGraph()
    for node, count in enumerate(graph.node_counts.tolist()):
        extra = {} if labels is None else {"label": labels[node]}
        exported.add_node(node, count=count, **extra)
    rows = zip(graph.sources.tolist(), graph.targets.tolist(), graph.counts.tolist(), strict=True)
    exported.add_edges_from((u, v, {"count": c}) for u, v, c in rows)
    return exported
