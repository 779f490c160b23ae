"""What every contender gets: promised splits, and a tokenizer that knows the training part only."""

from __future__ import annotations

import pytest

from minibrillm.checks import UserError
from minibrillm.judging import Parts, Task, three_parts
from minibrillm.text import Corpus

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 60


def test_one_text_is_cut_at_nine_tenths_and_the_rest_in_halves() -> None:
    text = "".join(chr(0x4E00 + k) for k in range(1000))
    parts = three_parts(Corpus((text,)))
    assert parts == Parts((text[:900],), (text[900:950],), (text[950:],))


def test_documents_stay_whole() -> None:
    documents = tuple(f"\n{k}{'x' * 8}\n" for k in range(40))
    parts = three_parts(Corpus(documents))
    assert parts.train + parts.validation + parts.test == documents
    assert [len(p) for p in vars(parts).values()] == [36, 2, 2]


def test_a_single_document_held_out_is_cut_in_two() -> None:
    documents = ("a" * 200, "bcdefghijk")
    parts = three_parts(Corpus(documents))
    assert parts == Parts(("a" * 200,), ("bcdef",), ("ghijk",))


def test_own_splits_are_followed() -> None:
    splits = ("train", "test", "validation", "train", "test")
    parts = three_parts(Corpus(("aa", "bb", "cc", "dd", "ee"), splits))
    assert parts == Parts(("aa", "dd"), ("cc",), ("bb", "ee"))


@pytest.mark.parametrize("other", ["validation", "test"])
def test_a_corpus_with_one_part_held_out_has_it_cut(other: str) -> None:
    parts = three_parts(Corpus(("aa", "bb", "cc"), ("train", other, other)))
    assert parts == Parts(("aa",), ("bb",), ("cc",))


@pytest.mark.parametrize("text", ["a", "ab", "a" * 9])
def test_a_text_that_is_too_short(text: str) -> None:
    with pytest.raises(UserError, match="too short"):
        three_parts(Corpus((text,)))


def test_the_tokenizer_knows_the_training_part_only() -> None:
    task = Task.of(Parts(("abc" * 9,), ("abz",), ("zab",)), 1, (0,))
    assert task.n_nodes == 4
    assert task.ids["validation"][0][-1] == task.tokenizer.unknown_id
    assert task.characters == {"validation": 2, "test": 2}


def test_characters_of_bpe_are_those_that_are_foretold() -> None:
    parts = three_parts(Corpus((TEXT,)))
    task = Task.of(parts, 1, (0,), tokenizer="bpe", n_nodes=300)
    (ids,) = task.ids["test"]
    first = task.tokenizer.decode(ids[:1])
    assert task.characters["test"] == len(parts.test[0]) - len(first)
    assert task.n_scored("test") == len(ids) - 1 < task.characters["test"]
