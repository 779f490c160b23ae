"""Which pair of tokens has which slot of a released checkpoint, and the graph that says so."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minibrillm.checks import UserError
from minibrillm.graph import TokenGraph
from minibrillm.released.files import read_json
from minibrillm.text import read_text

Array = np.ndarray


class Slots(NamedTuple):
    """Which pair has slot 1, 2, …, and how often each pair and each token was seen."""

    sources: Array  # (E,) int64, ids
    targets: Array  # (E,)
    counts: Array  # (E,)
    node_counts: Array  # (V,)


def slots_by_frequency(path: Path, tokens: list[str], ids: Array, n_edges: int) -> Slots:
    """Slots in the order of the vocabulary file, source by source, target by target.

    The released code numbers slots by the *places* of source and target in that file, and looks
    them up by their *ids*. In released files the two are the same; where they are not, its model
    was trained so, and a place is an id here too.
    """
    listed = _read_frequencies(path, tokens)  # (V, V), by place
    private = listed != 0  # the released rule: a pair that is not listed has a slot of its own
    n_private, n_seen = int(private.sum()), int((listed > 0).sum())
    if n_private != n_edges:
        if n_seen != n_edges:
            raise UserError(
                f"the checkpoint has {n_edges} private edges, but {path} gives {n_private} (or "
                f"{n_seen}, if pairs that it does not list are shared); is it of another model?"
            )
        private = listed > 0
    sources, targets = np.nonzero(private)
    place = np.argsort(ids)
    seen = np.maximum(listed, 0)[place][:, place]  # (V, V), by id
    return Slots(sources, targets, seen[sources, targets], seen.sum(axis=1))


def _read_frequencies(path: Path, tokens: list[str]) -> Array:
    """Counts (V, V) by place in the vocabulary file, -1 for a pair that is not listed."""
    table = read_json(path)
    place = {token: k for k, token in enumerate(tokens)}
    listed = np.full((len(tokens), len(tokens)), -1, np.int64)
    for source, row in table.items():
        if not isinstance(row, dict):
            raise UserError(f"{path} is not {{source: {{target: count}}}}; look at {source!r}")
        if source not in place or not row:
            continue
        columns = np.fromiter((place.get(target, -1) for target in row), np.int64, len(row))
        try:
            counts = np.array(array("q", row.values()))  # takes integers only
        except (TypeError, OverflowError):
            counts = np.array([-1])
        if counts.min() < 0:
            raise UserError(f"{path}: the counts after {source!r} are not integers from 0 on")
        listed[place[source], columns[columns >= 0]] = counts[columns >= 0]
    return listed


def slots_as_listed(path: Path, n_nodes: int, n_edges: int) -> Slots:
    """Slots in the order of a file that lists the ids of source and target, a pair a line."""
    lines = read_text(path).splitlines()
    try:
        pairs = np.array([line.split("\t") for line in lines], np.int64)
    except (ValueError, OverflowError):
        pairs = np.empty(0, np.int64)
    if pairs.shape != (len(lines), 2):
        raise UserError(
            f"{path} is not a list of edges; expected two ids a line, separated by a tab"
        )
    if len(pairs) != n_edges:
        raise UserError(f"{path} lists {len(pairs)} edges, the checkpoint has {n_edges} private")
    if pairs.min() < 0 or pairs.max() >= n_nodes:
        raise UserError(
            f"{path}: ids must lie in 0 … {n_nodes - 1}; got {pairs.min()} … {pairs.max()}"
        )
    keys, places = np.unique(pairs @ [n_nodes, 1], return_index=True)
    if len(keys) != len(pairs):
        twice = np.setdiff1d(np.arange(len(pairs)), places)[0]
        raise UserError(f"{path}: line {twice + 1} lists an edge that an earlier line lists too")
    return _each_once(pairs[:, 0], pairs[:, 1], n_nodes)


def slots_of_all_pairs(n_nodes: int, n_edges: int) -> Slots:
    """A slot for every pair, source by source, target by target."""
    if n_edges != n_nodes**2:
        raise UserError(
            f"the checkpoint has {n_edges} private edges for {n_nodes} tokens, not every pair has "
            "one; say which do, by frequencies (a word_frequency.json) or by a list of edges"
        )
    sources, targets = np.divmod(np.arange(n_edges), n_nodes)
    return _each_once(sources, targets, n_nodes)


def _each_once(sources: Array, targets: Array, n_nodes: int) -> Slots:
    """Slots whose frequencies are not known: every private edge counts as seen once."""
    node_counts = np.bincount(sources, minlength=n_nodes)
    return Slots(sources, targets, np.ones_like(sources), node_counts)


def graph_of(slots: Slots, n_nodes: int) -> tuple[TokenGraph, Array | None]:
    """The graph, and the slots (E + 1,) in its order; None if they are in that order already."""
    keys = slots.sources * n_nodes + slots.targets
    edge = np.argsort(keys, kind="stable")
    keys = keys[edge]
    node_counts = slots.node_counts
    graph = TokenGraph(
        n_nodes=n_nodes,
        indptr=np.searchsorted(keys, np.arange(n_nodes + 1) * n_nodes),
        targets=slots.targets[edge],
        counts=slots.counts[edge],
        # The first token of a text is drawn from these: where nothing was counted, from all.
        node_counts=node_counts if node_counts.any() else np.ones_like(node_counts),
        prior=None,
    )
    in_order = np.array_equal(edge, np.arange(len(edge)))
    return graph, None if in_order else np.append(0, edge + 1)
