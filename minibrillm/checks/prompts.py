"""What a text that is to be continued must be."""

from __future__ import annotations

import reprlib
import warnings
from numbers import Integral

from minibrillm.checks.above import Reader
from minibrillm.checks.errors import UserError


def check_prompt(
    tokenizer: Reader, prompt: str, n_tokens: int, seed: int | None, stop: str | None
) -> list[int]:
    """Ids that are never drawn (the unknown one).

    Characters of the prompt that the vocabulary lacks are told by a warning; an impossible number
    of tokens, or a stop text that is empty or can never come, is a `UserError`.
    """
    whole = isinstance(n_tokens, Integral) and not isinstance(n_tokens, bool)
    if not whole or int(n_tokens) < 1:
        raise UserError(f"n_tokens is {n_tokens!r}; expected an integer of at least 1")
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0
    ):
        raise UserError(f"seed is {seed!r}; expected an integer of at least 0, or None")
    unknown = [] if tokenizer.unknown_id is None else [tokenizer.unknown_id]
    if stop is not None:
        if stop == "":
            raise UserError("stop is empty; expected the text to stop before, or none")
        if never := tokenizer.unknown(stop):
            raise UserError(
                f"stop {reprlib.repr(stop)} never comes: the vocabulary lacks {never[0]!r}"
            )
    missing = tokenizer.unknown(prompt)
    if missing and unknown:
        shown = " ".join(map(repr, missing))
        warnings.warn(f"the vocabulary lacks {shown}: read as unknown", stacklevel=4)
    return unknown
