"""The first hour of a new user: what is offered, what a cell shows, what is said of mistakes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibrillm import BriLLM, Run, TrainConfig, Trainer, UserError, bundled, evaluate, load, save
from minibrillm.machine import Interrupted

TEXT = "the cat sat on the mat. a dog ran after the cat.\n" * 60
SMALL: dict[str, Any] = {"backend": "numpy", "d_node": 4}
FEW = TrainConfig(
    steps=12,
    batch_size=4,
    sequence_length=16,
    evaluate_every=3,
    learning_rate=0.1,
    warmup_steps=1,
    average_decay=0.5,
)


def fresh() -> tuple[BriLLM, np.ndarray]:
    model = BriLLM.from_text(TEXT, **SMALL)
    return model, model.tokenizer.encode(TEXT)


def trained() -> tuple[BriLLM, Trainer, np.ndarray]:
    model, ids = fresh()
    trainer = Trainer(model, ids[:2000], ids[2000:], FEW)
    trainer.train(progress_bar=False)
    return model, trainer, ids


# The model at hand


def test_the_model_at_hand_is_the_trained_one() -> None:
    before, ids = fresh()
    model, trainer, _ = trained()
    assert trainer.model is model
    assert model.loss(ids[2000:2200]) < before.loss(ids[2000:2200]) - 0.01
    kept = trainer.heldout_loss() if trainer.kept == (12, 12) else trainer.kept_loss
    assert trainer.kept_loss == pytest.approx(kept)
    assert trainer.kept_loss == min(
        r.heldout_loss for r in trainer.history if not np.isnan(r.heldout_loss)
    )


def test_an_interrupted_training_leaves_what_it_has_learned() -> None:
    model, ids = fresh()
    before = {name: array.copy() for name, array in model.parameters.items()}
    trainer = Trainer(model, ids[:2000], ids[2000:], FEW.replace(evaluate_every=0))

    def press(record: Any) -> None:
        if record.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="after step 3"):
        trainer.train(progress_bar=False, on_step=press)
    for name, array in trainer.optimiser.average.items():
        np.testing.assert_array_equal(model.parameters[name], array)
        assert (array != before[name]).any()
    trainer.train(progress_bar=False)
    assert trainer.step == 12


def test_a_second_train_is_told_what_to_do() -> None:
    _, trainer, _ = trained()
    with pytest.raises(UserError, match=r"over after 12 steps; to go on, make a new Trainer"):
        trainer.train()


def test_a_new_trainer_goes_on_with_what_was_learned() -> None:
    model, first, ids = trained()
    again = Trainer(model, ids[:2000], ids[2000:], FEW)
    for name, array in again.learner.parameters.items():
        np.testing.assert_array_equal(array, first.model.parameters[name])


# What a cell shows that ends in it


def test_what_a_cell_shows_is_short() -> None:
    model, trainer, ids = trained()
    for thing in (model, model.graph, trainer.history, model.config):
        assert len(repr(thing)) < 600
    assert repr(trainer.history).startswith("History(12 steps in 0 s, loss ")
    assert repr(model).startswith("BriLLM(17 nodes, ")
    found = evaluate(model, ids[2000:], ids[:2000])
    assert repr(found) == found.table()


# Files


@pytest.mark.parametrize("how", [str, Path])
def test_a_model_is_saved_and_loaded_in_two_short_lines(
    how: Callable[[Path], Any], tmp_path: Path
) -> None:
    model, _, ids = trained()
    model.save(how(tmp_path / "a"))
    save(model, how(tmp_path / "b"))
    for folder in ("a", "b"):
        back = load(how(tmp_path / folder), backend="numpy")
        assert back.loss(ids[:99]) == model.loss(ids[:99])
    model.save(how(tmp_path / "a"))  # a model may be replaced


def test_a_run_on_disk_becomes_a_model_in_one_line(tmp_path: Path) -> None:
    model, ids = fresh()
    run = Run.start(str(tmp_path / "x"), model, ids[:2000], ids[2000:], FEW)
    run.train(progress_bar=False)
    back = load(str(tmp_path / "x"), backend="numpy")
    assert back.loss(ids[:99]) == model.loss(ids[:99])
    with pytest.raises(UserError, match="keeps a training; choose another folder"):
        model.save(tmp_path / "x")


def test_the_name_of_a_file_is_not_a_text(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(TEXT, encoding="utf-8")
    with pytest.raises(UserError, match=r"is the name of a file, not a text; .* give Path\("):
        BriLLM.from_text(str(book), **SMALL)
    with pytest.raises(UserError, match="is the name of a file"):
        BriLLM.from_text("book.txt", **SMALL)
    model = BriLLM.from_text(book, **SMALL)
    assert model.graph.node_counts.sum() == len(TEXT)
    assert BriLLM.from_text("It ends in .txt\nbut has two lines.", **SMALL).graph.n_nodes > 9


@pytest.mark.parametrize("text", [None, 5, [1, 2], "", [], ["", ""]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(UserError, match="text is"):
        BriLLM.from_text(text, **SMALL)


# Words and ids


def test_unknown_characters_of_a_prompt_are_told() -> None:
    model, _ = fresh()
    with pytest.warns(UserWarning, match="the vocabulary lacks 'Z' 'b': read as unknown"):
        model.generate("Zebra", 3, seed=0)


@pytest.mark.parametrize("bad", [None, "abc", [[1, 2], [1]], [1.5, 2], [None, 1], {1: 2}, [1, 999]])
@pytest.mark.parametrize("method", ["loss", "nll", "energies", "read", "prior", "path"])
def test_ids_that_are_none_are_refused_in_plain_words(method: str, bad: Any) -> None:
    model, _ = fresh()
    with pytest.raises(UserError, match="token"):
        getattr(model, method)(bad)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": "hot"}, r"Sampling\.temperature is 'hot'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"n_tokens": "3"}, "n_tokens is '3'"),
        ({"stop": ""}, "stop is empty"),
    ],
)
def test_how_to_generate_is_checked(settings: dict[str, Any], said: str) -> None:
    model, _ = fresh()
    with pytest.raises(UserError, match=said):
        model.generate("the", **{"n_tokens": 3, **settings})


def test_bundled_takes_one_language_by_its_name() -> None:
    english = bundled("train", "en")
    assert len(english) == 660
    assert bundled("train", ["zh", "en"]) == bundled("train")
    with pytest.raises(UserError, match="no language 'fr'"):
        bundled("train", "fr")
