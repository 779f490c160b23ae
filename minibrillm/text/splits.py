"""What a model is trained on, and what is held out."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from minibrillm.checks import UserError
from minibrillm.text.corpora import Corpus
from minibrillm.text.records import SPLITS


@dataclass(frozen=True)
class Split:
    """Documents to train on, and documents held out."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


def split_corpus(corpus: Corpus, heldout: float = 0.1) -> Split:
    """Follow the corpus' own split, or else hold out its last part.

    Of one document the last part of its text (the usual split of tiny Shakespeare: the last
    10 %), of several the last whole documents. With splits of its own, what is for validation is
    held out (or for tests, where nothing is for validation); where all is for training, the last
    part is, and a warning says so.

    Parameters
    ----------
    heldout : float
        Share of the characters held out, above 0 and below 1.

    Raises
    ------
    UserError
        An impossible share, or nothing to train on.
    """
    if not 0 < heldout < 1:
        raise UserError(f"the share held out is {heldout}; expected a number between 0 and 1")
    if corpus.splits is not None:
        groups = {
            name: tuple(
                d for d, s in zip(corpus.documents, corpus.splits, strict=True) if s == name
            )
            for name in SPLITS
        }
        if not groups["train"]:
            raise UserError("by its own split nothing in this corpus is for train; change that")
        if others := groups["validation"] or groups["test"]:
            return Split(groups["train"], others)
        what = f"the last {heldout * 100:.3g} % of it is held out"
        warnings.warn(f"by its own split all of this corpus is to train on: {what}", stacklevel=3)
    if len(corpus.documents) == 1:
        text = corpus.documents[0]
        cut = int(len(text) * (1 - heldout))
        return Split((text[:cut],), (text[cut:],))
    read = list(accumulate(len(d) for d in corpus.documents))
    first = bisect_right(read, read[-1] * (1 - heldout))
    first = min(max(first, 1), len(read) - 1)
    return Split(corpus.documents[:first], corpus.documents[first:])
