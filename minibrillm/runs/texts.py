"""The text of a run: which tokens it was trained on, and whether another text is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minibrillm.checks import UserError
from minibrillm.storage import read_arrays, save_arrays

Array = np.ndarray


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
