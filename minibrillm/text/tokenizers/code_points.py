"""Text as an array of code points, and as a label for plots."""

from __future__ import annotations

import numpy as np

from minibrillm.checks import UserError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_VISIBLE = {" ": "␣", "\n": "⏎"}


def code_points(text: str) -> np.ndarray:
    """Code point of every character, (n_characters,) uint32; refuses lone surrogates."""
    if not isinstance(text, str):
        raise UserError(f"text is of type {type(text).__name__}; expected a string (str)")
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text is not valid Unicode: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}; read the file with the encoding it was written in"
        ) from None


def text_of(points: np.ndarray) -> str:
    """The text of code points, (n_characters,)."""
    return points.astype("<u4").tobytes().decode("utf-32-le")


def label(text: str) -> str:
    """Text in which every character leaves a mark on paper."""
    return "".join(
        _VISIBLE.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode("ascii"))
        for c in text
    )
