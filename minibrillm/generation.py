"""From logits to text: greedy choice, temperature, top-k, top-p, stop tokens, streaming."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from minibrillm.checks import UserError
from minibrillm.functional import State

Array = np.ndarray


class Reader(Protocol):
    """What generation asks of a model: a memory that reads tokens and answers with logits."""

    @property
    def max_positions(self) -> int | None:
        """Edges a stream may cross; None: no limit."""

    def read(self, tokens: Array, state: State | None = None) -> State:
        """Read tokens and return the memory after them."""

    def next_logits(self, state: State) -> Array:
        """Logits of the next token, (V,)."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Parameters
    ----------
    temperature : float
        Divides the logits (energy + prior) before the softmax; 0 is greedy: always the likeliest.
    top_k : int
        Only the k likeliest tokens; 0: all.
    top_p : float
        Only the fewest likeliest tokens that hold this much probability; 1: all.

    Raises
    ------
    UserError
        A value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; expected a number of at least 0")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; expected 0 (all tokens) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; expected a number above 0 and at most 1")


def probabilities(logits: Array, sampling: Sampling) -> Array:
    """The distribution that the next token is drawn from, (V,) -> (V,) float64.

    Temperature first, then top-k, then top-p on what is left, then renormalised.
    """
    logits = logits.astype(np.float64)
    p = np.zeros_like(logits)
    if sampling.temperature == 0:
        p[logits.argmax()] = 1
        return p
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the loudest to -inf
        scaled = (logits - logits.max()) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp(scaled[order])
    weights /= weights.sum()
    # A token stays while the likelier ones before it hold less than top_p.
    kept = np.cumsum(weights) - weights < sampling.top_p
    p[order[kept]] = weights[kept] / weights[kept].sum()
    return p


def generate(
    model: Reader,
    prompt: Array,
    n_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    *,
    stop: Collection[int] = (),
    banned: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to ``n_tokens`` tokens that follow ``prompt``, one at a time.

    A step costs the same however long the past is. Self-loops (妈妈, 00) are allowed.

    Parameters
    ----------
    prompt : integer array, at least one token
    stop : tokens that end the text; the one met is not yielded
    banned : tokens never drawn

    Raises
    ------
    UserError
        The signal has outgrown its numbers (MODEL.md, "Memory"): what was yielded stands.
    """
    blocked = np.fromiter(banned, np.int64, len(banned))
    state = None
    unread = prompt
    for k in range(n_tokens):
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            state = model.read(unread, state)
            logits = model.next_logits(state)
        if not np.isfinite(logits).all():
            raise UserError(
                f"the signal grew past the largest number after {len(prompt) + k} tokens; ask for "
                "fewer tokens, or train anew with --signal-bound 8, which bounds every signal"
            )
        logits[blocked] = -np.inf
        token = int(rng.choice(len(logits), p=probabilities(logits, sampling)))
        if token in stop:
            return
        yield token
        if model.max_positions is not None and state.position >= model.max_positions:
            return
        unread = np.array([token])
