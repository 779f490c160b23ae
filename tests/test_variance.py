"""What training may do for less: rounding and dropout have no bias, negatives hold the target."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.model import BriLLM
from minibrillm.variance import (
    dropout_mask,
    most_frequent_successors,
    round_at_random,
    with_negatives,
)

RNG = np.random.default_rng(0)

# rounding


def test_rounding_keeps_what_is_large_and_the_mean_of_what_is_small() -> None:
    p = RNG.dirichlet(np.full(200, 0.05), size=3)
    below, n = 0.03, 500
    assert (p < below).any()
    assert (p >= below).any()
    draws = (np.arange(n) + 0.5) / n
    rounded = np.array([round_at_random(p, below, np.full(3, x)) for x in draws])
    small = p < below
    assert set(np.unique(rounded[:, small])) == {0, below}
    np.testing.assert_array_equal(rounded[:, ~small], np.broadcast_to(p, (n, *p.shape))[:, ~small])
    assert np.abs(rounded.mean(axis=0) - p).max() <= below / n
    # As many are hit as fit into the mass of the small ones, give or take one.
    hits = (rounded == below).sum(axis=2)
    assert np.abs(hits - np.where(small, p, 0).sum(axis=1) / below).max() <= 1


def test_rounding_keeps_the_precision() -> None:
    p = np.array([[0.5, 0.01, 0.49]], np.float32)
    rounded = round_at_random(p, 0.1, np.array([0.95]))
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, np.array([[0.5, 0.1, 0.49]], np.float32))


# dropout


def test_a_mask_keeps_the_mean_and_the_precision() -> None:
    mask = dropout_mask(0.25, 400, 50, np.dtype(np.float32), np.random.default_rng(0))
    assert mask.shape == (400, 50)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {0, np.float32(4 / 3)}
    assert abs(mask.mean() - 1) < 0.02


# negatives


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 9), st.integers(0, 2**32))
def test_candidates_hold_the_target_once_and_first(n_nodes: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, n_nodes)
    successors = np.array([rng.permutation(n_nodes)[:k] for _ in range(n_nodes)])
    tokens = rng.integers(0, n_nodes, (3, 6))
    kept = successors.copy()
    candidates = with_negatives(tokens, successors)
    assert np.array_equal(successors, kept)
    assert candidates.shape == (3, 5, k)
    assert np.array_equal(candidates[..., 0], tokens[:, 1:])
    for source, chosen in zip(tokens[:, :-1].ravel(), candidates.reshape(-1, k), strict=True):
        assert len(set(chosen)) == k
        assert set(chosen[1:]) <= set(successors[source])
        # Only the least frequent successor gives way, and only to a target that is not there.
        left_out = set(successors[source]) - set(chosen)
        assert left_out <= {successors[source][-1]}


def test_most_frequent_successors() -> None:
    model = BriLLM.from_text("abacababd" * 2 + "aa", backend="numpy", d_node=2, min_count=1)
    found = most_frequent_successors(model.graph, 4)
    letters = ["".join(model.tokenizer.token(int(v)) for v in row) for row in found]
    by_letter = dict(zip(model.tokenizer.decode(np.arange(1, 5)), letters[1:], strict=True))
    # a: b 6, c 2, a 1, then d; b: a 4, d 2; c: a; d: a; then by frequency in the text.
    assert by_letter == {"a": "bcad", "b": "adbc", "c": "abcd", "d": "abcd"}
    assert most_frequent_successors(model.graph, 99).shape == (5, 5)
    assert sorted(most_frequent_successors(model.graph, 99)[0]) == [0, 1, 2, 3, 4]
