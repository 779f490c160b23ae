"""Corpora by name: the bundled one, and those that have been downloaded."""

from __future__ import annotations

from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.text.downloads import DOWNLOADS, downloaded_path
from minibrillm.text.pieces import bundled_path

BUNDLED = "bundled"


def corpus_path(name: str) -> Path:
    """The file of a corpus: ``bundled``, or one that `fetch_corpus` has brought, checked again.

    Raises
    ------
    UserError
        No such corpus, or it is not on this machine.
    """
    return bundled_path() if name == BUNDLED else downloaded_path(name)


def locate(source: str | Path) -> Path:
    """The path of a file or folder, or of a corpus if there is no such file but one of that name.

    Raises
    ------
    UserError
        Neither, or the corpus is not on this machine yet.
    """
    path = Path(source)
    try:
        if path.exists():
            return path
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if str(source) in (BUNDLED, *DOWNLOADS):
        return corpus_path(str(source))
    names = ", ".join((BUNDLED, *DOWNLOADS))
    raise UserError(f"there is no file {path}, and no corpus of that name (there are {names})")
