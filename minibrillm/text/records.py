"""The texts of a ``.jsonl`` file: one JSON object a line."""

from __future__ import annotations

import json
import re
import reprlib
import warnings
from pathlib import Path
from typing import Any

from minibrillm.checks import UserError
from minibrillm.text.encodings import newlines
from minibrillm.text.files import few, read_text

SPLITS = ("train", "validation", "test")
_SPLIT_OF = {name: name for name in SPLITS} | dict.fromkeys(("val", "valid", "dev"), "validation")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def read_records(
    path: Path, field: str | None, encoding: str | None = None
) -> tuple[list[str], list[str] | None]:
    """The texts of a ``.jsonl`` file, and the split of each where its lines have the field.

    Line ends within a text become newlines, half a surrogate pair U+FFFD (a warning says where).

    Raises
    ------
    UserError
        A line that is no object, has no such field, no text in it, or a split of no known name.
    """
    texts: list[str] = []
    splits: list[str] = []
    mended: list[int] = []
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        line = line.strip().strip("\ufeff")  # of a file that was put together from several
        if not line:
            continue
        where = f"{path}, line {number}"
        record = _record(line, where)
        text, halves = _HALF_A_PAIR.subn("\ufffd", newlines(_text(record, field, where)))
        mended += [number] * (halves > 0)
        texts.append(text)
        if "split" in record and field != "split":
            splits.append(_split(record["split"], where))
        if len(splits) not in (0, len(texts)):
            raise UserError(f"{where} and others differ: give each line a split, or none")
    if not texts:
        raise UserError(f"{path} holds no text")
    if mended:
        lines = f"line{'s' * (len(mended) > 1)} {few(mended)}"
        warnings.warn(f"{path}: half a surrogate pair in {lines}, read as \ufffd", stacklevel=3)
    return texts, splits or None


def _record(line: str, where: str) -> dict[str, Any]:
    if line.startswith("["):
        raise UserError(
            f"{where} is no JSON object but a list; write each object on a line of its own"
        )
    try:
        record = json.loads(line, strict=False)  # a tab may stand in a string
    except json.JSONDecodeError as error:
        cure = "take the comma off its end" if line.endswith(",") else "expected one whole object"
        why = f"{error.msg} at column {error.colno}"
        raise UserError(f"{where} is no JSON ({why}); {cure}") from None
    except (ValueError, RecursionError):
        why = "a number too long, or nested too deep"
        raise UserError(f"{where} is no JSON that can be read ({why})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is no JSON object; expected {{field: text, …}}")
    return record


def _text(record: dict[str, Any], field: str | None, where: str) -> str:
    if field not in record:
        what = "name the field that holds the text" if field is None else f"no field {field!r}"
        names = few([_HALF_A_PAIR.sub("\ufffd", name)[:40] for name in record], 8)
        raise UserError(f"{where}: {what}; there are {names or 'none'}")
    text = record[field]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: the field {field!r} holds no text but {reprlib.repr(text)}")
    return text


def _split(name: object, where: str) -> str:
    found = _SPLIT_OF.get(name.strip().lower()) if isinstance(name, str) else None
    if found is None:
        raise UserError(
            f"{where}: the split is {reprlib.repr(name)}; expected train, validation (or val, "
            "valid, dev) or test"
        )
    return found
