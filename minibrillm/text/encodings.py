"""Bytes of a file to text: UTF-8, GB18030, or what a byte-order mark says, found out by itself."""

from __future__ import annotations

import codecs
import reprlib

from minibrillm.checks import UserError

_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_USUAL = [
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "koi8_r", "mac_roman"),
]
_BINARY = {
    b"%PDF-": "a PDF",
    b"{\\rtf": "RTF",
    b"PK\x03\x04": "a zip archive, or a .docx or .epub",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x1f\x8b": "packed with gzip",
    b"BZh91AY&SY": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
}


def decode_text(data: bytes, name: str = "the text", encoding: str | None = None) -> str:
    """Text of the bytes of a file, in UTF-8 or GB18030, or as its byte-order mark says.

    GB18030 (and GBK, GB2312 within it) is taken only where the bytes are no UTF-8 and what is not
    ASCII reads as the usual characters and punctuation of Chinese, the most frequent ones among
    them: other encodings often decode as it without an error. The mark goes, line ends (CR LF, or
    CR alone) become newlines.

    Parameters
    ----------
    data : bytes
    name : str
        What messages call it.
    encoding : str, optional
        Any that Python knows, such as "big5"; then nothing is guessed.

    Raises
    ------
    UserError
        A binary file, or bytes that are not, or not for certain, in such an encoding.
    """
    for start, what in _BINARY.items():
        if data.startswith(start):
            raise UserError(f"{name} is a binary file ({what}); unpack it or save it as plain text")
    if encoding is None:
        encoding = next((e for mark, e in _MARKS.items() if data.startswith(mark)), None)
    text = _found_out(data, name) if encoding is None else _decode(data, name, encoding)
    if "\0" in text:
        raise _binary(name)
    return newlines(text.removeprefix("\ufeff"))


def newlines(text: str) -> str:
    """The text with CR LF, and CR alone, as newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, name: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        where = _place(data, error.start)
        raise UserError(f"{name} is not {encoding} throughout ({where}, does not fit)") from None
    except (LookupError, ValueError, TypeError):
        raise UserError(
            f"encoding is {reprlib.repr(encoding)}, which Python does not know; expected one such "
            "as utf-8, gb18030, big5, shift_jis, cp1252, utf-16"
        ) from None


def _found_out(data: bytes, name: str) -> str:
    bad: dict[str, int] = {}  # the first byte that does not fit
    for encoding in ("utf-8", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            bad[encoding] = error.start
        else:
            if encoding == "utf-8" or _is_chinese(text):
                return text
    if b"\0" in data:
        raise _binary(name)
    for encoding, byte in bad.items():
        if _is_damaged(data.decode(encoding, "replace"), encoding):
            raise UserError(
                f"{name} is {encoding} but for some bytes, the first of them {_place(data, byte)}: "
                "it is damaged, cut short or mixed; mend that place"
            )
    no_utf8 = f"{name} is no UTF-8 text ({_place(data, bad['utf-8'])}, does not fit)"
    may_be = _suggestions(data, bad["utf-8"])
    if not may_be:
        raise UserError(f"{no_utf8}, nor anything else that is known; convert it to UTF-8")
    shown = " or ".join(f"{encoding} ({start!r})" for encoding, start in may_be.items())
    raise UserError(
        f"{no_utf8}, and it is not certain what it is, perhaps {shown}; say it with "
        f"encoding='{next(iter(may_be))}', or convert it to UTF-8"
    )


def _place(data: bytes, byte: int) -> str:
    line = data.count(b"\n", 0, byte) + 1
    return f"byte {byte}, line {line}"


def _binary(name: str) -> UserError:
    return UserError(
        f"{name} is a binary file, it holds NUL characters; expected text (if it is UTF-16 without "
        "a byte-order mark, say so with encoding='utf-16-le')"
    )


def _is_damaged(text: str, encoding: str) -> bool:
    """Whether a text decoded with U+FFFD for what did not fit is one for the greater part."""
    few = text.count("\ufffd") < 0.3 * _n_foreign(text)
    begun = _n_foreign(text.partition("\ufffd")[0]) >= 10  # and then another encoding
    return (few or begun) and (encoding == "utf-8" or _is_chinese(text))


def _is_chinese(text: str) -> bool:
    """Whether a text decoded as GB18030 is that beyond reasonable doubt."""
    # GB2312 has two bytes a character, none of them ASCII.
    pairs = text.encode("gb2312", "ignore").translate(None, delete=bytes(range(128)))
    # Rows 1-9 are signs, 16-55 the 3,755 characters of level 1, 56-87 the rarer ones.
    usual = sum(first < 0xD8 for first in pairs[::2])
    frequent = sum(map(text.count, _FREQUENT))
    n = _n_foreign(text)
    return usual > 0.8 * n and frequent > 0.05 * n


def _n_foreign(text: str) -> int:
    """How many characters are not ASCII."""
    return len(text) - len(text.encode("ascii", "ignore"))


def _suggestions(data: bytes, place: int) -> dict[str, str]:
    """Encodings to try, and how the text around a byte reads in each; GB18030 goes first."""
    import charset_normalizer  # only here: most files are UTF-8

    begin = data.rfind(b"\n", 0, place) + 1
    part = data[max(begin, place - 100) : place + 10_000]
    matches = charset_normalizer.from_bytes(part, cp_isolation=_USUAL)
    found = {}
    for encoding in sorted((m.encoding for m in matches), key=lambda e: e != "gb18030")[:3]:
        text = part.decode(encoding, "replace")
        first = next((k for k, c in enumerate(text) if not c.isascii()), 0)
        found[encoding] = text[max(first - 2, 0) : first + 8]
    return found


# Half of a modern Chinese text, and a fifth of old poems; of Korean or Japanese read as GB18030
# next to nothing, though their encodings fill the same places.
_FREQUENT = frozenset(
    "的一是不了人在有我他这个们中来上大为说子和你地出道也时年得就那要下以生会自着去之过家学对可"
    "里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面三已老从动"
    "两长知"
)
