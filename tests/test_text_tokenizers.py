"""Text goes to node ids and comes back unchanged; nodes have labels; ids stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.text import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    train_tokenizer,
)

MIXED = "BriLLM 是脑启发的语言模型。\nThe signal flows, 信号流动: a → b！\n" * 8
CHARACTERS = CharacterTokenizer.train(MIXED)
BPE = BPETokenizer.train(MIXED, 300)
BOTH = pytest.mark.parametrize("tokenizer", [CHARACTERS, BPE], ids=["characters", "bpe"])

# A busy machine is no reason to fail.
unhurried = settings(deadline=None)
# Hypothesis' text() leaves out surrogates by default: this is any valid Unicode text.
ANY_TEXT = st.text()
KNOWN_TEXT = st.text(alphabet=CHARACTERS.alphabet)


# Round trips


@unhurried
@given(ANY_TEXT)
def test_bpe_gives_any_text_back(text: str) -> None:
    ids = BPE.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert BPE.decode(ids) == text
    assert BPE.unknown(text) == []


@unhurried
@given(KNOWN_TEXT)
def test_characters_give_known_text_back(text: str) -> None:
    ids = CHARACTERS.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert CHARACTERS.decode(ids) == text
    assert CHARACTERS.unknown(text) == []


@unhurried
@given(ANY_TEXT.filter(bool), ANY_TEXT)
def test_characters_trained_on_any_text_replace_only_what_is_unknown(seen: str, text: str) -> None:
    tokenizer = CharacterTokenizer.train(seen)
    assert tokenizer.decode(tokenizer.encode(seen)) == seen
    expected = "".join(c if c in seen else "\ufffd" for c in text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.unknown(text) == sorted(set(text) - set(seen))


@BOTH
def test_mixed_chinese_and_english(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(MIXED)) == MIXED
    assert tokenizer.encode(MIXED).max() < tokenizer.n_nodes


@BOTH
def test_empty_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("")
    assert ids.shape == (0,)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == ""
    assert tokenizer.decode([]) == ""
    assert list(tokenizer.decode_stream([])) == []


@pytest.mark.parametrize(
    "text",
    [
        "<unk>",
        "a<|endoftext|>b",
        "[CLS] </s>",
        " x",
        "x ",
        "\r\n\t\0",
        "Ġ",
        "é e\u0301",
        "👩\u200d👧",
        "\ufeffx",
    ],
)
def test_bpe_neither_reserves_nor_normalises(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text
    itself = BPETokenizer.train(text * 9, 270)
    assert itself.decode(itself.encode(text)) == text


def test_bpe_shortens_what_it_has_seen() -> None:
    assert len(BPE.encode(MIXED)) < len(MIXED.encode("utf-8")) / 2


def test_characters_spell_unk_with_five_nodes() -> None:
    tokenizer = CharacterTokenizer.train("<unk>")
    assert tokenizer.encode("<unk>").tolist() == [1 + sorted("<unk>").index(c) for c in "<unk>"]


def test_a_megabyte_of_characters_is_fast() -> None:
    text = (MIXED * 5000)[:1_000_000]
    start = time.perf_counter()
    ids = CHARACTERS.encode(text)
    assert time.perf_counter() - start < 1.0
    assert CHARACTERS.decode(ids) == text


# The alphabet and the merges


def test_characters_are_numbered_by_code_point() -> None:
    tokenizer = CharacterTokenizer.train("世ba界b")
    assert tokenizer.alphabet == "ab世界"
    assert tokenizer.n_nodes == 5
    assert tokenizer.encode("b世?界a").tolist() == [2, 3, 0, 4, 1]


def test_most_frequent_characters_with_ties_by_code_point() -> None:
    tokenizer = CharacterTokenizer.train("zzzcbbcaé", n_nodes=4)
    assert tokenizer.alphabet == "bcz"
    assert CharacterTokenizer.train("zzzcbbcaé", n_nodes=3).alphabet == "bz"
    assert CharacterTokenizer.train("ab", n_nodes=100).alphabet == "ab"


def test_unknown_characters() -> None:
    tokenizer = CharacterTokenizer.train("abc")
    assert tokenizer.unknown("a界z世a世") == ["z", "世", "界"]
    assert tokenizer.encode("a\U0010ffff\0").tolist() == [1, 0, 0]
    assert tokenizer.decode([0, 1]) == "\ufffda"
    assert tokenizer.unknown_id == 0
    assert BPE.unknown_id is None


def test_bpe_sizes() -> None:
    assert BPETokenizer.train(MIXED, 256).n_nodes == 256
    assert BPE.n_nodes == 300
    # No pair occurs twice in this text, so there is nothing to merge; nor is memory asked for.
    assert BPETokenizer.train("abcd", 10**15).n_nodes == 256


def test_bpe_merges_the_most_frequent_pair_first() -> None:
    tokenizer = BPETokenizer.train("xy xy xy xy ab ab", 257)
    assert tokenizer.to_json()["merges"] == [["x", "y"]]
    assert tokenizer.decode([256]) == "xy"
    assert len(tokenizer.encode("xy")) == 1


@pytest.mark.parametrize("text", ["ACGT", "a", "ab", " ", "~", "爱妈"])
def test_a_word_without_end_is_learned_from_in_parts(text: str) -> None:
    """As one word, these 300,000 letters would take minutes; a merge would be half of them."""
    word = "".join(np.random.default_rng(0).choice(list(text), 300_000))
    tokenizer = BPETokenizer.train(word)
    longest = max(map(len, tokenizer.vocabulary))
    assert longest <= 1000
    assert (longest == 1000) == (len(text) == 1)  # a whole part has become a node
    assert tokenizer.decode(tokenizer.encode(word)) == word
    assert len(tokenizer.encode(word)) < 300_000 / 2


def test_what_has_no_such_words_is_learned_from_as_the_library_does() -> None:
    text = MIXED + "x" * 1000 + " " + "".join(f"{k} " for k in range(500))
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator([text], trainer=trainer)
    ours = BPETokenizer.train(text, 400)
    theirs = json.loads(engine.to_str())["model"]
    assert [list(merge) for merge in theirs["merges"]] == ours.to_json()["merges"]
    assert ours.encode(text).tolist() == engine.encode(text).ids


def test_training_is_deterministic_within_a_process() -> None:
    assert CharacterTokenizer.train(MIXED).to_json() == CHARACTERS.to_json()
    for _ in range(5):
        assert BPETokenizer.train(MIXED, 300).to_json() == BPE.to_json()


@pytest.mark.parametrize("seed", ["0", "1"])
def test_training_is_deterministic_across_processes(seed: str, tmp_path: Path) -> None:
    text_file = tmp_path / "text"
    text_file.write_text(MIXED, encoding="utf-8")
    script = (
        "import json, sys; from pathlib import Path; from minibrillm.text import BPETokenizer;"
        "text = Path(sys.argv[1]).read_text(encoding='utf-8');"
        "print(json.dumps(BPETokenizer.train(text, 300).to_json()))"
    )
    trained = subprocess.run(
        [sys.executable, "-c", script, str(text_file)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).resolve().parents[1],
    )
    assert json.loads(trained.stdout) == BPE.to_json()


def test_train_tokenizer_chooses() -> None:
    assert train_tokenizer(MIXED, "characters").to_json() == CHARACTERS.to_json()
    assert train_tokenizer(MIXED, "characters", 10).n_nodes == 10
    assert train_tokenizer(MIXED, "bpe", 300).to_json() == BPE.to_json()
    # 512 nodes are the default: a text with enough pairs fills them.
    many_pairs = " ".join(f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "uvwxyzABCDEFGHIJ") * 3
    assert train_tokenizer(many_pairs, "bpe").n_nodes == 512
    for kind in ("characters", "bpe"):
        assert train_tokenizer(MIXED, kind).kind == kind


# Labels


def test_labels_of_characters() -> None:
    tokenizer = CharacterTokenizer.train(" \n\tA信\u3000\0")
    labels = [tokenizer.token(node) for node in range(tokenizer.n_nodes)]
    assert labels == ["<unk>", r"\x00", r"\t", "⏎", "␣", "A", r"\u3000", "信"]


def test_labels_of_bpe() -> None:
    tokenizer = BPETokenizer.train("the 信 the 信 the 信 the 信\n", 300)
    labels = [tokenizer.token(node) for node in range(tokenizer.n_nodes)]
    assert {"␣the", "␣", "⏎", "a", r"\xe4", r"\x00", "␣信"} <= set(labels)
    assert tokenizer.token(int(tokenizer.encode("信"[:1])[0])) in {"信", r"\xe4", r"\xe4\xbf"}
    assert all(label.isprintable() and label for label in labels)


@BOTH
def test_numpy_integers_name_nodes(tokenizer: Tokenizer) -> None:
    for node in tokenizer.encode("a信")[:2]:
        assert isinstance(tokenizer.token(node), str)
    assert tokenizer.decode(tokenizer.encode("flow").astype(np.uint16)) == "flow"


# Streams


@unhurried
@given(st.lists(st.integers(0, BPE.n_nodes - 1)))
def test_stream_of_bpe_joins_to_decode(ids: list[int]) -> None:
    pieces = list(BPE.decode_stream(iter(ids)))
    assert "".join(pieces) == BPE.decode(ids)
    assert "" not in pieces


@unhurried
@given(st.lists(st.integers(0, CHARACTERS.n_nodes - 1)))
def test_stream_of_characters_joins_to_decode(ids: list[int]) -> None:
    assert "".join(CHARACTERS.decode_stream(iter(ids))) == CHARACTERS.decode(ids)


def test_stream_keeps_multi_byte_characters_whole() -> None:
    bytes_only = BPETokenizer.train("abcd", 256)
    ids = bytes_only.encode("a信号😀")
    assert len(ids) == 1 + 3 + 3 + 4
    assert list(bytes_only.decode_stream(int(i) for i in ids)) == ["a", "信", "号", "😀"]
    assert list(bytes_only.decode_stream(ids[:3])) == ["a", "\ufffd"]


def test_stream_does_not_wait_for_the_end() -> None:
    def generate() -> Any:
        yield from BPE.encode("a")
        raise AssertionError("asked for more ids than were needed")

    assert next(BPE.decode_stream(generate())) == "a"
