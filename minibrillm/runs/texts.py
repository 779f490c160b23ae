"""The text of a run: what it is made of, how it is kept, and whether another is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minibrillm.checks import UserError
from minibrillm.storage import read_arrays, save_arrays
from minibrillm.text import Split, join_documents, locate, read_corpus, split_corpus

if TYPE_CHECKING:
    from minibrillm.training import Trainer

Array = np.ndarray


def read_split(
    source: str | Path,
    field: str | None = None,
    heldout: float = 0.1,
    *,
    cross_documents: bool = False,
    encoding: str | None = None,
) -> Split:
    """What a run is to be trained on, and what is to be held out.

    Parameters
    ----------
    source : str or Path
        A file, a folder, or a corpus by name (`minibrillm.text.locate`).
    field : str, optional
        Of a ``.jsonl`` file, what holds the text of a line.
    heldout : float
        Share of the characters held out, where the corpus has no splits of its own.
    cross_documents : bool
        Join the documents of each part, so that sequences run on from one into the next.
    encoding : str, optional
        Of the files; by default it is found out.

    Raises
    ------
    UserError
        Nothing that can be read, or a text too short for two parts.
    """
    split = split_corpus(read_corpus(locate(source), field, encoding), heldout)
    if cross_documents:
        split = Split((join_documents(split.train),), (join_documents(split.heldout),))
    if min(sum(map(len, split.train)), sum(map(len, split.heldout))) < 2:
        raise UserError(f"{source} is too short to train on and hold a part out; give more text")
    return split


def check_same_text(trainer: Trainer, split: Split) -> None:
    """Whether a text is the one of a training that has begun, or a `UserError`."""
    encode = trainer.model.tokenizer.encode
    given = ([encode(document) for document in part] for part in (split.train, split.heldout))
    if text_digest(*given) != text_digest(trainer.train_ids, trainer.heldout_ids):
        raise UserError(
            "this is not the text this run was trained on, or another part of it was held out; "
            "leave it out to go on with the run's own text, or start a new run"
        )


def save_text(run: Path, train: Sequence[Array], heldout: Sequence[Array]) -> None:
    """Write the documents of a run: their token ids, and how many each has."""
    arrays = {}
    for name, documents in (("train", train), ("heldout", heldout)):
        arrays[name] = np.concatenate(documents).astype(np.int32)
        arrays[f"{name}_lengths"] = np.array([len(d) for d in documents], np.int32)
    save_arrays(run / "text.safetensors", arrays)


def load_text(run: Path) -> dict[str, list[Array]]:
    """Token ids of the training and held-out documents of a run, int64."""
    path = run / "text.safetensors"
    arrays, text = read_arrays(path), {}
    for name in ("train", "heldout"):
        ids, lengths = arrays.get(name), arrays.get(f"{name}_lengths")
        if ids is None or lengths is None or ids.size != lengths.sum() or lengths.min() < 0:
            raise UserError(f"{path} is damaged: no {name} text with the lengths of its documents")
        text[name] = np.split(ids.astype(np.int64), np.cumsum(lengths[:-1]))
    return text


def text_digest(train_ids: Sequence[Array], heldout_ids: Sequence[Array]) -> str:
    """sha256 over the token ids of a run's documents: is it the same text?"""
    digest = hashlib.sha256()
    for documents in (train_ids, heldout_ids):
        for ids in documents:
            digest.update(np.asarray(ids, "<i8").tobytes())
            digest.update(b"|")
        digest.update(b"|")
    return digest.hexdigest()
