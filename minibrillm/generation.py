"""From logits to text: greedy choice, temperature, top-k, top-p, one token after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from minibrillm.checks import Network, Record, UserError, check_prompt, ranges, remedy
from minibrillm.text import nodes_holding, until

Array = np.ndarray


@dataclass(frozen=True)
class Sampling(Record):
    """How the next token is drawn; an impossible value is a `UserError`."""

    temperature: float = 1.0  # divides the logits; 0 is greedy: always the likeliest
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the fewest likeliest tokens that hold this much probability; 1: all

    _ranges = ranges.SAMPLING


def probabilities(logits: Array, sampling: Sampling) -> Array:
    """What the next token is drawn from, (V,) -> (V,): temperature, top-k, top-p, renormalised."""
    logits = logits.astype(np.float64)
    p = np.zeros_like(logits)
    if sampling.temperature == 0:
        p[logits.argmax()] = 1
        return p
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the loudest to -inf
        scaled = (logits - logits.max()) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")[: sampling.top_k or None]
    weights = np.exp(scaled[order])
    weights /= weights.sum()
    # A token stays while the likelier ones before it hold less than top_p.
    kept = np.cumsum(weights) - weights < sampling.top_p
    p[order[kept]] = weights[kept] / weights[kept].sum()
    return p


def generate(
    model: Network,
    prompt: Array,
    n_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    *,
    banned: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to ``n_tokens`` tokens that follow ``prompt`` (T,), T ≥ 1, one at a time.

    Tokens in ``banned`` (the unknown one) are never drawn. A signal that outgrew its numbers
    (MODEL.md, "Memory") is a `UserError`.
    """
    blocked = np.fromiter(banned, np.int64, len(banned))
    state, unread = None, prompt
    for k in range(n_tokens):
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            state = model.read(unread, state)
            logits = model.next_logits(state)
        if not np.isfinite(logits).all():
            what = f"the signal grew past the largest number after {len(prompt) + k} tokens"
            raise UserError(f"{what}; ask for fewer tokens, or: {remedy(model.config)}")
        logits[blocked] = -np.inf
        token = int(rng.choice(len(logits), p=probabilities(logits, sampling)))
        yield token
        if model.max_positions is not None and state.position >= model.max_positions:
            return
        unread = np.array([token])


def write(
    model: Network, prompt: str, n_tokens: int, seed: int | None, stop: str | None, **sampling: Any
) -> Iterator[str]:
    """Text that follows a prompt, piece by piece; arguments as for `BriLLM.generate`."""
    how, tok = Sampling.from_json(sampling), model.tokenizer
    banned = check_prompt(tok, prompt, n_tokens, seed, stop)
    rng = np.random.default_rng(seed)
    ids, drawn = tok.encode(prompt), []
    if ids.size == 0:  # begin at a node drawn from the unigram
        weights = model.graph.node_counts.astype(np.float64)
        barred = list({*banned, *nodes_holding(tok, stop)})
        if weights.sum() > weights[barred].sum():
            weights[barred] = 0
        drawn = [int(rng.choice(len(weights), p=weights / weights.sum()))]
        ids = np.array(drawn)
    rest = generate(model, ids, n_tokens - len(drawn), how, rng, banned=banned)
    yield from until(tok.decode_stream(chain(drawn, rest)), stop)
