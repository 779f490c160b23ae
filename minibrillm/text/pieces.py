"""The bundled corpus: short pieces, each in Chinese and in English."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibrillm.checks import UserError
from minibrillm.text.corpora import as_document
from minibrillm.text.records import SPLITS

LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Piece:
    """One piece of the bundled corpus, told in both languages."""

    id: str
    topic: str
    split: str
    zh: str
    en: str


def bundled_path() -> Path:
    """Where the bundled corpus is: inside an installed package, or beside it in a clone."""
    here = Path(__file__).parents[1]
    for folder in (here / "data", here.parent / "data"):
        if (folder / "pieces.jsonl").is_file():
            return folder / "pieces.jsonl"
    raise UserError(f"the bundled corpus is missing beside {here}; install minibrillm again")


def bundled_pieces() -> list[Piece]:
    """The bundled parallel corpus, Chinese and English (its card: ``data/README.md``)."""
    lines = bundled_path().read_text(encoding="utf-8").splitlines()
    return [Piece(**json.loads(line)) for line in lines]


def bundled(split: str, language: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """The pieces of one split, each a document.

    Parameters
    ----------
    split : "train", "validation" or "test"
    language : "zh", "en", or a sequence of them, optional
        Of several, each piece comes in one after the other; without it in Chinese and English.

    Raises
    ------
    UserError
        No such split or language.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    wanted: Any = LANGUAGES if language is None else language
    languages = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)
    for name in languages:
        if name not in LANGUAGES:
            raise UserError(f"there is no language {name!r}; choose from {', '.join(LANGUAGES)}")
    if not languages:
        raise UserError(f"language is empty; choose from {', '.join(LANGUAGES)}")
    return tuple(
        as_document(getattr(piece, name))
        for piece in bundled_pieces()
        if piece.split == split
        for name in languages
    )
