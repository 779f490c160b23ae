"""The table of scores is consistent in all its units, and its last line says what is wrong."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import without_bound

from minibrillm.checks import UserError
from minibrillm.counting import loss_by_order
from minibrillm.judging import Score, evaluate
from minibrillm.model import BriLLM
from minibrillm.scoring import stream_loss, window_loss

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 4


def tiny(preset: str = "mini", **changes: Any) -> BriLLM:
    few = {"d_node": 4, "min_count": 1, "backend": "numpy", "dtype": np.float64}
    return BriLLM.from_text(TEXT, preset, **{**few, **changes})


def heldout(model: BriLLM, n: int) -> np.ndarray:
    return model.tokenizer.encode(TEXT[7 : 7 + n])


def rows(scores: list[Score]) -> dict[str, Score]:
    return {score.model: score for score in scores}


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_the_table_of_scores(tokenizer: str) -> None:
    model = tiny(tokenizer=tokenizer, n_nodes=275)
    train, ids = model.tokenizer.encode(TEXT), model.tokenizer.encode(TEXT[:-40])
    found = evaluate(model, ids, train)
    by_order = loss_by_order(train, ids, model.graph.n_nodes, 7)
    best = min(by_order, key=lambda order: by_order[order])
    expected = {
        "unigram": by_order[1],
        "bigram, Kneser-Ney": by_order[2],
        f"best n-gram, Kneser-Ney ({best}-gram)": by_order[best],
        "BriLLM, windows of 256": window_loss(model, ids, 256),
        "BriLLM, one stream": stream_loss(model, ids),
    }
    assert {name: s.nats_per_token for name, s in rows(found.scores).items()} == expected
    assert best > 2
    assert len(found.scores) == 5


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_units_are_consistent(tokenizer: str) -> None:
    model = tiny(tokenizer=tokenizer, n_nodes=275)
    text = "妈妈 the cat。"
    ids = model.tokenizer.encode(text)
    found = evaluate(model, ids, model.tokenizer.encode(TEXT))
    rest = model.tokenizer.decode(ids[1:])
    assert text.endswith(rest) or "\ufffd" in rest
    assert found.tokens == len(ids) - 1
    assert found.characters == len(rest)
    assert found.bytes == len(rest.encode())
    assert found.bytes > found.characters
    for score in found.scores:
        bits = score.nats_per_token * found.tokens / math.log(2)
        assert score.perplexity == pytest.approx(math.exp(score.nats_per_token))
        assert score.bits_per_character * found.characters == pytest.approx(bits)
        assert score.bits_per_byte * found.bytes == pytest.approx(bits)


def test_bits_of_a_fair_die() -> None:
    """Every one of 8 letters as likely as any other: 3 bits a character, perplexity 8."""
    text = "abcdefg" * 3
    model = BriLLM.from_text(text, "paper", d_node=3, backend="numpy", initial_range=0.0)
    assert model.graph.n_nodes == 8
    found = evaluate(model, model.tokenizer.encode(text))
    for score in found.scores:
        assert score.perplexity == pytest.approx(8)
        assert score.bits_per_character == pytest.approx(3) == score.bits_per_byte
    assert [s.model for s in found.scores] == ["BriLLM, windows of 256", "BriLLM, one stream"]


def test_two_tokens_are_enough() -> None:
    model = tiny()
    ids = model.tokenizer.encode("我爱")
    found = evaluate(model, ids, model.tokenizer.encode(TEXT))
    assert (found.tokens, found.characters, found.bytes) == (1, 1, 3)
    loss = model.loss(ids)
    scores = rows(found.scores)
    assert scores["BriLLM, windows of 256"].nats_per_token == pytest.approx(loss)
    assert scores["BriLLM, one stream"].nats_per_token == pytest.approx(loss)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_are_not(n: int) -> None:
    model = tiny()
    with pytest.raises(UserError, match=f"at least 2 tokens of text; got {n}"):
        evaluate(model, model.tokenizer.encode("我爱")[:n])


def test_unknown_characters_are_counted() -> None:
    model = tiny()
    found = evaluate(model, model.tokenizer.encode("龘我龘爱the cat"))
    assert found.tokens == 10
    assert found.unknown == 1  # the first is given, not predicted
    assert "1 (10.0%) of them scored as <unk>" in found.table()
    known = evaluate(model, model.tokenizer.encode("龘我爱"))
    assert known.unknown == 0
    assert "unk" not in known.table()
    bytewise = tiny(tokenizer="bpe")
    assert evaluate(bytewise, bytewise.tokenizer.encode("龘我龘")).unknown == 0


def test_a_stream_longer_than_the_positions_has_no_row() -> None:
    model = tiny("released", max_positions=10)
    for n, streamed in ((10, True), (11, True), (12, False), (60, False)):
        names = rows(evaluate(model, heldout(model, n)).scores)
        assert ("BriLLM, one stream" in names) == streamed, n
        assert "BriLLM, windows of 10" in names


def test_the_table_for_documents() -> None:
    model = tiny()
    texts = ["\n我爱妈妈。\n", "\nthe cat\n", "\n狗 sat.\n"]  # 狗 is unknown
    ids = [model.tokenizer.encode(t) for t in texts]
    found = evaluate(model, ids, ids, texts)
    by_name = rows(found.scores)
    assert by_name["BriLLM, document by document"].nats_per_token == stream_loss(model, ids)
    assert found.tokens == found.characters == 6 + 8 + 7
    assert found.bytes == 6 * 3 - 2 + 8 + 7 + 2
    assert found.unknown == 1
    alone = [loss_by_order(ids, d, model.graph.n_nodes, 3)[3] * (len(d) - 1) for d in ids]
    together = loss_by_order(ids, ids, model.graph.n_nodes, 3)[3]
    assert together == pytest.approx(sum(alone) / 21, rel=1e-12)


def test_json() -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    found = evaluate(model, ids, ids)
    data = json.loads(json.dumps(found.to_json()))
    assert data["tokens"] == len(ids) - 1
    assert [Score(**score) for score in data["scores"]] == found.scores


def test_table_is_aligned() -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    found = evaluate(model, ids, ids)
    head, *lines, note, verdict = found.table().splitlines()
    assert head.split() == ["nats/token", "perplexity", "bits/char", "bits/byte"]
    assert len(lines) == 5
    assert {len(line) for line in lines} == {len(head)}
    for line, score in zip(lines, found.scores, strict=True):
        assert line.startswith(score.model)
        nats, perplexity, *_ = line.removeprefix(score.model).split()
        assert nats == f"{score.nats_per_token:.4f}"
        assert perplexity == f"{score.perplexity:.2f}"
    assert note == f"held-out text: {len(ids) - 1} tokens, {len(TEXT) - 1} characters"
    assert verdict == found.verdict != ""


def test_an_absurd_loss_does_not_overflow() -> None:
    class Hopeless:
        max_positions = None
        tokenizer, graph, config = tiny().tokenizer, tiny().graph, tiny().config

        def nll(self, tokens: np.ndarray, state: int | None = None) -> tuple[np.ndarray, int]:
            return np.full((len(tokens), tokens.shape[1] - 1), 1e6), 0

    model: Any = Hopeless()
    found = evaluate(model, np.array([1, 2, 3]))
    assert [score.perplexity for score in found.scores] == [math.inf] * 2
    assert "1e+06 nats per token are more than guessing blindly costs" in found.verdict


def test_bytes_of_unknown_characters_are_those_of_the_text() -> None:
    model = BriLLM.from_text("abab" * 9, d_node=3, backend="numpy")
    text = "abéab" * 5  # é is unknown and has 2 bytes
    ids = model.tokenizer.encode(text)
    exact = evaluate(model, ids, text=text)
    assert exact.bytes == len(text.encode("utf-8")) - 1
    assert exact.characters == len(text) - 1
    unclear = evaluate(model, ids)
    assert unclear.bytes is None
    assert unclear.scores[0].bits_per_byte is None
    assert unclear.scores[0].bits_per_character == exact.scores[0].bits_per_character
    assert " -" in unclear.table()


# Signals that run away


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_signal_without_bound_is_an_infinite_loss(backend: str) -> None:
    model = without_bound(tiny(backend=backend, dtype=np.float32))
    ids = heldout(model, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(model, ids)
        assert stream_loss(model, [ids[:5], ids]) == math.inf
        assert window_loss(model, ids, 4) < math.inf
    assert [s.nats_per_token for s in result.scores] == [math.inf] * 2
    assert "the signal grew past the largest number" in result.verdict
    assert "signal_bound=8" in result.table()
    in_json = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [s["perplexity"] for s in in_json["scores"]] == [None] * 2


def test_an_infinite_loss_does_not_hide_that_positions_ran_out() -> None:
    model = without_bound(tiny("paper", dtype=np.float32))
    ids = heldout(model, 200)
    assert evaluate(model, ids).note == ""
    assert "infinite" in evaluate(model, ids).verdict
    model = without_bound(tiny("released", max_positions=100, dtype=np.float32))
    found = evaluate(model, ids)
    assert "knows 100 positions" in found.note
    assert "signal_bound=8" in found.verdict
