"""Texts, graphs and models that are made up, to be measured."""

from __future__ import annotations

import math

import numpy as np

from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import CharacterTokenizer

Array = np.ndarray


def stand_in(n_symbols: int, length: int, first: str, rng: np.random.Generator) -> str:
    """A text of a random bigram chain that has the statistics of letters, or of characters.

    Symbols follow a Zipf-like law; the one of rank r is followed by about 0.8 V (r + 1)^-0.3
    others. With 65 symbols the mean out-degree met is 34, as in tiny Shakespeare.

    Parameters
    ----------
    n_symbols, length : int
        V without <unk>, and characters.
    first : str
        The first symbol; the others are the code points that follow it.
    """
    rank = np.arange(n_symbols)
    zipf = 1 / (rank + 2.0)
    drawn = np.argsort(-np.log(zipf) - rng.gumbel(size=(n_symbols, n_symbols)), axis=1)
    place = np.argsort(drawn, axis=1)  # of each target in the order drawn
    followed = np.maximum(1, 0.8 * n_symbols * (rank + 1.0) ** -0.3)
    p = np.where(place < followed[:, None], zipf, 0) * rng.exponential(size=place.shape)
    # Row u of the distribution functions lies between u and u + 1, so that one search serves all.
    cumulative = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1) + rank[:, None]
    cumulative[:, -1] = rank + 1
    flat = cumulative.ravel()
    node = rng.integers(0, n_symbols, 64)
    streams = np.empty((node.size, math.ceil(length / node.size)), np.int64)
    for i in range(streams.shape[1]):
        streams[:, i] = node
        node = np.searchsorted(flat, node + rng.random(node.size), side="right") % n_symbols
    return "".join(map(chr, (streams.ravel()[:length] + ord(first)).tolist()))


def regular_graph(n_nodes: int, out_degree: int, rng: np.random.Generator) -> TokenGraph:
    """A graph in which every node has ``out_degree`` private edges to random nodes; no prior."""
    everyone = np.tile(np.arange(n_nodes), (n_nodes, 1))
    targets = np.sort(rng.permuted(everyone, axis=1)[:, :out_degree], axis=1).ravel()
    ones = np.ones(targets.size, np.int64)
    degree = np.full(n_nodes, out_degree)
    indptr = np.arange(n_nodes + 1) * out_degree
    return TokenGraph(n_nodes, indptr, targets, ones, degree, None)


def walk(graph: TokenGraph, streams: int, length: int, rng: np.random.Generator) -> Array:
    """Random walks along the private edges of a `regular_graph`, (streams, length + 1)."""
    tokens = np.empty((streams, length + 1), np.int64)
    tokens[:, 0] = rng.integers(0, graph.n_nodes, streams)
    for i in range(length):
        low, high = graph.indptr[tokens[:, i]], graph.indptr[tokens[:, i] + 1]
        tokens[:, i + 1] = graph.targets[rng.integers(low, high)]
    return tokens


def synthetic(edges: str, n_nodes: int, out_degree: int, d_node: int) -> BriLLM:
    """A fresh model of these sizes on a `regular_graph`, without a prior."""
    config = ModelConfig(d_node=d_node, edges=edges, prior="none")
    graph = regular_graph(n_nodes, out_degree, np.random.default_rng(0))
    alphabet = "".join(chr(ord("一") + k) for k in range(n_nodes - 1))
    return BriLLM.create(config, CharacterTokenizer(alphabet), graph)
