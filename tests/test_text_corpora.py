"""Files, fields and folders become documents, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minibrillm.checks import UserError
from minibrillm.text import Corpus, as_document, join_documents, read_corpus


def written(folder: Path, content: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, b"\none\n\ntwo\n\n")
    assert read_corpus(path) == Corpus(("\none\n\ntwo\n\n",))


def test_a_folder_is_its_texts_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c.txt").mkdir()
    written(tmp_path / "b", "大家".encode("gb18030"), "2.txt")
    written(tmp_path / "c.txt", b"three\n\n", "3.txt")
    written(tmp_path, b"one", "a.txt")
    written(tmp_path, b"\xff", "picture.png")
    found = read_corpus(tmp_path)
    assert found.documents == ("\none\n", "\n大家\n", "\nthree\n")
    assert found.splits is None


def test_a_folder_without_texts(tmp_path: Path) -> None:
    written(tmp_path, b"text", "a.md")
    with pytest.raises(UserError, match=r"holds no \.txt file"):
        read_corpus(tmp_path)


def jsonl(folder: Path, *records: object) -> Path:
    lines = (json.dumps(r, ensure_ascii=False) for r in records)
    return written(folder, "\n".join(lines).encode(), "texts.jsonl")


def test_a_field_of_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"zh": "一\u2028二", "en": "one"}, {"en": "two\n", "zh": "三"})
    assert read_corpus(path, "zh") == Corpus(("\n一\u2028二\n", "\n三\n"))
    assert read_corpus(path, "en").documents == ("\none\n", "\ntwo\n")


def test_splits_of_jsonl_are_followed_if_they_are_ours(tmp_path: Path) -> None:
    records = [
        {"t": c, "split": s} for c, s in zip("abc", ("test", "train", "validation"), strict=True)
    ]
    assert read_corpus(jsonl(tmp_path, *records), "t").splits == ("test", "train", "validation")
    assert read_corpus(jsonl(tmp_path, *records[:1]), "t").splits is None  # nothing to train on
    other = [*records, {"t": "d", "split": "dev"}]
    assert read_corpus(jsonl(tmp_path, *other), "t").splits is None


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        (b'{"zh": "a", "en": "b"}\n', None, "name the field that holds the text; there are zh, en"),
        (b'{"zh": "a", "en": "b"}\n', "fr", "line 1: no field 'fr'; there are zh, en"),
        (b'{"a": "b"}\n\n{"a": ""}', "a", "line 3: the field 'a' holds no text"),
        (b'{"a": 1}', "a", "line 1: the field 'a' holds no text"),
        (b'{"a": "b"}\n{"a": ', "a", "line 2 is no JSON"),
        (b"[1]", "a", "line 1 is no JSON object"),
        (b"\n \n", "a", "holds no text"),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, field: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_corpus(written(tmp_path, content, "a.jsonl"), field)


def test_a_field_of_what_has_no_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field 'zh'; leave the field out"):
        read_corpus(written(tmp_path, b"text"), "zh")
    with pytest.raises(UserError, match="no field 'zh'; leave the field out"):
        read_corpus(tmp_path, "zh")


def test_documents_share_the_newline_between_them() -> None:
    documents = [as_document(t) for t in ("a", "b\n", "\n\nc\n")]
    assert documents == ["\na\n", "\nb\n", "\nc\n"]
    assert join_documents(documents) == "\na\nb\nc\n"
    assert join_documents(["one text"]) == "one text"
