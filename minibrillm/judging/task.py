"""What every contender gets: the same parts of a text, tokens, minutes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minibrillm.checks import UserError
from minibrillm.text import Corpus, Tokenizer, join_documents, split_corpus, train_tokenizer

Array = np.ndarray

HELD_OUT = ("validation", "test")  # to choose by, and to report


@dataclass(frozen=True)
class Parts:
    """Documents to train on, to choose by, and to report."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def three_parts(corpus: Corpus, heldout: float = 0.1) -> Parts:
    """The corpus' own splits, or else its last part held out and cut in two halves.

    Several documents are cut between two of them, a single one in the middle of its characters.

    Parameters
    ----------
    heldout : float
        Share of the characters held out where the corpus has no splits of its own.

    Raises
    ------
    UserError
        A part with fewer than two characters.
    """
    split = split_corpus(corpus, heldout)
    own = tuple(
        d for d, s in zip(corpus.documents, corpus.splits or (), strict=False) if s == "test"
    )
    if own and own != split.heldout:
        parts = Parts(split.train, split.heldout, own)
    else:
        halves = split_corpus(Corpus(split.heldout), 0.5)
        parts = Parts(split.train, halves.train, halves.heldout)
    for name, documents in vars(parts).items():
        if max(map(len, documents), default=0) < 2:
            raise UserError(f"the text is too short: nothing is left for {name}; give more text")
    return parts


@dataclass(frozen=True)
class Task:
    """What every contender gets.

    Parameters
    ----------
    tokenizer : Tokenizer
        Learned from the training part.
    ids : dict
        Token ids of the documents of "train", "validation" and "test".
    characters : dict
        How many characters the scored tokens of "validation" and "test" are.
    minutes : float
        Of training for each network, and for each candidate of the grid.
    seeds : tuple of int
    """

    tokenizer: Tokenizer
    ids: dict[str, list[Array]]
    characters: dict[str, int]
    minutes: float
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        parts: Parts,
        minutes: float,
        seeds: Sequence[int],
        tokenizer: str = "characters",
        n_nodes: int | None = None,
    ) -> Task:
        """Learn the tokenizer and encode the parts."""
        tok = train_tokenizer(join_documents(parts.train), tokenizer, n_nodes)
        ids = {name: [tok.encode(d) for d in documents] for name, documents in vars(parts).items()}
        characters = {
            name: sum(
                len(d) - len(tok.decode(first[:1]))
                for d, first in zip(getattr(parts, name), ids[name], strict=True)
            )
            for name in HELD_OUT
        }
        return cls(tok, ids, characters, minutes, tuple(seeds))

    @property
    def n_nodes(self) -> int:
        """V."""
        return self.tokenizer.n_nodes

    def n_scored(self, part: str) -> int:
        """Tokens of a part that are foretold: all but the first of each document."""
        return sum(max(len(d) - 1, 0) for d in self.ids[part])

    @property
    def by_document(self) -> str:
        """What reading the held-out text without windows is called."""
        several = max(len(self.ids[part]) for part in HELD_OUT) > 1
        return "document by document" if several else "one stream"
