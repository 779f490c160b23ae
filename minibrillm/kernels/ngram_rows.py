"""π of a prior of longer contexts, a row for each position: n-grams found and added up (eq. 9b)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numba import prange

from minibrillm.counting import PriorRows
from minibrillm.kernels.gelu import log
from minibrillm.kernels.jit import inlined, kernel, one_at_a_time
from minibrillm.kernels.judge import Weights, weigh_columns
from minibrillm.kernels.passes import hebbian, scratch

if TYPE_CHECKING:
    from minibrillm.counting import KneserNey, Withheld
    from minibrillm.graph import TokenGraph

Array = np.ndarray


class _Ngrams(NamedTuple):
    """The levels of `KneserNey`, one after the other: those of order k + 1 from ``at[k]`` on."""

    targets: Array  # (Σ N_k,) last token of each k-gram
    counts: Array  # (Σ N_k,)
    share: Array  # (Σ N_k,)
    first: Array  # (Σ N_{k-1},) place of each context's first k-gram
    last: Array  # and the place after its last
    total: Array  # (Σ N_{k-1},)
    taken: Array  # (Σ N_{k-1},)
    discounts: Array  # (n, 4) D(0) … D(3)
    grams_at: Array  # (n,)
    contexts_at: Array  # (n,)


_FLAT: WeakKeyDictionary[KneserNey, dict[Any, _Ngrams]] = WeakKeyDictionary()


def _flat(ngrams: KneserNey, dtype: Any) -> _Ngrams:
    """Made once for each model and precision."""
    held = _FLAT.setdefault(ngrams, {})
    if dtype not in held:
        levels, n = ngrams.levels, ngrams.n_nodes
        at = np.cumsum([0, *(len(level.keys) for level in levels)])
        contexts = np.cumsum([0, *(level.n_contexts for level in levels)])[:-1]
        firsts = [level.first + k for level, k in zip(levels, at[:-1], strict=True)]
        held[dtype] = _Ngrams(
            np.concatenate([level.keys % n for level in levels]).astype(np.int32),
            np.concatenate([level.counts for level in levels]).astype(np.int32),
            np.concatenate([level.share for level in levels]).astype(dtype),
            np.concatenate([first[:-1] for first in firsts]),
            np.concatenate([first[1:] for first in firsts]),
            np.concatenate([level.total for level in levels]),
            np.concatenate([level.taken for level in levels]),
            np.array([[0.0, *level.discounts] for level in levels]),
            at[:-1],
            contexts,
        )
    return held[dtype]


@inlined()
def _after(g: _Ngrams, k: int, context: int, token: int) -> int:
    """Place of the (k+1)-gram that is a context of k tokens and a token after it; -1: not seen."""
    first = g.first[g.contexts_at[k] + context]
    after = g.targets[first : g.last[g.contexts_at[k] + context]]  # ascending
    j = np.searchsorted(after, token)
    return first + j if j < after.size and after[j] == token else -1


@inlined()
def _find_contexts(g: _Ngrams, tokens: Array, contexts: Array) -> None:
    """Which k-gram ends at each token of one stream, as `KneserNey.grams`: (T, n)."""
    for i in range(tokens.size):
        for k in range(contexts.shape[1]):
            before = 0
            if k > 0:
                before = contexts[i - 1, k - 1] if i > 0 else -1
            contexts[i, k] = -1
            if before < 0:
                continue  # nor is any longer one known, but all entries are to be written
            place = _after(g, k, before, tokens[i])
            if place >= 0:
                contexts[i, k] = place - g.grams_at[k]


@inlined()
def _ngram_row(g: _Ngrams, context: Array, truth: int, p: Array) -> int:
    """p (V,) of every target after one context; returns how many of its tokens were of use.

    ``truth``: the token that follows, whose place is not to be counted; -1: all counts.
    """
    known = 0  # tokens of the context that were seen
    while known < context.size and context[known] >= 0:
        known += 1
    # From the longest context to none: what each order leaves to those below it, and whether the
    # place that is not counted takes one from them.
    left, length, loses = 1.0, 0, truth >= 0
    p[:] = 0
    for k in range(known, -1, -1):
        before = context[k - 1] if k > 0 else 0
        here = g.contexts_at[k] + before
        total, taken = g.total[here], g.taken[here]
        count: Any = 0
        true_share = 0.0
        if loses:
            place = _after(g, k, before, truth)
            if place >= 0:
                count = g.counts[place]  # 0: the text begins so, nothing is before it
                loses = count <= 1
        if count > 0:
            discount = g.discounts[k]
            total -= 1
            taken += discount[min(count - 1, 3)] - discount[min(count, 3)]
            true_share = count - 1 - discount[min(count - 1, 3)]
        if total <= 0:
            continue
        length = max(length, k)
        target = truth if count > 0 else 0
        kept = p[target] + p.dtype.type(left * true_share / total)
        times = p.dtype.type(left * g.total[here] / total)
        for j in range(g.first[here], g.last[here]):
            p[g.targets[j]] += times * g.share[j]
        if count > 0:
            p[target] = kept
        left *= taken / total
    rest = p.dtype.type(left / p.size)
    for v in range(p.size):
        p[v] += rest
    return length


class _Rows(NamedTuple):
    """What `prior_rows` reads and writes; M positions."""

    sources: Array  # (M,)
    contexts: Array  # (M, n - 1)
    truth: Array  # (M,) what follows, not to be counted; (0,): all counts
    trust: Array  # (n,)
    p: Array  # (threads, 2, V)
    log_prior: Array  # (M, V)
    change: Array  # (M, V)
    length: Array  # (M,)


@inlined()
def _prior_row(g: _Ngrams, bigrams: _Ngrams, last: Weights, x: _Rows, m: int) -> None:
    """One row of `prior_rows`."""
    p = x.p[numba.get_thread_id()]
    far, near = p[0], p[1]
    if x.truth.size > 0:
        length = _ngram_row(g, x.contexts[m], x.truth[m], far)
        _ngram_row(bigrams, x.contexts[m, :1], x.truth[m], near)
        for v in range(near.size):
            near[v] = log(near[v])
    else:
        length = _ngram_row(g, x.contexts[m], -1, far)
        weigh_columns(last, x.sources[m], 0, near)
    trust, change, out = x.trust[length], x.change[m], x.log_prior[m]
    for v in range(out.size):
        change[v] = log(far[v]) - near[v]
        out[v] = near[v] + trust * change[v]
    x.length[m] = length


@kernel()
def _one_stream(g: _Ngrams, tokens: Array, contexts: Array) -> None:
    _find_contexts(g, tokens[0], contexts[0])


@kernel(parallel=True)
def _streams(g: _Ngrams, tokens: Array, contexts: Array) -> None:
    for b in prange(len(tokens)):
        _find_contexts(g, tokens[b], contexts[b])


@kernel()
def _one_row(g: _Ngrams, bigrams: _Ngrams, last: Weights, x: _Rows) -> None:
    _prior_row(g, bigrams, last, x, 0)


@kernel(parallel=True)
def _all_rows(g: _Ngrams, bigrams: _Ngrams, last: Weights, x: _Rows) -> None:
    for m in prange(x.length.size):
        _prior_row(g, bigrams, last, x, np.int64(m))


@one_at_a_time
def prior_rows(
    graph: TokenGraph, trust: Array, tokens: Array, n: int, withheld: Withheld | None = None
) -> PriorRows:
    """As `minibrillm.counting.prior_rows`."""
    assert graph.ngrams is not None
    (n_streams, length), v, dtype = tokens.shape, graph.n_nodes, trust.dtype
    flat, m, contexts_of = _flat(graph.ngrams, dtype), n_streams * n, graph.ngrams.order - 1
    bigrams, truth = flat, np.empty(0, np.int64)
    if withheld is not None:
        bigrams = _flat(withheld.bigrams, dtype)
        truth = np.ascontiguousarray(withheld.truth, np.int64).reshape(-1)
    tokens = np.ascontiguousarray(tokens, np.int64)
    contexts = np.empty((n_streams, length, contexts_of), np.int64)
    (_one_stream if n_streams == 1 else _streams)(flat, tokens, contexts)
    last = slice(length - n, None)
    rows = _Rows(
        np.ascontiguousarray(tokens[:, last]).reshape(-1),
        np.ascontiguousarray(contexts[:, last]).reshape(-1, contexts_of),
        truth,
        trust,
        scratch("p", (numba.get_num_threads(), 2, v), dtype),
        np.empty((m, v), dtype),
        np.empty((m, v), dtype),
        np.empty(m, np.int64),
    )
    # As in generation, one row: nothing to run in parallel, nor to compile for it.
    (_one_row if m == 1 else _all_rows)(flat, bigrams, hebbian(graph), rows)
    shape = n_streams, n
    log_prior, change = (x.reshape(*shape, v) for x in (rows.log_prior, rows.change))
    return PriorRows(log_prior, change, rows.length.reshape(shape))
