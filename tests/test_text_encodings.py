"""Text comes in clean, in whatever usual encoding, or is refused by name."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import decode_text, read_text

unhurried = settings(deadline=None)


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


def test_windows_line_ends_become_newlines() -> None:
    assert decode_text(b"a\r\nb\r\n\r\nc\rd\n") == "a\nb\n\nc\rd\n"


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
        assert "nor GB18030" in str(refused)


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
    ],
)
def test_other_encodings_are_refused_not_misread(text: str, encoding: str) -> None:
    with pytest.raises(UserError, match=r"text is neither UTF-8 .* nor GB18030; convert it"):
        decode_text(text.encode(encoding))


def test_the_byte_that_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"UTF-8 text \(byte 2 does not fit\)"):
        decode_text(b"ab\xff\xff\xff")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UserError, match=r"UTF-16; convert|binary file"):
        decode_text("Mom and 妈妈".encode(encoding))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")


def test_file_below_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inside"):
        read_text(written(tmp_path, b"text") / "inside")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory; name a text file"):
        read_text(tmp_path)


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8], ids=["nothing", "only a mark"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"text\.txt is empty"):
        read_text(written(tmp_path, content))


def test_binary_file() -> None:
    with pytest.raises(UserError, match="binary"):
        decode_text(b"PK\x03\x04\x00\x00")
