"""Files, fields and folders become documents, or are refused by name."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

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
    with pytest.warns(UserWarning, match=r"left out picture\.png; only \.txt files are read"):
        found = read_corpus(tmp_path)
    assert found.documents == ("\none\n", "\n大家\n", "\nthree\n")
    assert found.splits is None


def test_a_folder_without_texts(tmp_path: Path) -> None:
    written(tmp_path, b"text", "a.md")
    written(tmp_path, b"\n", "b.txt")
    with pytest.raises(UserError, match=r"holds no \.txt file \(but a\.md, b\.txt \(empty\)\)"):
        read_corpus(tmp_path)


def test_endings_count_in_capitals_too(tmp_path: Path) -> None:
    written(tmp_path, b"one", "A.TXT")
    written(tmp_path, b"two", "b.Txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_corpus(tmp_path).documents == ("\none\n", "\ntwo\n")
    path = written(tmp_path, b'{"a": "b"}\n', "TEXTS.JSONL")
    assert read_corpus(path, "a").documents == ("\nb\n",)


def test_what_is_left_out_is_named_and_beyond_a_few_counted(tmp_path: Path) -> None:
    for name in ("one.txt", ".hidden.txt", "._one.txt", "a.pdf", "README", "t.csv"):
        written(tmp_path, b"one", name)
    written(tmp_path, b" \n", "blank.txt")
    for folder in (".git", "sub/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
        written(tmp_path / folder, b"a copy", "copy.txt")
    with pytest.warns(UserWarning) as told:
        assert read_corpus(tmp_path).documents == ("\none\n",)
    (message,) = (str(w.message) for w in told)
    assert "left out README, a.pdf, sub/.ipynb_checkpoints/, t.csv and 4 more;" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
def test_pipes_and_links_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    os.mkfifo(folder / "pipe.txt")
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere.txt").symlink_to(tmp_path / "gone.txt")
    (folder / "link.txt").symlink_to(written(tmp_path, b"behind a link", "elsewhere.txt"))
    with pytest.warns(UserWarning, match=r"left out circle/, nowhere\.txt, pipe\.txt;"):
        assert read_corpus(folder).documents == ("\nbehind a link\n",)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    written(tmp_path, b"one", "one.txt")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*closed: Permission denied"):
        read_corpus(tmp_path)


def test_a_damaged_text_in_a_folder_is_named(tmp_path: Path) -> None:
    written(tmp_path, b"one", "one.txt")
    written(tmp_path, "Töne".encode("latin-1"), "two.txt")
    with pytest.raises(UserError, match=r"two\.txt is no UTF-8"):
        read_corpus(tmp_path)
    assert read_corpus(tmp_path, encoding="latin-1").documents == ("\none\n", "\nTöne\n")


def jsonl(folder: Path, *records: object) -> Path:
    lines = (json.dumps(r, ensure_ascii=False) for r in records)
    return written(folder, "\n".join(lines).encode(), "texts.jsonl")


def test_a_field_of_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"zh": "一\u2028二", "en": "one"}, {"en": "two\n", "zh": "三"})
    assert read_corpus(path, "zh") == Corpus(("\n一\u2028二\n", "\n三\n"))
    assert read_corpus(path, "en").documents == ("\none\n", "\ntwo\n")


def test_texts_of_jsonl_in_another_encoding(tmp_path: Path) -> None:
    path = written(tmp_path, '{"t": "小明說"}\n'.encode("big5"), "a.jsonl")
    assert read_corpus(path, "t", "big5").documents == ("\n小明說\n",)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n \n", "\n\ufeff"])
def test_lines_of_jsonl_may_end_in_any_way(tmp_path: Path, end: str) -> None:
    content = end.join(['{"t": "one\\r\\ntwo\\rthree\ttabbed"}', '{"t": "x"}', ""])
    found = read_corpus(written(tmp_path, content.encode(), "a.jsonl"), "t")
    assert found.documents == ("\none\ntwo\nthree\ttabbed\n", "\nx\n")


def test_half_a_surrogate_pair_is_replaced_and_told(tmp_path: Path) -> None:
    lines = [f'{{"t": "smile \\ud83d{half} {k}"}}' for k, half in enumerate(["\\ude00", "", ""])]
    path = written(tmp_path, "\n".join(lines).encode(), "a.jsonl")
    with pytest.warns(UserWarning, match=r"a\.jsonl: half a surrogate pair in lines 2, 3, read"):
        found = read_corpus(path, "t")
    assert found.documents == ("\nsmile 😀 0\n", "\nsmile \ufffd 1\n", "\nsmile \ufffd 2\n")


def test_splits_of_jsonl_are_followed(tmp_path: Path) -> None:
    names = ("test", "train", "validation", "val", "valid", "dev", " Train", "VAL", "Test ")
    found = read_corpus(jsonl(tmp_path, *({"t": "a", "split": name} for name in names)), "t")
    assert found.splits == ("test", "train", *["validation"] * 4, "train", "validation", "test")
    assert read_corpus(jsonl(tmp_path, {"split": "a text"}), "split").splits is None


@pytest.mark.parametrize(
    "split", [[], ["train"], 3, None, {"a": "train"}, True, "", "half", "x" * 999]
)
def test_a_split_of_no_known_name_is_refused(tmp_path: Path, split: object) -> None:
    path = jsonl(tmp_path, {"t": "a", "split": "train"}, {"t": "b", "split": split})
    with pytest.raises(UserError, match=r"line 2: the split is .*; expected train") as no:
        read_corpus(path, "t")
    assert len(str(no.value).removeprefix(str(path))) < 150


@pytest.mark.parametrize("first", [True, False])
def test_a_split_for_some_lines_only_is_refused(tmp_path: Path, first: bool) -> None:
    lines = [{"t": "a"}, {"t": "b", "split": "train"}][:: -1 if first else 1]
    with pytest.raises(UserError, match="line 2 and others differ: give each line a split"):
        read_corpus(jsonl(tmp_path, *lines), "t")


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        (b'{"zh": "a", "en": "b"}\n', None, "name the field that holds the text; there are zh, en"),
        (b'{"zh": "a", "en": "b"}\n', "fr", "line 1: no field 'fr'; there are zh, en"),
        (b'{"a": "b"}\n\n{"a": ""}', "a", "line 3: the field 'a' holds no text"),
        (b'{"a": 1}', "a", "line 1: the field 'a' holds no text"),
        (b'{"a": "b"}\n{"a": ', "a", "line 2 is no JSON"),
        (
            b"[1]",
            "a",
            "line 1 is no JSON object but a list; write each object on a line of its own",
        ),
        (b'[\n{"a": "b"},\n{"a": "c"}\n]', "a", "line 1 is no JSON object but a list"),
        (b'{"a": "b"},\n{"a": "c"}', "a", "line 1 is no JSON .*; take the comma off its end"),
        (b'{"a": "b"}\n"c"', "a", "line 2 is no JSON object; expected"),
        (b'{"a": {"text": "b"}}', "text", "line 1: no field 'text'; there are a"),
        (b'{"a": {"text": "b"}}', "a", "the field 'a' holds no text but {'text': 'b'}"),
        (b"{}", "a", "no field 'a'; there are none"),
        (b'{"a": ' + b"[" * 100_000, "a", "line 1 is no JSON that can be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a", "line 1 is no JSON that can be read"),
        (b'{"' + b"k" * 5000 + b'": "b"}', "a", "there are k+$"),
        (b"{" + b",".join(b'"k%d": 1' % k for k in range(999)) + b"}", "a", "and 991 more$"),
        (b"\n \n", "a", "is empty"),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, field: str | None, said: str) -> None:
    path = written(tmp_path, content, "a.jsonl")
    with pytest.raises(UserError, match=said) as refused:
        read_corpus(path, field)
    assert len(str(refused.value).removeprefix(str(path))) < 200


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
