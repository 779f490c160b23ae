"""A text file, read; and the text files of a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.text.encodings import decode_text


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """Read a text file; without an ``encoding``, `decode_text` finds it out.

    Raises
    ------
    UserError
        No such file, a directory or a pipe, a file without text, or one that is no text.
    """
    text = read_even_blank(Path(path), encoding)
    if not text.strip():
        raise UserError(f"{path} is empty; it takes some text to learn from")
    return text


def read_even_blank(path: Path, encoding: str | None = None) -> str:
    """As `read_text`, but a file of nothing, or of blanks only, is one too."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a directory; name a text file")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is a pipe or a device, no file; save the text as a file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return decode_text(data, str(path), encoding)


def texts_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The ``.txt`` files of a folder at any depth, in order of name, and what else there is.

    Neither what is hidden is read (editors and systems keep copies there) nor what lies behind a
    link to a folder.

    Raises
    ------
    UserError
        A folder within it cannot be read.
    """
    texts: list[Path] = []
    others: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        closed = [f for f in folders if f.startswith(".") or (here / f).is_symlink()]
        folders[:] = [f for f in folders if f not in closed]
        others += [here / f for f in closed]
        for path in (here / f for f in files):
            is_text = path.suffix.lower() == ".txt" and not path.name.startswith(".")
            (texts if is_text and path.is_file() else others).append(path)

    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    names = (name(p) + "/" * p.is_dir() for p in others)
    return sorted(texts, key=name), sorted(names, key=lambda n: (n.startswith("."), n))


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}")


def few(names: Sequence[object], most: int = 4) -> str:
    """Names in a row, those beyond a few only counted."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
