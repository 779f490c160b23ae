"""A split loses nothing, keeps documents whole and follows the corpus' own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import Corpus, as_document, split_corpus

unhurried = settings(deadline=None)


@unhurried
@given(st.text(), st.floats(0.001, 0.999))
def test_split_of_one_text_loses_nothing(text: str, heldout: float) -> None:
    split = split_corpus(Corpus((text,)), heldout)
    assert split.train[0] + split.heldout[0] == text
    assert abs(len(split.heldout[0]) - heldout * len(text)) <= 1


def test_split_holds_out_the_end() -> None:
    split = split_corpus(Corpus(("0123456789",)))
    assert (split.train, split.heldout) == (("012345678",), ("9",))


@unhurried
@given(st.lists(st.text("ab", max_size=9).map(as_document), min_size=2), st.floats(0.001, 0.999))
def test_split_of_documents_keeps_each_whole(documents: list[str], heldout: float) -> None:
    split = split_corpus(Corpus(tuple(documents)), heldout)
    assert [*split.train, *split.heldout] == documents
    assert split.train
    assert split.heldout
    if len(split.train) > 1:  # one document less held out would be less than asked for
        held, total = sum(map(len, split.heldout)), sum(map(len, documents))
        assert held > heldout * total - 1e-9
        assert len(split.heldout) == 1 or held - len(split.heldout[0]) < heldout * total + 1e-9


def test_own_splits_are_followed() -> None:
    documents = tuple("abcd")
    split = split_corpus(Corpus(documents, ("test", "train", "validation", "train")), 0.5)
    assert (split.train, split.heldout) == (("b", "d"), ("c",))
    split = split_corpus(Corpus(documents, ("test", "train", "test", "train")))
    assert (split.train, split.heldout) == (("b", "d"), ("a", "c"))


def test_where_all_is_to_train_on_the_last_part_is_held_out_and_this_is_said() -> None:
    documents = tuple("abcdefghij")
    with pytest.warns(UserWarning, match="all of this corpus is to train on: the last 20 % of it"):
        split = split_corpus(Corpus(documents, ("train",) * 10), 0.2)
    assert (split.train, split.heldout) == (documents[:8], documents[8:])


def test_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="nothing in this corpus is for train"):
        split_corpus(Corpus(("a", "b"), ("test", "validation")))


@pytest.mark.parametrize("heldout", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_share(heldout: float) -> None:
    with pytest.raises(UserError, match="held out"):
        split_corpus(Corpus(("some text",)), heldout)
