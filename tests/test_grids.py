"""Candidates: what fits the text comes first, and only the validation part chooses among them."""

from __future__ import annotations

import dataclasses
import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from minibrillm import rivals
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.graph import TokenGraph
from minibrillm.judging import Task, compare, grids, three_parts
from minibrillm.judging.grids import BriLLMCandidate, PeerCandidate, choose, our_grid, scored
from minibrillm.presets import MANY_NODES, ROUND_BELOW, for_text, for_vocabulary
from minibrillm.storage import Record
from minibrillm.text import Corpus

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 60
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the extra torch"
)


def task_of(minutes: float = 0.002, seeds: tuple[int, ...] = (0,), **changes: Any) -> Task:
    return Task.of(three_parts(Corpus((TEXT,))), minutes, seeds, **changes)


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
@pytest.mark.parametrize("lengths", [[900], [10**6], [20] * 45])
def test_the_first_candidate_is_what_fits_the_text(
    n_nodes: int, minutes: float, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of()
    monkeypatch.setattr(Task, "n_nodes", n_nodes)
    task.ids["train"] = [np.zeros(n, np.int64) for n in lengths]
    task = dataclasses.replace(task, minutes=minutes)
    first, *others = our_grid(task, "mini-ngrams")
    given = ModelConfig.preset("mini-ngrams"), TrainConfig.preset("mini-ngrams", minutes=minutes)
    n_heldout = sum(map(len, task.ids["validation"]))
    assert (first.model, first.training) == for_text(n_nodes, lengths, n_heldout, *given)
    assert len(others) == 2
    assert first not in others
    assert {other.training.minutes for other in others} == {minutes}
    for other in others:  # the node is as wide as the grid says, whatever the vocabulary
        assert other.model.d_node in (24, 32, 64)


def test_a_candidate_is_trained_with_its_settings() -> None:
    task = task_of()
    candidate = our_grid(task, "mini-ngrams")[1]
    trained = candidate.train(task, 5)
    assert trained.settings == {
        "model": candidate.model.to_json(),
        "training": candidate.training.replace(seed=5).to_json(),
    }
    assert trained.n_parameters > trained.model.n_parameters  # counts of the prior are stored too
    assert set(trained.readings) == {"windows of 256", "one stream"}


def test_a_grid_tells_what_sets_its_candidates_apart() -> None:
    model, training = ModelConfig.preset("mini", d_node=4), TrainConfig(steps=1)
    candidates = [
        BriLLMCandidate(model, training),
        BriLLMCandidate(model.replace(d_node=8), training.replace(steps=None, minutes=0.0005)),
    ]
    told: list[str] = []
    found = choose(task_of(), "ours", candidates, told.append)
    tried = [{k: v for k, v in one.items() if k != "validation"} for one in found.settings["grid"]]
    assert tried == [
        {"d_node": 4, "steps": 1, "minutes": None},
        {"d_node": 8, "steps": None, "minutes": 0.0005},
    ]
    assert told[0] == "ours, candidate 1 of 2: d_node 4, steps 1"
    assert told[2] == "ours, candidate 2 of 2: d_node 8, minutes 0.0005"


def test_counted_numbers_are_those_of_the_priors() -> None:
    ids = np.array([0, 1, 2, 0, 1, 0, 2, 2, 1])
    assert grids._counted(TokenGraph.from_ids(ids, 4, prior=False)) == 0
    bigrams = len({*pairwise(ids.tolist())})
    assert grids._counted(TokenGraph.from_ids(ids, 4)) == bigrams + 2 * 4
    trigrams = len({*zip(ids, ids[1:], ids[2:], strict=False)})
    both = grids._counted(TokenGraph.from_ids(ids, 4, order=3))
    assert both == (bigrams + 2 * 4) + (4 + bigrams + trigrams)


# GPT and LSTM


@NEEDS_TORCH
def test_the_grid_picks_by_validation_only(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(rivals, "gpt_recipes", lambda n_nodes: recipes)
    monkeypatch.setattr(rivals, "sliding_loss", lambda model, ids: model.score(ids))
    monkeypatch.setattr(grids, "_train_peer", train)
    task = Task(task.tokenizer, task.ids, task.characters, 1.0, (0, 7))
    (row,) = compare(task, ("gpt",), grid=3).rows
    assert row.settings["learning_rate"] == 0.2
    assert [tried["validation"] for tried in row.settings["grid"]] == [3.0, 2.0, 2.5]
    assert (row.validation, row.test) == ([2.0, 2.2], [5.0, 4.0])
    assert row.reading == "windows of 64, sliding"


@NEEDS_TORCH
def test_an_lstm_is_read_as_ours() -> None:
    task = task_of()
    trained = PeerCandidate(rivals.lstm_recipes(task.n_nodes)[0]).train(task, 0)
    contender = scored(task, "LSTM", [trained], [])
    for part in ("validation", "test"):
        (loss,) = contender.losses["one stream"][part]
        assert loss == pytest.approx(trained.model.nll(task.ids[part][0][None])[0].mean(), rel=1e-5)
