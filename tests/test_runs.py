"""A training in a folder repeats itself to the byte, survives interruption, and goes on."""

from __future__ import annotations

import csv
import math
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trainings import (
    TEXT,
    Crash,
    begin,
    config,
    contents,
    crash_at,
    stop_at,
    timeless,
    tiny,
    train,
)

from minibrillm.checks import UserError
from minibrillm.machine import Interrupted
from minibrillm.runs import Run, load, load_training
from minibrillm.storage import Record, read_history

COLUMNS = ["step", "seconds", "tokens", "learning_rate", "train_loss", "gradient_norm"]
COLUMNS += ["heldout_loss"]
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
PRESETS = pytest.mark.parametrize("preset", ["mini", "mini-ngrams", "paper", "released"])

# the same bytes


@PRESETS
def test_every_preset_resumes(tmp_path: Path, preset: str) -> None:
    train(begin(tmp_path / "at once", tiny(preset), steps=4))
    with pytest.raises(Interrupted):
        train(begin(tmp_path / "twice", tiny(preset), steps=4), stop_at(2))
    train(Run.resume(tmp_path / "twice", "numpy"))
    assert contents(tmp_path / "twice") == contents(tmp_path / "at once")


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
    resumed = Run.resume(tmp_path / "halves", backend)
    assert resumed.trainer.step == 4
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
    resumed = Run.resume(tmp_path / "crashed", "numpy")
    assert resumed.trainer.step == 3
    assert [r.step for r in resumed.trainer.history] == [1, 2, 3]
    train(resumed)
    assert contents(tmp_path / "crashed") == contents(tmp_path / "at once")
    both = [timeless(read_history(tmp_path / name)) for name in ("crashed", "at once")]
    assert both[0] == both[1]


def test_training_on_documents_resumes_to_the_byte(tmp_path: Path) -> None:
    """Some documents are shorter than a sequence, so some positions have weight 0."""
    texts = "我爱妈妈。", "the cat sat on the mat.", "a dog"
    documents = [tiny().tokenizer.encode(text) for text in texts]

    def start(name: str) -> Run:
        return Run.start(tmp_path / name, tiny(), documents, documents[:2], config())

    whole = start("whole")
    train(whole)
    with pytest.raises(Interrupted):
        train(start("halves"), stop_at(4))
    rest = Run.resume(tmp_path / "halves", "numpy")
    assert [d.tolist() for d in rest.trainer.train_ids] == [d.tolist() for d in documents]
    history = train(rest)
    assert contents(tmp_path / "halves") == contents(tmp_path / "whole")
    assert timeless(history) == timeless(whole.trainer.history)
    assert history[-1].train_loss < history[0].train_loss
    assert math.isfinite(history[-1].heldout_loss)


def test_a_run_killed_before_its_first_step_can_be_resumed(tmp_path: Path) -> None:
    train(begin(tmp_path / "at once"))
    begin(tmp_path / "killed")
    resumed = Run.resume(tmp_path / "killed")
    assert resumed.trainer.step == 0
    train(resumed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "at once")


def test_resume_can_change_settings(tmp_path: Path) -> None:
    train(begin(tmp_path, steps=2))
    resumed = Run.resume(tmp_path, "numpy", steps=3, learning_rate=0.5)
    assert (resumed.trainer.config.steps, resumed.trainer.config.learning_rate) == (3, 0.5)
    assert [r.step for r in train(resumed)] == [1, 2, 3]
    with pytest.raises(UserError, match="no setting 'step'"):
        Run.resume(tmp_path, "numpy", step=3)


def test_resume_keeps_the_backend(tmp_path: Path) -> None:
    begin(tmp_path, tiny(backend="numpy"))
    assert Run.resume(tmp_path).model.backend == "numpy"
    assert Run.resume(tmp_path, "numba").model.backend == "numba"


def test_a_finished_run_goes_on_only_with_more_steps(tmp_path: Path) -> None:
    train(begin(tmp_path))
    before, history = contents(tmp_path), timeless(read_history(tmp_path))
    with pytest.raises(UserError, match="this training is over after 8 steps"):
        train(Run.resume(tmp_path, "numpy"))
    assert contents(tmp_path) == before
    assert timeless(read_history(tmp_path)) == history
    assert len(train(Run.resume(tmp_path, "numpy", steps=9))) == 9


# interruption


def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    run = begin(tmp_path, checkpoint_every=0)
    with pytest.raises(Interrupted, match="after step 3"):
        train(run, stop_at(3))
    assert signal.getsignal(signal.SIGINT) is handler
    assert run.trainer.step == load_training(tmp_path).step == 3
    assert [r.step for r in read_history(tmp_path)] == [1, 2, 3]
    saved = load(tmp_path, "numpy")
    for name, array in run.model.parameters.items():
        assert np.array_equal(saved.parameters[name], array)
    assert len(train(Run.resume(tmp_path, "numpy"))) == 8


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
    run = begin(tmp_path)
    thread = threading.Thread(target=lambda: done.append(len(train(run))))
    thread.start()
    thread.join(timeout=60)
    assert done == [8]


# a loss that is no number


def test_nan_stops_training_and_names_the_way_back(tmp_path: Path) -> None:
    run = begin(tmp_path, checkpoint_every=2)

    def poison(record: Record) -> None:
        if record.step == 3:
            run.trainer.learner.parameters["axon_weight"][...] = np.nan

    with pytest.raises(UserError) as caught:
        train(run, poison)
    for part in ("the loss became nan at step 4", "step-00000002", "smaller learning_rate"):
        assert part in str(caught.value)
    assert load_training(tmp_path).step == 2
    load(tmp_path, "numpy")  # refuses NaN
    assert len(train(Run.resume(tmp_path, "numpy", learning_rate=0.001))) == 8


# folders


def test_what_cannot_be_trained_makes_no_folder(tmp_path: Path) -> None:
    model = tiny()
    ids = model.tokenizer.encode(TEXT)
    with pytest.raises(UserError, match="8 tokens, shorter than one sequence of 9"):
        Run.start(tmp_path / "run", model, ids[:8], ids[:9], config())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    train(begin(tmp_path, steps=1))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"already holds a run; go on with it \(resume\)"):
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


def test_time_used_up_by_an_evaluation_still_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(tmp_path, steps=None, minutes=0.002, evaluate_every=1, checkpoint_every=0)

    def slow() -> float:
        time.sleep(0.15)
        return 1.0

    monkeypatch.setattr(run.trainer, "heldout_loss", slow)
    train(run)
    assert load_training(tmp_path).step == run.trainer.step


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
