"""Counts and modified Kneser-Ney: the Hebbian prior of the model, and the baseline it must beat.

An n-gram model guesses the next token from the n-1 before it. Interpolated modified Kneser-Ney
(Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling") takes a
discount D off every count and gives what it took to the model with one token less of context:

    p(v | h) = (c(hv) - D(c(hv))) / c(h·) + λ(h) p(v | h′),      λ(h) = Σ_v D(c(hv)) / c(h·)

h′ is h without its first token; below the empty context stands the uniform 1/V. At the highest
order c is how often hv was seen. Below it, c is the number of distinct tokens seen before hv,
because p(v | h′) is asked only where h did not know better: "Francisco" may be frequent, but
after anything other than "San" it is rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from minibrillm.checks import UserError, as_ids
from minibrillm.counting.grams import Grams, count_grams, find, shift

Array = np.ndarray

# Discounts where a text is too small to estimate its own; those of KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class Level:
    """One order k of a model: its k-grams (context h, next token v), and what each may claim.

    The context is named by its rank among the (k-1)-grams, so a k-gram fits one integer whatever
    k: rank · V + v is at most (number of tokens read) · V. Level 1 has all V tokens.

    Parameters
    ----------
    n_nodes : int
        V.
    n_contexts : int
        N_{k-1}, the number of (k-1)-grams; 1 for k = 1.
    keys : int64 array (N_k,)
        Rank of h · V + v, ascending.
    counts : int64 array (N_k,)
        c(hv): how often hv was seen at the highest order, how many tokens stood before it below.
    discounts : float64 array (3,)
        D1, D2, D3+.
    """

    n_nodes: int
    n_contexts: int
    keys: Array
    counts: Array
    discounts: Array

    def discount(self, counts: Array) -> Array:
        """D(c) of every count."""
        return np.concatenate([[0.0], self.discounts])[np.minimum(counts, 3)]

    @cached_property
    def total(self) -> Array:
        """c(h·) of every context, (N_{k-1},)."""
        return np.bincount(self.keys // self.n_nodes, self.counts, self.n_contexts)

    @cached_property
    def taken(self) -> Array:
        """Σ_v D(c(hv)) of every context, (N_{k-1},)."""
        taken = self.discount(self.counts)
        return np.bincount(self.keys // self.n_nodes, taken, self.n_contexts)

    @cached_property
    def share(self) -> Array:
        """(c - D(c)) / c(h·), the part of p(v | h) that this order gives, (N_k,)."""
        # Where the total is 0 nothing was counted after the context, and 0 / 1 is what it claims.
        total = np.maximum(self.total, 1)[self.keys // self.n_nodes]
        return (self.counts - self.discount(self.counts)) / total

    @cached_property
    def backoff(self) -> Array:
        """λ(h), the part left to the order below; 1 where nothing follows h, (N_{k-1},)."""
        one = np.ones(self.n_contexts)
        return np.divide(self.taken, self.total, out=one, where=self.total > 0)

    @cached_property
    def first(self) -> Array:
        """Where the k-grams of each context begin, (N_{k-1} + 1,)."""
        return np.searchsorted(self.keys, np.arange(self.n_contexts + 1) * self.n_nodes)


@dataclass(frozen=True, eq=False)
class KneserNey:
    """An n-gram model of one order, smoothed by interpolated modified Kneser-Ney.

    Parameters
    ----------
    n_nodes : int
        V.
    levels : tuple of Level
        Orders 1 … n.
    """

    n_nodes: int
    levels: tuple[Level, ...]

    @classmethod
    def fit(cls, ids: Array | Sequence[Array], n_nodes: int, order: int) -> KneserNey:
        """Estimate from a stream of token ids, or from documents (n-grams stay inside each).

        Parameters
        ----------
        ids : integer array (N,), or a list of them
        n_nodes : int
            V; every id lies in 0 … V-1.
        order : int
            n ≥ 1: the next token is guessed from the n-1 before it.

        Raises
        ------
        UserError
            No token at all, an id outside 0 … V-1, or an order below 1.
        """
        tables = count_grams(ids, n_nodes, order)
        lower = [lower_level(*pair, n_nodes) for pair in pairwise(tables)]
        return cls(n_nodes, (*lower, level_of(tables[-1], n_nodes, tables[-1].counts)))

    @property
    def order(self) -> int:
        """n, one more than the tokens of context."""
        return len(self.levels)

    def log_probabilities(self, ids: Array) -> Array:
        """Log-probability of every token but the first, each given the n-1 before it.

        Parameters
        ----------
        ids : integer array (N,)
            Near the start, where there are fewer than n-1 tokens, the context is what there is.

        Returns
        -------
        float64 array (N - 1,), nats: entry i is log p(ids[i+1] | ids[max(0, i+2-n) : i+1])

        Raises
        ------
        UserError
            No token, or an id outside 0 … V-1.
        """
        ids = as_ids(ids, self.n_nodes)
        if not ids.size:
            raise UserError("ids is empty: at least one token is needed")
        context = np.zeros(len(ids), np.int64)  # the empty one has rank 0
        p = np.full(len(ids), 1 / self.n_nodes)
        for level in self.levels:
            gram = find(level.keys, context * self.n_nodes + ids)
            p = interpolate(level, context, gram, p)
            context = shift(gram)
        return np.log(p[1:])

    def conditional(self, context: Array) -> Array:
        """The whole distribution of the next token after ``context``.

        Parameters
        ----------
        context : integer array (L,), L ≥ 0
            Only its last n-1 tokens count.

        Returns
        -------
        float64 array (V,), all entries above 0, sum 1

        Raises
        ------
        UserError
            An id outside 0 … V-1.
        """
        context = as_ids(context, self.n_nodes)
        context = context[max(0, len(context) - self.order + 1) :]
        p = np.full(self.n_nodes, 1 / self.n_nodes)
        prefix = np.zeros(len(context), np.int64)
        here = 0  # rank of the last k-1 tokens
        for level in self.levels:
            first, last = np.searchsorted(
                level.keys, [here * self.n_nodes, (here + 1) * self.n_nodes]
            )
            p *= level.backoff[here]
            p[level.keys[first:last] - here * self.n_nodes] += level.share[first:last]
            gram = find(level.keys, prefix * self.n_nodes + context)
            if not gram.size or gram[-1] < 0:  # then no longer context was seen either
                break
            here, prefix = int(gram[-1]), shift(gram)
        return p

    def grams(self, ids: Array) -> Array:
        """Which k-gram ends at each place of one or several streams, for every order k.

        Parameters
        ----------
        ids : integer array (..., N)

        Returns
        -------
        int32 array (..., N, n): entry k - 1 is the rank of the k-gram among those of the training
        text, -1 where it was not seen there or the stream has fewer than k tokens so far
        """
        ids = np.asarray(ids, np.int64)
        out = np.empty((*ids.shape, self.order), np.int32)
        rank = np.zeros(ids.shape, np.int64)  # of the (k-1)-gram that ends one place before
        for k, level in enumerate(self.levels):
            if k > 0:
                rank = np.concatenate([np.full_like(rank[..., :1], -1), rank[..., :-1]], axis=-1)
            rank = np.where(rank < 0, -1, find(level.keys, rank * self.n_nodes + ids))
            out[..., k] = rank
        return out

    def log_rows(self, contexts: Array, left_out: Array | None = None) -> tuple[Array, Array]:
        """log p of every token after each of many contexts, and how long these are.

        Parameters
        ----------
        contexts : integer array (M, n - 1)
            As `grams` names them: entry k - 1 is the k-gram that ends where the next token is
            asked for; -1: it was not seen, or there is none.
        left_out : integer array (M, n), optional
            As `grams` names the k-grams that end in the true next token: counted as if the place
            where the longest of them ends had not been read (leave one out).

        Returns
        -------
        float64 array (M, V), nats; int64 array (M,): the most tokens of a context (0 … n - 1) that
        something follows in the training text
        """
        m = len(contexts)
        p = np.full((m, self.n_nodes), 1 / self.n_nodes)
        length = np.zeros(m, np.int64)
        here = np.zeros(m, np.int64)  # rank of the context; the empty one has rank 0
        fewer = np.zeros((m, self.order), bool) if left_out is None else self._loses(left_out)
        for k, level in enumerate(self.levels):
            if not level.keys.size:  # no document is that long
                break
            if k > 0:
                here = contexts[:, k - 1]
            rows = np.flatnonzero(here >= 0)
            context = here[rows]
            total, taken = level.total[context], level.taken[context]
            if left_out is not None:
                less, true = fewer[rows, k], level.counts[left_out[rows, k]]
                total = total - less
                taken = taken + less * (level.discount(true - 1) - level.discount(true))
            known = total > 0
            rows, context, total, taken = (x[known] for x in (rows, context, total, taken))
            length[rows] = k
            p[rows] *= (taken / total)[:, None]
            many = level.first[context + 1] - level.first[context]
            owner = np.repeat(np.arange(len(rows)), many)  # of every k-gram after the context
            gram = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
            gram += level.first[context][owner]
            count = level.counts[gram]
            if left_out is not None:
                count = count - (fewer[rows, k][owner] & (gram == left_out[rows, k][owner]))
            share = (count - level.discount(count)) / total[owner]
            p[rows[owner], level.keys[gram] % self.n_nodes] += share
        return np.log(p), length

    def _loses(self, left_out: Array) -> Array:
        """At which orders a place that is left out takes one from its k-gram's count, (M, n).

        At the longest that is known. Below, a count is a number of distinct tokens seen before:
        it shrinks only if the k-gram one longer is gone altogether.
        """
        out = np.zeros(left_out.shape, bool)
        goes = np.ones(len(left_out), bool)
        for k in reversed(range(self.order)):
            if not self.levels[k].keys.size:
                continue
            known, count = left_out[:, k] >= 0, self.levels[k].counts[left_out[:, k]]
            out[:, k] = goes & known & (count > 0)  # 0: the text begins so, nothing is before it
            goes &= ~known | (count <= 1)
        return out


def level_of(grams: Grams, n_nodes: int, counts: Array) -> Level:
    """Discount the counts of one order."""
    return Level(n_nodes, grams.n_contexts, grams.keys, counts, _discounts(counts))


def lower_level(grams: Grams, longer: Grams, n_nodes: int) -> Level:
    """`_level` below the top: a k-gram counts once for each (k+1)-gram that ends in it."""
    return level_of(grams, n_nodes, np.bincount(longer.suffix, minlength=len(grams.keys)))


def _discounts(counts: Array) -> Array:
    """D1, D2, D3+ of one order from its counts of counts n1 … n4 (Chen & Goodman 1999).

    Y = n1 / (n1 + 2 n2) and Dj = j - (j + 1) Y n(j+1) / nj. Where some nj is 0 or some Dj is not
    above 0, as happens in small texts and small alphabets, all three are `FALLBACK_DISCOUNTS`.
    Hence 0 < Dj < j: no count turns negative, and every context leaves something to the order
    below, so that no token has probability 0.

    Parameters
    ----------
    counts : integer array (N,)

    Returns
    -------
    float64 array (3,)
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if n.all():
        j = np.array([1.0, 2.0, 3.0])
        discounts = j - (j + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:-1]
        if (discounts > 0).all():
            return discounts
    return np.array(FALLBACK_DISCOUNTS)


def interpolate(level: Level, context: Array, gram: Array, p_below: Array) -> Array:
    """One step up: p_k from p_{k-1}, (M,); a context or gram of index -1 was never seen."""
    p = p_below.copy()
    known = context >= 0
    p[known] *= level.backoff[context[known]]
    seen = gram >= 0
    p[seen] += level.share[gram[seen]]
    return p
