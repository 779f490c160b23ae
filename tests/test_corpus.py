"""Text comes in clean or is refused by name; batches, splits and downloads keep their promises."""

from __future__ import annotations

import codecs
import hashlib
import http.server
import itertools
import json
import math
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import networkx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.text import (
    AGREEMENT,
    DOWNLOADS,
    Corpus,
    Download,
    Grammar,
    MarkovChain,
    Windows,
    as_document,
    as_documents,
    corpus_path,
    decode_text,
    fetch_corpus,
    join_documents,
    locate,
    read_corpus,
    read_text,
    split_corpus,
)

unhurried = settings(deadline=None)


def written(folder: Path, content: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# decode_text, read_text


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


# read_corpus


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, b"\none\n\ntwo\n\n")
    assert read_corpus(path) == Corpus(("\none\n\ntwo\n\n",))


def test_a_folder_is_its_texts_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c.txt").mkdir()
    written(tmp_path / "b", "大家".encode("gb18030"), "2.txt")
    written(tmp_path / "c.txt", b"three\n\n", "3.txt")
    written(tmp_path, b"one", "a.txt")
    written(tmp_path, b"\xff", "picture.png")
    found = read_corpus(tmp_path)
    assert found.documents == ("\none\n", "\n大家\n", "\nthree\n")
    assert found.splits is None


def test_a_folder_without_texts(tmp_path: Path) -> None:
    written(tmp_path, b"text", "a.md")
    with pytest.raises(UserError, match=r"holds no \.txt file"):
        read_corpus(tmp_path)


def jsonl(folder: Path, *records: object) -> Path:
    lines = (json.dumps(r, ensure_ascii=False) for r in records)
    return written(folder, "\n".join(lines).encode(), "texts.jsonl")


def test_a_field_of_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"zh": "一\u2028二", "en": "one"}, {"en": "two\n", "zh": "三"})
    assert read_corpus(path, "zh") == Corpus(("\n一\u2028二\n", "\n三\n"))
    assert read_corpus(path, "en").documents == ("\none\n", "\ntwo\n")


def test_splits_of_jsonl_are_followed_if_they_are_ours(tmp_path: Path) -> None:
    records = [
        {"t": c, "split": s} for c, s in zip("abc", ("test", "train", "validation"), strict=True)
    ]
    assert read_corpus(jsonl(tmp_path, *records), "t").splits == ("test", "train", "validation")
    assert read_corpus(jsonl(tmp_path, *records[:1]), "t").splits is None  # nothing to train on
    other = [*records, {"t": "d", "split": "dev"}]
    assert read_corpus(jsonl(tmp_path, *other), "t").splits is None


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        (b'{"zh": "a", "en": "b"}\n', None, "name the field that holds the text; there are zh, en"),
        (b'{"zh": "a", "en": "b"}\n', "fr", "line 1: no field 'fr'; there are zh, en"),
        (b'{"a": "b"}\n\n{"a": ""}', "a", "line 3: the field 'a' holds no text"),
        (b'{"a": 1}', "a", "line 1: the field 'a' holds no text"),
        (b'{"a": "b"}\n{"a": ', "a", "line 2 is no JSON"),
        (b"[1]", "a", "line 1 is no JSON object"),
        (b"\n \n", "a", "holds no text"),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, field: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_corpus(written(tmp_path, content, "a.jsonl"), field)


def test_a_field_of_what_has_no_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field 'zh'; leave the field out"):
        read_corpus(written(tmp_path, b"text"), "zh")
    with pytest.raises(UserError, match="no field 'zh'; leave the field out"):
        read_corpus(tmp_path, "zh")


def test_documents_share_the_newline_between_them() -> None:
    documents = [as_document(t) for t in ("a", "b\n", "\n\nc\n")]
    assert documents == ["\na\n", "\nb\n", "\nc\n"]
    assert join_documents(documents) == "\na\nb\nc\n"
    assert join_documents(["one text"]) == "one text"


# split_corpus


@unhurried
@given(st.text(), st.floats(0.001, 0.999))
def test_split_of_one_text_loses_nothing(text: str, heldout: float) -> None:
    split = split_corpus(Corpus((text,)), heldout)
    assert split.train[0] + split.heldout[0] == text
    assert abs(len(split.heldout[0]) - heldout * len(text)) <= 1


def test_split_holds_out_the_end() -> None:
    split = split_corpus(Corpus(("0123456789",)))
    assert (split.train, split.heldout) == (("012345678",), ("9",))


@unhurried
@given(st.lists(st.text("ab", max_size=9).map(as_document), min_size=2), st.floats(0.001, 0.999))
def test_split_of_documents_keeps_each_whole(documents: list[str], heldout: float) -> None:
    split = split_corpus(Corpus(tuple(documents)), heldout)
    assert [*split.train, *split.heldout] == documents
    assert split.train
    assert split.heldout
    if len(split.train) > 1:  # one document less held out would be less than asked for
        held, total = sum(map(len, split.heldout)), sum(map(len, documents))
        assert held > heldout * total - 1e-9
        assert len(split.heldout) == 1 or held - len(split.heldout[0]) < heldout * total + 1e-9


def test_own_splits_are_followed() -> None:
    documents = tuple("abcd")
    split = split_corpus(Corpus(documents, ("test", "train", "validation", "train")), 0.5)
    assert (split.train, split.heldout) == (("b", "d"), ("c",))
    split = split_corpus(Corpus(documents, ("test", "train", "test", "train")))
    assert (split.train, split.heldout) == (("b", "d"), ("a", "c"))


@pytest.mark.parametrize("heldout", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_share(heldout: float) -> None:
    with pytest.raises(UserError, match="held out"):
        split_corpus(Corpus(("some text",)), heldout)


# Windows


@unhurried
@given(
    st.integers(2, 40), st.integers(1, 8), st.integers(1, 39), st.integers(0, 2**32), st.booleans()
)
def test_windows_are_pieces_of_the_stream(
    length: int, batch_size: int, sequence_length: int, seed: int, narrow: bool
) -> None:
    ids = (np.arange(length) + 100).astype(np.int32 if narrow else np.int64)
    if sequence_length + 1 > length:
        with pytest.raises(UserError, match=f"{length} tokens"):
            Windows(ids, sequence_length)
        return
    tokens, weights = Windows(ids, sequence_length).draw(batch_size, np.random.default_rng(seed))
    assert weights is None
    assert tokens.shape == (batch_size, sequence_length + 1)
    assert tokens.dtype == ids.dtype
    starts = tokens[:, :1] - 100
    assert starts.min() >= 0
    assert starts.max() + sequence_length < length
    assert np.array_equal(tokens, starts + 100 + np.arange(sequence_length + 1))


def test_every_start_is_drawn_the_last_included() -> None:
    tokens, _ = Windows(np.arange(10), 3).draw(1000, np.random.default_rng(0))
    counts = np.bincount(tokens[:, 0])
    assert len(counts) == 7  # starts 0 … 6: the window from 6 ends with the last token, 9
    assert counts.min() > 80  # 143 are expected of each


@unhurried
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=6), st.integers(1, 8), st.integers(0, 2**32)
)
def test_windows_of_documents_stay_inside(lengths: list[int], n: int, seed: int) -> None:
    documents = [100 * k + np.arange(length) for k, length in enumerate(lengths)]
    if max(lengths) < 2:
        with pytest.raises(UserError, match="no document has two tokens"):
            Windows(documents, n)
        return
    tokens, weights = Windows(documents, n).draw(50, np.random.default_rng(seed))
    which, place = np.divmod(tokens, 100)
    assert (which == which[:, :1]).all()
    edges = np.array(lengths)[which[:, 0]] - 1
    assert edges.min() >= 1
    assert (weights is None) == (edges.min() >= n)
    real = np.ones((50, n)) if weights is None else weights
    assert np.array_equal(real.sum(axis=1), np.minimum(edges, n))
    assert np.array_equal(np.diff(place, axis=1), real)  # one step on, or filled up with the last
    assert place.max(axis=1).tolist() <= edges.tolist()


def test_every_edge_of_a_document_is_drawn_about_as_often_as_any_other() -> None:
    lengths, n = [41, 17, 5, 90], 16
    documents = [100 * k + np.arange(length) for k, length in enumerate(lengths)]
    tokens, weights = Windows(documents, n).draw(40_000, np.random.default_rng(0))
    assert weights is not None
    for k, length in enumerate(lengths):
        mine = (tokens[:, 0] // 100 == k)[:, None] & (weights > 0)
        seen = np.bincount(tokens[:, 1:][mine] - 100 * k, minlength=length)[1:]
        assert len(seen) == length - 1
        share = seen / (weights.sum() / (sum(lengths) - 4))
        assert share.min() > 0.4
        assert share.max() < 1.8
        assert 0.8 < share.mean() < 1.25  # nor does a document's length matter


def test_the_same_batches_on_every_platform() -> None:
    """Written down once; drawn as 64-bit integers, whatever the platform's own integer is."""
    documents = [np.arange(30), np.arange(50, 54), np.arange(60, 90)]
    tokens, weights = Windows(documents, 6).draw(6, np.random.default_rng(45))
    assert tokens[:, 0].tolist() == [81, 60, 69, 50, 50, 71]
    assert weights is not None
    assert weights.sum(axis=1).tolist() == [6, 6, 6, 3, 3, 6]
    again = Windows(documents, 6).draw(6, np.random.default_rng(45)).tokens
    other = Windows(documents, 6).draw(6, np.random.default_rng(46)).tokens
    assert np.array_equal(tokens, again)
    assert not np.array_equal(tokens, other)


def test_streams_and_documents_are_told_apart() -> None:
    stream = np.array([1, 2, 3])
    assert [d.tolist() for d in as_documents(stream)] == [[1, 2, 3]]
    assert [d.tolist() for d in as_documents([1, 2, 3])] == [[1, 2, 3]]
    assert [d.tolist() for d in as_documents([stream, stream[:1]])] == [[1, 2, 3], [1]]


# known-answer corpora


def test_entropy_of_a_chain_written_out() -> None:
    """p(b|a) = 1/2, p(a|b) = 1: in the long run a has 2/3, and only it leaves a choice."""
    chain = MarkovChain("ab", np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert chain.stationary == pytest.approx([2 / 3, 1 / 3])
    assert chain.entropy() == pytest.approx(2 / 3 * math.log(2))
    assert chain.entropy(0) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_entropy_of_a_random_chain_is_what_its_text_costs(order: int) -> None:
    rng = np.random.default_rng(order)
    chain = MarkovChain.random(5, order, rng)
    assert chain.order == order
    text = chain.sample(200_000, rng)
    assert len(text) == 200_000
    ids = np.array([chain.alphabet.index(c) for c in text])
    p = chain.transitions[tuple(ids[k : len(ids) - order + k] for k in range(order + 1))]
    assert -np.log(p).mean() == pytest.approx(chain.entropy(), rel=0.01)
    contexts = np.ravel_multi_index(
        [ids[k : len(ids) - order + k + 1] for k in range(order)], (5,) * order
    )
    share = np.bincount(contexts, minlength=5**order) / len(contexts)
    assert np.abs(share - chain.stationary.ravel()).max() < 0.01
    falling = [chain.entropy(k) for k in range(order + 1)]
    assert all(b <= a for a, b in itertools.pairwise(falling))
    assert falling[-2] > 1.1 * falling[-1]  # one symbol less of context costs something


def test_a_chain_that_ignores_what_was_before() -> None:
    chain = MarkovChain("abc", np.tile([0.2, 0.3, 0.5], (3, 3, 1)))
    expected = -sum(p * math.log(p) for p in (0.2, 0.3, 0.5))
    assert [chain.entropy(k) for k in range(3)] == pytest.approx([expected] * 3)


def test_walk_on_a_graph_follows_its_edges() -> None:
    graph = networkx.DiGraph([(0, 1), (1, 2), (2, 0), (1, 0)])
    chain = MarkovChain.walk(networkx.to_numpy_array(graph, nodelist=range(3)))
    assert chain.transitions[1].tolist() == [0.5, 0, 0.5]
    pairs = set(itertools.pairwise(chain.sample(2000, np.random.default_rng(0))))
    assert pairs == {("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")}
    assert chain.entropy() == pytest.approx(0.4 * math.log(2))  # b is left 2 times in 5


def test_a_walk_with_names_and_weights() -> None:
    chain = MarkovChain.walk(np.array([[0, 3.0], [1, 1]]), "零一")
    assert chain.transitions.tolist() == [[0, 1], [0.5, 0.5]]
    assert set(chain.sample(50, np.random.default_rng(0))) == set("零一")
    assert chain.sample(0, np.random.default_rng(0)) == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MarkovChain("ab", np.eye(3)), "needs transitions"),
        (lambda: MarkovChain("aa", np.eye(2)), "all different"),
        (lambda: MarkovChain("ab", np.array([[0.5, 0.6], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.array([[1.5, -0.5], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.array([[np.nan, 1], [1, 0]])), "sum to 1"),
        (lambda: MarkovChain("ab", np.eye(2)), "connect the graph"),
        (lambda: MarkovChain.walk(np.array([[0, 1], [0, 0]])), "no edge leads out of node 1"),
        (lambda: MarkovChain.walk(np.zeros((2, 3))), "must be"),
        (lambda: MarkovChain.walk(-np.eye(2)), "at least 0"),
        (lambda: MarkovChain.random(1, 1, np.random.default_rng()), "2 to 26 symbols"),
        (lambda: MarkovChain.random(3, 0, np.random.default_rng()), "order of at least 1"),
        (lambda: MarkovChain("ab", np.full((2, 2), 0.5)).entropy(2), "0 to 1 symbols"),
    ],
)
def test_impossible_chains(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_entropy_of_a_grammar_written_out() -> None:
    """a with 2/3, or b and a sentence again with 1/3: (1 + 1/2) choices, 3/2 words on average."""
    grammar = Grammar({"S": [(2 / 3, ["a"]), (1 / 3, ["b", "S"])]})
    choice = math.log(3) - 2 / 3 * math.log(2)
    assert grammar.sentence_entropy == pytest.approx(1.5 * choice)
    assert grammar.mean_length == pytest.approx(1.5)
    assert grammar.entropy == pytest.approx(choice)
    assert grammar.words == ["a", "b"]


def derivations(grammar: Grammar, least: float) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Every sentence with a derivation of at least that probability, leftmost symbol first."""
    waiting: list[tuple[float, tuple[str, ...]]] = [(1.0, (grammar.start,))]
    while waiting:
        p, symbols = waiting.pop()
        place = next((k for k, s in enumerate(symbols) if s in grammar.rules), None)
        if place is None:
            yield p, symbols
            continue
        for share, parts in grammar.rules[symbols[place]]:
            if p * share >= least:
                waiting.append((p * share, (*symbols[:place], *parts, *symbols[place + 1 :])))


def test_the_entropy_of_agreement_is_that_of_its_sentences() -> None:
    """No sentence has two derivations, so sentences and derivations have the same entropy."""
    grammar = Grammar(AGREEMENT)
    found = list(derivations(grammar, 1e-6))
    assert len({s for _, s in found}) == len(found) > 5000
    covered = sum(p for p, _ in found)
    assert 0.97 < covered < 1
    below = sum(-p * math.log(p) for p, _ in found)
    assert below < grammar.sentence_entropy < below + (1 - covered) * 40
    sentences = grammar.sample(20_000, np.random.default_rng(0))
    assert np.mean([len(s) for s in sentences]) == pytest.approx(grammar.mean_length, rel=0.02)
    seen = Counter(map(tuple, sentences))
    for p, sentence in sorted(found)[-20:]:
        assert seen[sentence] / 20_000 == pytest.approx(p, rel=0.2)
    known = {s: p for p, s in found}
    costs = [-math.log(known[tuple(s)]) for s in sentences if tuple(s) in known]
    assert np.mean(costs) == pytest.approx(below / covered, rel=0.02)
    assert {word for s in sentences for word in s} == set(grammar.words)


def test_subject_and_verb_agree() -> None:
    """The verb of the main clause is the last one before the full stop, or governs what follows."""
    for words in Grammar(AGREEMENT).sample(300, np.random.default_rng(1)):
        assert words[-1] == "."
        if "sees" not in words and "see" not in words and "that" not in words:
            assert (words[0] == "a") == (words[2].endswith("s"))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"A": [(1.0, ["a"])]}, "start symbol 'S'"),
        ({"S": [(0.5, ["a"])]}, "expected a sum of 1"),
        ({"S": [(1.5, ["a"]), (-0.5, ["b"])]}, "expected a sum of 1"),
        ({"S": []}, "expected a sum of 1"),
        ({"S": [(0.5, ["a"]), (0.5, ["S", "S"])]}, "infinite mean length"),
    ],
)
def test_impossible_grammars(rules: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Grammar(rules)


# downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one content, in the way a test asks for."""

    content: ClassVar[bytes] = b""
    cut_at: ClassVar[int | None] = None  # bytes of the body after which the connection ends
    ranges: ClassVar[bool] = True
    status: ClassVar[int] = 200
    asked: ClassVar[list[str | None]] = []  # the Range of every request

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        type(self).asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if first > len(self.content) - 1 and wanted:
            self.send_error(416)
            return
        if self.status != 200:
            self.send_error(self.status)
            return
        body = self.content[first:]
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut_at])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Server]]:
    """A server on this machine, and two corpora of it, "plain" and "table"."""
    header, row = "dynasty\tauthor\ttitle\tbody\n", "元\t某\t题\t清蟾半露。\n"
    table = (header + 1500 * row).encode()
    handler = type("Handler", (Server,), {"content": table, "asked": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.server_port}/text"
    digest = hashlib.sha256(table).hexdigest()
    poems = hashlib.sha256((1500 * "清蟾半露。\n").encode()).hexdigest()
    plain = Download("plain", url, "plain.txt", digest, "plain.txt", digest)
    column = DOWNLOADS["yuan"].extract
    monkeypatch.setitem(DOWNLOADS, "plain", plain)
    monkeypatch.setitem(
        DOWNLOADS, "table", Download("table", url, "table.all", digest, "table.txt", poems, column)
    )
    monkeypatch.setenv("MINIBRILLM_CACHE", str(tmp_path / "cache"))
    yield handler
    listening.shutdown()
    listening.server_close()
    thread.join()


def cached(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "cache").iterdir()}


def test_a_corpus_is_downloaded_once(server: type[Server], tmp_path: Path) -> None:
    path = fetch_corpus("plain")
    assert path == tmp_path / "cache" / "plain.txt"
    assert path.read_bytes() == server.content
    assert fetch_corpus("plain") == corpus_path("plain") == locate("plain") == path
    assert server.asked == [None]
    assert cached(tmp_path) == {"plain.txt"}


def test_the_text_of_a_table_is_taken_out(server: type[Server], tmp_path: Path) -> None:
    path = fetch_corpus("table", progress=True)
    assert path.read_text(encoding="utf-8") == 1500 * "清蟾半露。\n"
    path.unlink()
    assert fetch_corpus("table") == path  # made anew of the file in the cache
    assert server.asked == [None]
    assert cached(tmp_path) == {"table.all", "table.txt"}


def test_a_wrong_hash_is_refused_and_nothing_kept(server: type[Server], tmp_path: Path) -> None:
    server.content = server.content.replace("半".encode(), "全".encode())
    expected = DOWNLOADS["plain"]
    with pytest.raises(UserError) as refused:
        fetch_corpus("plain")
    for part in (expected.sha256, expected.url, str(tmp_path / "cache" / "plain.txt")):
        assert part in str(refused.value)
    assert cached(tmp_path) == set()
    with pytest.raises(UserError, match="not on this machine; run: minibrillm corpus fetch plain"):
        corpus_path("plain")


def test_a_cut_connection_is_gone_on_with(server: type[Server], tmp_path: Path) -> None:
    server.cut_at = 20_000  # a part of so many bytes comes in pieces of 4,096
    with pytest.raises(UserError, match="broke off; 16,384 bytes are kept; try again, or save it"):
        fetch_corpus("plain")
    assert cached(tmp_path) == {"plain.txt.part"}
    server.cut_at = None
    assert fetch_corpus("plain").read_bytes() == server.content
    assert server.asked == [None, "bytes=16384-"]
    assert cached(tmp_path) == {"plain.txt"}


def test_a_server_that_only_sends_whole_files(server: type[Server]) -> None:
    server.cut_at, server.ranges = 20_000, False
    with pytest.raises(UserError, match="16,384 bytes are kept"):
        fetch_corpus("plain")
    server.cut_at = None
    assert fetch_corpus("plain").read_bytes() == server.content
    assert server.asked == [None, "bytes=16384-", None]


@pytest.mark.parametrize("longer", [b"", b"and more"], ids=["whole", "too long"])
def test_a_part_that_cannot_be_gone_on_with(
    server: type[Server], tmp_path: Path, longer: bytes
) -> None:
    (tmp_path / "cache").mkdir()
    part = tmp_path / "cache" / "plain.txt.part"
    part.write_bytes(server.content + longer)
    assert fetch_corpus("plain").read_bytes() == server.content
    assert not part.exists()


def test_a_part_of_something_else_is_thrown_away(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "plain.txt.part").write_bytes(b"something else")
    assert fetch_corpus("plain").read_bytes() == server.content


def test_no_connection_says_what_to_do(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:9/text"  # nobody listens there
    old = DOWNLOADS["plain"]
    monkeypatch.setitem(
        DOWNLOADS, "plain", Download("", url, old.file, old.sha256, old.file, old.sha256)
    )
    with pytest.raises(UserError) as refused:
        fetch_corpus("plain")
    place = tmp_path / "cache" / "plain.txt"
    assert str(refused.value).startswith(f"no connection to {url} (")
    assert str(refused.value).endswith(f"; try again, or save it by other means as {place}")
    place.write_bytes(server.content)  # as it says
    assert fetch_corpus("plain") == place


def test_a_server_that_refuses(server: type[Server], tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match=r"the server refused http\S+ \(404\); try again"):
        fetch_corpus("plain")
    assert cached(tmp_path) == set()


def test_what_is_cached_works_offline_and_damage_is_seen(
    server: type[Server], tmp_path: Path
) -> None:
    path = fetch_corpus("plain")
    server.status = 500
    assert fetch_corpus("plain") == path
    path.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match="the corpus plain is damaged; run: minibrillm corpus fetch"
    ):
        corpus_path("plain")
    server.status = 200
    assert fetch_corpus("plain").read_bytes() == server.content


def test_a_cache_that_cannot_be_written(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, b"a file")
    monkeypatch.setenv("MINIBRILLM_CACHE", str(file / "below"))
    with pytest.raises(UserError, match="cannot write to"):
        fetch_corpus("plain")


def test_unknown_names(tmp_path: Path) -> None:
    for find in (fetch_corpus, corpus_path):
        with pytest.raises(UserError, match="no corpus 'nothing'; choose one of tinyshakespeare"):
            find("nothing")
    with pytest.raises(UserError, match=r"no corpus of that name \(there are bundled, tinysh"):
        locate(tmp_path / "nothing")
    assert locate(written(tmp_path, b"text")) == tmp_path / "text.txt"


def test_downloads_are_pinned() -> None:
    for known in DOWNLOADS.values():
        assert any(
            len(part) == 40 and set(part) <= set("0123456789abcdef")
            for part in known.url.split("/")
        )
        assert len(known.sha256) == len(known.text_sha256) == 64
        assert (known.extract is None) == (known.file == known.text_file)
        assert (known.extract is None) == (known.sha256 == known.text_sha256)
