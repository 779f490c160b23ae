"""Texts as newcomers have them, at the command line: read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import FEW, TEXT, Command, is_refused

TRADITIONAL = "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。感時花濺淚，恨別鳥驚心。\n" * 9
FAST = ("--steps", 1, "--backend", "numpy", *FEW)


def rows(n: int, split: str | None = None) -> str:
    more = {} if split is None else {"split": split}
    return "".join(json.dumps({"t": f"the cat sat on mat {k}", **more}) + "\n" for k in range(n))


def test_an_encoding_that_is_not_certain_is_offered_and_taken(
    minibrillm: Command, tmp_path: Path
) -> None:
    (tmp_path / "poem.txt").write_bytes(TRADITIONAL.encode("big5"))
    for command in (
        ("train", "poem.txt", *FAST),
        ("compare", "poem.txt", "--only", "ngrams"),
        ("ablate", "poem.txt"),
    ):
        is_refused(minibrillm(*command), "poem.txt", "not certain", "say it with --encoding 'big5'")
    made = minibrillm("train", "poem.txt", "--encoding", "big5", *FAST, "--out", "run")
    assert (made.code, made.err) == (0, "")
    is_refused(minibrillm("evaluate", "run", "poem.txt"), "--encoding 'big5'")
    scored = minibrillm("evaluate", "run", "poem.txt", "--encoding", "big5", "--backend", "numpy")
    assert (scored.code, scored.err) == (0, "")
    named = ("train", "poem.txt", "--encoding", "ansi", *FAST)
    is_refused(minibrillm(*named), "--encoding is 'ansi', which Python does not know")
    compared = minibrillm("compare", "poem.txt", "--only", "ngrams", "--encoding", "big5")
    assert compared.code == 0


def test_what_a_folder_holds_besides_texts_is_named(minibrillm: Command, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "B.TXT", "c.pdf", "notes.md"):
        (tmp_path / "texts" / name).write_text(TEXT, "utf-8")
    made = minibrillm("train", "texts", *FAST)
    assert made.code == 0
    assert made.err == "note: texts: left out c.pdf, notes.md; only .txt files are read\n"


@pytest.mark.parametrize("name", ["val", "valid", "Dev", "validation"])
def test_the_corpus_own_split_is_followed(minibrillm: Command, tmp_path: Path, name: str) -> None:
    text = rows(20, "train") + rows(5, name) + rows(5, "test")
    (tmp_path / "a.jsonl").write_text(text, "utf-8")
    made = minibrillm("train", "a.jsonl", "--field", "t", *FAST)
    assert (made.code, made.err) == (0, "")
    assert (
        f"in 20 documents, {5 * len(chr(10) + 'the cat sat on mat 0' + chr(10))} held" in made.out
    )


def test_where_all_is_to_train_on_it_is_said_what_is_held_out(
    minibrillm: Command, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(rows(30, "train"), "utf-8")
    made = minibrillm("train", "a.jsonl", "--field", "t", *FAST)
    assert made.code == 0
    assert "in 27 documents" in made.out
    assert made.err.startswith("note: ")
    assert "to train on: the last 10 % of it is held out" in made.err


@pytest.mark.parametrize("split", ['"half"', "[]", "7", "null"])
def test_other_splits_are_refused(minibrillm: Command, tmp_path: Path, split: str) -> None:
    line = f'{{"t": "one more", "split": {split}}}'
    (tmp_path / "a.jsonl").write_text(rows(30, "train") + line, "utf-8")
    refused = minibrillm("train", "a.jsonl", "--field", "t", *FAST)
    is_refused(refused, "a.jsonl, line 31: the split is", "expected train, validation (or val")


def test_half_a_surrogate_pair_is_told_with_its_line(minibrillm: Command, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows(30) + '{"t": "smile \\ud83d"}\n', "utf-8")
    made = minibrillm("train", "a.jsonl", "--field", "t", *FAST)
    assert made.code == 0
    assert made.err == "note: a.jsonl: half a surrogate pair in line 31, read as \ufffd\n"
