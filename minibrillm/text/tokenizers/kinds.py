"""Which tokenizer is meant: by the name of its kind, or by its JSON."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

from minibrillm.checks import UserError
from minibrillm.text.tokenizers.base import Tokenizer, json_field
from minibrillm.text.tokenizers.bpe import BPETokenizer
from minibrillm.text.tokenizers.characters import CharacterTokenizer
from minibrillm.text.tokenizers.foreign import HuggingFaceTokenizer, VocabularyTokenizer

_TRAINED: dict[str, type[CharacterTokenizer] | type[BPETokenizer]] = {
    CharacterTokenizer.kind: CharacterTokenizer,
    BPETokenizer.kind: BPETokenizer,
}
_READ: dict[str, type[Tokenizer]] = {
    **_TRAINED,
    VocabularyTokenizer.kind: VocabularyTokenizer,
    HuggingFaceTokenizer.kind: HuggingFaceTokenizer,
}


def _check_kind(kind: object, kinds: Iterable[str]) -> None:
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(
            f"there is no tokenizer of kind {reprlib.repr(kind)}; choose one of {', '.join(kinds)}"
        )


def train_tokenizer(text: str, kind: str, n_nodes: int | None = None) -> Tokenizer:
    """Learn a tokenizer from a text.

    Parameters
    ----------
    text : str
        Training text; a held-out text must not be part of it.
    kind : "characters" or "bpe"
    n_nodes : int, optional
        Number of nodes wanted. By default every character of the text gets one, or 512 for BPE.

    Raises
    ------
    UserError
        If the kind is unknown, the text is empty or `n_nodes` is too small.
    """
    _check_kind(kind, _TRAINED)
    chosen = _TRAINED[kind]
    return chosen.train(text) if n_nodes is None else chosen.train(text, n_nodes)


def tokenizer_from_json(data: dict[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from what its `to_json` gave.

    Raises
    ------
    UserError
        If the dictionary does not describe a tokenizer.
    """
    if not isinstance(data, dict):
        raise UserError(f"bad tokenizer: expected a dictionary, got {reprlib.repr(data)}")
    kind = json_field(data, "kind", str)
    _check_kind(kind, _READ)
    return _READ[kind].from_json(data)
