"""Text comes in clean, in whatever usual encoding, or is refused by name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import decode_text, locate, read_corpus, read_text

unhurried = settings(deadline=None)

TRADITIONAL = (
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。"
    "國破山河在，城春草木深。感時花濺淚，恨別鳥驚心。\n"
)


def written(folder: Path, content: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_text_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path, "妈妈\nmother\n".encode())
    assert read_text(path) == "妈妈\nmother\n"
    assert read_text(str(path)) == "妈妈\nmother\n"


def test_byte_order_mark_is_dropped_at_the_start_only() -> None:
    content = codecs.BOM_UTF8 + "我".encode() + codecs.BOM_UTF8
    assert decode_text(content) == "我\ufeff"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_any_system_become_newlines(end: str) -> None:
    text = "一\n\n two\tthree\n"
    assert decode_text(text.replace("\n", end).encode()) == text


def test_line_ends_may_be_mixed() -> None:
    assert decode_text(b"a\r\nb\r\n\r\nc\rd\n") == "a\nb\n\nc\nd\n"


def test_what_else_divides_a_text_stays() -> None:
    text = "form\x0cfeed, next\x85line, line\u2028and paragraph\u2029separator, vertical\x0btab"
    assert decode_text(text.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "gb2312"])
def test_chinese_is_read_in_its_usual_encodings(encoding: str) -> None:
    text = "小明说：“我想去看鸭子游泳。”Mom took a big umbrella.\n"
    assert decode_text(text.encode(encoding)) == text


def test_rarer_characters_of_gb18030_are_read() -> None:
    text = "这是常见的汉字，里面有几个少见的：龘、㐀、𠀀。其余的都是大家认识的字，一点也不难。"
    with pytest.raises(UnicodeEncodeError):
        text.encode("gb2312")
    assert decode_text(text.encode("gb18030")) == text


@unhurried
@given(st.text(st.characters(codec="gb2312", min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_what_gb2312_writes_is_read_or_refused_but_never_misread(text: str) -> None:
    data = text.encode("gb2312")
    assume(data)
    try:
        data.decode("utf-8")
        return  # by accident it is UTF-8 as well, and nothing can tell
    except UnicodeDecodeError:
        pass
    try:
        assert decode_text(data) == text
    except UserError as refused:
        assert "UTF-8" in str(refused)
        assert decode_text(data, encoding="gb18030") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Der Bär hört schöne Töne, das weiß jeder für sich.", "latin-1"),
        ("Le garçon a mangé très tôt à la fenêtre.", "cp1252"),
        ("Мальчик пошёл в лес и нашёл гриб.", "koi8-r"),
        ("Мальчик пошёл в лес и нашёл гриб.", "cp1251"),
        ("雨が降っている。小さな犬が走る。", "shift_jis"),
        ("小明說：我想去看鴨子游泳。媽媽拿來一把雨傘。", "big5"),
        ("비가 오고 있다. 작은 개가 달린다.", "cp949"),
        (TRADITIONAL, "gb18030"),
        ("张伟\n王芳\n李娜\n刘洋\n陈静\n杨磊\n赵敏\n黄丽\n", "gbk"),
    ],
)
def test_what_is_not_certain_is_said_and_read_once_it_is_named(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    with pytest.raises(UserError, match=r"is no UTF-8 text .* not certain .* with encoding='"):
        decode_text(data)
    assert decode_text(data, encoding=encoding) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (TRADITIONAL, "gb18030"),
        ("张伟\n王芳\n李娜\n刘洋\n陈静\n杨磊\n赵敏\n黄丽\n", "gb18030"),
        ("小明說：我想去看鴨子游泳。媽媽拿來一把雨傘。", "big5"),
    ],
)
def test_what_it_may_be_is_shown(text: str, encoding: str) -> None:
    with pytest.raises(UserError) as refused:
        decode_text(("Title\n" + text).encode(encoding))
    assert f"perhaps {encoding} ({text[:8]!r}" in str(refused.value)
    assert f"say it with encoding='{encoding}'" in str(refused.value)


def test_damaged_utf8_is_called_so() -> None:
    whole = "大家都认识的字，\n一点也不难。\n".encode()
    with pytest.raises(UserError, match=r"utf-8 but for some bytes, the .* byte 25, line 2: it is"):
        decode_text(whole[:25] + whole[26:])
    with pytest.raises(UserError, match=r"line 2: it is damaged, cut short or mixed"):
        decode_text(whole[:-2])


def test_texts_in_two_encodings_are_not_read_as_one() -> None:
    text = "大家都认识的字，一点也不难。\n"
    with pytest.raises(UserError, match=r"utf-8 but for some bytes, .* line 2: it is .* mixed"):
        decode_text(text.encode() + 9 * text.encode("gb18030"))


def test_gb18030_cut_short_is_called_so() -> None:
    whole = "大家都认识的字，\n一点也不难。\n".encode("gb18030")
    with pytest.raises(
        UserError, match=r"gb18030 but for some bytes, the .* byte 27, line 2: it is"
    ):
        decode_text(whole[:-2])


def test_a_named_encoding_that_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"is not big5 throughout \(byte 5, line 2, does not fit\)"):
        decode_text(b"text\n\xff\xff", encoding="big5")
    with pytest.raises(UserError, match="binary file, it holds NUL"):
        decode_text("text".encode("utf-16-le"), encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ansi", "", "base64", "a\0b", 5])
def test_a_name_of_no_encoding(encoding: Any) -> None:
    with pytest.raises(UserError, match="which Python does not know; expected one such as utf-8"):
        decode_text(b"text", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_what_it_is(encoding: str) -> None:
    text = "Mom and 妈妈\n"
    for data in (text.encode(encoding), ("\ufeff" + text).encode("utf-16-be")):
        assert decode_text(data) == text
    assert decode_text(text.encode(encoding), encoding=encoding) == text
    assert decode_text(text.encode("utf-8-sig"), encoding="utf-8") == text


def test_the_byte_that_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"UTF-8 text \(byte 2, line 1, does not fit\)"):
        decode_text(b"ab\xff\xff\xff")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Mom", "Mom and 妈妈"])
def test_wide_encodings_without_a_mark_must_be_named(encoding: str, text: str) -> None:
    with pytest.raises(UserError, match=r"binary file.*UTF-16 without a byte-order mark"):
        decode_text(text.encode(encoding))
    assert decode_text(text.encode(encoding), encoding=encoding) == text


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")


def test_file_below_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inside"):
        read_text(written(tmp_path, b"text") / "inside")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory; name a text file"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b" \r\n\t\n"],
    ids=["nothing", "only a mark", "only a wide mark", "only blanks"],
)
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"text\.txt is empty"):
        read_text(written(tmp_path, content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_that_nobody_writes_to_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt is a pipe or a device"):
        read_text(tmp_path / "pipe.txt")


def test_a_name_that_is_too_long() -> None:
    for read in (read_text, locate, read_corpus):
        with pytest.raises(UserError, match="cannot read a"):
            read(Path("a" * 5000))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04\x00\x00", "zip"),
        (gzip.compress("text 大家".encode()), "gzip"),
        (bz2.compress(b"text"), "bzip2"),
        (lzma.compress(b"text"), "xz"),
        (b"%PDF-1.7\n", "PDF"),
        (b"{\\rtf1\\ansi text}", "RTF"),
        (b"\x7fELF\x00\x00", "NUL"),
    ],
)
def test_binary_file(content: bytes, what: str) -> None:
    for encoding in (None, "latin-1"):
        with pytest.raises(UserError, match=f"is a binary file.*{what}"):
            decode_text(content, encoding=encoding)
