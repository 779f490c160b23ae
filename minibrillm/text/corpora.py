"""Documents of a file, of a ``.jsonl`` file or of a folder: a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibrillm.checks import UserError
from minibrillm.text.files import read_text

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Corpus:
    """Documents, and which split each belongs to if the corpus says so.

    A text file is one document, as it is. Where there are several, each stands between two
    newlines: its first character is foretold from the newline before, and its end is foretold too.

    Parameters
    ----------
    documents : tuple of str
    splits : tuple of str, optional
        "train", "validation" or "test" for each document.
    """

    documents: tuple[str, ...]
    splits: tuple[str, ...] | None = None


def as_document(text: str) -> str:
    """A text between two newlines."""
    return "\n" + text.strip("\n") + "\n"


def join_documents(documents: Sequence[str]) -> str:
    """One text of all documents, a newline between them."""
    return "".join(d if k == 0 else d.removeprefix("\n") for k, d in enumerate(documents))


def read_corpus(path: str | Path, field: str | None = None) -> Corpus:
    """Read a text file, the texts of a ``.jsonl`` file, or a folder of ``.txt`` files.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file holds one JSON object a line; each is a document, and if all of them
        have the field ``split`` ("train", "validation" or "test"), it is followed. Of a folder,
        every ``.txt`` file, at any depth, in the order of their names.
    field : str, optional
        Which field of the objects holds the text; needed for ``.jsonl`` files, and only there.

    Raises
    ------
    UserError
        Nothing to read, or no such field.
    """
    path = Path(path)
    if field is not None and (path.is_dir() or path.suffix != ".jsonl"):
        raise UserError(f"{path} is no .jsonl file, it has no field {field!r}; leave the field out")
    if path.is_dir():
        texts = (p for p in path.rglob("*.txt") if p.is_file())
        files = sorted(texts, key=lambda p: p.relative_to(path).as_posix())
        if not files:
            raise UserError(f"{path} holds no .txt file; name a folder with texts, or one text")
        return Corpus(tuple(as_document(read_text(file)) for file in files))
    if path.suffix == ".jsonl":
        return _read_jsonl(path, field)
    return Corpus((read_text(path),))


def _read_jsonl(path: Path, field: str | None) -> Corpus:
    documents: list[str] = []
    splits: list[Any] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is no JSON object; expected {{field: text, …}}")
        if field not in record:
            what = "name the field that holds the text" if field is None else f"no field {field!r}"
            names = ", ".join(map(str, record))
            raise UserError(f"{path}, line {number}: {what}; there are {names}")
        if not isinstance(record[field], str) or not record[field].strip():
            raise UserError(f"{path}, line {number}: the field {field!r} holds no text")
        documents.append(as_document(record[field]))
        splits.append(record.get("split"))
    if not documents:
        raise UserError(f"{path} holds no text")
    follow = set(splits) <= set(SPLITS) and "train" in splits
    return Corpus(tuple(documents), tuple(splits) if follow else None)
