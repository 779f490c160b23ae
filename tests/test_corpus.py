"""Text comes in clean or is refused by name; the bundled stories keep their promises."""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibrillm import corpus
from minibrillm.corpus import (
    LANGUAGES,
    bundled_path,
    bundled_stories,
    bundled_text,
    draw_windows,
    read_text,
    split_text,
)
from minibrillm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CHINESE_PUNCTUATION = set("，。！？：；“”")

unhurried = settings(deadline=None)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(content)
    return path


# read_text


def test_text_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path, "妈妈\nmother\n".encode())
    assert read_text(path) == "妈妈\nmother\n"
    assert read_text(str(path)) == "妈妈\nmother\n"


def test_byte_order_mark_is_dropped_at_the_start_only(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + "我".encode() + codecs.BOM_UTF8
    assert read_text(written(tmp_path, content)) == "我\ufeff"


def test_windows_line_ends_become_newlines(tmp_path: Path) -> None:
    assert read_text(written(tmp_path, b"a\r\nb\r\n\r\nc\rd\n")) == "a\nb\n\nc\rd\n"


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
    with pytest.raises(UserError, match="is empty"):
        read_text(written(tmp_path, content))


def test_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="binary"):
        read_text(written(tmp_path, b"PK\x03\x04\x00\x00"))


def test_other_encoding_names_the_byte(tmp_path: Path) -> None:
    path = written(tmp_path, b"ab" + "妈妈".encode("gb18030"))
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 2 does not fit\)"):
        read_text(path)


# split_text


@unhurried
@given(st.text(), st.floats(0.001, 0.999))
def test_split_loses_nothing(text: str, heldout: float) -> None:
    split = split_text(text, heldout)
    assert split.train + split.heldout == text
    assert abs(len(split.heldout) - heldout * len(text)) <= 1


def test_split_holds_out_the_end() -> None:
    split = split_text("0123456789")
    assert (split.train, split.heldout) == ("012345678", "9")


@pytest.mark.parametrize("heldout", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_share(heldout: float) -> None:
    with pytest.raises(UserError, match="held out"):
        split_text("some text", heldout)


# draw_windows


@unhurried
@given(
    st.integers(2, 40), st.integers(1, 8), st.integers(1, 39), st.integers(0, 2**32), st.booleans()
)
def test_windows_are_pieces_of_the_stream(
    length: int, batch_size: int, sequence_length: int, seed: int, narrow: bool
) -> None:
    ids = (np.arange(length) + 100).astype(np.int32 if narrow else np.int64)
    rng = np.random.default_rng(seed)
    if sequence_length + 1 > length:
        with pytest.raises(UserError, match=f"{length} tokens"):
            draw_windows(ids, batch_size, sequence_length, rng)
        return
    windows = draw_windows(ids, batch_size, sequence_length, rng)
    assert windows.shape == (batch_size, sequence_length + 1)
    assert windows.dtype == ids.dtype
    starts = windows[:, :1] - 100
    assert starts.min() >= 0
    assert starts.max() + sequence_length < length
    assert np.array_equal(windows, starts + 100 + np.arange(sequence_length + 1))


def test_every_start_is_drawn_the_last_included() -> None:
    windows = draw_windows(np.arange(10), 1000, 3, np.random.default_rng(0))
    counts = np.bincount(windows[:, 0])
    assert len(counts) == 7  # starts 0 … 6: the window from 6 ends with the last token, 9
    assert counts.min() > 80  # 143 are expected of each


def test_windows_follow_the_generator_alone() -> None:
    ids = np.arange(50)
    first, again = (draw_windows(ids, 5, 4, np.random.default_rng(3)) for _ in range(2))
    other = draw_windows(ids, 5, 4, np.random.default_rng(4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# the bundled stories


def test_stories_are_found_in_the_clone() -> None:
    assert bundled_path().resolve() == ROOT / "data" / "stories.jsonl"


def test_stories_are_found_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "minibrillm"
    (package / "data").mkdir(parents=True)
    shutil.copy(bundled_path(), package / "data")
    monkeypatch.setattr(corpus, "__file__", str(package / "corpus.py"))
    assert bundled_path() == package / "data" / "stories.jsonl"
    assert len(bundled_stories()) > 0


def test_missing_stories_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "__file__", str(tmp_path / "minibrillm" / "corpus.py"))
    with pytest.raises(UserError, match="bundled stories are missing"):
        bundled_path()


def test_stories_are_whole() -> None:
    stories = bundled_stories()
    assert len({s.id for s in stories}) == len(stories)
    assert Counter(s.split for s in stories) == {"train": 20, "test": 4}
    for story in stories:
        for name, value in dataclasses.asdict(story).items():
            assert value == value.strip() != "", (story.id, name)
            assert "\n" not in value, (story.id, name)


def test_stories_are_stored_as_readable_utf8() -> None:
    lines = bundled_path().read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert json.dumps(json.loads(line), ensure_ascii=False) == line


def test_the_card_names_the_checksum() -> None:
    card = (bundled_path().parent / "README.md").read_text(encoding="utf-8")
    content = bundled_path().read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(content).hexdigest() in card


def test_english_is_ascii_and_chinese_is_chinese() -> None:
    for story in bundled_stories():
        assert story.en.isascii(), story.id
        assert story.en.isprintable(), story.id
        strange = {c for c in story.zh if not "\u4e00" <= c <= "\u9fff"} - CHINESE_PUNCTUATION
        assert strange == set(), story.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_test_stories_use_known_characters_only(language: str) -> None:
    train, test = (set(bundled_text(split, (language,))) for split in ("train", "test"))
    assert test - train == set()


def test_bundled_text_is_one_line_a_story_languages_in_turn() -> None:
    stories = [s for s in bundled_stories() if s.split == "test"]
    both = bundled_text("test")
    assert both.endswith("\n")
    assert both.splitlines() == [t for s in stories for t in (s.zh, s.en)]
    assert bundled_text("test", ("en",)).splitlines() == [s.en for s in stories]
    assert not set(bundled_text("train").splitlines()) & set(both.splitlines())


def test_unknown_split() -> None:
    with pytest.raises(UserError, match="there is no split 'dev'; choose train or test"):
        bundled_text("dev")
