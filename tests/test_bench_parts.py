"""The benchmark counts right and compares in turns, on texts and graphs that are what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from minibrillm.bench import (
    KEYS,
    Section,
    Spread,
    alternate,
    complete,
    count_work,
    fit_exponent,
    regular_graph,
    spread,
    stand_in,
    walk,
)
from minibrillm.bench.training import thread_counts
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.storage import graph_from_arrays, graph_to_arrays
from minibrillm.text import CharacterTokenizer


@pytest.fixture
def triangle() -> TokenGraph:
    """0→1, 0→2, 1→0; node 2 leads nowhere."""
    return TokenGraph.from_ids([np.array([0, 1, 0]), np.array([0, 2])], 3, prior=False)


def test_work_of_shared_edges_by_hand(triangle: TokenGraph) -> None:
    config = ModelConfig.preset("paper", d_node=2)
    work = count_work(triangle, config, np.array([[0, 1, 0, 2]]))
    # Sources 0, 1, 0: 2, 1, 2 private edges and the class of all others, 3 + 2 + 3 columns.
    # A column: 2·2² forward, 2·2² for the signal, 2·2² for the matrix = 24; 3 edges on the path.
    assert work.competition == 24 * 8
    assert work.path == 24 * 3
    assert work.operations == 24 * 11
    # 4 slots of 2² + 2 parameters; 11 float32 move for each.
    assert work.optimiser == 4 * 6 * 11 * 4


def test_work_of_three_part_edges_by_hand(triangle: TokenGraph) -> None:
    config = ModelConfig(d_node=2, prior="none", start="ones", memory="chain")
    work = count_work(triangle, config, np.array([[0, 1], [2, 0]]))
    assert (work.path, work.competition) == (24 * 2, 24 * 2 * 3)  # all V = 3 compete
    assert work.optimiser == ((3 + 3 + 3) * 6 + 1) * 44  # axons, dendrites, synapses, the bound


def test_work_scales_to_the_positions_of_a_batch(triangle: TokenGraph) -> None:
    config, tokens = ModelConfig.preset("released", d_node=3), np.array([[0, 1, 0, 2, 1]])
    once, ten = count_work(triangle, config, tokens), count_work(triangle, config, tokens, 40)
    assert ten.operations == pytest.approx(10 * once.operations)
    assert ten.optimiser == once.optimiser


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 2.0])
def test_exponent_is_found(p: float) -> None:
    x = [1, 2, 4, 8, 100]
    assert fit_exponent(x, [7 * n**p for n in x]) == pytest.approx(p, abs=1e-12)


def test_exponent_is_the_least_squares_line() -> None:
    x, noise = np.array([1.0, 10.0, 100.0]), np.array([0.1, -0.2, 0.1])  # noise of slope 0
    assert fit_exponent(x, np.exp(noise) * x**1.5) == pytest.approx(1.5)


def test_spread() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([1234.0]).text() == "1,234.0 (1,234.0–1,234.0)"
    assert spread([0.001, 0.002, 0.003]).text(1e3, 0) == "2 (2–2)"


def test_sides_are_timed_in_turns() -> None:
    now, calls = 0.0, ""

    def side(name: str, *seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def run() -> None:
            nonlocal now, calls
            calls += name
            now += next(left)

        return run

    sides = {"a": side("a", 9, 1, 2, 3), "b": side("b", 9, 10, 20, 30)}
    times = alternate(sides, 3, clock=lambda: now)
    assert calls == "abababab"  # the first round is not timed
    assert {name: t.tolist() for name, t in times.items()} == {"a": [1, 2, 3], "b": [10, 20, 30]}
    calls = ""
    sides = {"a": side("a", *range(6)), "b": side("b", *range(0, 60, 10))}
    times = alternate(sides, 1, clock=lambda: now, in_a_row=2)
    assert calls == "aaabbbaaabbb"  # nor the first of a row
    assert {name: t.tolist() for name, t in times.items()} == {"a": [4.5], "b": [45.0]}


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])]
)
def test_thread_counts(most: int, counts: list[int]) -> None:
    assert thread_counts(most) == counts


def test_stand_in_has_the_statistics_of_letters() -> None:
    text = stand_in(65, 200_000, "!", np.random.default_rng(0))
    assert text == stand_in(65, 200_000, "!", np.random.default_rng(0))
    assert (len(text), len(set(text))) == (200_000, 65)
    tok = CharacterTokenizer.train(text)
    graph = TokenGraph.from_ids(tok.encode(text), tok.n_nodes, prior=False)
    assert graph.n_nodes == 66
    assert 30 < graph.out_degree @ graph.node_counts / graph.node_counts.sum() < 37
    assert len(stand_in(5, 7, "a", np.random.default_rng(0))) == 7


def test_regular_graph_and_walks() -> None:
    rng = np.random.default_rng(0)
    graph = regular_graph(12, 5, rng)
    graph_from_arrays(graph_to_arrays(graph))  # refuses what is no graph
    assert graph.out_degree.tolist() == [5] * 12
    tokens = walk(graph, 3, 40, rng)
    assert tokens.shape == (3, 41)
    assert (graph.edge(tokens[:, :-1], tokens[:, 1:]) >= 0).all()


def test_tables_line_up() -> None:
    section = Section("title", ("", "s"), [("long name", "1"), ("x", "100")], ["a note"])
    assert section.table() == "== title\n             s\nlong name    1\nx          100\na note"


def test_what_is_not_measured_is_null_with_a_reason() -> None:
    whole = complete({"share_of_sgemm": 0.5, "cold_start_s": None, "cold_start_s_why": "because"})
    assert set(KEYS) <= whole.keys()
    assert whole["share_of_sgemm"] == 0.5
    assert whole["cold_start_s_why"] == "because"
    for key in KEYS[1:]:
        assert whole[key] is None
        assert isinstance(whole[f"{key}_why"], str)
