"""Bytes of a file to text: UTF-8 or GB18030, found out without being told."""

from __future__ import annotations

import codecs

from minibrillm.checks import UserError


def decode_text(data: bytes, name: str = "the text") -> str:
    """Text of the bytes of a file: UTF-8 (with or without byte-order mark) or GB18030.

    GB18030 (and GBK, GB2312 within it) is taken only where the bytes are no UTF-8 and what is not
    ASCII reads as the usual characters and punctuation of Chinese, the most frequent ones among
    them: other encodings often decode as it without an error. Line ends become newlines.

    Raises
    ------
    UserError
        No bytes, or bytes that are neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name} is UTF-16; convert it to UTF-8")
    if b"\0" in data:
        raise UserError(f"{name} is a binary file; expected text in UTF-8 or GB18030")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = _decode_gb18030(data)
        if found is None:
            raise UserError(
                f"{name} is neither UTF-8 text (byte {error.start} does not fit) nor GB18030; "
                "convert it to UTF-8"
            ) from None
        text = found
    if not text:
        raise UserError(f"{name} is empty; it takes some text to learn from")
    return text.replace("\r\n", "\n")


def _decode_gb18030(data: bytes) -> str | None:
    """The text, if the bytes are GB18030 beyond reasonable doubt."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    foreign = "".join(c for c in text if not c.isascii())
    pairs = foreign.encode("gb2312", errors="ignore")  # GB2312 has two bytes a character
    # Rows 1-9 are signs, 16-55 the 3,755 characters of level 1, 56-87 the rarer ones.
    usual = sum(first < 0xD8 for first in pairs[::2])
    frequent = sum(c in _FREQUENT for c in foreign)
    return text if usual > 0.8 * len(foreign) and frequent > 0.05 * len(foreign) else None


# Half of a modern Chinese text, and a fifth of old poems; of Korean or Japanese read as GB18030
# next to nothing, though their encodings fill the same places.
_FREQUENT = frozenset(
    "的一是不了人在有我他这个们中来上大为说子和你地出道也时年得就那要下以生会自着去之过家学对可"
    "里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面三已老从动"
    "两长知"
)
