"""TokenGraph against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.graph import TokenGraph
from minibrillm.storage import graph_from_arrays, graph_to_arrays

IDS = np.array([0, 1, 2, 1, 2, 2, 0, 1, 3, 0, 1])


def test_edges_are_the_bigrams_grouped_by_source() -> None:
    graph = TokenGraph.from_ids(IDS, 5)
    bigrams = Counter(zip(IDS[:-1].tolist(), IDS[1:].tolist(), strict=True))
    rows = zip(graph.sources.tolist(), graph.targets.tolist(), graph.counts.tolist(), strict=True)
    assert [(u, v) for u, v, _ in rows] == sorted(bigrams)
    assert graph.n_edges == len(bigrams)
    assert all(graph.counts[graph.edge(u, v)] == n for (u, v), n in bigrams.items())
    np.testing.assert_array_equal(graph.indptr, [0, 1, 3, 6, 7, 7])
    np.testing.assert_array_equal(graph.out_degree, [1, 2, 3, 1, 0])
    np.testing.assert_array_equal(graph.node_counts, [3, 4, 3, 1, 0])


def test_min_count_keeps_frequent_bigrams_only() -> None:
    graph = TokenGraph.from_ids(IDS, 5, min_count=2)
    assert list(zip(graph.sources, graph.targets, strict=True)) == [(0, 1), (1, 2)]
    np.testing.assert_array_equal(graph.counts, [3, 2])


def test_edges_not_there_are_minus_one() -> None:
    graph = TokenGraph.from_ids(IDS, 5)
    np.testing.assert_array_equal(graph.edge(np.array([0, 4, 1, 3]), np.array([0, 0, -1, 4])), -1)
    empty = TokenGraph.from_ids(IDS, 5, min_count=99)
    np.testing.assert_array_equal(empty.edge(IDS[:-1], IDS[1:]), -1)


def test_bigrams_do_not_cross_documents() -> None:
    graph = TokenGraph.from_ids([np.array([0, 1]), np.array([2, 0]), np.array([3])], 4)
    assert graph.edge(np.array([1]), np.array([2]))[0] == -1
    assert graph.n_edges == 2


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=60),
    st.integers(7, 9),
    st.integers(1, 3),
    st.booleans(),
)
def test_prior_and_weight_of_the_unseen_class(
    ids: list[int], n_nodes: int, min_count: int, prior: bool
) -> None:
    graph = TokenGraph.from_ids(np.array(ids), n_nodes, min_count=min_count, prior=prior)
    for u in range(n_nodes):
        row = np.zeros(n_nodes) if graph.prior is None else graph.prior.row(u)
        if graph.prior is not None:
            assert np.exp(row).sum() == pytest.approx(1, abs=1e-12)
        mask = np.ones(n_nodes, bool)
        mask[graph.targets[graph.indptr[u] : graph.indptr[u + 1]]] = False
        assert np.exp(graph.log_unseen_weight[u]) == pytest.approx(np.exp(row[mask]).sum())


@pytest.mark.parametrize("prior", [False, True])
def test_arrays_round_trip(prior: bool) -> None:
    graph = TokenGraph.from_ids(IDS, 5, prior=prior)
    back = graph_from_arrays(graph_to_arrays(graph))
    for name, array in graph_to_arrays(graph).items():
        np.testing.assert_array_equal(graph_to_arrays(back)[name], array)
    assert (back.prior is None) == (not prior)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="at least one bigram"):
        TokenGraph.from_ids(np.array([3]), 5)
    with pytest.raises(UserError, match="0 … 4; got 0 … 5"):
        TokenGraph.from_ids(np.array([0, 5]), 5)
    arrays = graph_to_arrays(TokenGraph.from_ids(IDS, 5))
    with pytest.raises(UserError, match=r"graph\.counts|'counts'"):
        graph_from_arrays({k: a for k, a in arrays.items() if k != "graph.counts"})
    damage = {
        "graph.targets": [IDS, arrays["graph.targets"] + 9, arrays["graph.targets"][::-1]],
        "graph.indptr": [arrays["graph.indptr"][::-1], arrays["graph.indptr"] * 1.0],
        "graph.counts": [IDS[:3]],
        "prior.targets": [arrays["prior.targets"] - 7],
        "prior.log_backoff": [np.full(5, np.nan), np.zeros(4)],
    }
    for name, values in damage.items():
        for value in values:
            with pytest.raises(UserError, match="do not fit"):
                graph_from_arrays(arrays | {name: value})
    with pytest.raises(UserError, match="array of integers"):
        TokenGraph.from_ids(np.array([0.5, 1.0]), 5)
