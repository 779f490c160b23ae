"""Counting against a slow textbook Kneser-Ney, and the properties every model must have."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.counting import FALLBACK_DISCOUNTS, BigramPrior, KneserNey, loss_by_order


class Textbook:
    """Interpolated modified Kneser-Ney with dictionaries, written from the equations alone."""

    def __init__(self, documents, n_nodes, order):
        self.n_nodes, self.order = n_nodes, order
        self.counts = {k: self._counts(documents, k) for k in range(1, order + 1)}
        self.discounts = {k: self._discount(self.counts[k]) for k in self.counts}

    def _counts(self, documents, k):
        grams = [tuple(d[i : i + k]) for d in documents for i in range(len(d) - k + 1)]
        if k == self.order:
            return Counter(grams)
        before = defaultdict(set)
        for d in documents:
            for i in range(1, len(d) - k + 1):
                before[tuple(d[i : i + k])].add(d[i - 1])
        return {gram: len(tokens) for gram, tokens in before.items()}

    @staticmethod
    def _discount(counts):
        n = Counter(counts.values())
        found = FALLBACK_DISCOUNTS
        if all(n[j] for j in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            own = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
            if min(own) > 0:
                found = own
        return lambda c: 0.0 if c == 0 else found[min(c, 3) - 1]

    def p(self, v, context):
        context = tuple(context[max(0, len(context) - self.order + 1) :])
        below = 1 / self.n_nodes if not context else self.p(v, context[1:])
        return self._one(v, context, below)

    def _one(self, v, context, below):
        counts, discount = self.counts[len(context) + 1], self.discounts[len(context) + 1]
        after = [counts.get((*context, w), 0) for w in range(self.n_nodes)]
        if sum(after) == 0:
            return below
        left = sum(discount(c) for c in after) / sum(after)
        return (after[v] - discount(after[v])) / sum(after) + left * below


@st.composite
def texts(draw, max_length=60):
    """A text (list of ids) and V; V may exceed the alphabet, the alphabet may be one symbol."""
    alphabet = draw(st.integers(1, 5))
    ids = draw(st.lists(st.integers(0, alphabet - 1), min_size=2, max_size=max_length))
    return ids, alphabet + draw(st.integers(0, 3))


def zipf_text(rng, length, n_nodes):
    """A text with many rare tokens, so that all counts of counts are found."""
    p = 1 / np.arange(1, n_nodes + 1)
    return rng.choice(n_nodes, size=length, p=p / p.sum())


@settings(max_examples=80, deadline=None)
@given(texts(), st.integers(1, 5), st.data())
def test_conditional_is_a_distribution(text, order, data):
    ids, n_nodes = text
    model = KneserNey.fit(np.array(ids), n_nodes, order)
    assert model.order == order
    context = data.draw(st.lists(st.integers(0, n_nodes - 1), max_size=6))
    p = model.conditional(np.array(context, dtype=np.int64))
    assert p.shape == (n_nodes,)
    assert (p > 0).all()
    assert abs(p.sum() - 1) < 1e-12


@settings(max_examples=80, deadline=None)
@given(texts())
def test_prior_rows_sum_to_one_and_equal_the_bigram_model(text):
    ids, n_nodes = np.array(text[0]), text[1]
    prior, model = BigramPrior.fit(ids, n_nodes), KneserNey.fit(ids, n_nodes, 2)
    rows = np.array([prior.row(u) for u in range(n_nodes)])
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, rtol=0, atol=1e-12)
    for u in range(n_nodes):
        np.testing.assert_allclose(np.exp(rows[u]), model.conditional(np.array([u])), rtol=1e-12)
    grid = np.mgrid[:n_nodes, :n_nodes]
    np.testing.assert_array_equal(prior.lookup(*grid), rows)
    np.testing.assert_allclose(
        prior.lookup(ids[:-1], ids[1:]), model.log_probabilities(ids), rtol=0, atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(texts(), texts(max_length=12), st.integers(1, 4))
def test_equals_the_textbook_on_tiny_texts(train, held_out, order):
    n_nodes = max(train[1], held_out[1])
    ids = held_out[0]
    slow = Textbook([train[0]], n_nodes, order)
    expected = [np.log(slow.p(ids[i], ids[:i])) for i in range(1, len(ids))]
    got = KneserNey.fit(np.array(train[0]), n_nodes, order).log_probabilities(np.array(ids))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equals_the_textbook_with_estimated_discounts(order):
    rng = np.random.default_rng(0)
    n_nodes = 80
    # Set phrases, frequent ones and rare ones: else no long n-gram would come back.
    phrases = [zipf_text(rng, 6, n_nodes) for _ in range(60)]
    # Documents too: the first tokens of each have no left neighbour.
    documents = [
        np.concatenate([phrases[i] for i in zipf_text(rng, length, 60)])[skip:]
        for length, skip in ((100, 0), (1, 5), (1, 4), (50, 3))
    ]
    held_out = np.concatenate([phrases[i][:4] for i in zipf_text(rng, 15, 60)])
    model = KneserNey.fit(documents, n_nodes, order)
    assert tuple(model.levels[-1].discounts) != FALLBACK_DISCOUNTS
    slow = Textbook([d.tolist() for d in documents], n_nodes, order)
    ids = held_out.tolist()
    expected = [np.log(slow.p(ids[i], ids[:i])) for i in range(1, len(ids))]
    np.testing.assert_allclose(model.log_probabilities(held_out), expected, rtol=0, atol=1e-12)
    context = ids[:5]
    expected = [slow.p(v, context) for v in range(n_nodes)]
    np.testing.assert_allclose(model.conditional(np.array(context)), expected, rtol=0, atol=1e-12)


def test_conditional_and_log_probabilities_agree():
    rng = np.random.default_rng(0)
    train, held_out = zipf_text(rng, 500, 12), zipf_text(rng, 50, 12)
    model = KneserNey.fit(train, 12, 4)
    expected = [np.log(model.conditional(held_out[:i])[held_out[i]]) for i in range(1, 50)]
    np.testing.assert_allclose(model.log_probabilities(held_out), expected, rtol=0, atol=1e-12)


def test_loss_by_order_equals_models_fitted_one_by_one():
    rng = np.random.default_rng(1)
    train, held_out = zipf_text(rng, 800, 15), zipf_text(rng, 200, 15)
    losses = loss_by_order(train, held_out, 15, max_order=5)
    assert list(losses) == [1, 2, 3, 4, 5]
    for order, loss in losses.items():
        own = -KneserNey.fit(train, 15, order).log_probabilities(held_out).mean()
        assert loss == pytest.approx(own, abs=1e-13)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(2, 30))
def test_discounts_stay_between_zero_and_the_count(seed, length, n_nodes):
    model = KneserNey.fit(zipf_text(np.random.default_rng(seed), length, n_nodes), n_nodes, 4)
    for level in model.levels:
        assert (level.discounts > 0).all()
        assert (level.discounts < [1, 2, 3]).all()
        assert (level.share >= 0).all()
        assert (level.backoff > 0).all()
        assert (level.backoff <= 1).all()


def test_bigrams_do_not_cross_documents():
    documents = [np.array([0, 1, 0, 1]), np.array([], dtype=np.int64), np.array([2, 3]), [4]]
    prior = BigramPrior.fit(documents, 6)
    np.testing.assert_array_equal(prior.indptr, [0, 1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(prior.targets, [1, 0, 3])
    assert prior.indptr.dtype == prior.targets.dtype == np.int64
    np.testing.assert_array_equal(prior.log_backoff[3:], 0)  # 3, 4, 5 are never a context
    np.testing.assert_array_equal(prior.row(4), prior.log_unigram)
    # 2 and 4 only ever start a document: nothing stands before them, as before 5.
    assert prior.log_unigram[2] == prior.log_unigram[4] == prior.log_unigram[5]
    joined = BigramPrior.fit(np.array([0, 1, 0, 1, 2, 3, 4]), 6)
    assert len(joined.targets) == 5


def test_lower_orders_count_left_neighbours():
    # "3" is frequent but always after 2; "1" is rarer but after anything.
    ids = np.array([2, 3] * 20 + [0, 1, 4, 1, 5, 1, 3, 1])
    prior = BigramPrior.fit(ids, 7)
    assert prior.log_unigram[1] > prior.log_unigram[3]
    raw = KneserNey.fit(ids, 7, 1).conditional(np.array([], dtype=np.int64))
    assert raw[3] > raw[1]


def test_row_is_a_copy_and_lookup_takes_any_shape():
    prior = BigramPrior.fit(np.array([0, 1, 2, 0, 2, 1]), 4)
    before = prior.row(0).copy()
    prior.row(0)[:] = 0
    np.testing.assert_array_equal(prior.row(0), before)
    u, v = np.array([[[0, 1]], [[3, 2]]]), np.array([[[1, 1]], [[3, 0]]])
    assert prior.lookup(u, v).shape == u.shape
    assert prior.lookup(u, v)[0, 0, 0] == prior.row(0)[1]
    assert float(prior.lookup(np.array(3), np.array(2))) == prior.row(3)[2]


def test_one_token_is_a_text():
    """Without a single bigram the prior is uniform."""
    prior = BigramPrior.fit(np.array([1]), 4)
    np.testing.assert_allclose(np.exp(prior.row(1)), 0.25)
    np.testing.assert_allclose(np.exp(prior.lookup(np.array([1]), np.array([1]))), 0.25)
    assert KneserNey.fit(np.array([1]), 4, 3).log_probabilities(np.array([1])).shape == (0,)


def test_no_overflow_with_many_nodes_and_a_high_order():
    """4000**7 is far beyond int64; the ranks stay small."""
    rng = np.random.default_rng(2)
    n_nodes = 4000
    ids = rng.integers(n_nodes - 50, n_nodes, size=20_000)
    ids[7::7] = n_nodes - 1
    model = KneserNey.fit(ids, n_nodes, 7)
    for k, level in enumerate(model.levels, start=1):
        assert (level.keys >= 0).all()
        assert (np.diff(level.keys) > 0).all()
        distinct = np.unique(np.lib.stride_tricks.sliding_window_view(ids, k), axis=0)
        assert len(level.keys) == (n_nodes if k == 1 else len(distinct))
    assert abs(model.conditional(ids[100:106]).sum() - 1) < 1e-12
    # Almost all 7-grams are unique, so the model knows its own text almost by heart.
    assert model.log_probabilities(ids)[6:].mean() > -1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KneserNey.fit(np.array([], dtype=np.int64), 5, 2), "empty"),
        (lambda: BigramPrior.fit([], 5), "empty"),
        (lambda: BigramPrior.fit([np.array([], dtype=np.int64)], 5), "empty"),
        (lambda: KneserNey.fit(np.array([0, 5]), 5, 2), r"0 … 4; got 0 … 5"),
        (lambda: BigramPrior.fit(np.array([-1, 2]), 5), r"0 … 4; got -1 … 2"),
        (lambda: BigramPrior.fit([np.array([0]), np.array([9])], 5), r"0 … 4; got 9 … 9"),
        (lambda: KneserNey.fit(np.array([0, 1]), 5, 0), "at least 1; got 0"),
        (lambda: KneserNey.fit(np.array([0.5, 1]), 5, 2), "integers; got float64"),
        (lambda: KneserNey.fit(np.array([0, 1]), 5, 2).log_probabilities(np.array([7])), "0 … 4"),
        (lambda: KneserNey.fit(np.array([0, 1]), 5, 2).conditional(np.array([7])), "0 … 4"),
        (lambda: loss_by_order(np.array([0, 1]), np.array([0]), 5), "two tokens"),
        (lambda: loss_by_order(np.array([0, 1]), np.array([0, 1]), 5, 0), "at least 1; got 0"),
    ],
)
def test_bad_input_says_what_came_and_what_was_expected(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_rows_are_the_distributions_after_every_context() -> None:
    ids = zipf_text(np.random.default_rng(3), 600, 9)
    model = KneserNey.fit(ids, 9, 4)
    other = zipf_text(np.random.default_rng(4), 80, 9)
    grams = model.grams(np.stack([other, other[::-1]]))
    assert grams.shape == (2, 80, 4)
    for stream, its in zip((other, other[::-1]), grams, strict=True):
        rows = np.exp(model.log_rows(its[:-1, :-1])[0])
        for i, row in enumerate(rows):
            np.testing.assert_allclose(row, model.conditional(stream[: i + 1]), rtol=1e-12)


def left_out_by_hand(ids: list[int], place: int, n_nodes: int, model: KneserNey) -> np.ndarray:
    """The distribution before ``place``, from counts of all n-grams but the one that ends there."""
    n = model.order
    seen = [tuple(ids[i - n + 1 : i + 1]) for i in range(n - 1, len(ids))]
    shorter = [tuple(ids[: k + 1]) for k in range(n - 1)]  # at the start, where no n-gram ends
    if place >= n - 1:
        seen.remove(tuple(ids[place - n + 1 : place + 1]))
    else:
        shorter.remove(tuple(ids[: place + 1]))
    p = np.full(n_nodes, 1 / n_nodes)
    for k in range(1, n + 1):
        # The top counts places; below, a gram counts once for each token seen before it.
        longer = {g[-k - 1 :] for g in [*seen, *shorter] if len(g) > k}
        counts = list(seen) if k == n else [g[1:] for g in longer]
        context = tuple(ids[max(0, place - k + 1) : place])
        after = np.bincount([g[-1] for g in counts if g[:-1] == context], minlength=n_nodes)
        if len(context) < k - 1 or not after.sum():
            continue
        taken = np.array([0, *model.levels[k - 1].discounts])[np.minimum(after, 3)]
        p = (after - taken + taken.sum() * p) / after.sum()
    return p


@pytest.mark.parametrize("order", [2, 3, 4])
def test_leave_one_out_is_counting_without_the_place(order: int) -> None:
    ids = zipf_text(np.random.default_rng(order), 120, 6)
    model = KneserNey.fit(ids, 6, order)
    grams = model.grams(ids)
    rows = np.exp(model.log_rows(grams[:-1, :-1], grams[1:])[0])
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-12)
    for place in range(order - 1, len(ids)):
        by_hand = left_out_by_hand(ids.tolist(), place, 6, model)
        np.testing.assert_allclose(rows[place - 1], by_hand, rtol=1e-10, err_msg=str(place))


def test_left_out_the_text_surprises_as_new_text_does() -> None:
    """Counted on itself a text seems foretold; leave one out is honest."""
    ids = zipf_text(np.random.default_rng(5), 4000, 12)
    model = KneserNey.fit(ids[:2000], 12, 5)
    grams, truth = model.grams(ids[:2000]), ids[1:2000]
    index = np.arange(len(truth))
    known = -model.log_rows(grams[:-1, :-1])[0][index, truth].mean()
    honest = -model.log_rows(grams[:-1, :-1], grams[1:])[0][index, truth].mean()
    new = -model.log_probabilities(ids[2000:]).mean()
    assert known < 0.8 * new
    assert honest == pytest.approx(new, rel=0.03)
