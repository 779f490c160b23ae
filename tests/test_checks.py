"""What a caller gives is taken as it was meant, or refused with what came and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minibrillm.checks import UserError, as_documents, as_ids

STREAM = np.array([1, 2, 3])


@pytest.mark.parametrize(
    ("ids", "documents"),
    [
        (STREAM, [[1, 2, 3]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ((1, 2, 3), [[1, 2, 3]]),
        ([np.int64(1), np.uint8(2)], [[1, 2]]),
        ([np.array(1), np.array(2)], [[1, 2]]),
        (range(3), [[0, 1, 2]]),
        ([STREAM, STREAM[:1]], [[1, 2, 3], [1]]),
        ((STREAM, STREAM), [[1, 2, 3], [1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([(1, 2), STREAM, range(2)], [[1, 2], [1, 2, 3], [0, 1]]),
        ([], [[]]),
        ((), [[]]),
        (np.array([]), [[]]),
        ([[]], [[]]),
        ([[], [1]], [[], [1]]),
    ],
)
def test_streams_and_documents_are_told_apart(ids: Any, documents: list[list[int]]) -> None:
    found = as_documents(ids)
    assert [d.tolist() for d in found] == documents
    assert all(d.dtype == np.int64 and d.ndim == 1 for d in found)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint64])
def test_narrow_ids_become_wide_so_that_no_product_of_them_overflows(dtype: type) -> None:
    (found,) = as_documents(STREAM.astype(dtype))
    assert found.dtype == np.int64
    assert found.tolist() == [1, 2, 3]


def test_what_is_int64_already_is_not_copied() -> None:
    assert as_documents(STREAM)[0] is STREAM
    assert as_documents([STREAM])[0] is STREAM


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (None, r"^ids must be .*; got None; tokenizer\.encode gives the ids of a text$"),
        ("abc", r"got the str 'abc'; encode the text first"),
        ("x" * 10_000, r"got the str 'xxx\S*xxx'; encode the text first"),
        (b"abc", r"got the bytes b'abc'; encode the text first"),
        (5, r"got the int 5;"),
        (2.5, r"got the float 2\.5;"),
        (np.array(3), r"got the ndarray array\(3\);"),
        ({1: 2}, r"got the dict {1: 2};"),
        (iter([1, 2]), r"got the list_iterator "),
        (np.zeros((2, 3), int), r"int64 \(2, 3\); several documents go as a list"),
        (np.zeros((1, 0)), r"float64 \(1, 0\); several documents go as a list"),
        ([1.0, 2.5], r"^ids must be .* of integers; got float64 \(2,\)"),
        (np.array([0.5]), r"of integers; got float64 \(1,\)"),
        ([True, False], r"got bool \(2,\)"),
        ([None, 1], r"got object \(2,\)"),
        ([2**70], r"got object \(1,\)"),
        (np.array(["a", "b"]), r"got <U1 \(2,\); encode the text first"),
        (["ab", "c"], r"^ids\[0\] must be .*; got the str 'ab'; encode the text first"),
        ([[1, 2], "c"], r"^ids\[1\] must be .*; got the str 'c'; encode the text first"),
        ([[1, 2], 3], r"^ids\[1\] must be .*; got the int 3"),
        ([[1, 2], None], r"^ids\[1\] must be .*; got None"),
        ([[1, 2], [0.5]], r"^ids\[1\] must be .*; got float64 \(1,\)"),
        ([1, [2]], r"^ids must be .*; got lists of different lengths or depths"),
        ([[1, [2, 3]], [4]], r"^ids\[0\] must be .*; got lists of different lengths"),
        ([[[1, 2], [3]]], r"^ids\[0\] must be .*; got lists of different lengths"),
        ([[[1, 2], [3, 4]]], r"^ids\[0\] must be .*; got int64 \(2, 2\)"),
        ([np.zeros((2, 2), int)], r"^ids\[0\] must be .*; got int64 \(2, 2\)"),
    ],
)
def test_what_is_no_token_ids_is_refused(ids: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        as_documents(ids)
    message = str(refused.value)
    assert "must be a one-dimensional array of integers; got " in message
    assert "\n" not in message
    assert len(message) < 200


def test_ids_outside_the_vocabulary_are_refused_by_document() -> None:
    assert as_documents([[0, 4], []], 5)[0].tolist() == [0, 4]
    with pytest.raises(UserError, match=r"must lie in 0 … 4; got 0 … 5 in ids \(was the text enc"):
        as_documents([0, 5], 5)
    with pytest.raises(UserError, match=r"must lie in 0 … 4; got -1 … 2 in ids\[1\]"):
        as_documents([[0], [2, -1]], 5)
    huge = np.array([2**64 - 1], np.uint64)  # as int64 it would be -1
    with pytest.raises(UserError, match=rf"must lie in 0 … 4; got {2**64 - 1} … {2**64 - 1}"):
        as_documents(huge, 5)


def test_ids_go_by_the_name_they_have() -> None:
    assert as_ids([2, 1]).tolist() == [2, 1]
    with pytest.raises(UserError, match=r"^prompt must be .*; got int64 \(1, 1\)"):
        as_ids([[1]], name="prompt")
