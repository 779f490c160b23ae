"""From the paper to `mini-ngrams`, one change at a time: what does each bring, what does it cost?

Every rung of the ladder has all changes of the rungs before it, and trains for the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.judging.grids import BriLLMCandidate, Note, choose
from minibrillm.judging.results import Comparison
from minibrillm.judging.task import Task
from minibrillm.presets import for_vocabulary


@dataclass(frozen=True)
class Rung:
    """One change: its name, and the settings of `ModelConfig` and `TrainConfig` it touches."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def _settings(preset: str, *names: str) -> dict[str, Any]:
    """How a preset trains, but for how long."""
    return {name: getattr(TrainConfig.preset(preset, steps=1), name) for name in names}


_OPTIMISER = (
    "batch_size",
    "sequence_length",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "beta2",
    "clip_norm",
)

# The first rung is the preset `paper`; `released` and `mini` are met on the way.
LADDER = (
    Rung("paper"),
    Rung("start at a node, not at ones", {"start": "node"}),
    Rung("shared edge learns", {"train_shared_edge": True}),
    Rung(
        "mean by position, not a chain",
        {"memory": "position", "first_position": 1},
        {"sequence_length": 32},
    ),
    Rung("its position encoding", {"positions": "released"}),
    Rung("its training: released", {}, _settings("released", *_OPTIMISER, "negatives")),
    Rung("exact softmax", {}, {"negatives": 0}),
    Rung("our optimiser", {}, _settings("mini", *_OPTIMISER)),
    Rung("averaged weights", {}, _settings("mini", "average_decay")),
    Rung("leaky memory", {"memory": "leaky"}),
    Rung("no positions", {"positions": "none", "first_position": 0}),
    Rung("signals are bounded", {"signal_bound": 8.0}),
    Rung("Hebbian prior", {"prior": "hebbian"}),
    Rung(
        "edges of three parts: mini",
        {"edges": "three_part", "min_count": 10, "initial_range": 0.3},
    ),
    Rung("more decay", {}, {"weight_decay": 1.0}),
    Rung("7-gram prior: mini-ngrams", {"prior": "ngrams"}),
)


def rungs(task: Task) -> Iterator[tuple[str, ModelConfig, TrainConfig]]:
    """Name and settings of every rung, the changes before it included."""
    model = ModelConfig.preset("paper")
    training = TrainConfig.preset("paper", minutes=task.minutes)
    for rung in LADDER:
        model, training = model.replace(**rung.model), training.replace(**rung.training)
        yield rung.name, *for_vocabulary(task.n_nodes, model, training)


def ablate(
    task: Task,
    note: Note = lambda line: None,
    on_row: Callable[[Comparison], None] = lambda found: None,
) -> Comparison:
    """Train and score every rung; arguments as for `minibrillm.judging.compare`."""
    found = Comparison.of(task)
    for name, model, training in rungs(task):
        contender = choose(task, name, [BriLLMCandidate(model, training)], note)
        found.add("ladder", task, contender)
        on_row(found)
    return found
