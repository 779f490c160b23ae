"""A fair comparison: promised splits, choices by validation alone, a table that adds up."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import Command, is_refused

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import loss_by_order
from minibrillm.judging import comparison
from minibrillm.judging.comparison import Comparison, Curve, Parts, Row, Task, compare, three_parts
from minibrillm.presets import MANY_NODES, ROUND_BELOW, for_text, for_vocabulary
from minibrillm.scoring import stream_loss
from minibrillm.text import Corpus
from minibrillm.training import Record

matplotlib.use("Agg")

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 60
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the extra torch"
)


def task_of(minutes: float = 0.002, seeds: tuple[int, ...] = (0,), **changes: Any) -> Task:
    return Task.of(three_parts(Corpus((TEXT,))), minutes, seeds, **changes)


@pytest.fixture(scope="module")
def ngrams() -> Comparison:
    return compare(task_of(), ("ngrams",))


# Splits


def test_one_text_is_cut_at_nine_tenths_and_the_rest_in_halves() -> None:
    text = "".join(chr(0x4E00 + k) for k in range(1000))
    parts = three_parts(Corpus((text,)))
    assert parts == Parts((text[:900],), (text[900:950],), (text[950:],))


def test_documents_stay_whole() -> None:
    documents = tuple(f"\n{k}{'x' * 8}\n" for k in range(40))
    parts = three_parts(Corpus(documents))
    assert parts.train + parts.validation + parts.test == documents
    assert [len(p) for p in vars(parts).values()] == [36, 2, 2]


def test_a_single_document_held_out_is_cut_in_two() -> None:
    documents = ("a" * 200, "bcdefghijk")
    parts = three_parts(Corpus(documents))
    assert parts == Parts(("a" * 200,), ("bcdef",), ("ghijk",))


def test_own_splits_are_followed() -> None:
    splits = ("train", "test", "validation", "train", "test")
    parts = three_parts(Corpus(("aa", "bb", "cc", "dd", "ee"), splits))
    assert parts == Parts(("aa", "dd"), ("cc",), ("bb", "ee"))


@pytest.mark.parametrize("other", ["validation", "test"])
def test_a_corpus_with_one_part_held_out_has_it_cut(other: str) -> None:
    parts = three_parts(Corpus(("aa", "bb", "cc"), ("train", other, other)))
    assert parts == Parts(("aa",), ("bb",), ("cc",))


@pytest.mark.parametrize("text", ["a", "ab", "a" * 9])
def test_a_text_that_is_too_short(text: str) -> None:
    with pytest.raises(UserError, match="too short"):
        three_parts(Corpus((text,)))


def test_the_tokenizer_knows_the_training_part_only() -> None:
    task = Task.of(Parts(("abc" * 9,), ("abz",), ("zab",)), 1, (0,))
    assert task.n_nodes == 4
    assert task.ids["validation"][0][-1] == task.tokenizer.unknown_id
    assert task.characters == {"validation": 2, "test": 2}


def test_characters_of_bpe_are_those_that_are_foretold() -> None:
    task = task_of(tokenizer="bpe", n_nodes=300)
    parts = three_parts(Corpus((TEXT,)))
    (ids,) = task.ids["test"]
    first = task.tokenizer.decode(ids[:1])
    assert task.characters["test"] == len(parts.test[0]) - len(first)
    assert task.n_scored("test") == len(ids) - 1 < task.characters["test"]


# Settings


def test_many_nodes_make_mini_narrower_and_leave_the_others_alone() -> None:
    for preset in ("mini", "released"):
        given = ModelConfig.preset(preset), TrainConfig.preset(preset, steps=1)
        assert for_vocabulary(MANY_NODES, *given) == given
        config, training = for_vocabulary(MANY_NODES + 1, *given)
        if preset == "mini":
            assert (config.d_node, training.batch_size) == (16, 32)
            assert training.round_below == ROUND_BELOW
            assert training.leave_one_out == 1
        else:
            assert (config, training) == given
    given = ModelConfig(), TrainConfig(steps=1)
    config, training = for_vocabulary(9999, *given, d_node=8, batch_size=5)
    assert (config.d_node, training.batch_size) == (8, 5)
    given = ModelConfig(), TrainConfig(steps=1, round_below=0.1)
    assert for_vocabulary(9999, *given)[1].round_below == 0.1


@pytest.mark.parametrize("n_nodes", [66, MANY_NODES + 1])
@pytest.mark.parametrize("minutes", [1.0, 10.0])
@pytest.mark.parametrize("n", [900, 10**6])
def test_the_first_candidate_is_what_fits_the_text(
    n_nodes: int, minutes: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of()
    monkeypatch.setattr(Task, "n_nodes", n_nodes)
    task.ids["train"] = [np.zeros(n, np.int64)]
    task = dataclasses.replace(task, minutes=minutes)
    found: list[tuple[ModelConfig, TrainConfig]] = []

    def train(task: Task, config: ModelConfig, training: TrainConfig, seed: int) -> None:
        found.append((config, training))

    monkeypatch.setattr(comparison, "train_brillm", train)
    first, *others = comparison._our_grid(task, "mini-ngrams")
    comparison._train_preset(task, "mini-ngrams", first, seed=0)
    given = ModelConfig.preset("mini-ngrams"), TrainConfig.preset("mini-ngrams", minutes=minutes)
    n_heldout = sum(map(len, task.ids["validation"]))
    assert found == [for_text(n_nodes, [n], n_heldout, *given)]
    assert len(others) == 2
    assert first not in others


# n-grams


def test_ngrams_are_chosen_on_validation_and_reported_on_both(ngrams: Comparison) -> None:
    task = task_of()
    train, n = task.ids["train"], task.n_nodes
    validation = loss_by_order(train, task.ids["validation"], n)
    test = loss_by_order(train, task.ids["test"], n)
    best = min(validation, key=lambda order: validation[order])
    assert [row.settings["order"] for row in ngrams.rows] == [2, best]
    row = ngrams.rows[-1]
    assert (row.validation, row.test) == ([validation[best]], [test[best]])
    counts = {part: task.n_scored(part) for part in ("validation", "test")}
    nats = validation[best] * counts["validation"] + test[best] * counts["test"]
    assert row.whole == [pytest.approx(nats / sum(counts.values()))]
    assert row.bits_per_character == pytest.approx(test[best] / math.log(2))
    assert row.parameters > ngrams.rows[0].parameters > 0
    assert ngrams.verdict() == []


# BriLLM


def test_brillm_as_often_as_there_are_seeds() -> None:
    task = task_of(0.001, (3, 4))
    told: list[str] = []
    found = compare(task, ("released", "mini"), note=told.append)
    names = ["BriLLM released, 400 negatives", "BriLLM released, exact softmax", "BriLLM mini"]
    assert [row.name for row in found.best()] == [curve.name for curve in found.curves] == names
    readings = {row.name: set() for row in found.rows}
    for row in found.rows:
        readings[row.name].add(row.reading)
        assert len(row.validation) == len(row.test) == len(row.whole) == 2
        assert row.validation[0] != row.validation[1]
        assert row.settings["training"]["seed"] == 3
    assert readings["BriLLM mini"] == {"windows of 256", "one stream"}
    assert readings[names[0]] == {"windows of 256", "windows of 32", "one stream"}
    for row in found.best():
        same = [r for r in found.rows if r.name == row.name]
        assert same[0] == row
        assert sum(row.validation) == min(sum(r.validation) for r in same)
    exact = [r.settings["training"]["negatives"] for r in found.best()]
    assert exact == [400, 0, 0]
    assert any("seed 4" in line for line in told)


def test_what_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "free_memory", lambda: 1000)
    found = compare(task_of(), ("ngrams", "mini"))
    assert {row.contender for row in found.rows} == {"ngrams"}
    (note,) = found.notes
    assert note.startswith("mini left out: training needs about")
    assert note in found.table()


# GPT and LSTM


@NEEDS_TORCH
def test_the_grid_picks_by_validation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from minibrillm import rivals

    task = task_of()
    read: list[str] = []
    losses = {  # (seed, learning rate): validation, test
        (0, 0.1): (3.0, 0.1),
        (0, 0.2): (2.0, 5.0),
        (0, 0.3): (2.5, 0.2),
        (7, 0.2): (2.2, 4.0),
    }

    class FakePeer:
        max_positions, n_parameters = 64, 5

        def __init__(self, seed: int, rate: float) -> None:
            self.known = losses[seed, rate]

        def score(self, ids: list[np.ndarray]) -> float:
            part = "validation" if ids is task.ids["validation"] else "test"
            read.append(part)
            return self.known[part == "test"]

    class FakeTrainer:
        def __init__(self, seed: int, rate: float) -> None:
            self.history = [Record(9, 1.0, 90, 0.1, 1.0, 1.0, 2.0)]
            self.model = FakePeer(seed, rate)

    def train(task: Task, recipe: rivals.Recipe, seed: int) -> FakeTrainer:
        assert "test" not in read  # before all choices are made
        return FakeTrainer(seed, recipe.training["learning_rate"])

    rates = (0.1, 0.2, 0.3, 0.4)
    recipes = [rivals.Recipe(rivals.GPTConfig(), {"learning_rate": rate}) for rate in rates]
    monkeypatch.setattr("minibrillm.rivals.recipes.gpt_recipes", lambda n_nodes: recipes)
    monkeypatch.setattr("minibrillm.rivals.peer.sliding_loss", lambda model, ids: model.score(ids))
    monkeypatch.setattr(comparison, "_train_peer", train)
    task = Task(task.tokenizer, task.ids, task.characters, 1.0, (0, 7))
    (row,) = compare(task, ("gpt",), grid=3).rows
    assert row.settings["learning_rate"] == 0.2
    assert [tried["validation"] for tried in row.settings["grid"]] == [3.0, 2.0, 2.5]
    assert (row.validation, row.test) == ([2.0, 2.2], [5.0, 4.0])
    assert row.reading == "windows of 64, sliding"


@NEEDS_TORCH
def test_peers_are_trained_and_scored() -> None:
    task = task_of(0.001)
    found = compare(task, ("gpt", "lstm"), grid=1)
    assert [(row.name, row.contender) for row in found.best()] == [("GPT", "gpt"), ("LSTM", "lstm")]
    lstm = {row.reading: row for row in found.rows if row.name == "LSTM"}
    assert set(lstm) == {"windows of 256", "one stream"}
    for row in found.rows:
        assert 0 < row.loss < 2 * math.log(task.n_nodes)
        assert row.seconds >= 0.06
        assert row.tokens >= 32 * 16


@NEEDS_TORCH
def test_an_lstm_is_read_as_ours() -> None:
    from minibrillm import rivals

    task = task_of()
    trainer = comparison._train_peer(task, rivals.lstm_recipes(task.n_nodes)[0], 0)
    model = comparison._model("LSTM", task, [trainer], {"one stream": stream_loss}, {})
    for part in ("validation", "test"):
        (loss,) = model.losses["one stream"][part]
        assert loss == pytest.approx(trainer.model.nll(task.ids[part][0][None])[0].mean(), rel=1e-5)


# Table, verdict, JSON


def row_of(contender: str, name: str, reading: str, loss: float, seeds: int = 1) -> Row:
    losses = [loss + 0.01 * k for k in range(seeds)]
    return Row(contender, name, reading, 12345, 60.4, 10**6, losses, losses, losses, loss / 2)


def comparison_of(*rows: Row) -> Comparison:
    facts = {"minutes": 1.0, "seeds": [0], "threads": 2, "n_nodes": 66}
    tokens = {"train": 9000, "validation": 500, "test": 500}
    curves = [
        Curve(row.name, [20.0, 60.0], [10, 30], [row.loss + 1, row.loss])
        for row in rows
        if row.contender != "ngrams"
    ]
    return Comparison({**facts, "tokens": tokens}, list(rows), curves, ["a note"])


MINI = row_of("mini", "BriLLM mini", "one stream", 1.46)
WINDOWS = row_of("mini", "BriLLM mini", "windows of 256", 1.47)
GPT = row_of("gpt", "GPT", "windows of 64, sliding", 1.44, seeds=3)
SEVEN = row_of("ngrams", "7-gram, Kneser-Ney", "full context", 1.5165)


def test_columns_of_the_table_stand_below_each_other() -> None:
    lines = comparison_of(SEVEN, MINI, WINDOWS, GPT).table().splitlines()
    head, rows = lines[0], lines[1:5]
    assert len({len(line) for line in (head, *rows)}) == 1
    for word in ("parameters", "seconds", "validation", "test", "whole", "bits/char"):
        end = head.index(word) + len(word)
        assert all(line[end - 1] != " " for line in (rows[0], rows[1], rows[3]))
        assert all(line[end : end + 2].strip() == "" for line in rows)
    assert rows[2].lstrip().startswith("windows of 256")  # the name is not said again
    assert "1.4500 ± 0.0100" in rows[3]
    assert "12,345" in rows[0]


def test_it_says_where_brillm_loses() -> None:
    (line,) = comparison_of(SEVEN, MINI, WINDOWS, GPT).verdict()
    assert line == "BriLLM mini loses to GPT on the test part: 1.4600 against 1.4500 nats per token"
    (line,) = comparison_of(SEVEN, MINI, WINDOWS).verdict()
    assert line.startswith("BriLLM mini is ahead of all others on the test part, of 7-gram")
    assert line.endswith("by 0.0565 nats per token")
    for rows in ([SEVEN, GPT], [MINI, WINDOWS], []):
        assert comparison_of(*rows).verdict() == []


def test_the_newest_is_the_last_model_in_its_best_reading() -> None:
    found = comparison_of(SEVEN, GPT, WINDOWS, MINI)
    assert found.newest() == "BriLLM mini, one stream: validation 1.4600, test 1.4600"


def test_json_and_back(ngrams: Comparison) -> None:
    for found in (ngrams, comparison_of(SEVEN, MINI, WINDOWS, GPT)):
        data = json.loads(json.dumps(found.to_json()))
        assert Comparison.from_json(data) == found
    row = data["rows"][-1]
    assert row["test_mean"] == pytest.approx(statistics.fmean(GPT.test))
    assert row["test_spread"] == pytest.approx(0.01)
    assert data["rows"][0]["test_spread"] is None


def test_figure() -> None:
    from minibrillm.look import plot_comparison

    figure = plot_comparison(comparison_of(SEVEN, MINI, WINDOWS, GPT))
    left, right = figure.axes
    assert left.get_xlabel() == "seconds of training"
    assert {t.get_text() for t in right.texts} == {"7-gram, Kneser-Ney", "BriLLM mini", "GPT"}
    assert right.get_xscale() == "log"
    figure.canvas.draw()
    plt.close(figure)


def test_ladder_shows_each_rung_and_its_change() -> None:
    rows = [("paper", 3.0), ("a step up", 2.0), ("a step down", 2.5)]
    found = comparison_of(*(row_of("ladder", name, "one stream", loss) for name, loss in rows))
    from minibrillm.look import plot_ladder

    axes = plot_ladder(found)
    assert [t.get_text() for t in axes.get_yticklabels()] == [name for name, _ in rows]
    assert [bar.get_width() for bar in axes.patches] == [loss for _, loss in rows]
    assert [t.get_text().split()[1:] for t in axes.texts] == [[], ["-1.00"], ["+0.50"]]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]
    axes.figure.canvas.draw()
    plt.close(axes.figure)


# The command


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "mama.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_command(minibrillm: Command, text: Path) -> None:
    tell = ("--minutes", 0.001, "--only", "mini", "--only", "ngrams", "--json", "a.json")
    said = minibrillm("compare", text, *tell, "--seed", 5, "--plot", "a.png", "--vocab-size", 20)
    assert said.code == 0
    found = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert found["text"] == str(text)
    assert found["conditions"]["seeds"] == [5]
    assert found["conditions"]["n_nodes"] == 20
    for row in found["rows"]:
        assert f"{row['test_mean']:.4f}" in said.out
    assert Comparison.from_json(found).table() == said.out.rstrip("\n")
    assert said.out.splitlines()[-1].startswith("BriLLM mini ")
    assert all(line.startswith("note: ") for line in said.err.splitlines())
    assert "note: BriLLM mini, " in said.err
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


@NEEDS_TORCH
def test_command_with_everything(minibrillm: Command, tmp_path: Path) -> None:
    lines = [{"text": TEXT[k : k + 90], "split": s} for k, s in enumerate(["train"] * 30)]
    lines += [{"text": TEXT[:60], "split": s} for s in ("validation", "test")]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tell = ("--field", "text", "--minutes", 0.0005, "--grid", 1, "--seeds", 2)
    said = minibrillm("compare", path, *tell)
    assert said.code == 0, said
    for name in ("-gram", "BriLLM released, 400", "BriLLM mini", "GPT", "LSTM", "± standard"):
        assert name in said.out


BAD = {
    "--only words": "there is no 'words' to compare; choose from ngrams, released",
    "--minutes 0": "minutes is 0",
    "--minutes inf": "--minutes is inf",
    "--seeds 0": "--seeds is 0",
    "--seed -1": "seed is -1",
    "--grid 0": "the grid has 0 candidates",
    "--tokenizer words": "no tokenizer of kind 'words'",
    "--vocab-size 1": "n_nodes is 1",
    "--field x": "has no field 'x'",
    "--json nowhere/a.json": "cannot write nowhere",
    "--plot nowhere/a.png": "cannot write nowhere",
    "--plot a.words": "cannot draw a.words",
}


@pytest.mark.parametrize("options", BAD)
def test_impossible_comparisons(minibrillm: Command, text: Path, options: str) -> None:
    only = () if "--only" in options else ("--only", "ngrams")
    is_refused(minibrillm("compare", text, *only, *options.split()), BAD[options])


def test_texts_that_are_none(minibrillm: Command, tmp_path: Path) -> None:
    is_refused(minibrillm("compare", "nowhere.txt", "--only", "ngrams"), "no file nowhere.txt")
    (tmp_path / "short.txt").write_text("abc", encoding="utf-8")
    is_refused(minibrillm("compare", "short.txt", "--only", "ngrams"), "too short")


def test_without_torch(minibrillm: Command, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("minibrillm.rivals.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    is_refused(minibrillm("compare", text), 'pip install "minibrillm[torch]"')
    assert minibrillm("compare", text, "--only", "ngrams").code == 0
