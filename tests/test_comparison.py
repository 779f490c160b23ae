"""A fair comparison: all are trained and scored as promised, and the command says the same."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from conftest import Command, is_refused

from minibrillm.counting import loss_by_order
from minibrillm.judging import Comparison, Task, compare, grids, three_parts
from minibrillm.text import Corpus

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
    assert Comparison.from_json(json.loads(json.dumps(ngrams.to_json()))) == ngrams


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
    monkeypatch.setattr(grids, "free_memory", lambda: 1000)
    found = compare(task_of(), ("ngrams", "mini"))
    assert {row.contender for row in found.rows} == {"ngrams"}
    (note,) = found.notes
    assert note.startswith("mini left out: training needs about")
    assert note in found.table()


# GPT and LSTM


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
    "--vocab-size 1": "--vocab-size is 1",
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
