"""Markov chains: texts whose least possible loss is known, for any context."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minibrillm.checks import UserError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """A source whose best possible loss is known: the next symbol depends on the last k alone.

    Parameters
    ----------
    alphabet : str
        One character a symbol; V of them.
    transitions : float array (V, …, V), k + 1 axes, k ≥ 1
        ``transitions[h_1, …, h_k, v]`` = p(v | h), the oldest symbol first.

    Raises
    ------
    UserError
        A wrong shape, rows that are no probabilities, or a chain whose course depends for ever on
        how it began, so that it has no one entropy.
    """

    alphabet: str
    transitions: Array

    def __post_init__(self) -> None:
        v, p = len(self.alphabet), np.asarray(self.transitions, np.float64)
        if len(set(self.alphabet)) != v or p.ndim < 2 or set(p.shape) != {v}:
            raise UserError(
                f"an alphabet of {v} symbols, all different, needs transitions ({v}, …, {v}) with "
                f"at least 2 axes; got {self.alphabet!r} and {p.shape}"
            )
        if not (p.min() >= 0 and np.allclose(p.sum(axis=-1), 1, atol=1e-9, rtol=0)):
            raise UserError("every row of the transitions must be probabilities that sum to 1")
        object.__setattr__(self, "transitions", p)
        _ = self.stationary  # refuses a chain without one

    @classmethod
    def random(
        cls, n_symbols: int, order: int, rng: np.random.Generator, concentration: float = 0.3
    ) -> MarkovChain:
        """A chain with random transitions, each row from a symmetric Dirichlet distribution.

        Parameters
        ----------
        n_symbols : int
            V, 2 to 26: the letters from a.
        order : int
            k: how many symbols the next one depends on.
        concentration : float
            Below 1 the rows are peaked, far above 1 nearly uniform.
        """
        if not 2 <= n_symbols <= 26 or order < 1 or not concentration > 0:
            raise UserError(
                f"expected 2 to 26 symbols, an order of at least 1 and a concentration above 0; "
                f"got {n_symbols}, {order} and {concentration}"
            )
        rows = rng.dirichlet(np.full(n_symbols, concentration), size=n_symbols**order)
        # A thousandth of everything everywhere: no state is cut off from the others.
        rows = 0.999 * rows + 0.001 / n_symbols
        letters = "abcdefghijklmnopqrstuvwxyz"[:n_symbols]
        return cls(letters, rows.reshape((n_symbols,) * (order + 1)))

    @classmethod
    def walk(cls, weights: Array, alphabet: str | None = None) -> MarkovChain:
        """The random walk on a directed graph: from node u to v in proportion to ``weights[u, v]``.

        Parameters
        ----------
        weights : array (V, V)
            At least 0, and 0 where there is no edge; of a networkx graph, its ``to_numpy_array``.
        alphabet : str, optional
            Names of the nodes; letters from a without it.
        """
        w = np.asarray(weights, np.float64)
        if w.ndim != 2 or w.shape[0] != w.shape[1] or not (w.min(initial=0) >= 0):
            raise UserError(f"weights must be (V, V) and at least 0; got {w.shape}")
        total = w.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            node = int(np.flatnonzero(~(total[:, 0] > 0))[0])
            raise UserError(f"no edge leads out of node {node}: a walk would end there")
        return cls(alphabet or "abcdefghijklmnopqrstuvwxyz"[: len(w)], w / total)

    @property
    def order(self) -> int:
        """k, how many symbols the next one depends on."""
        return self.transitions.ndim - 1

    @cached_property
    def stationary(self) -> Array:
        """Long-run share of every context of k symbols, (V, …, V) with k axes, sum 1."""
        v, k = len(self.alphabet), self.order
        n = v**k
        # Context (h_1 … h_k) goes to (h_2 … h_k, v): solve π = π T, Σ π = 1.
        step = np.zeros((n, n))
        rows = np.arange(n)
        for symbol in range(v):
            step[rows, (rows * v + symbol) % n] += self.transitions.reshape(n, v)[:, symbol]
        equations = np.vstack([step.T - np.eye(n), np.ones((1, n))])
        share, _, rank, _ = np.linalg.lstsq(equations, np.r_[np.zeros(n), 1.0], rcond=1e-12)
        if rank < n:
            raise UserError("some symbols are never reached from others: connect the graph")
        return np.maximum(share, 0).reshape((v,) * k)

    def entropy(self, n_symbols: int | None = None) -> float:
        """Least possible loss in nats per symbol, for a model that sees only so many symbols.

        Parameters
        ----------
        n_symbols : int, optional
            Symbols of context, 0 … k; k without it: the entropy rate, which nothing can beat.
            With 1: what the best bigram reaches.
        """
        seen = self.order if n_symbols is None else n_symbols
        if not 0 <= seen <= self.order:
            raise UserError(f"expected 0 to {self.order} symbols of context; got {seen}")
        joint = self.stationary[..., None] * self.transitions  # p(h, v)
        joint = joint.sum(axis=tuple(range(self.order - seen)))
        context = joint.sum(axis=-1, keepdims=True)
        positive = joint > 0
        ratio = np.broadcast_to(context, joint.shape)[positive] / joint[positive]
        return float((joint[positive] * np.log(ratio)).sum())

    def sample(self, n: int, rng: np.random.Generator) -> str:
        """A text of n symbols that the chain emits, from a context drawn by its long-run share."""
        v, k = len(self.alphabet), self.order
        totals = np.cumsum(self.transitions.reshape(-1, v), axis=1)
        totals[:, -1] = 1  # whatever the rounding
        rows = totals.tolist()
        start = np.cumsum(self.stationary.ravel())
        context = min(int(np.searchsorted(start, rng.random(), side="right")), v**k - 1)
        out = [context // v ** (k - 1 - j) % v for j in range(k)]
        for u in rng.random(max(n - k, 0)).tolist():
            symbol = bisect_right(rows[context], u)
            out.append(symbol)
            context = (context * v + symbol) % v**k
        return "".join([self.alphabet[symbol] for symbol in out[:n]])
