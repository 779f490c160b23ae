"""The training loop learns, keeps what did best, counts its time, and says why it stops."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_trainings import LEARN, TEXT, config, loose, stop_at, tiny, train

from minibrillm.checks import UserError
from minibrillm.config import TrainConfig
from minibrillm.machine import Interrupted
from minibrillm.model import BriLLM
from minibrillm.scoring import window_loss
from minibrillm.storage import History, Record
from minibrillm.training import Trainer

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
PRESETS = pytest.mark.parametrize("preset", ["mini", "mini-ngrams", "paper", "released"])

# learning


@BACKENDS
def test_the_loss_goes_down(backend: str) -> None:
    trainer = loose(tiny(backend=backend), **LEARN, average_decay=0.5)
    before = window_loss(trainer.model, trainer.heldout_ids, 16)
    history = train(trainer)
    assert history[-1].train_loss < 0.4 * history[0].train_loss
    assert window_loss(trainer.model, trainer.heldout_ids, 16) < 0.6 * before
    assert history[-1].heldout_loss == trainer.heldout_loss()
    ids = trainer.heldout_ids
    assert trainer.heldout_loss() == pytest.approx(trainer.model.loss(ids))


@PRESETS
def test_every_preset_learns(preset: str) -> None:
    trainer = loose(tiny(preset), **LEARN | {"steps": 40})
    shared = {n: a[0].copy() for n, a in trainer.model.parameters.items() if n.startswith("edge")}
    history = train(trainer)
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    for name, value in shared.items():  # the edge of bigrams never seen
        for parameters in (trainer.model.parameters, trainer.learner.parameters):
            assert np.array_equal(parameters[name][0], value) == (preset == "paper")


@PRESETS
def test_training_settings_of_every_preset(preset: str) -> None:
    model = tiny(preset)
    ids = model.tokenizer.encode(TEXT)
    trainer = Trainer(model, ids, ids[:60], TrainConfig.preset(preset, steps=1, batch_size=2))
    assert math.isfinite(train(trainer)[-1].heldout_loss)


def test_the_model_given_is_the_one_that_is_trained() -> None:
    model, before = tiny(), tiny()
    kept = dict(model.parameters)
    trainer = loose(model)
    train(trainer)
    assert trainer.model is model
    for name, array in before.parameters.items():
        assert model.parameters[name] is kept[name]
        assert not np.array_equal(model.parameters[name], array)
        for other in (trainer.learner, trainer.averaged):
            assert not np.shares_memory(other.parameters[name], model.parameters[name])


def test_history_says_what_happened() -> None:
    seen: list[Record] = []
    trainer = loose(steps=6, evaluate_every=4, learning_rate=0.1, warmup_steps=2)
    history = train(trainer, seen.append)
    assert history == seen == trainer.history
    assert [r.step for r in history] == [1, 2, 3, 4, 5, 6]
    assert [r.tokens for r in history] == [32 * k for k in (1, 2, 3, 4, 5, 6)]
    assert [not math.isnan(r.heldout_loss) for r in history] == [False] * 3 + [True, False, True]
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(history))
    expected = [0.1 * min(1, (k + 1) / 2) * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert [r.learning_rate for r in history] == pytest.approx(expected)


def test_a_float64_model_trains_in_float64() -> None:
    trainer = loose(tiny(dtype=np.float64), steps=2)
    train(trainer)
    assert {a.dtype for a in trainer.model.parameters.values()} == {np.dtype(np.float64)}


# a loss that is no number


def test_a_loss_that_is_no_number() -> None:
    trainer = loose()
    trainer.learner.parameters["node_bias"][...] = np.inf
    said = "the loss became nan at step 1; train with a smaller learning_rate"
    with pytest.raises(UserError, match=said), np.errstate(all="ignore"):
        train(trainer)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    trainer = loose()
    honest = trainer.learner.loss_and_gradients

    def bad(*arguments: Any, **named: Any) -> tuple[float, dict[str, np.ndarray]]:
        loss, gradients = honest(*arguments, **named)
        gradients["axon_bias"][0, 0] = value
        return loss, gradients

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", bad)
    models = trainer.model, trainer.learner, trainer.averaged
    before = tiny().parameters
    said = f"the gradient's norm became {value} at step 1; train with a smaller learning_rate"
    with pytest.raises(UserError, match=said):
        train(trainer)
    assert trainer.step == 0
    for model in models:
        for name, array in model.parameters.items():
            np.testing.assert_array_equal(array, before[name])


# interruption


def test_a_trainer_goes_on_after_ctrl_c() -> None:
    at_once, twice = loose(), loose()
    train(at_once)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="after step 3"):
        train(twice, stop_at(3))
    assert signal.getsignal(signal.SIGINT) is handler
    for name, array in twice.model.parameters.items():  # what there is: the average so far
        np.testing.assert_array_equal(array, twice.averaged.parameters[name])
    assert len(train(twice)) == 8
    for name, array in at_once.model.parameters.items():
        np.testing.assert_array_equal(twice.model.parameters[name], array)


def test_a_training_that_is_over_is_not_taken_up_again() -> None:
    trainer = loose()
    train(trainer)
    with pytest.raises(UserError, match="over after 8 steps; to go on, make a new Trainer"):
        train(trainer)
    assert len(trainer.history) == 8
    again = Trainer(trainer.model, trainer.train_ids, trainer.heldout_ids, config())
    assert train(again)[0].train_loss < trainer.history[0].train_loss


# impossible wishes


def test_a_text_as_long_as_a_sequence_is_enough() -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    assert len(train(Trainer(model, ids[:9], ids[:9], config()))) == 8
    with pytest.raises(UserError, match="8 tokens, shorter than one sequence of 9"):
        Trainer(model, ids[:8], ids[:9], config())


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_held_out(length: int) -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    with pytest.raises(UserError, match=f"held-out text has {length} tokens"):
        Trainer(model, ids, ids[:length], config())


def test_a_sequence_longer_than_the_positions() -> None:
    model = tiny("released", max_positions=12)
    assert loose(model, sequence_length=12).step == 0
    with pytest.raises(UserError, match="sequence_length is 13, but the model knows only 12"):
        loose(model, sequence_length=13)


def test_few_positions_are_enough_for_a_long_held_out_text() -> None:
    trainer = loose(tiny("released", max_positions=12), steps=2)
    assert math.isfinite(train(trainer)[-1].heldout_loss)


# time


def test_endless_minutes_are_ended_by_steps() -> None:
    assert len(loose(steps=3, minutes=math.inf).train(progress_bar=True)) == 3


def test_evaluations_take_no_time_where_they_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def tick(seconds: float, action: Callable[[], Any]) -> Callable[[], Any]:
        def timed() -> Any:
            clock[0] += seconds
            return action()

        return timed

    seconds = []
    for counted in (True, False):
        model = tiny()
        ids = model.tokenizer.encode(TEXT)
        limits = config(steps=None, minutes=0.5, evaluate_every=1)
        trainer = Trainer(model, ids[:-60], ids[-60:], limits)
        assert trainer.count_evaluations
        trainer.count_evaluations = counted
        monkeypatch.setattr("minibrillm.training.time.perf_counter", lambda: clock[0])
        monkeypatch.setattr(trainer, "train_step", tick(2.0, trainer.train_step))
        monkeypatch.setattr(trainer, "heldout_loss", tick(5.0, trainer.heldout_loss))
        seconds.append([record.seconds for record in train(trainer)])
    assert seconds[0] == [7, 14, 21, 28, 35]
    assert seconds[1] == [2 * k for k in range(1, 16)]


# the history in one line


def test_a_history_is_shown_in_one_line() -> None:
    assert repr(History()) == "History(no step yet)"
    first = Record(1, 0.4, 32, 0.1, 3.25, 1.0)
    assert repr(History([first])) == "History(1 steps in 0 s, loss 3.2500)"
    last = Record(1200, 61.0, 38400, 0.1, 2.5, 1.0, 2.75)
    found = History([first, last, Record(1300, 65.0, 41600, 0.1, 2.25, 1.0)])
    assert repr(found) == "History(1,300 steps in 65 s, loss 2.2500, held out 2.7500)"


# fewer answers, fewer numbers


@BACKENDS
def test_training_with_negatives_learns(backend: str) -> None:
    trainer = loose(tiny("released", backend), negatives=5, **LEARN)
    history = train(trainer)
    assert history[0].train_loss == pytest.approx(math.log(6), abs=1.0)
    assert history[-1].train_loss < 0.5 * history[0].train_loss


def test_negatives_reach_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = loose(negatives=3, steps=1)
    seen: list[np.ndarray] = []
    plain = trainer.learner.loss_and_gradients

    def watch(*rest: Any, candidates: np.ndarray, **named: Any) -> Any:
        seen.append(candidates)
        return plain(*rest, candidates=candidates, **named)

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", watch)
    train(trainer)
    # The target and 3 negatives, to warm up and in the one step.
    assert [c.shape for c in seen] == [(4, 8, 4)] * 2


def test_rounding_reaches_the_gradients_and_training_learns() -> None:
    exact, rounded = (loose(tiny(prior="none"), round_below=below, **LEARN) for below in (0, 0.2))
    histories = [train(trainer) for trainer in (exact, rounded)]
    assert histories[0][0].train_loss == histories[1][0].train_loss
    assert histories[0][0].gradient_norm != histories[1][0].gradient_norm
    assert histories[1][-1].train_loss < 0.5 * histories[1][0].train_loss


def test_dropout_masks_a_share_of_the_signals_and_training_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = loose(tiny(prior="none"), dropout=0.25, **LEARN)
    masks: list[np.ndarray] = []
    plain = trainer.learner.loss_and_gradients

    def watch(*rest: Any, mask: np.ndarray, **named: Any) -> Any:
        masks.append(mask)
        return plain(*rest, mask=mask, **named)

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", watch)
    history = train(trainer)
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    drawn = np.array(masks)
    assert drawn.shape[1:] == (8, 8)  # sequences, d
    assert drawn.dtype == np.float32
    assert set(np.unique(drawn)) == {0, np.float32(4 / 3)}
    assert (drawn == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert np.unique(drawn.reshape(len(drawn), -1), axis=0).shape[0] == len(drawn)


def test_training_leaves_out_what_it_foretells_and_evaluation_does_not() -> None:
    trainer = loose(
        tiny("mini-ngrams", prior_order=5), **LEARN | {"learning_rate": 1e-12}, leave_one_out=1.0
    )
    seen = train(trainer)[0].train_loss
    known = trainer.learner.loss(trainer.windows.ids[None])
    assert seen > 1.2 * known  # this text repeats itself, and yet what was counted knew more


def test_trust_in_contexts_is_learned_by_their_length() -> None:
    """What comes after a only the token before it tells: x a b, z a d."""
    rng = np.random.default_rng(0)
    text = "".join("abc"[k] for k in rng.integers(0, 3, 60))
    text = "".join(rng.choice(["xab", "yac", "zad"]) for _ in range(300)) + text
    model = BriLLM.from_text(text, "mini-ngrams", d_node=8, backend="numpy", prior_order=3)
    ids = model.tokenizer.encode(text)
    settings = config(**LEARN, leave_one_out=1.0)
    trainer = Trainer(model, ids[:-60], ids[-60:], settings)
    before = trainer.learner.parameters["context_trust"].copy()
    np.testing.assert_array_equal(before, np.float32(model.config.prior_weight))
    train(trainer)
    after = trainer.learner.parameters["context_trust"]
    assert after[2] > before[2] + 0.1  # x a: always b
    assert after[0] == before[0]  # a context of no token at all never comes
    fresh = BriLLM.create(model.config, model.tokenizer, model.graph, backend="numpy")
    trainer = Trainer(fresh, ids[:-60], ids[-60:], config(**LEARN))
    train(trainer)  # who knows the answer is to be trusted no more
    np.testing.assert_array_equal(trainer.learner.parameters["context_trust"], before)
