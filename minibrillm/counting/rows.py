"""π of a prior of longer contexts: one row of log-probabilities for each position (eq. 9b)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minibrillm.checks import Graph, Network, Standing, as_array, check_ids
from minibrillm.counting.kneser_ney import KneserNey

Array = np.ndarray


class PriorRows(NamedTuple):
    """π of an n-gram prior at every position, and what its κ learn from (eq. 9b)."""

    log_prior: Array  # (B, n, V)
    change: Array  # (B, n, V) its derivative in κ: what the longer context changes
    length: Array  # (B, n) l, how many tokens of context the counts know

    def of(self, rows: Array, targets: Array, true: Array) -> tuple[Array, Array]:
        """π of targets (N, C), or (1, C) for all, and of the true one, at flat positions (N,)."""
        own = self.log_prior.reshape(-1, self.log_prior.shape[-1])[rows]  # (N, V)
        return _take(own, targets), own[np.arange(len(rows)), true]

    def trust_gradient(
        self, rows: Array, targets: Array, true: Array, p: Array, share: Array
    ) -> tuple[Array, Array]:
        """What κ_l learn at flat positions (N,): which l, and dloss/dκ_l, (N,) each (eq. 11c).

        ``p`` (N, C) are the targets' probabilities, ``share`` (N,) parts of the mean loss.
        """
        change = self.change.reshape(-1, self.change.shape[-1])[rows]  # (N, V)
        expected = (p * _take(change, targets)).sum(axis=1)
        d_trust = share * (expected - change[np.arange(len(rows)), true])
        return self.length.reshape(-1)[rows], d_trust


def _take(rows: Array, targets: Array) -> Array:
    """Of each row (N, V) the entries of some targets (N, C), or (1, C) for all."""
    shape = len(rows), targets.shape[1]
    return np.take_along_axis(rows, np.broadcast_to(targets, shape), axis=1)


class Withheld(NamedTuple):
    """Counts as training must see them: without the very places that are to be foretold."""

    truth: Array  # (B, n) the tokens that follow
    bigrams: KneserNey  # of the training text, order 2: what the Hebbian prior was made of


def prior_rows(
    graph: Graph, trust: Array, tokens: Array, n: int, withheld: Withheld | None = None
) -> PriorRows:
    """π of an n-gram prior after each of the last n tokens of streams (eq. 9b).

    Parameters
    ----------
    graph : TokenGraph
        With both priors, ``prior`` and ``ngrams``.
    trust : array (n_order,)
        κ_l of contexts of l tokens; its precision is that of the rows.
    tokens : integer array (B, T), T ≥ n
        The first T - n are context only.
    withheld : Withheld, optional
        In training: what follows, whose places in the text are not to be counted (T = n).

    Returns
    -------
    PriorRows: κ_l log p_KN(v | all tokens so far) + (1 - κ_l) log p_KN(v | the last one) and so on
    """
    last = slice(tokens.shape[1] - n, tokens.shape[1])
    if withheld is None:
        far, length = graph.ngrams.log_rows(_rows(graph.ngrams.grams(tokens)[:, last, :-1]))
        near = np.array([graph.prior_row(int(u)) for u in tokens[:, last].ravel()])
    else:
        path = np.concatenate([tokens, withheld.truth[:, -1:]], axis=1)
        found = []
        for counts in (graph.ngrams, withheld.bigrams):
            grams = counts.grams(path)  # (B, n + 1, order)
            found.append(counts.log_rows(_rows(grams[:, :-1, :-1]), _rows(grams[:, 1:])))
        (far, length), (near, _) = found
    change = far - near
    log_prior = near + trust[length][:, None] * change
    shape = len(tokens), n, graph.n_nodes
    return PriorRows(
        log_prior.astype(trust.dtype).reshape(shape),
        change.astype(trust.dtype).reshape(shape),
        length.reshape(shape[:2]),
    )


def _rows(grams: Array) -> Array:
    """(B, n, K) -> (B n, K)"""
    return grams.reshape(-1, grams.shape[-1])


def recent_tokens(order: int, before: Array | None, tokens: Array) -> Array | None:
    """The last n - 1 tokens of streams, which an n-gram prior of order n asks for.

    ``before`` (B, L) are the last ones so far (None: nobody asks), ``tokens`` (B, T) new ones.
    """
    if before is None:
        return None
    return np.concatenate([before, tokens], axis=1)[:, -(order - 1) :]


def rows_after(
    model: Network, tokens: Array, state: Standing | None = None, withheld: Withheld | None = None
) -> PriorRows | None:
    """π of a model's n-gram prior after each token (B, T) of streams; None for any other prior.

    The streams stand at their first tokens, which the ``state`` has read already.
    """
    if model.graph.ngrams is None:
        return None
    n, trust = tokens.shape[1], model.parameters["context_trust"]
    if state is not None and state.recent is not None:
        tokens = np.concatenate([state.recent[:, :-1], tokens], axis=1)
    rows: PriorRows = model.operations.prior_rows(model.graph, trust, tokens, n, withheld)
    return rows


def log_prior_after(model: Network, tokens: Array, state: Standing | None = None) -> Array:
    """π of every node after each token of streams: () -> (V,), (T,) -> (T, V) …; float64."""
    tokens = check_ids(as_array(tokens, "tokens"), model.graph.n_nodes)
    wide = rows_after(model, np.atleast_2d(tokens), state)
    if wide is not None:
        return wide.log_prior.astype(np.float64).reshape(*tokens.shape, -1)
    rows = np.array([model.graph.prior_row(int(u)) for u in tokens.ravel()])
    return rows.reshape(*tokens.shape, model.graph.n_nodes)
