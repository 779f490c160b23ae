"""Documents of a file, of a ``.jsonl`` file or of a folder: a corpus."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.text.files import few, read_even_blank, read_text, texts_in
from minibrillm.text.records import read_records


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


def read_corpus(path: str | Path, field: str | None = None, encoding: str | None = None) -> Corpus:
    """Read a text file, the texts of a ``.jsonl`` file, or a folder of ``.txt`` files.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file holds one JSON object a line; each is a document, and where they have
        the field ``split``, it is followed: "train", "validation" ("val", "valid", "dev") or
        "test". Of a folder, every ``.txt`` file, at any depth, in the order of their names; a
        warning names what is left out.
    field : str, optional
        Which field of the objects holds the text; needed for ``.jsonl`` files, and only there.
    encoding : str, optional
        Of every file; by default `decode_text` finds it out.

    Raises
    ------
    UserError
        Nothing to read, no such field, or a split that is none of these.
    """
    path = Path(path)
    try:
        folder = path.is_dir()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    records = not folder and path.suffix.lower() == ".jsonl"
    if field is not None and not records:
        raise UserError(f"{path} is no .jsonl file, it has no field {field!r}; leave the field out")
    if folder:
        return _read_folder(path, encoding)
    if records:
        texts, splits = read_records(path, field, encoding)
        return Corpus(tuple(map(as_document, texts)), None if splits is None else tuple(splits))
    return Corpus((read_text(path, encoding),))


def _read_folder(folder: Path, encoding: str | None) -> Corpus:
    files, skipped = texts_in(folder)
    documents = []
    for file in files:
        text = read_even_blank(file, encoding)
        if text.strip():
            documents.append(as_document(text))
        else:
            skipped.append(f"{file.relative_to(folder).as_posix()} (empty)")
    if not documents:
        others = f" (but {few(skipped)})" if skipped else ""
        raise UserError(f"{folder} holds no .txt file{others}; name a folder with texts, or a text")
    if skipped:
        warnings.warn(f"{folder}: left out {few(skipped)}; only .txt files are read", stacklevel=3)
    return Corpus(tuple(documents))
