"""The bundled corpus is what its card says: sizes, words, signs, splits, nothing repeated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from minibrillm.checks import UserError
from minibrillm.text import (
    LANGUAGES,
    SPLITS,
    Piece,
    as_document,
    bundled,
    bundled_path,
    bundled_pieces,
    join_documents,
    pieces,
    read_corpus,
)

ROOT = Path(__file__).resolve().parents[1]
CARD = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
ENGLISH_SIGNS = set(" .,!?:;'\"-0123456789")
CHINESE_SIGNS = set("，。！？：；、“”…—0123456789")
PIECES = bundled_pieces()


def words(text: str) -> list[str]:
    """Word forms in lower case: letters, with apostrophes inside."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def characters(text: str) -> list[str]:
    """Chinese characters, without punctuation."""
    return [c for c in text if "\u4e00" <= c <= "\u9fff"]


def sentences(text: str, ends: str) -> int:
    return len(re.findall(f"[{ends}]+", text))


def grams(piece: Piece, n: int) -> Iterator[tuple[str, ...]]:
    """Runs of n words and of n characters."""
    for tokens in (words(piece.en), characters(piece.zh)):
        for k in range(len(tokens) - n + 1):
            yield tuple(tokens[k : k + n])


def test_found_in_the_clone() -> None:
    assert bundled_path().resolve() == ROOT / "data" / "pieces.jsonl"


def test_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "minibrillm"
    (package / "data").mkdir(parents=True)
    shutil.copy(bundled_path(), package / "data")
    monkeypatch.setattr(pieces, "__file__", str(package / "text" / "pieces.py"))
    assert bundled_path() == package / "data" / "pieces.jsonl"
    assert bundled_pieces() == PIECES


def test_missing_corpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "__file__", str(tmp_path / "minibrillm" / "text" / "pieces.py"))
    with pytest.raises(UserError, match="bundled corpus is missing"):
        bundled_path()


def test_pieces_are_whole() -> None:
    assert len({p.id for p in PIECES}) == len(PIECES)
    for piece in PIECES:
        for name, value in dataclasses.asdict(piece).items():
            assert value == value.strip() != "", (piece.id, name)
            assert "\n" not in value, (piece.id, name)
        assert re.fullmatch(rf"{piece.topic}-\d{{3}}", piece.id)


def test_stored_as_readable_utf8() -> None:
    for line in bundled_path().read_text(encoding="utf-8").splitlines():
        assert json.dumps(json.loads(line), ensure_ascii=False) == line


def test_large_enough() -> None:
    assert len(PIECES) >= 600
    assert sum(len(p.en) for p in PIECES) >= 400_000
    assert sum(len(characters(p.zh)) for p in PIECES) >= 130_000


def test_vocabulary_is_small() -> None:
    assert len({w for p in PIECES for w in words(p.en)}) <= 1600
    assert len({c for p in PIECES for c in characters(p.zh)}) <= 1100


def test_split_is_eight_one_one_in_every_topic() -> None:
    by_topic = defaultdict(Counter)
    for piece in PIECES:
        by_topic[piece.topic][piece.split] += 1
    assert len(by_topic) >= 10
    for topic, found in by_topic.items():
        n = sum(found.values())
        assert set(found) == set(SPLITS), topic
        assert abs(found["validation"] - 0.1 * n) <= 1, topic
        assert found["validation"] == found["test"], topic


def test_no_run_of_words_or_characters_is_used_again_and_again() -> None:
    """No 12-gram stands in more than three pieces: they were written, not made of a template."""
    seen = Counter(g for piece in PIECES for g in set(grams(piece, 12)))
    assert [(g, n) for g, n in seen.items() if n > 3] == []
    assert sum(n > 1 for n in seen.values()) <= 20


def test_no_piece_repeats_another() -> None:
    """Of the runs of 4 words or characters, no two pieces share more than a sixth."""
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for k, piece in enumerate(PIECES):
        own = set(grams(piece, 4))
        sizes.append(len(own))
        for gram in own:
            where[gram].append(k)
    shared: Counter[tuple[int, int]] = Counter()
    for found in where.values():
        shared.update((a, b) for i, a in enumerate(found) for b in found[i + 1 :])
    (a, b), most = shared.most_common(1)[0]
    assert most < min(sizes[a], sizes[b]) / 6, (PIECES[a].id, PIECES[b].id)


def test_openings_vary() -> None:
    for language, n in (("en", 12), ("zh", 4)):
        seen = Counter(getattr(p, language)[:n] for p in PIECES)
        opening, most = seen.most_common(1)[0]
        assert most <= 0.03 * len(PIECES), opening


@pytest.mark.parametrize("piece", PIECES, ids=lambda p: p.id)
def test_signs_and_lengths(piece: Piece) -> None:
    """Declared characters only, quotes in pairs, and both sides of about the same length."""
    assert {c for c in piece.en if not (c.isascii() and c.isalpha())} <= ENGLISH_SIGNS
    assert set(piece.zh) - set(characters(piece.zh)) <= CHINESE_SIGNS
    assert piece.en.count('"') % 2 == 0
    assert re.sub("[^“”]", "", piece.zh) == "“”" * piece.zh.count("“")
    assert not re.search(r"  | [.,!?;:]|[.,!?;:][A-Za-z]", piece.en)
    for sign in "…—":
        assert all(len(run) % 2 == 0 for run in re.findall(f"{sign}+", piece.zh)), sign
    # The end of a sentence, or of a letter: then a few words, whose letter it is.
    assert re.search(r'[.!?]"?( [^.!?"]{2,40})?$', piece.en)
    assert re.search(r"[。！？…]”?([^。！？“”]{1,14})?$", piece.zh)
    assert 0.5 <= sentences(piece.en, ".!?") / sentences(piece.zh, "。！？…") <= 2
    assert 2.5 <= len(piece.en) / len(characters(piece.zh)) <= 5.5


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_held_out_is_new_but_hardly_in_its_characters(language: str) -> None:
    texts = {s: bundled(s, language) for s in SPLITS}
    assert not set(texts["train"]) & (set(texts["validation"]) | set(texts["test"]))
    assert not set(texts["validation"]) & set(texts["test"])
    known = set("".join(texts["train"]))
    for split in ("validation", "test"):
        text = "".join(texts[split])
        assert sum(c not in known for c in text) <= 0.001 * len(text)


def test_documents_and_text() -> None:
    chosen = [p for p in PIECES if p.split == "test"]
    both = tuple(as_document(t) for p in chosen for t in (p.zh, p.en))
    assert bundled("test") == bundled("test", ("zh", "en")) == bundled("test", ["zh", "en"]) == both
    assert bundled("test", ("en", "zh"))[:2] == both[1::-1]
    assert join_documents(bundled("test")) == "\n" + "".join(d.removeprefix("\n") for d in both)
    english = tuple(as_document(p.en) for p in chosen)
    assert bundled("test", "en") == bundled("test", ("en",)) == english
    found = read_corpus(bundled_path(), "zh")
    assert found.documents == tuple(as_document(p.zh) for p in PIECES)
    assert found.splits == tuple(p.split for p in PIECES)


def test_unknown_split_or_language() -> None:
    with pytest.raises(UserError, match="no split 'dev'; choose one of train, validation, test"):
        bundled("dev")
    for language in ("fr", ("fr",), ("en", "fr")):
        with pytest.raises(UserError, match="no language 'fr'; choose from zh, en"):
            bundled("test", language)
    with pytest.raises(UserError, match="no language 5"):
        bundled("test", 5)
    with pytest.raises(UserError, match="language is empty; choose from zh, en"):
        bundled("test", ())


def test_the_card_names_the_checksum_and_the_sizes() -> None:
    content = bundled_path().read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(content).hexdigest() in CARD
    rows = {
        "pieces": lambda ps: len(ps),
        "English words": lambda ps: sum(len(words(p.en)) for p in ps),
        "English word forms": lambda ps: len({w for p in ps for w in words(p.en)}),
        "bytes of `en`": lambda ps: sum(len(p.en) for p in ps),
        "Chinese characters": lambda ps: sum(len(characters(p.zh)) for p in ps),
        "different Chinese characters": lambda ps: len({c for p in ps for c in characters(p.zh)}),
        "bytes of `zh`": lambda ps: sum(len(p.zh.encode()) for p in ps),
    }
    columns = [[p for p in PIECES if p.split == s] for s in SPLITS] + [PIECES]
    for name, count in rows.items():
        numbers = " | ".join(f"{count(column):,}" for column in columns)
        assert re.search(rf"^\| {re.escape(name)} +\| {re.escape(numbers)} \|$", CARD, re.M), (
            f"| {name} | {numbers} |"
        )
    for topic, n in Counter(p.topic for p in PIECES).items():
        assert re.search(rf"^\| `{topic}` +\| {n} \|", CARD, re.M), (topic, n)
