"""A new run on a text: what it is made of, which settings it takes, which text it is."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXT

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.presets import DEMO, ROUND_BELOW, for_demo, for_text
from minibrillm.runs import Run, check_same_text, load, new_run, read_split
from minibrillm.text import Split, join_documents, train_tokenizer

CONFIG, TRAINING = ModelConfig.preset("mini-ngrams"), TrainConfig.preset("mini-ngrams", steps=3)


def begin(folder: Path, split: Split, given: tuple[str, ...] = (), **changes: float) -> Run:
    config = CONFIG.replace(**changes)
    tok = train_tokenizer(join_documents(split.train), "characters")
    return new_run(folder, split, tok, config, TRAINING, given=given, backend="numpy")


@pytest.fixture
def split() -> Split:
    return Split((TEXT[:300],), (TEXT[300:],))


def test_a_new_run_takes_the_settings_that_suit_its_text(tmp_path: Path, split: Split) -> None:
    run = begin(tmp_path / "a", split)
    lengths, n_nodes = [300], run.model.graph.n_nodes
    config, training = for_text(n_nodes, lengths, len(TEXT) - 300, CONFIG, TRAINING)
    assert run.model.config == config
    assert run.trainer.config == training
    given = begin(tmp_path / "b", split, ("d_node", "batch_size"))
    assert (given.model.config.d_node, given.trainer.config.batch_size) == (32, 128)
    assert load(tmp_path / "a", "numpy").config == config  # kept from the first moment on
    run.train(progress_bar=False)
    assert run.trainer.progress == 1


def test_a_text_that_a_signal_without_bound_may_not_stand(tmp_path: Path) -> None:
    split = Split((TEXT + "~" * 99,), (TEXT,))
    with pytest.warns(UserWarning, match="'~' stands 99 times in a row.*signal_bound=8"):
        begin(tmp_path / "a", split, ("signal_bound",), signal_bound=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin(tmp_path / "b", split)


def test_the_parts_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    split = read_split(tmp_path / "t.txt", heldout=0.25)
    assert split.train[0] + split.heldout[0] == TEXT
    assert len(split.heldout[0]) == pytest.approx(0.25 * len(TEXT), abs=1)
    (tmp_path / "d").mkdir()
    for k in range(10):
        (tmp_path / "d" / f"{k}.txt").write_text(TEXT[:30], encoding="utf-8")
    assert len(read_split(tmp_path / "d").train) == 9
    joined = read_split(tmp_path / "d", cross_documents=True)
    assert len(joined.train) == len(joined.heldout) == 1
    (tmp_path / "s.txt").write_text("ab", encoding="utf-8")
    with pytest.raises(UserError, match=r"s\.txt is too short"):
        read_split(tmp_path / "s.txt")


def test_another_text_is_told(tmp_path: Path, split: Split) -> None:
    trainer = begin(tmp_path / "a", split).trainer
    check_same_text(trainer, split)
    for other in (
        dataclasses.replace(split, train=(TEXT[:299],)),
        dataclasses.replace(split, heldout=(TEXT[301:],)),
        Split((TEXT[:100], TEXT[100:300]), split.heldout),
    ):
        with pytest.raises(UserError, match="not the text this run was trained on"):
            check_same_text(trainer, other)


def test_languages_of_the_demo_share_its_minutes() -> None:
    assert sum(demo.share for demo in DEMO.values()) == pytest.approx(1)
    both = TrainConfig(minutes=2, steps=7, seed=3)
    zh, en = for_demo("zh", 1028, CONFIG, both), for_demo("en", 67, CONFIG, both)
    assert zh.minutes is not None
    assert en.minutes is not None
    np.testing.assert_allclose([zh.minutes, en.minutes], [1.4, 0.6])
    assert (zh.steps, zh.seed, zh.batch_size, zh.weight_decay) == (7, 3, 32, 6.0)
    assert (en.steps, en.seed, en.batch_size, en.weight_decay) == (7, 3, 128, 1.0)
    assert (zh.round_below, zh.leave_one_out) == (ROUND_BELOW, 1.0)  # many nodes
    assert (en.round_below, en.leave_one_out) == (0.0, 0.0)
    assert for_demo("en", 67, CONFIG, TrainConfig(steps=7)).minutes is None
