"""What a caller calls a text: one string, several, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.text.corpora import read_corpus

_ENDINGS = (".txt", ".jsonl", ".md", ".csv", ".json")


def documents_of(text: str | Path | Sequence[str], encoding: str | None = None) -> tuple[str, ...]:
    """The documents of a text: a string is one, a `Path` is read, a sequence is several.

    ``encoding`` is that of the file, if `decode_text` does not find it out.

    Raises
    ------
    UserError
        The name of a file given as a string, something else than text, or nothing at all.
    """
    if isinstance(text, Path):
        return read_corpus(text, encoding=encoding).documents
    if isinstance(text, str):
        if "\n" not in text and len(text) < 256 and _names_a_file(text):
            raise UserError(
                f"{text!r} is the name of a file, not a text; to read the file give Path({text!r})"
            )
        documents: tuple[str, ...] = (text,)
    else:
        if not isinstance(text, Sequence) or not all(isinstance(d, str) for d in text):
            raise UserError(
                f"text is a {type(text).__name__}; expected a string, a Path, or a sequence of "
                "strings, one a document"
            )
        documents = tuple(text)
    if not any(documents):
        raise UserError("the text is empty; it takes some text to learn from")
    return documents


def _names_a_file(text: str) -> bool:
    try:
        return text.lower().endswith(_ENDINGS) or Path(text).is_file()
    except (OSError, ValueError):
        return False
