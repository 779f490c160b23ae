"""Text to learn from: files, the bundled stories, splits, and batches of windows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibrillm.errors import UserError

Array = np.ndarray

LANGUAGES = ("zh", "en")


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file (a byte-order mark is dropped).

    Raises
    ------
    UserError
        No such file, a directory, an empty file, or one that is not UTF-8 text.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a text file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if b"\0" in data:
        raise UserError(f"{path} is a binary file; expected UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start} does not fit); convert it to UTF-8"
        ) from None
    if not text:
        raise UserError(f"{path} is empty; it takes some text to learn from")
    return text.replace("\r\n", "\n")


@dataclass(frozen=True)
class Split:
    """A text to train on and a text held out."""

    train: str
    heldout: str


def split_text(text: str, heldout: float = 0.1) -> Split:
    """Hold out the last part of a text (the usual split of tiny Shakespeare: the last 10 %).

    Parameters
    ----------
    heldout : float
        Share held out, above 0 and below 1.
    """
    if not 0 < heldout < 1:
        raise UserError(f"the share held out is {heldout}; expected a number between 0 and 1")
    cut = int(len(text) * (1 - heldout))
    return Split(text[:cut], text[cut:])


@dataclass(frozen=True)
class Story:
    """One bundled story, told in both languages."""

    id: str
    topic: str
    split: str
    zh: str
    en: str


def bundled_path() -> Path:
    """Where the bundled stories are: inside an installed package, or beside it in a clone."""
    here = Path(__file__).parent
    for folder in (here / "data", here.parent / "data"):
        if (folder / "stories.jsonl").is_file():
            return folder / "stories.jsonl"
    raise UserError(f"the bundled stories are missing beside {here}; install minibrillm again")


def bundled_stories() -> list[Story]:
    """The bundled parallel stories, Chinese and English."""
    lines = bundled_path().read_text(encoding="utf-8").splitlines()
    return [Story(**json.loads(line)) for line in lines]


def bundled_text(split: str, languages: tuple[str, ...] = LANGUAGES) -> str:
    """The stories of one split ("train" or "test"), each on a line, languages in turn."""
    lines = [
        getattr(story, language)
        for story in bundled_stories()
        if story.split == split
        for language in languages
    ]
    if not lines:
        raise UserError(f"there is no split {split!r}; choose train or test")
    return "\n".join(lines) + "\n"


def draw_windows(
    ids: Array, batch_size: int, sequence_length: int, rng: np.random.Generator
) -> Array:
    """A batch of windows that start anywhere in a stream.

    Parameters
    ----------
    ids : integer array (N,)
    batch_size, sequence_length : int
        B windows that cross n edges each.

    Returns
    -------
    integer array (B, n + 1)
    """
    last = len(ids) - sequence_length - 1
    if last < 0:
        raise UserError(
            f"the text has {len(ids)} tokens, shorter than one sequence of "
            f"{sequence_length + 1}; give more text or a smaller sequence length"
        )
    starts = rng.integers(0, last, size=batch_size, endpoint=True)
    return ids[starts[:, None] + np.arange(sequence_length + 1)]
