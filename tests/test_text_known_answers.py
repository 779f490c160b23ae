"""What the sources of known entropy say of themselves is what their texts cost."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import networkx
import numpy as np
import pytest

from minibrillm.checks import UserError
from minibrillm.text import AGREEMENT, Grammar, MarkovChain


def test_entropy_of_a_chain_written_out() -> None:
    """p(b|a) = 1/2, p(a|b) = 1: in the long run a has 2/3, and only it leaves a choice."""
    chain = MarkovChain("ab", np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert chain.stationary == pytest.approx([2 / 3, 1 / 3])
    assert chain.entropy() == pytest.approx(2 / 3 * math.log(2))
    assert chain.entropy(0) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_entropy_of_a_random_chain_is_what_its_text_costs(order: int) -> None:
    rng = np.random.default_rng(order)
    chain = MarkovChain.random(5, order, rng)
    assert chain.order == order
    text = chain.sample(200_000, rng)
    assert len(text) == 200_000
    ids = np.array([chain.alphabet.index(c) for c in text])
    p = chain.transitions[tuple(ids[k : len(ids) - order + k] for k in range(order + 1))]
    assert -np.log(p).mean() == pytest.approx(chain.entropy(), rel=0.01)
    contexts = np.ravel_multi_index(
        [ids[k : len(ids) - order + k + 1] for k in range(order)], (5,) * order
    )
    share = np.bincount(contexts, minlength=5**order) / len(contexts)
    assert np.abs(share - chain.stationary.ravel()).max() < 0.01
    falling = [chain.entropy(k) for k in range(order + 1)]
    assert all(b <= a for a, b in itertools.pairwise(falling))
    assert falling[-2] > 1.1 * falling[-1]  # one symbol less of context costs something


def test_a_chain_that_ignores_what_was_before() -> None:
    chain = MarkovChain("abc", np.tile([0.2, 0.3, 0.5], (3, 3, 1)))
    expected = -sum(p * math.log(p) for p in (0.2, 0.3, 0.5))
    assert [chain.entropy(k) for k in range(3)] == pytest.approx([expected] * 3)


def test_walk_on_a_graph_follows_its_edges() -> None:
    graph = networkx.DiGraph([(0, 1), (1, 2), (2, 0), (1, 0)])
    chain = MarkovChain.walk(networkx.to_numpy_array(graph, nodelist=range(3)))
    assert chain.transitions[1].tolist() == [0.5, 0, 0.5]
    pairs = set(itertools.pairwise(chain.sample(2000, np.random.default_rng(0))))
    assert pairs == {("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")}
    assert chain.entropy() == pytest.approx(0.4 * math.log(2))  # b is left 2 times in 5


def test_a_walk_with_names_and_weights() -> None:
    chain = MarkovChain.walk(np.array([[0, 3.0], [1, 1]]), "零一")
    assert chain.transitions.tolist() == [[0, 1], [0.5, 0.5]]
    assert set(chain.sample(50, np.random.default_rng(0))) == set("零一")
    assert chain.sample(0, np.random.default_rng(0)) == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MarkovChain("ab", np.eye(3)), "needs transitions"),
        (lambda: MarkovChain("aa", np.eye(2)), "all different"),
        (lambda: MarkovChain("ab", np.array([[0.5, 0.6], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.array([[1.5, -0.5], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.array([[np.nan, 1], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.eye(2)), "connect the graph"),
        (lambda: MarkovChain.walk(np.array([[0, 1], [0, 0]])), "no edge leads out of node 1"),
        (lambda: MarkovChain.walk(np.zeros((2, 3))), "must be"),
        (lambda: MarkovChain.walk(-np.eye(2)), "at least 0"),
        (lambda: MarkovChain.random(1, 1, np.random.default_rng()), "2 to 26 symbols"),
        (lambda: MarkovChain.random(3, 0, np.random.default_rng()), "order of at least 1"),
        (lambda: MarkovChain("ab", np.full((2, 2), 0.5)).entropy(2), "0 to 1 symbols"),
    ],
)
def test_impossible_chains(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_entropy_of_a_grammar_written_out() -> None:
    """a with 2/3, or b and a sentence again with 1/3: (1 + 1/2) choices, 3/2 words on average."""
    grammar = Grammar({"S": [(2 / 3, ["a"]), (1 / 3, ["b", "S"])]})
    choice = math.log(3) - 2 / 3 * math.log(2)
    assert grammar.sentence_entropy == pytest.approx(1.5 * choice)
    assert grammar.mean_length == pytest.approx(1.5)
    assert grammar.entropy == pytest.approx(choice)
    assert grammar.words == ["a", "b"]


def derivations(grammar: Grammar, least: float) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Every sentence with a derivation of at least that probability, leftmost symbol first."""
    waiting: list[tuple[float, tuple[str, ...]]] = [(1.0, (grammar.start,))]
    while waiting:
        p, symbols = waiting.pop()
        place = next((k for k, s in enumerate(symbols) if s in grammar.rules), None)
        if place is None:
            yield p, symbols
            continue
        for share, parts in grammar.rules[symbols[place]]:
            if p * share >= least:
                waiting.append((p * share, (*symbols[:place], *parts, *symbols[place + 1 :])))


def test_the_entropy_of_agreement_is_that_of_its_sentences() -> None:
    """No sentence has two derivations, so sentences and derivations have the same entropy."""
    grammar = Grammar(AGREEMENT)
    found = list(derivations(grammar, 1e-6))
    assert len({s for _, s in found}) == len(found) > 5000
    covered = sum(p for p, _ in found)
    assert 0.97 < covered < 1
    below = sum(-p * math.log(p) for p, _ in found)
    assert below < grammar.sentence_entropy < below + (1 - covered) * 40
    sentences = grammar.sample(20_000, np.random.default_rng(0))
    assert np.mean([len(s) for s in sentences]) == pytest.approx(grammar.mean_length, rel=0.02)
    seen = Counter(map(tuple, sentences))
    for p, sentence in sorted(found)[-20:]:
        assert seen[sentence] / 20_000 == pytest.approx(p, rel=0.2)
    known = {s: p for p, s in found}
    costs = [-math.log(known[tuple(s)]) for s in sentences if tuple(s) in known]
    assert np.mean(costs) == pytest.approx(below / covered, rel=0.02)
    assert {word for s in sentences for word in s} == set(grammar.words)


def test_subject_and_verb_agree() -> None:
    """The verb of the main clause is the last one before the full stop, or governs what follows."""
    for words in Grammar(AGREEMENT).sample(300, np.random.default_rng(1)):
        assert words[-1] == "."
        if "sees" not in words and "see" not in words and "that" not in words:
            assert (words[0] == "a") == (words[2].endswith("s"))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"A": [(1.0, ["a"])]}, "start symbol 'S'"),
        ({"S": [(0.5, ["a"])]}, "expected a sum of 1"),
        ({"S": [(1.5, ["a"]), (-0.5, ["b"])]}, "expected a sum of 1"),
        ({"S": []}, "expected a sum of 1"),
        ({"S": [(0.5, ["a"]), (0.5, ["S", "S"])]}, "infinite mean length"),
    ],
)
def test_impossible_grammars(rules: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Grammar(rules)
