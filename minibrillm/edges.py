"""What an edge is: one class for each kind (MODEL.md, eq. 3, "What an edge is").

A kind says what the edge u→v is made of, and how its gradient reaches the parts. To add one, write
a subclass, ``class Mine(Edges, name="mine")``: that is then a value of `ModelConfig.edges`. The
kernels know the two kinds below, the textbook runs any.
"""

from __future__ import annotations

import numpy as np

from minibrillm.checks import Network, Settings, register
from minibrillm.functional import Named
from minibrillm.graph import TokenGraph

Array = np.ndarray
Edge = tuple[Array, Array]  # weight and bias of N edges, (N, d, d) and (N, d); or their gradients
Shapes = dict[str, tuple[int, ...]]


class Edges:
    """A kind of edge. What competes at a source are its *columns*: each of the V nodes is one,
    unless the kind makes a *class* of some, which share an edge and so one column."""

    zero_at_first: tuple[str, ...] = ()  # parameters that are not drawn at random
    decaying: tuple[str, ...] = ()  # those that weight decay pulls to zero
    has_class = False  # whether there is a class; an n-gram prior forbids it (eq. 9b)

    def __init_subclass__(cls, *, name: str) -> None:  # where a subclass is defined
        register(EDGES, name, cls())

    def shapes(self, d: int, n_nodes: int, n_edges: int) -> Shapes:
        """Shape of each of its parameters, by name; E private edges."""
        raise NotImplementedError

    def frozen(self, config: Settings) -> dict[str, int]:
        """Rows that do not learn, by name of the parameter."""
        return {}

    def between(self, model: Network, u: Array, v: Array) -> Edge:
        """The edges u→v, pair by pair, (N,) and (N,) (eq. 3)."""
        raise NotImplementedError

    def add_gradient(self, out: Named, model: Network, u: Array, v: Array, d_edge: Edge) -> None:
        """The way back of `between`: add gradients of edges to those of their parts (eq. 13)."""
        raise NotImplementedError

    def leaving(self, model: Network, u: int) -> tuple[Array, Edge]:
        """The K columns that compete at u: their targets (K,), and the edges to them."""
        targets = np.arange(model.graph.n_nodes)
        return targets, self.between(model, np.full_like(targets, u), targets)

    def column(self, graph: TokenGraph, u: Array | int, v: Array) -> Array:
        """In which column at u each target competes; integers of any shape."""
        return v

    def log_weights(self, graph: TokenGraph, u: int) -> Array:
        """What each column at u weighs in the full softmax: π, in float64, (K,) (eq. 9)."""
        return graph.prior_row(u)


EDGES: dict[str, Edges] = {}


class Shared(Edges, name="shared"):
    """A private edge where a bigram was seen, one edge shared by all other pairs (slot 0).

    All targets without a private edge are one column, the class of the unseen; its target is -1.
    """

    decaying = ("edge_weight",)
    has_class = True

    def shapes(self, d: int, n_nodes: int, n_edges: int) -> Shapes:
        return {"edge_weight": (n_edges + 1, d, d), "edge_bias": (n_edges + 1, d)}

    def frozen(self, config: Settings) -> dict[str, int]:
        return {} if config.train_shared_edge else {"edge_weight": 0, "edge_bias": 0}

    def between(self, model: Network, u: Array, v: Array) -> Edge:
        slot = model.graph.edge(u, v) + 1  # the edge of a bigram never seen is -1
        return model.parameters["edge_weight"][slot], model.parameters["edge_bias"][slot]

    def add_gradient(self, out: Named, model: Network, u: Array, v: Array, d_edge: Edge) -> None:
        slot = model.graph.edge(u, v) + 1
        np.add.at(out["edge_weight"], slot, d_edge[0])  # not +=: a slot may come more than once
        np.add.at(out["edge_bias"], slot, d_edge[1])

    def leaving(self, model: Network, u: int) -> tuple[Array, Edge]:
        graph, parameters = model.graph, model.parameters
        low, high = graph.indptr[u], graph.indptr[u + 1]
        slots = np.append(np.arange(low, high) + 1, 0)
        edge = parameters["edge_weight"][slots], parameters["edge_bias"][slots]
        return np.append(graph.targets[low:high], -1), edge

    def column(self, graph: TokenGraph, u: Array | int, v: Array) -> Array:
        return graph.column(u, v)

    def log_weights(self, graph: TokenGraph, u: int) -> Array:
        seen = graph.targets[graph.indptr[u] : graph.indptr[u + 1]]
        return np.append(graph.prior_row(u)[seen], graph.log_unseen_weight[u])


class ThreePart(Edges, name="three_part"):
    """Axon of the source + dendrite of the target + a synapse where the bigram is frequent."""

    zero_at_first = ("synapse_weight", "synapse_bias", "axon_bias", "dendrite_bias")
    # A synapse is an addition that must earn its place: so its bias decays too.
    decaying = ("axon_weight", "dendrite_weight", "synapse_weight", "synapse_bias")

    def shapes(self, d: int, n_nodes: int, n_edges: int) -> Shapes:
        shapes: Shapes = {}
        for part, count in (("axon", n_nodes), ("dendrite", n_nodes), ("synapse", n_edges)):
            shapes |= {f"{part}_weight": (count, d, d), f"{part}_bias": (count, d)}
        return shapes

    def between(self, model: Network, u: Array, v: Array) -> Edge:
        index, parameters = model.graph.edge(u, v), model.parameters  # (N,), -1: no synapse
        seen, found = index >= 0, []
        for what in ("weight", "bias"):
            total = parameters[f"axon_{what}"][u] + parameters[f"dendrite_{what}"][v]
            total[seen] += parameters[f"synapse_{what}"][index[seen]]
            found.append(total)
        return found[0], found[1]

    def add_gradient(self, out: Named, model: Network, u: Array, v: Array, d_edge: Edge) -> None:
        index = model.graph.edge(u, v)
        seen = index >= 0
        for what, gradient in zip(("weight", "bias"), d_edge, strict=True):
            np.add.at(out[f"axon_{what}"], u, gradient)
            np.add.at(out[f"dendrite_{what}"], v, gradient)
            np.add.at(out[f"synapse_{what}"], index[seen], gradient[seen])
