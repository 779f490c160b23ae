"""The end of a text that comes piece by piece: before a stop text, wherever that stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from minibrillm.text.tokenizers import Tokenizer


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """Yield a text piece by piece up to a stop text, which may lie across pieces or inside one.

    What may be the beginning of the stop text is held back until it is known whether it is. Once
    the stop text is there, no further piece is asked for. Without one, the pieces as they are.
    """
    if stop is None:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        before, end, _ = (held + piece).partition(stop)
        keep = 0 if end else _begun(before, stop)
        held = before[len(before) - keep :]
        if ready := before[: len(before) - keep]:
            yield ready
        if end:
            return
    if held:
        yield held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text are the first ones of the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


def nodes_holding(tokenizer: Tokenizer, stop: str | None) -> list[int]:
    """Nodes whose own text holds the stop text: none of them can begin a text."""
    if stop is None:
        return []
    return [node for node in range(tokenizer.n_nodes) if stop in tokenizer.decode([node])]
