"""Of all steps the one that did best on the held-out text is kept, so longer is never worse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trainings import begin, loose, tiny, train

from minibrillm.bench import small_text
from minibrillm.config import TrainConfig
from minibrillm.model import BriLLM
from minibrillm.runs import Run, kept_steps, load
from minibrillm.scoring import window_loss
from minibrillm.training import Trainer

EVERY: dict[str, Any] = {"steps": 6, "evaluate_every": 1, "batch_size": 2}


def scripted(trainer: Trainer, losses: list[float]) -> dict[int, np.ndarray]:
    """Let the held-out losses be these; the averaged axons at every step are noted down."""
    seen: dict[int, np.ndarray] = {}

    def loss() -> float:
        seen[trainer.step] = trainer.averaged.parameters["axon_weight"].copy()
        return losses[trainer.step - 1]

    trainer.heldout_loss = loss  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([5, 4, 3, 2, 1, 0.5], 6),
        ([5, 1, 3, 2, 4, 6], 2),
        ([1, 2, 3, 4, 5, 6], 1),
        ([2, 2, 2, 2, 2, 2], 1),
        ([math.inf, math.nan, 3, math.inf, math.nan, 3], 3),
    ],
)
def test_the_best_step_is_kept(tmp_path: Path, losses: list[float], best: int) -> None:
    run = begin(tmp_path, tiny(d_node=4), **EVERY)
    trainer = run.trainer
    seen = scripted(trainer, losses)
    train(run)
    assert trainer.kept == (best, 6)
    np.testing.assert_array_equal(trainer.model.parameters["axon_weight"], seen[best])
    saved = load(tmp_path, "numpy").parameters["axon_weight"]
    np.testing.assert_array_equal(saved, seen[best])
    assert kept_steps(tmp_path) == (best, 6)


def test_where_no_loss_is_a_number_the_last_step_is_kept() -> None:
    trainer = loose(tiny(d_node=4), **EVERY)
    seen = scripted(trainer, [math.nan] * 6)
    train(trainer)
    assert trainer.kept == (6, 6)
    np.testing.assert_array_equal(trainer.model.parameters["axon_weight"], seen[6])


def test_a_resumed_run_remembers_its_best_step(tmp_path: Path) -> None:
    run = begin(tmp_path, tiny(d_node=4), **EVERY)
    seen = scripted(run.trainer, [5, 1, 3, 2, 4, 6])
    train(run)
    resumed = Run.resume(tmp_path, "numpy", steps=8)
    assert resumed.trainer.kept == (2, 6)
    for name, array in run.trainer.averaged.parameters.items():
        np.testing.assert_array_equal(resumed.trainer.averaged.parameters[name], array)
    scripted(resumed.trainer, [9] * 8)
    train(resumed)
    assert resumed.trainer.kept == (2, 8)
    np.testing.assert_array_equal(resumed.model.parameters["axon_weight"], seen[2])
    better = Run.resume(tmp_path, "numpy", steps=10)
    later = scripted(better.trainer, [0.1] * 10)
    train(better)
    assert better.trainer.kept == (9, 10)
    np.testing.assert_array_equal(better.model.parameters["axon_weight"], later[9])


def test_longer_training_is_never_worse() -> None:
    """A text of 500 characters, learned by heart: what is kept does not get worse."""
    text = small_text("templates, en, 2 kB")[:500]
    losses = []
    for steps in (20, 200):
        model = BriLLM.from_text(text[:450], d_node=16, backend="numba")
        ids = model.tokenizer.encode(text)
        config = TrainConfig(
            steps=steps, batch_size=16, evaluate_every=5, warmup_steps=5, sequence_length=32
        )
        trainer = Trainer(model, ids[:450], ids[450:], config)
        trainer.train(progress_bar=False)
        losses.append(window_loss(trainer.model, ids[450:]))
        worst = window_loss(trainer.averaged, ids[450:])
    assert losses[1] < losses[0] + 0.05
    assert worst > losses[1] + 0.05, "nothing was learned by heart: nothing was tested"
