"""A text file, read."""

from __future__ import annotations

from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.text.encodings import decode_text


def read_text(path: str | Path) -> str:
    """Read a text file; its encoding is found out by `decode_text`.

    Raises
    ------
    UserError
        No such file, a directory, an empty file, or one that is no text.
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
    return decode_text(data, str(path))
