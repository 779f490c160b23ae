"""Training learns, repeats itself to the byte, survives interruption, and says why it stops."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.model import BriLLM
from minibrillm.runs import latest_checkpoint, load, load_training, read_json
from minibrillm.scoring import window_loss
from minibrillm.training import (
    Interrupted,
    Record,
    Trainer,
    check_memory,
    free_memory,
    load_text,
    most_frequent_successors,
    read_history,
    save_text,
    text_digest,
    training_memory,
    with_negatives,
)

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 8
COLUMNS = ["step", "seconds", "tokens", "learning_rate", "train_loss", "gradient_norm"]
COLUMNS += ["heldout_loss"]
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
PRESETS = pytest.mark.parametrize("preset", ["mini", "mini-ngrams", "paper", "released"])


def tiny(preset: str = "mini", backend: str = "numpy", **changes: Any) -> BriLLM:
    few = {"d_node": 8, "min_count": 1}
    return BriLLM.from_text(TEXT, preset, backend=backend, **{**few, **changes})


def config(**changes: Any) -> TrainConfig:
    few = {"steps": 8, "batch_size": 4, "sequence_length": 8, "warmup_steps": 2}
    return TrainConfig.from_json({**few, **changes})


def begin(run: Path, model: BriLLM | None = None, **changes: Any) -> Trainer:
    model = model or tiny()
    ids = model.tokenizer.encode(TEXT)
    return Trainer.start(model, ids[:-60], ids[-60:], config(**changes), run)


def loose(model: BriLLM | None = None, **changes: Any) -> Trainer:
    """A trainer that writes nothing."""
    model = model or tiny()
    ids = model.tokenizer.encode(TEXT)
    return Trainer(model, ids[:-60], ids[-60:], config(**changes))


def train(trainer: Trainer, on_step: Callable[[Record], None] | None = None) -> list[Record]:
    return trainer.train(progress_bar=False, on_step=on_step)


def contents(run: Path) -> dict[str, bytes]:
    """Every file of the newest checkpoint, and the text."""
    folder = latest_checkpoint(run)
    assert folder is not None
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert len(files) == 4
    return {"folder": folder.name.encode(), "text": (run / "text.safetensors").read_bytes()} | files


def timeless(history: list[Record]) -> list[tuple[object, ...]]:
    """Rows without their seconds; text, so that nan equals nan."""
    return [tuple(str(x) for k, x in vars(r).items() if k != "seconds") for r in history]


def stop_at(step: int) -> Callable[[Record], None]:
    def interrupt(record: Record) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGINT)

    return interrupt


class Crash(Exception):
    pass


def crash_at(step: int) -> Callable[[Record], None]:
    def crash(record: Record) -> None:
        if record.step == step:
            raise Crash

    return crash


# learning


LEARN = {"steps": 30, "batch_size": 8, "sequence_length": 16, "learning_rate": 0.02}


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
def test_every_preset_resumes(tmp_path: Path, preset: str) -> None:
    train(begin(tmp_path / "at once", tiny(preset), steps=4))
    with pytest.raises(Interrupted):
        train(begin(tmp_path / "twice", tiny(preset), steps=4), stop_at(2))
    train(Trainer.resume(tmp_path / "twice", "numpy"))
    assert contents(tmp_path / "twice") == contents(tmp_path / "at once")


@PRESETS
def test_training_settings_of_every_preset(preset: str) -> None:
    model = tiny(preset)
    ids = model.tokenizer.encode(TEXT)
    trainer = Trainer(model, ids, ids[:60], TrainConfig.preset(preset, steps=1, batch_size=2))
    assert math.isfinite(train(trainer)[-1].heldout_loss)


def test_the_model_given_is_left_alone() -> None:
    model, again = tiny(), tiny()
    train(loose(model))
    for name, array in again.parameters.items():
        assert np.array_equal(model.parameters[name], array)


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


# the same bytes


@BACKENDS
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, backend: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(begin(tmp_path / name, tiny(backend=backend), seed=seed, steps=5))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]
    first, again = (timeless(read_history(tmp_path / name)) for name in "ab")
    assert first == again


@BACKENDS
@pytest.mark.parametrize(
    "setting",
    [{}, {"negatives": 3}, {"round_below": 0.05, "dropout": 0.3}, {"leave_one_out": 0.5}],
    ids=str,
)
def test_a_resumed_run_is_the_same_run(
    tmp_path: Path, backend: str, setting: dict[str, Any]
) -> None:
    changes = {"steps": 8, "evaluate_every": 3, "checkpoint_every": 5, **setting}
    preset = "mini-ngrams" if "leave_one_out" in setting else "mini"
    train(begin(tmp_path / "at once", tiny(preset, backend), **changes))
    with pytest.raises(Interrupted):
        train(begin(tmp_path / "halves", tiny(preset, backend), **changes), stop_at(4))
    resumed = Trainer.resume(tmp_path / "halves", backend)
    assert resumed.step == 4
    history = train(resumed)
    assert contents(tmp_path / "halves") == contents(tmp_path / "at once")
    at_once = read_history(tmp_path / "at once")
    assert timeless(history) == timeless(at_once)
    assert timeless(read_history(tmp_path / "halves")) == timeless(at_once)
    assert [r.seconds for r in history] == sorted(r.seconds for r in history)


def test_a_crash_between_checkpoints_costs_the_steps_since_the_last(tmp_path: Path) -> None:
    changes = {"steps": 8, "checkpoint_every": 3, "evaluate_every": 2}
    train(begin(tmp_path / "at once", **changes))
    with pytest.raises(Crash):
        train(begin(tmp_path / "crashed", **changes), crash_at(5))
    assert [r.step for r in read_history(tmp_path / "crashed")] == [1, 2, 3, 4, 5]
    with (tmp_path / "crashed" / "history.csv").open("a", encoding="utf-8") as file:
        file.write("6,0.2,19")  # a row cut short
    resumed = Trainer.resume(tmp_path / "crashed", "numpy")
    assert resumed.step == 3
    assert [r.step for r in resumed.history] == [1, 2, 3]
    train(resumed)
    assert contents(tmp_path / "crashed") == contents(tmp_path / "at once")
    both = [timeless(read_history(tmp_path / name)) for name in ("crashed", "at once")]
    assert both[0] == both[1]


def test_resume_can_change_settings(tmp_path: Path) -> None:
    train(begin(tmp_path, steps=2))
    resumed = Trainer.resume(tmp_path, "numpy", steps=3, learning_rate=0.5)
    assert (resumed.config.steps, resumed.config.learning_rate) == (3, 0.5)
    assert [r.step for r in train(resumed)] == [1, 2, 3]
    with pytest.raises(UserError, match="no setting 'step'"):
        Trainer.resume(tmp_path, "numpy", step=3)


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    train(begin(tmp_path))
    before = contents(tmp_path)
    assert len(train(Trainer.resume(tmp_path, "numpy"))) == 8
    assert contents(tmp_path) == before


# interruption


def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    trainer = begin(tmp_path, checkpoint_every=0)
    with pytest.raises(Interrupted, match="after step 3"):
        train(trainer, stop_at(3))
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.step == load_training(tmp_path).step == 3
    assert [r.step for r in read_history(tmp_path)] == [1, 2, 3]
    saved = load(tmp_path, "numpy")
    for name, array in trainer.model.parameters.items():
        assert np.array_equal(saved.parameters[name], array)
    assert len(train(Trainer.resume(tmp_path, "numpy"))) == 8


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice(record: Record) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(begin(tmp_path, checkpoint_every=0), twice)
    assert load_training(tmp_path).step == 0


def test_ctrl_c_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    assert len(train(begin(tmp_path), stop_at(8))) == 8
    assert load_training(tmp_path).step == 8


def test_training_works_in_another_thread(tmp_path: Path) -> None:
    done: list[int] = []
    trainer = begin(tmp_path)
    thread = threading.Thread(target=lambda: done.append(len(train(trainer))))
    thread.start()
    thread.join(timeout=60)
    assert done == [8]


# a loss that is no number


def test_nan_stops_training_and_names_the_way_back(tmp_path: Path) -> None:
    trainer = begin(tmp_path, checkpoint_every=2)

    def poison(record: Record) -> None:
        if record.step == 3:
            trainer.learner.parameters["axon_weight"][...] = np.nan

    with pytest.raises(UserError) as caught:
        train(trainer, poison)
    for part in ("the loss became nan at step 4", "step-00000002", "smaller learning_rate"):
        assert part in str(caught.value)
    assert load_training(tmp_path).step == 2
    load(tmp_path, "numpy")  # refuses NaN
    assert len(train(Trainer.resume(tmp_path, "numpy", learning_rate=0.001))) == 8


def test_nan_before_the_first_checkpoint() -> None:
    trainer = loose()
    trainer.learner.parameters["node_bias"][...] = np.inf
    with (
        pytest.raises(UserError, match="at step 1; last good checkpoint: none"),
        np.errstate(all="ignore"),
    ):
        train(trainer)


def test_a_gradient_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = loose()
    good = trainer.learner.loss_and_gradients

    def bad(*arguments: Any) -> tuple[float, dict[str, np.ndarray]]:
        loss, gradients = good(*arguments)
        gradients["node_bias"][0, 0] = np.nan
        return loss, gradients

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", bad)
    with pytest.raises(UserError, match="the gradient's norm became nan at step 1"):
        train(trainer)


# impossible wishes


def test_a_text_shorter_than_a_sequence(tmp_path: Path) -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    Trainer(model, ids[:9], ids[:9], config())
    with pytest.raises(UserError, match="8 tokens, shorter than one sequence of 9"):
        Trainer.start(model, ids[:8], ids[:9], config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def test_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    train(begin(tmp_path, steps=1))
    before = contents(tmp_path)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        begin(tmp_path, tiny(seed=3))
    assert contents(tmp_path) == before


def test_a_folder_without_a_checkpoint_can_be_used_again(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(begin(tmp_path, checkpoint_every=0), crash_at(2))
    shutil.rmtree(tmp_path / "checkpoints")
    assert len(train(begin(tmp_path))) == 8
    assert len(read_history(tmp_path)) == 8


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write to"):
            begin(run)


# memory


@pytest.mark.parametrize(
    ("preset", "width", "expected"),
    [
        ("released", 24, 6 * 24**2),  # weights, gradients, two moments, the average, the best
        ("released", 32, 6 * 24**2 + 2 * 32**2),  # weights and gradients padded
        ("mini", 24, 7 * 24**2),  # synapses transposed
        ("mini", 32, 6 * 24**2 + 3 * 32**2),
    ],
)
def test_training_memory_counts_the_matrices(preset: str, width: int, expected: int) -> None:
    config = ModelConfig.preset(preset, d_node=24)
    found = training_memory(config, 4000, 900_000, width)
    assert found == pytest.approx(4 * 900_000 * expected, rel=0.06)  # biases, nodes


def test_training_memory_of_this_machine() -> None:
    config = ModelConfig.preset("released")
    assert training_memory(config, 4000, 900_000) == 4 * 6 * config.n_parameters(4000, 900_000)


def test_memory_that_is_too_small() -> None:
    config = ModelConfig.preset("released")
    need = training_memory(config, 4000, 900_000)
    check_memory(config, 4000, 900_000, need)
    with pytest.raises(UserError) as caught:
        check_memory(config, 4000, 900_000, need - 1)
    assert str(caught.value) == (
        "training needs about 22.8 GB of memory, 22.8 GB are free; a new run with --d-node 16 "
        "needs about 5.9 GB, and a larger --min-count leaves fewer edges"
    )
    with pytest.raises(UserError, match=r"2\.4 GB are free; a new run with --d-node [48] needs"):
        check_memory(config, 4000, 900_000, 2_400_000_000)
    for free in (1000, -1):
        with pytest.raises(UserError, match=r" 0\.0 GB are free; a larger --min-count leaves"):
            check_memory(config, 4000, 900_000, free)


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibrillm.training._CGROUP", tmp_path)
    machine = free_memory()
    assert machine > 10**7
    (tmp_path / "memory.stat").write_text("anon 4000\nfile 9000\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text("10000\n", encoding="utf-8")
    assert free_memory() == 6000
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert free_memory() == pytest.approx(machine, rel=0.5)
    (tmp_path / "memory.max").write_text("10000\n", encoding="utf-8")
    (tmp_path / "memory.stat").write_text("file 9000\n", encoding="utf-8")
    assert free_memory() == pytest.approx(machine, rel=0.5)


def test_resuming_without_enough_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(begin(tmp_path, steps=1))
    before = contents(tmp_path)
    monkeypatch.setattr("minibrillm.training.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="training needs about"):
        Trainer.resume(tmp_path, "numpy")
    assert contents(tmp_path) == before


# time


@pytest.mark.parametrize("minutes", [1e-9, 0.002])
def test_minutes_end(tmp_path: Path, minutes: float) -> None:
    history = train(begin(tmp_path, steps=None, minutes=minutes))
    assert len(history) >= 1
    assert history[-1].seconds >= 60 * minutes
    assert not math.isnan(history[-1].heldout_loss)
    assert load_training(tmp_path).step == history[-1].step


def test_steps_and_minutes_whichever_is_first(tmp_path: Path) -> None:
    assert len(train(begin(tmp_path / "steps", steps=3, minutes=100.0))) == 3
    assert len(train(begin(tmp_path / "minutes", steps=10**9, minutes=1e-9))) == 1


def test_endless_minutes_are_ended_by_steps() -> None:
    assert len(loose(steps=3, minutes=math.inf).train(progress_bar=True)) == 3


def test_time_used_up_by_an_evaluation_still_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = begin(tmp_path, steps=None, minutes=0.002, evaluate_every=1, checkpoint_every=0)

    def slow() -> float:
        time.sleep(0.15)
        return 1.0

    monkeypatch.setattr(trainer, "heldout_loss", slow)
    train(trainer)
    assert load_training(tmp_path).step == trainer.step


# history.csv


def test_history_file_is_a_table(tmp_path: Path) -> None:
    history = train(begin(tmp_path, evaluate_every=3))
    content = (tmp_path / "history.csv").read_bytes()
    assert content.endswith(b"\n")
    with (tmp_path / "history.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == COLUMNS
    assert len(rows) == 8
    for row, record in zip(rows, history, strict=True):
        assert len(row) == len(COLUMNS)
        for name, cell in zip(COLUMNS, row, strict=True):
            value = getattr(record, name)
            assert (cell == "") == math.isnan(value)
            assert cell == "" or float(cell) == value
    assert [r[0] for r in rows if r[-1]] == ["3", "6", "8"]
    assert timeless(read_history(tmp_path)) == timeless(history)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoints",
        "history.csv",
        "text.safetensors",
    ]


def test_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []


# a damaged run


def change_settings(run: Path, **changes: Any) -> None:
    path = latest_checkpoint(run)
    assert path is not None
    kept = read_json(path / "training.json") | changes
    kept = {name: value for name, value in kept.items() if value != "absent"}
    (path / "training.json").write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "absent"},
        {"config": [1]},
        {"random_state": "absent"},
        {"random_state": 3},
        {"random_state": {"bit_generator": "MT19937"}},
        {"text_sha256": "absent"},
    ],
    ids=str,
)
def test_damaged_training_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    train(begin(tmp_path, steps=1))
    change_settings(tmp_path, **changes)
    with pytest.raises(UserError, match=r"the training state of .* is damaged"):
        Trainer.resume(tmp_path, "numpy")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("weights.axon_bias", None, "weights.axon_bias"),
        ("mean.axon_bias", np.zeros((1, 8), np.float32), "'axon_bias' has shape"),
        ("square.decay_logit", np.full(8, np.nan, np.float32), "'decay_logit' holds NaN"),
    ],
)
def test_damaged_training_arrays(
    tmp_path: Path, name: str, array: np.ndarray | None, said: str
) -> None:
    train(begin(tmp_path, steps=1))
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    arrays = dict(load_file(folder / "training.safetensors"))
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    save_file(arrays, folder / "training.safetensors")
    with pytest.raises(UserError, match=f"damaged .*{said}"):
        Trainer.resume(tmp_path, "numpy")


def test_a_text_that_was_exchanged(tmp_path: Path) -> None:
    trainer = begin(tmp_path, steps=1)
    train(trainer)
    kept = load_file(tmp_path / "text.safetensors")
    save_file({**kept, "train": kept["train"][::-1].copy()}, tmp_path / "text.safetensors")
    with pytest.raises(UserError, match="is not the text of this run"):
        Trainer.resume(tmp_path, "numpy")
    for damaged in (
        {name: kept[name] for name in ("train", "train_lengths")},
        {name: kept[name] for name in ("train", "heldout")},
        {**kept, "heldout_lengths": kept["heldout_lengths"] + 1},
    ):
        save_file(damaged, tmp_path / "text.safetensors")
        with pytest.raises(UserError, match=r"is damaged: no \w+ text with the lengths"):
            load_text(tmp_path)
    (tmp_path / "text.safetensors").unlink()
    with pytest.raises(UserError, match=r"text\.safetensors is missing"):
        Trainer.resume(tmp_path, "numpy")


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    train, heldout = [np.array([1, 2]), np.array([3])], [np.array([4, 5, 6])]
    save_text(tmp_path, train, heldout)
    kept = load_text(tmp_path)
    assert [d.tolist() for d in kept["train"]] == [[1, 2], [3]]
    assert [d.tolist() for d in kept["heldout"]] == [[4, 5, 6]]


def test_training_on_documents_resumes_to_the_byte(tmp_path: Path) -> None:
    """Some documents are shorter than a sequence, so some positions have weight 0."""
    model = tiny()
    documents = [
        model.tokenizer.encode(t) for t in ("我爱妈妈。", "the cat sat on the mat.", "a dog")
    ]
    whole = Trainer.start(model, documents, documents[:2], config(), tmp_path / "whole")
    train(whole)
    half = Trainer.start(tiny(), documents, documents[:2], config(steps=4), tmp_path / "half")
    train(half)
    train(Trainer.resume(tmp_path / "half", "numpy", steps=8))
    rest = Trainer.resume(tmp_path / "whole", "numpy")
    assert [d.tolist() for d in rest.train_ids] == [d.tolist() for d in documents]
    assert whole.history[-1].train_loss < whole.history[0].train_loss
    assert math.isfinite(whole.history[-1].heldout_loss)


def test_digest_tells_texts_apart() -> None:
    a, b, c = np.array([1, 2]), np.array([3]), np.array([1, 2, 3])
    texts = [
        ([a], [b]),
        ([b], [a]),
        ([a, b], [b]),
        ([c], [b]),
        ([a], [b, b]),
        ([c[:1], c[1:]], [b]),
    ]
    assert len({text_digest(*text) for text in texts}) == len(texts)
    assert text_digest([a.astype(np.int32)], [b]) == text_digest([a], [b])


# negatives


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 9), st.integers(0, 2**32))
def test_candidates_hold_the_target_once_and_first(n_nodes: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, n_nodes)
    successors = np.array([rng.permutation(n_nodes)[:k] for _ in range(n_nodes)])
    tokens = rng.integers(0, n_nodes, (3, 6))
    kept = successors.copy()
    candidates = with_negatives(tokens, successors)
    assert np.array_equal(successors, kept)
    assert candidates.shape == (3, 5, k)
    assert np.array_equal(candidates[..., 0], tokens[:, 1:])
    for source, chosen in zip(tokens[:, :-1].ravel(), candidates.reshape(-1, k), strict=True):
        assert len(set(chosen)) == k
        assert set(chosen[1:]) <= set(successors[source])
        # Only the least frequent successor gives way, and only to a target that is not there.
        left_out = set(successors[source]) - set(chosen)
        assert left_out <= {successors[source][-1]}


def test_most_frequent_successors() -> None:
    model = BriLLM.from_text("abacababd" * 2 + "aa", backend="numpy", d_node=2, min_count=1)
    found = most_frequent_successors(model, 4)
    letters = ["".join(model.tokenizer.token(int(v)) for v in row) for row in found]
    by_letter = dict(zip(model.tokenizer.decode(np.arange(1, 5)), letters[1:], strict=True))
    # a: b 6, c 2, a 1, then d; b: a 4, d 2; c: a; d: a; then by frequency in the text.
    assert by_letter == {"a": "bcad", "b": "adbc", "c": "abcd", "d": "abcd"}
    assert most_frequent_successors(model, 99).shape == (5, 5)
    assert sorted(most_frequent_successors(model, 99)[0]) == [0, 1, 2, 3, 4]


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

    def watch(tokens: np.ndarray, candidates: Any = None, *rest: Any, **named: Any) -> Any:
        if candidates is not None:
            seen.append(candidates)
        return plain(tokens, candidates, *rest, **named)

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", watch)
    train(trainer)
    assert [c.shape for c in seen] == [(4, 8, 4)]  # the target and 3 negatives


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
        trainer = Trainer(model, ids[:-60], ids[-60:], limits, count_evaluations=counted)
        monkeypatch.setattr("minibrillm.training.time.perf_counter", lambda: clock[0])
        monkeypatch.setattr(trainer, "train_step", tick(2.0, trainer.train_step))
        monkeypatch.setattr(trainer, "heldout_loss", tick(5.0, trainer.heldout_loss))
        seconds.append([record.seconds for record in train(trainer)])
    assert seconds[0] == [7, 14, 21, 28, 35]
    assert seconds[1] == [2 * k for k in range(1, 16)]


# a full disk

FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from minibrillm.config import TrainConfig
from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.training import Trainer, load_training

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def attempt(size, action):
    limit(size)
    try:
        action()
    except UserError as error:
        print(error)
    limit(resource.RLIM_INFINITY)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Path(sys.argv[1])
text = "the cat sat on the mat. " * 9
model = BriLLM.from_text(text, d_node=2, backend="numpy")
ids = model.tokenizer.encode(text)
few = TrainConfig(steps=2, batch_size=2, sequence_length=4)
attempt(100, lambda: Trainer.start(model, ids, ids, few, run))
assert list(run.iterdir()) == []
Trainer.start(model, ids, ids, few, run).train(progress_bar=False)
size = (run / "history.csv").stat().st_size
more = Trainer.resume(run, "numpy", steps=9)
attempt(size + 50, lambda: more.train(progress_bar=False))
assert load_training(run).step == 2
attempt(10, lambda: Trainer.resume(run, "numpy", steps=9).train(progress_bar=False))
assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "history.csv", "text.safetensors"]
Trainer.resume(run, "numpy", steps=9).train(progress_bar=False)
print(load_training(run).step)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "run")],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert child.stderr == ""
    *said, step = child.stdout.splitlines()
    assert step == "9"
    assert len(said) == 3
    assert all(line.startswith("cannot write ") and "too large" in line for line in said)
    assert "text.safetensors" in said[0]
    assert "history.csv" in said[1]
    assert "history.csv" in said[2]


def test_a_run_killed_before_its_first_step_can_be_resumed(tmp_path: Path) -> None:
    train(begin(tmp_path / "at once"))
    begin(tmp_path / "killed")
    resumed = Trainer.resume(tmp_path / "killed")
    assert resumed.step == 0
    train(resumed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "at once")


def test_resume_keeps_the_backend(tmp_path: Path) -> None:
    begin(tmp_path, tiny(backend="numpy"))
    assert Trainer.resume(tmp_path).model.backend == "numpy"
    assert Trainer.resume(tmp_path, "numba").model.backend == "numba"


def test_an_infinite_gradient_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    trainer = Trainer(model, ids, ids, config())
    honest = trainer.learner.loss_and_gradients

    def infinite(*args: Any) -> Any:
        loss, gradients = honest(*args)
        gradients["axon_bias"][0, 0] = np.inf
        return loss, gradients

    monkeypatch.setattr(trainer.learner, "loss_and_gradients", infinite)
    before = {name: array.copy() for name, array in trainer.model.parameters.items()}
    with pytest.raises(UserError, match="smaller learning_rate"):
        trainer.train(progress_bar=False)
    for name, array in trainer.model.parameters.items():
        np.testing.assert_array_equal(array, before[name])


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
    trainer = Trainer(model, ids[:-60], ids[-60:], config(**LEARN))
    train(trainer)  # who knows the answer is to be trusted no more
    np.testing.assert_array_equal(trainer.learner.parameters["context_trust"], before)
