"""Windows are pieces of the text, stay inside documents and see every edge about as often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import Windows

unhurried = settings(deadline=None)


@unhurried
@given(
    st.integers(2, 40), st.integers(1, 8), st.integers(1, 39), st.integers(0, 2**32), st.booleans()
)
def test_windows_are_pieces_of_the_stream(
    length: int, batch_size: int, sequence_length: int, seed: int, narrow: bool
) -> None:
    ids = (np.arange(length) + 100).astype(np.int32 if narrow else np.int64)
    if sequence_length + 1 > length:
        with pytest.raises(UserError, match=f"{length} tokens"):
            Windows(ids, sequence_length)
        return
    tokens, weights = Windows(ids, sequence_length).draw(batch_size, np.random.default_rng(seed))
    assert weights is None
    assert tokens.shape == (batch_size, sequence_length + 1)
    assert tokens.dtype == np.int64
    starts = tokens[:, :1] - 100
    assert starts.min() >= 0
    assert starts.max() + sequence_length < length
    assert np.array_equal(tokens, starts + 100 + np.arange(sequence_length + 1))


@pytest.mark.parametrize(
    ("ids", "said"), [([], "has 0 tokens"), ("abc", "encode the text"), ([[0.5], [1]], "integers")]
)
def test_no_windows_of_what_is_no_text(ids: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Windows(ids, 3)


def test_every_start_is_drawn_the_last_included() -> None:
    tokens, _ = Windows(np.arange(10), 3).draw(1000, np.random.default_rng(0))
    counts = np.bincount(tokens[:, 0])
    assert len(counts) == 7  # starts 0 … 6: the window from 6 ends with the last token, 9
    assert counts.min() > 80  # 143 are expected of each


@unhurried
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=6), st.integers(1, 8), st.integers(0, 2**32)
)
def test_windows_of_documents_stay_inside(lengths: list[int], n: int, seed: int) -> None:
    documents = [100 * k + np.arange(length) for k, length in enumerate(lengths)]
    if max(lengths) < 2:
        with pytest.raises(UserError, match="no document has two tokens"):
            Windows(documents, n)
        return
    tokens, weights = Windows(documents, n).draw(50, np.random.default_rng(seed))
    which, place = np.divmod(tokens, 100)
    assert (which == which[:, :1]).all()
    edges = np.array(lengths)[which[:, 0]] - 1
    assert edges.min() >= 1
    assert (weights is None) == (edges.min() >= n)
    real = np.ones((50, n)) if weights is None else weights
    assert np.array_equal(real.sum(axis=1), np.minimum(edges, n))
    assert np.array_equal(np.diff(place, axis=1), real)  # one step on, or filled up with the last
    assert place.max(axis=1).tolist() <= edges.tolist()


def test_every_edge_of_a_document_is_drawn_about_as_often_as_any_other() -> None:
    lengths, n = [41, 17, 5, 90], 16
    documents = [100 * k + np.arange(length) for k, length in enumerate(lengths)]
    tokens, weights = Windows(documents, n).draw(40_000, np.random.default_rng(0))
    assert weights is not None
    for k, length in enumerate(lengths):
        mine = (tokens[:, 0] // 100 == k)[:, None] & (weights > 0)
        seen = np.bincount(tokens[:, 1:][mine] - 100 * k, minlength=length)[1:]
        assert len(seen) == length - 1
        share = seen / (weights.sum() / (sum(lengths) - 4))
        assert share.min() > 0.4
        assert share.max() < 1.8
        assert 0.8 < share.mean() < 1.25  # nor does a document's length matter


def test_the_same_batches_on_every_platform() -> None:
    """Written down once; drawn as 64-bit integers, whatever the platform's own integer is."""
    documents = [np.arange(30), np.arange(50, 54), np.arange(60, 90)]
    tokens, weights = Windows(documents, 6).draw(6, np.random.default_rng(45))
    assert tokens[:, 0].tolist() == [81, 60, 69, 50, 50, 71]
    assert weights is not None
    assert weights.sum(axis=1).tolist() == [6, 6, 6, 3, 3, 6]
    again = Windows(documents, 6).draw(6, np.random.default_rng(45)).tokens
    other = Windows(documents, 6).draw(6, np.random.default_rng(46)).tokens
    assert np.array_equal(tokens, again)
    assert not np.array_equal(tokens, other)
