"""What a text that is to be continued must be."""

from __future__ import annotations

import warnings
from numbers import Integral

from minibrillm.checks.above import Reader
from minibrillm.checks.errors import UserError


def check_prompt(
    tokenizer: Reader, prompt: str, n_tokens: int, seed: int | None, stop: str | None
) -> tuple[list[int], list[int]]:
    """Ids that end a text, and ids never drawn (the unknown one).

    Characters of the prompt that the vocabulary lacks are told by a warning; an impossible number
    of tokens, or an end that is not one token, is a `UserError`.
    """
    whole = isinstance(n_tokens, Integral) and not isinstance(n_tokens, bool)
    if not whole or int(n_tokens) < 1:
        raise UserError(f"n_tokens is {n_tokens!r}; expected an integer of at least 1")
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0
    ):
        raise UserError(f"seed is {seed!r}; expected an integer of at least 0, or None")
    unknown = [] if tokenizer.unknown_id is None else [tokenizer.unknown_id]
    stops = [] if stop is None else tokenizer.encode(stop).tolist()
    if stop is not None and (len(stops) != 1 or stops == unknown):
        raise UserError(f"stop must be exactly one token of the vocabulary; got {stop!r}")
    missing = tokenizer.unknown(prompt)
    if missing and unknown:
        shown = " ".join(map(repr, missing))
        warnings.warn(f"the vocabulary lacks {shown}: read as unknown", stacklevel=4)
    return stops, unknown
