"""The vocabulary of a released model, and the tokenizer that belongs to it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from minibrillm.checks import UserError
from minibrillm.released.files import read_json
from minibrillm.text import HuggingFaceTokenizer, Tokenizer, VocabularyTokenizer, read_text

Array = np.ndarray

_SPECIAL = re.compile(r"<[^<>]*>|\[[^\[\]]*\]")


def read_vocabulary(path: Path) -> tuple[list[str], Array]:
    """Tokens in the order of the file, and the id of each, (V,): a permutation of 0 … V-1."""
    vocabulary = read_json(path)
    values = list(vocabulary.values())
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise UserError(f"{path} is not a vocabulary; expected {{token: id}} with integer ids")
    missing = sorted(set(range(len(values))) - set(values))
    if missing:
        raise UserError(
            f"{path} has {len(values)} tokens, so its ids must be 0 … {len(values) - 1}, each "
            f"once; {missing[0]} is missing"
        )
    return list(vocabulary), np.array(values, np.int64)


def make_tokenizer(tokens: list[str], ids: Array, vocabulary: Path, path: Path | None) -> Tokenizer:
    """The tokenizer in the file ``path``, or that of characters; its ids are the vocabulary's."""
    by_id = [tokens[place] for place in np.argsort(ids)]
    if path is None:
        for token in by_id:
            if len(token) > 1 and not _SPECIAL.fullmatch(token):
                raise UserError(
                    f"{vocabulary} has tokens of several characters, such as {token!r}; give the "
                    "tokenizer that makes them (a tokenizer.json)"
                )
        try:
            return VocabularyTokenizer(by_id)
        except UserError as error:
            raise UserError(f"{vocabulary}: {error}") from None
    content = read_text(path)
    try:
        tok = HuggingFaceTokenizer(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if tok.n_nodes != len(by_id):
        raise UserError(f"{path} has {tok.n_nodes} tokens, {vocabulary} {len(by_id)}")
    for k, (ours, theirs) in enumerate(zip(tok.vocabulary, by_id, strict=True)):
        if ours != theirs:
            raise UserError(f"id {k} is {ours!r} in {path} but {theirs!r} in {vocabulary}")
    return tok
