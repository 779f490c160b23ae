"""Whatever text comes: no signal runs away, settings fit, and the last line says the truth."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from hill_climbing import climb

from minibrillm import kernels, reference
from minibrillm.bench import MAKERS, fill, small_text
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey, Withheld
from minibrillm.graph import TokenGraph
from minibrillm.judging import Evaluation, evaluate, number
from minibrillm.model import BriLLM
from minibrillm.presets import MANY_NODES, for_text
from minibrillm.storage import graph_from_arrays, graph_to_arrays, read_json
from minibrillm.text import longest_run

TEXT = "我爱妈妈，妈妈爱我。I love my mom, my mom loves me. " * 12


# No signal runs away


@pytest.mark.parametrize("preset", ["mini", "mini-ngrams"])
def test_hill_climbing_finds_no_text_with_an_infinite_loss(preset: str) -> None:
    """`tests/hill_climbing.py` does the same for ten minutes."""
    found = climb(preset, seed=1, texts=12)
    assert found.tried == 12 * 25
    assert math.isfinite(found.worst), found


def test_hill_climbing_can_find_one() -> None:
    """It would: a model without bound is driven to infinity, or nearly."""
    found = climb("mini", seed=1, texts=200, signal_bound=0.0)
    assert found.worst > 1e6


# Settings that fit


def fitted(
    n_nodes: int, lengths: list[int], preset: str = "mini-ngrams", given: Any = (), **limits: Any
) -> tuple[ModelConfig, TrainConfig]:
    limits = limits or {"minutes": 3.0}
    training = TrainConfig.preset(preset, **limits)
    heldout = sum(lengths) // 9
    return for_text(n_nodes, lengths, heldout, ModelConfig.preset(preset), training, given)


def test_the_shorter_the_text_the_smaller_the_model() -> None:
    sizes = [fitted(60, [n]) for n in (1_000, 20_000, 200_000, 1_000_000)]
    assert [model.d_node for model, _ in sizes] == [16, 32, 32, 48]
    decay = [training.weight_decay for _, training in sizes]
    assert decay == sorted(decay, reverse=True)
    batch = [training.batch_size for _, training in sizes]
    assert batch == sorted(batch)
    assert fitted(60, [10**6], minutes=10.0)[0].d_node == 64
    assert fitted(MANY_NODES + 1, [10**6])[0].d_node == 16
    assert fitted(MANY_NODES + 1, [10**6])[1].leave_one_out == 1


def test_a_short_text_is_read_so_often_and_no_more() -> None:
    _, training = fitted(60, [20_000])
    assert training.steps is not None
    readings = training.steps * training.batch_size * training.sequence_length / 20_000
    assert 40 <= readings < 41
    assert training.minutes == 3.0
    assert fitted(60, [10**6])[1].steps is None
    assert fitted(60, [500])[1].steps == 150
    assert fitted(60, [20_000], steps=7)[1].steps == 7
    assert fitted(60, [20_000], steps=7)[1].warmup_steps == 1


def test_sequences_are_no_longer_than_documents() -> None:
    assert fitted(60, [30])[1].sequence_length == 29
    assert fitted(60, [12] * 100)[1].sequence_length == 11
    assert fitted(60, [1, 1, 2])[1].sequence_length == 1
    assert fitted(60, [12] * 99 + [5000])[1].sequence_length == 11  # the one is cut
    short, long = (fitted(60, [n] * (30_000 // n))[1] for n in (17, 300))
    assert short.batch_size == 4 * long.batch_size  # as many positions a step
    assert fitted(60, [30], "released")[1].sequence_length == 29


def test_what_is_given_stays() -> None:
    given = {"d_node": 5, "weight_decay": 0.1, "batch_size": 3, "sequence_length": 9}
    config = ModelConfig.preset("mini-ngrams", d_node=5)
    training = TrainConfig(steps=9, weight_decay=0.1, batch_size=3, sequence_length=9)
    config, training = for_text(60, [500], 50, config, training, given)
    assert config.d_node == 5
    for name in ("weight_decay", "batch_size", "sequence_length"):
        assert getattr(training, name) == given[name]
    for preset in ("paper", "released"):
        config, training = fitted(60, [10**6], preset, steps=9)
        assert config == ModelConfig.preset(preset)
        published = TrainConfig.preset(preset, steps=9)
        assert dataclasses.replace(training, evaluate_every=200) == published


def test_evaluations_cost_little() -> None:
    for n in (500, 20_000, 10**6):
        _, training = fitted(60, [n])
        positions = training.batch_size * training.sequence_length * training.evaluate_every
        assert n // 9 < 0.1 * 3 * positions or training.evaluate_every == 200
        assert 5 <= training.evaluate_every <= 200


# The last line


def found_for(model: BriLLM, text: str = TEXT, kept: tuple[int, int] | None = None) -> Evaluation:
    ids = model.tokenizer.encode(text)
    return evaluate(model, ids[-60:], ids[:-60], None, kept)


def test_the_verdict_says_who_is_ahead_and_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BriLLM.from_text(TEXT, d_node=4, backend="numpy")
    counted = min(s.nats_per_token for s in found_for(model).scores[:3])

    def last_line(ours: float, kept: tuple[int, int] | None = None) -> str:
        monkeypatch.setattr("minibrillm.judging.evaluation.window_loss", lambda *_: ours)
        monkeypatch.setattr("minibrillm.judging.evaluation.stream_loss", lambda *_: ours + 0.01)
        return found_for(model, kept=kept).table().splitlines()[-1]

    assert re.match(r"BriLLM is ahead of .*-gram\) by 0\.0300 nats", last_line(counted - 0.03))
    assert "are level: +0.0004 nats" in last_line(counted - 0.0004)
    assert "are level: -0.0004 nats" in last_line(counted + 0.0004)
    assert re.search(r"Counting wins: .* by 0\.2000 nats per token\.$", last_line(counted + 0.2))
    assert "still learning in its last step" in last_line(counted + 0.2, (9, 9))
    by_heart = last_line(counted + 0.2, (3, 9))
    assert "after step 3 of 9" in by_heart
    n = len(model.tokenizer.encode(TEXT)) - 60
    assert f"{n:,} tokens for {model.n_parameters:,} parameters" in by_heart


def test_large_numbers_do_not_break_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert number(1.23456) == "1.2346"
    assert number(36_456_022_154.0) == "3.646e+10"
    assert number(math.inf) == "inf"
    model = BriLLM.from_text(TEXT, d_node=4, backend="numpy")
    for loss in (600.0, 29_582.0, 3.6e10, math.inf):
        monkeypatch.setattr("minibrillm.judging.evaluation.window_loss", lambda *_, loss=loss: loss)
        lines = found_for(model).table().splitlines()
        assert max(map(len, lines[:6])) < 90
        assert "guessing blindly" in lines[-1]
        assert "smaller learning_rate" in lines[-1]  # this one is bounded


def test_a_text_in_runs_breaks_a_model_without_bound_and_the_advice_mends_it(
    minibrillm: Command, tmp_path: Path
) -> None:
    (tmp_path / "ruled.txt").write_text("He found the moon.\n" + "~" * 900 + "\n", "utf-8")
    run = ("--preset", "paper", "--steps", 30, "--learning-rate", 0.1, "--heldout", 0.4)
    made = minibrillm("train", "ruled.txt", *run, "--out", "a")
    said = made.out + made.err
    assert "'~' stands 533 times in a row" in made.err  # to train on; the rest is held out
    assert "train with --signal-bound 8" in said, said
    mended = minibrillm("train", "ruled.txt", *run, "--out", "b", "--signal-bound", 8)
    assert mended.code == 0
    assert "guessing blindly" not in mended.out
    assert "in a row" not in mended.err
    settings = read_json(next((tmp_path / "b/checkpoints").iterdir()) / "model.json")
    assert settings["config"]["signal_bound"] == 8


def test_the_longest_run() -> None:
    assert longest_run([np.array([1, 1, 2, 2, 2, 1])]) == (3, 2)
    assert longest_run([np.array([4]), np.array([], int), np.array([5, 5])]) == (2, 5)


@pytest.mark.parametrize("unit", ["ab", "abc", "aab", "哈哈！", "x"])
def test_a_period_is_learned(minibrillm: Command, tmp_path: Path, unit: str) -> None:
    (tmp_path / "t.txt").write_text(unit * 700, "utf-8")
    made = minibrillm("train", "t.txt", "--steps", 40, "--out", "r")
    assert made.code == 0, made.err
    losses = [float(x) for x in re.findall(r"BriLLM of step.*?  +(\d\.\d+)", made.out)]
    assert len(losses) == 2
    assert max(losses) < 0.02
    assert re.search(r"(is ahead|are level)", made.out)


@pytest.mark.parametrize("kind", ["500 characters", "documents", "bpe", "names"])
def test_texts_of_other_shapes(minibrillm: Command, tmp_path: Path, kind: str) -> None:
    source: list[object] = ["t.txt"]
    text = small_text("templates, en")
    if kind == "500 characters":
        (tmp_path / "t.txt").write_text(text[:500], "utf-8")
    elif kind == "documents":
        (tmp_path / "d").mkdir()
        for k in range(12):
            (tmp_path / "d" / f"{k}.txt").write_text(text[300 * k : 300 * k + 290], "utf-8")
        source = ["d"]
    elif kind == "bpe":
        (tmp_path / "t.txt").write_text(text[:8000], "utf-8")
        source += ["--tokenizer", "bpe", "--vocab-size", 300]
    else:
        lines = [
            fill("{who} {noun}", {"who": ["Ann", "Bob"], "noun": ["Li", "Wu"]}, rng)
            for rng in [np.random.default_rng(0)]
            for _ in range(60)
        ]
        (tmp_path / "n.jsonl").write_text("".join(f'{{"t": "{x}"}}\n' for x in lines), "utf-8")
        source = ["n.jsonl", "--field", "t"]
    made = minibrillm("train", *source, "--steps", 30, "--out", "r")
    assert made.code == 0, made.err
    assert re.search(r"^(BriLLM( and .*)? (is ahead|are level)|Counting wins)", made.out, re.M)
    assert "guessing blindly" not in made.out
    assert minibrillm("evaluate", "r").code == 0


# The texts


def test_there_are_thirty_texts_of_many_kinds() -> None:
    texts = {name: small_text(name) for name in MAKERS}
    assert len(texts) >= 30
    assert len(set(texts.values())) == len(texts)
    for name, text in texts.items():
        assert 1_900 <= len(text.encode()) <= 200_000, name
        assert small_text(name) == text
        assert "{" not in text or name in ("JSON lines",), name
    assert longest_run([np.frombuffer(texts["ruled lines"].encode(), np.uint8)]) == (96, ord("~"))


# Documents shorter than an n-gram


@pytest.mark.parametrize("left_out", [False, True])
def test_rows_of_documents_shorter_than_the_prior_agree(left_out: bool) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 12, size=4) for _ in range(30)]
    graph = TokenGraph.from_ids(documents, 12, order=7)
    assert graph.ngrams is not None
    assert [len(level.keys) > 0 for level in graph.ngrams.levels] == [True] * 4 + [False] * 3
    tokens = np.stack(documents)
    withheld = Withheld(tokens[:, 1:], KneserNey.fit(documents, 12, 2)) if left_out else None
    trust = np.linspace(0.3, 0.9, 7)
    ours, theirs = (
        backend.prior_rows(graph, trust, tokens[:, :-1], 3, withheld)
        for backend in (kernels, reference)
    )
    np.testing.assert_allclose(ours.log_prior, theirs.log_prior, atol=1e-12)
    np.testing.assert_array_equal(ours.length, theirs.length)
    np.testing.assert_allclose(
        np.exp(reference.prior_rows(graph, 0 * trust, tokens, 1).log_prior).sum(axis=-1), 1
    )
    again = graph_from_arrays(graph_to_arrays(graph))
    assert again.ngrams is not None
    assert again.ngrams.order == 7


@pytest.mark.parametrize("kind", ["idioms", "one character"])
def test_what_is_shorter_than_a_7_gram_can_be_read_again(
    minibrillm: Command, tmp_path: Path, kind: str
) -> None:
    source: tuple[object, ...] = ("t.txt",)
    if kind == "idioms":
        lines = "".join(f'{{"zh": "{line}"}}\n' for line in small_text("idioms, 2 kB").split())
        (tmp_path / "t.jsonl").write_text(lines, "utf-8")
        source = ("t.jsonl", "--field", "zh")
    else:
        (tmp_path / "t.txt").write_text("a" * 500, "utf-8")
    assert minibrillm("train", *source, "--steps", 3, "--out", "r").code == 0
    for command in (
        ("generate", "r", "--tokens", 9),
        ("train", "--resume", "--out", "r", "--steps", 5),
        ("evaluate", "r"),
    ):
        said = minibrillm(*command)
        assert (said.code, said.err) == (0, ""), said
