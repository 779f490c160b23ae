"""Tokenizers of vocabularies and files from elsewhere: their ids, their text, their mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from released_files import (
    ENGLISH,
    library_tokenizer,
    library_vocabulary,
    refuses,
)

from minibrillm.text import (
    BPETokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    VocabularyTokenizer,
    tokenizer_from_json,
)


def test_characters_with_ids_of_their_own() -> None:
    tok = VocabularyTokenizer(["b", "<unk>", "的", "a", "[PAD]"])
    assert (tok.n_nodes, tok.unknown_id) == (5, 1)
    assert tok.encode("ab的?龘a").tolist() == [3, 0, 2, 1, 1, 3]
    assert tok.encode("").tolist() == []
    assert tok.decode([3, 0, 2, 1, 4]) == "ab的��"
    assert "".join(tok.decode_stream([3, 1, 0])) == "a�b"
    assert tok.unknown("a龘?b") == ["?", "龘"]
    assert [tok.token(k) for k in range(5)] == ["b", "<unk>", "的", "a", "[PAD]"]
    again = tokenizer_from_json(json.loads(json.dumps(tok.to_json())))
    assert type(again) is VocabularyTokenizer
    assert again.to_json() == tok.to_json()
    assert again.encode("ab的?").tolist() == tok.encode("ab的?").tolist()


def test_characters_without_unk() -> None:
    tok = VocabularyTokenizer(["b", "a", "[PAD]"])
    assert tok.unknown_id is None
    assert tok.encode("abba").tolist() == [1, 0, 0, 1]
    said = refuses(tok.encode, "a龘b?")
    assert "neither a node for '?' '龘' nor one for unknown" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"kind": "vocabulary"}, "'tokens' is missing"),
        ({"kind": "vocabulary", "tokens": "ab"}, "expected a list"),
        ({"kind": "vocabulary", "tokens": [1]}, "list of strings"),
        ({"kind": "vocabulary", "tokens": ["a", "a"]}, "distinct"),
        ({"kind": "vocabulary", "tokens": ["<unk>"]}, "one character"),
        ({"kind": "huggingface"}, "'tokenizer' is missing"),
        ({"kind": "huggingface", "tokenizer": "{}"}, "no tokenizer of the tokenizers library"),
        ({"kind": "huggingface", "tokenizer": "["}, "no tokenizer of the tokenizers library"),
    ],
)
def test_bad_json_of_a_tokenizer(data: dict[str, Any], said: str) -> None:
    assert said in refuses(tokenizer_from_json, data)


def test_a_byte_level_tokenizer() -> None:
    data = library_tokenizer()
    limits = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tok = HuggingFaceTokenizer(json.dumps({**data, "truncation": limits}))
    names = library_vocabulary(data)
    assert tok.vocabulary == sorted(names, key=names.__getitem__)
    assert (tok.n_nodes, tok.unknown_id) == (len(names), names["[UNK]"])
    ids = tok.encode("The cat sat")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data)).encode("The cat sat")
    assert ids.tolist() == theirs.ids
    assert len(ids) > 2
    assert tok.decode(ids) == " The cat sat"
    assert "".join(tok.decode_stream(ids.tolist())) == " The cat sat"
    assert tok.unknown("The ﬁne 龘 cat") == ["f", "i", "龘"]  # NFKC: ﬁ is f and i
    assert tok.encode("龘").tolist()[-3:] == [names["[UNK]"]] * 3
    assert tok.decode([names["[UNK]"], names["[PAD]"], names["Ġthe"]]) == "�� the"
    assert names["[PAD]"] not in tok.encode("the [PAD] cat")
    assert tok.token(names["[PAD]"]) == "[PAD]"
    assert tok.token(names["Ġthe"]) == "␣the"
    again = tokenizer_from_json(json.loads(json.dumps(tok.to_json())))
    assert type(again) is HuggingFaceTokenizer
    assert again.to_json() == tok.to_json()
    assert again.encode(ENGLISH).tolist() == tok.encode(ENGLISH).tolist()


def test_a_byte_level_tokenizer_without_unk() -> None:
    tok = HuggingFaceTokenizer(json.dumps(library_tokenizer(model__unk_token=None)))
    assert tok.unknown_id is None
    assert tok.decode(tok.encode("The cat")) == " The cat"
    assert "neither a node for '龘'" in refuses(tok.encode, "the 龘 cat")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "not byte-level BPE"),
        ({"pre_tokenizer": None}, "not byte-level BPE"),
        ({"model__end_of_word_suffix": "</w>"}, "not byte-level BPE"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "byte-level BPE"),
        ({"model__merges": [], "model__vocab": {"[PAD]": 0, "[UNK]": 1, "信": 2}}, "alphabet"),
        ({"model__merges": [], "model__vocab": {"[PAD]": 0, "[UNK]": 1, "a": 3}}, "not 0 to 2"),
    ],
)
def test_tokenizers_of_another_kind(changes: dict[str, Any], said: str) -> None:
    content = json.dumps(library_tokenizer(**changes))
    assert said in refuses(HuggingFaceTokenizer, content)


def test_our_tokenizers_name_their_nodes() -> None:
    assert CharacterTokenizer("ab").vocabulary == ["<unk>", "a", "b"]
    assert BPETokenizer.train("a b a b", 258).vocabulary[-1].startswith("Ġ")
