"""The exported graph has the nodes, edges and counts of ours."""

from __future__ import annotations

import numpy as np
import pytest

from minibrillm.checks import UserError
from minibrillm.graph import TokenGraph
from minibrillm.look import to_networkx

IDS = np.array([0, 1, 2, 1, 2, 2, 0, 1, 3, 0, 1])


def test_networkx_export() -> None:
    graph = TokenGraph.from_ids(IDS, 5)
    exported = to_networkx(graph, labels=list("abcde"))
    assert exported.number_of_nodes() == 5
    assert exported.number_of_edges() == graph.n_edges
    assert exported.edges[0, 1]["count"] == 3
    assert exported.nodes[1] == {"count": 4, "label": "b"}
    assert exported.has_edge(2, 2)


def test_without_labels_nodes_have_their_counts() -> None:
    exported = to_networkx(TokenGraph.from_ids(IDS, 5))
    assert dict(exported.nodes(data="count")) == {0: 3, 1: 4, 2: 3, 3: 1, 4: 0}
    assert set(exported.nodes[0]) == {"count"}


def test_every_node_has_a_label_or_none_has() -> None:
    with pytest.raises(UserError, match="4 labels for 5 nodes"):
        to_networkx(TokenGraph.from_ids(IDS, 5), labels=list("abcd"))
