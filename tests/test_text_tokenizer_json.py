"""Tokenizers go to JSON and back unchanged, and mistakes are named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import (
    BPETokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    VocabularyTokenizer,
    tokenizer_from_json,
    train_tokenizer,
)

MIXED = "BriLLM 是脑启发的语言模型。\nThe signal flows, 信号流动: a → b！\n" * 8
CHARACTERS = CharacterTokenizer.train(MIXED)
BPE = BPETokenizer.train(MIXED, 300)
BOTH = pytest.mark.parametrize("tokenizer", [CHARACTERS, BPE], ids=["characters", "bpe"])
ALL = pytest.mark.parametrize(
    "tokenizer",
    [CHARACTERS, BPE, VocabularyTokenizer("ba"), HuggingFaceTokenizer(BPE.library_json())],
    ids=lambda tokenizer: tokenizer.kind,
)

unhurried = settings(deadline=None)
ANY_TEXT = st.text()


# JSON


@BOTH
def test_json_round_trip(tokenizer: Tokenizer) -> None:
    loaded = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert type(loaded) is type(tokenizer)
    assert loaded.to_json() == tokenizer.to_json()
    np.testing.assert_array_equal(loaded.encode(MIXED), tokenizer.encode(MIXED))
    assert repr(loaded) == repr(tokenizer)
    assert loaded.kind == tokenizer.kind


@unhurried
@given(ANY_TEXT.filter(bool))
def test_any_alphabet_survives_json(text: str) -> None:
    tokenizer = CharacterTokenizer.train(text)
    data = json.loads(json.dumps(tokenizer.to_json(), ensure_ascii=False))
    assert tokenizer_from_json(data).to_json() == tokenizer.to_json()


@unhurried
@given(ANY_TEXT)
def test_loaded_bpe_encodes_alike(text: str) -> None:
    assert LOADED_BPE.encode(text).tolist() == BPE.encode(text).tolist()


LOADED_BPE = tokenizer_from_json(BPE.to_json())


# Mistakes


def refuses(call: Any, *arguments: Any) -> str:
    """Message of the `UserError` that a call raises: one line."""
    with pytest.raises(UserError) as raised:
        call(*arguments)
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("method", ["encode", "unknown"])
@BOTH
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, method: str) -> None:
    message = refuses(getattr(tokenizer, method), "ab\ud800")
    assert "U+D800" in message
    assert "character 2" in message
    assert "bytes" in refuses(getattr(tokenizer, method), b"ab")


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_bad_training_text_is_refused(kind: str) -> None:
    assert "empty" in refuses(train_tokenizer, "", kind)
    assert "surrogate" in refuses(train_tokenizer, "\udfff", kind)
    assert "NoneType" in refuses(train_tokenizer, None, kind)


@pytest.mark.parametrize("n_nodes", [255, 0, -1, True, 300.0, "300"])
def test_bpe_needs_a_node_for_every_byte(n_nodes: Any) -> None:
    assert "256" in refuses(BPETokenizer.train, MIXED, n_nodes)


@pytest.mark.parametrize("n_nodes", [1, 0, True, 2.5])
def test_characters_need_two_nodes(n_nodes: Any) -> None:
    assert "at least 2" in refuses(CharacterTokenizer.train, MIXED, n_nodes)


@pytest.mark.parametrize("kind", ["words", "", None, ["bpe"]])
def test_unknown_kind_names_the_choices(kind: Any) -> None:
    message = refuses(train_tokenizer, MIXED, kind)
    assert "characters" in message
    assert "bpe" in message


@BOTH
def test_ids_that_are_not_there(tokenizer: Tokenizer) -> None:
    last = tokenizer.n_nodes - 1
    for node in (-1, tokenizer.n_nodes):
        assert f"0 to {last}" in refuses(tokenizer.decode, [0, node])
        assert f"0 to {last}" in refuses(tokenizer.token, node)
        assert f"0 to {last}" in refuses(list, tokenizer.decode_stream([node]))
    for ids in (3, [[1, 2]], [1.0], "12", [True], iter([1])):
        assert "one-dimensional" in refuses(tokenizer.decode, ids)


@ALL
@pytest.mark.parametrize(
    ("method", "argument", "said"),
    [
        ("encode", None, "text is of type NoneType; expected a string (str)"),
        ("encode", 5, "text is of type int; expected a string (str)"),
        ("encode", ["a"], "text is of type list; expected a string (str)"),
        ("unknown", None, "text is of type NoneType; expected a string (str)"),
        ("decode", None, "ids must be a one-dimensional array of integers; got None"),
        ("decode", 5, "ids must be a one-dimensional array of integers; got the int 5"),
        ("decode", "abc", "ids is the str 'abc', a text; expected node ids"),
        ("decode", b"abc", "ids is the bytes b'abc', a text; expected node ids"),
        ("decode", ["a", "b"], "ids must be a one-dimensional array of integers; got <U1 (2,)"),
        ("decode", [[0, 1], [0]], "got lists of different lengths or depths"),
        ("decode", [0, [1]], "got lists of different lengths or depths"),
        ("decode", [None], "got object (1,)"),
        ("token", None, "node is None; expected an integer"),
        ("token", 0.5, "node is 0.5; expected an integer"),
        ("token", "a", "node is 'a'; expected an integer"),
        ("token", [0], "node is [0]; expected an integer"),
    ],
)
def test_what_is_no_text_or_no_ids(
    tokenizer: Tokenizer, method: str, argument: Any, said: str
) -> None:
    assert said in refuses(getattr(tokenizer, method), argument)


GOOD_BPE = BPE.to_json()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "dictionary"),
        ([1, 2], "dictionary"),
        ({}, "'kind' is missing"),
        ({"kind": 3}, "'kind' is 3"),
        ({"kind": "words\n"}, "characters, bpe"),
        ({"kind": "characters"}, "'alphabet' is missing"),
        ({"kind": "characters", "alphabet": ["a"]}, "expected a string"),
        ({"kind": "characters", "alphabet": ""}, "empty"),
        ({"kind": "characters", "alphabet": "ba"}, "order"),
        ({"kind": "characters", "alphabet": "aab"}, "distinct"),
        ({"kind": "characters", "alphabet": "\ud800"}, "surrogate"),
        ({"kind": "bpe", "symbols": ["a"]}, "'merges' is missing"),
        ({"kind": "bpe", "merges": []}, "'symbols' is missing"),
        ({"kind": "bpe", "symbols": "abc", "merges": []}, "expected a list"),
        ({"kind": "bpe", "symbols": ["a"], "merges": []}, "256 bytes"),
        ({**GOOD_BPE, "symbols": [1, 2]}, "list of strings"),
        ({**GOOD_BPE, "symbols": [*GOOD_BPE["symbols"], "a"]}, "distinct"),
        ({**GOOD_BPE, "symbols": [*GOOD_BPE["symbols"], "信"]}, "byte alphabet"),
        ({**GOOD_BPE, "symbols": [*GOOD_BPE["symbols"], ""]}, "byte alphabet"),
        ({**GOOD_BPE, "merges": [["a", "b", "c"]]}, "pairs of strings"),
        ({**GOOD_BPE, "merges": [["a", 1]]}, "pairs of strings"),
        ({**GOOD_BPE, "merges": ["ab"]}, "pairs of strings"),
        ({**GOOD_BPE, "merges": [["!", "?"]]}, "has no node"),
    ],
)
def test_bad_json_is_named(data: Any, said: str) -> None:
    assert said in refuses(tokenizer_from_json, data)
