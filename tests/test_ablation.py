"""The ladder from paper to mini-ngrams: its rungs are the presets, each changes what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command

from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.judging import LADDER, Task, ablate, rungs, three_parts
from minibrillm.text import Corpus

TEXT = "the cat sat on the mat, and the dog sat on the log. " * 60


def task_of(minutes: float = 1.0) -> Task:
    return Task.of(three_parts(Corpus((TEXT,))), minutes, (0,))


def test_presets_are_met_on_the_way() -> None:
    known = {name.split(": ")[-1]: (model, training) for name, model, training in rungs(task_of())}
    for preset in ("paper", "released", "mini"):
        assert known[preset][0] == ModelConfig.preset(preset), preset
        assert known[preset][1] == TrainConfig.preset(preset, minutes=1.0), preset
    assert known["mini-ngrams"][0] == ModelConfig.preset("mini-ngrams")
    assert list(rungs(task_of()))[-1][0].endswith("mini-ngrams")


def test_every_rung_changes_what_it_names_and_nothing_else() -> None:
    climbed = list(rungs(task_of()))
    assert len(climbed) == len(LADDER)
    for before, after, rung in zip(climbed, climbed[1:], LADDER[1:], strict=False):
        for old, new, named in (
            (before[1], after[1], rung.model),
            (before[2], after[2], rung.training),
        ):
            pairs = new.to_json().items()
            changed = {name for name, value in pairs if value != old.to_json()[name]}
            assert changed <= named.keys(), rung.name
        assert before[1:] != after[1:], rung.name


def test_all_rungs_are_trained_and_scored() -> None:
    seen: list[int] = []
    found = ablate(task_of(0.0005), on_row=lambda known: seen.append(len(known.best())))
    assert [row.name for row in found.best()] == [rung.name for rung in LADDER]
    assert seen == list(range(1, len(LADDER) + 1))
    assert found.verdict() == []
    for row in found.best():  # a chain explodes beyond the length it was trained on
        assert 0 < row.loss < 20
        assert row.settings["training"]["minutes"] == 0.0005


def test_command(minibrillm: Command, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    said = minibrillm("ablate", path, "--minutes", 0.0002, "--json", "a.json")
    assert said.code == 0, said
    for rung in LADDER:
        assert rung.name in said.out
    found = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert found["rows"][-1]["name"] == LADDER[-1].name


@pytest.mark.parametrize("option", ["--minutes inf", "--seeds 0", "--json nowhere/a.json"])
def test_impossible(minibrillm: Command, tmp_path: Path, option: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    said = minibrillm("ablate", path, *option.split())
    assert said.code == 2
    assert "Traceback" not in said.err
    assert option.split()[0] in said.err or "cannot write" in said.err
