"""What a contender tries: candidates, the best of which on the validation part is trained anew."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.graph import TokenGraph
from minibrillm.judging.results import Contender, Curve
from minibrillm.judging.task import HELD_OUT, Task
from minibrillm.machine import free_memory
from minibrillm.model import BriLLM
from minibrillm.presets import MANY_NODES, for_text, for_vocabulary
from minibrillm.runs import check_memory
from minibrillm.scoring import WINDOW, stream_loss, window_loss
from minibrillm.storage import Record
from minibrillm.training import Trainer

if TYPE_CHECKING:
    from minibrillm.rivals import PeerTrainer, Recipe

Reading = Callable[..., float]  # of a model and documents: mean nats per token
Note = Callable[[str], None]  # is told what is being done


class LeftOut(Exception):
    """This contender cannot run here, and why."""


# ------------------------------------------------------------------------------------- candidates


@dataclass(frozen=True)
class Trained:
    """A model after its training with one seed.

    Parameters
    ----------
    model
        What `minibrillm.scoring` can read.
    history : sequence of Record
    n_parameters : int
        Numbers it stores, those of a counted prior too.
    settings : dict
        How it was made.
    readings : dict
        The ways to read held-out text that suit it, by name.
    """

    model: Any
    history: Sequence[Record]
    n_parameters: int
    settings: dict[str, Any]
    readings: dict[str, Reading]


class Candidate(Protocol):
    """One way to train a contender."""

    def settings(self) -> dict[str, Any]:
        """All that may set it apart from the others of its grid."""

    def train(self, task: Task, seed: int) -> Trained:
        """Train it with this seed; `LeftOut` where that is not possible."""


@dataclass(frozen=True)
class BriLLMCandidate:
    """BriLLM with these settings; the seed of ``training`` does not matter."""

    model: ModelConfig
    training: TrainConfig

    def settings(self) -> dict[str, Any]:
        """Of model and training, in one dictionary."""
        return {**self.model.to_json(), **self.training.to_json()}

    def train(self, task: Task, seed: int) -> Trained:
        """Train it with this seed; `LeftOut` where memory does not suffice."""
        config, training = self.model, self.training.replace(seed=seed)
        ids = task.ids["train"]
        graph = TokenGraph.for_config(config, ids, task.n_nodes)
        try:
            check_memory(config, graph.n_nodes, graph.n_edges, free_memory())
        except UserError as error:
            raise LeftOut(str(error)) from None
        model = BriLLM.create(config, task.tokenizer, graph, seed=seed)
        trainer = Trainer(model, ids, task.ids["validation"], training)
        trainer.count_evaluations = False
        trainer.train(progress_bar=False)
        return Trained(
            trainer.model,
            trainer.history,
            trainer.model.n_parameters + _counted(graph),
            {"model": trainer.model.config.to_json(), "training": trainer.config.to_json()},
            self._readings(task, trainer.model.max_positions),
        )

    def _readings(self, task: Task, limit: int | None) -> dict[str, Reading]:
        """Windows and stream; but a chain, or a mean by position, never learned what lies beyond
        its training length."""
        readings: dict[str, Reading] = {f"windows of {WINDOW}": window_loss}
        width = self.training.sequence_length
        if self.model.memory != "leaky":
            readings[f"windows of {width}"] = lambda model, ids: window_loss(model, ids, width)
        longest = max(len(d) - 1 for part in HELD_OUT for d in task.ids[part])
        if limit is None or longest <= limit:
            readings[task.by_document] = stream_loss
        return readings


def _counted(graph: TokenGraph) -> int:
    """How many numbers the priors hold: what counting knows, beside what training learns."""
    size = sum(level.counts.size for level in graph.ngrams.levels) if graph.ngrams else 0
    return size + (graph.prior.size if graph.prior is not None else 0)


@dataclass(frozen=True)
class PeerCandidate:
    """A GPT or an LSTM (`minibrillm.rivals`); needs PyTorch."""

    recipe: Recipe

    def settings(self) -> dict[str, Any]:
        """Of its size and its training, in one dictionary."""
        return self.recipe.to_json()

    def train(self, task: Task, seed: int) -> Trained:
        """Train it with this seed."""
        trainer = _train_peer(task, self.recipe, seed)
        peer = trainer.model
        readings = _readings_of_peer(task, peer.max_positions)
        return Trained(peer, trainer.history, peer.n_parameters, self.settings(), readings)


def _train_peer(task: Task, recipe: Recipe, seed: int) -> PeerTrainer:
    from minibrillm.rivals import PeerTrainer

    config = recipe.train_config(minutes=task.minutes, seed=seed)
    peer = recipe.build(task.n_nodes, seed)
    trainer = PeerTrainer(peer, task.ids["train"], task.ids["validation"], config)
    trainer.train(progress_bar=False)
    return trainer


def _readings_of_peer(task: Task, context: int | None) -> dict[str, Reading]:
    """A GPT's context slides over the text; an LSTM reads as ours does."""
    from minibrillm.rivals import sliding_loss

    if context is not None:
        return {f"windows of {context}, sliding": sliding_loss}
    return {f"windows of {WINDOW}": window_loss, task.by_document: stream_loss}


# `mini` and `mini-ngrams` are tried with the settings that fit the text (`for_text`), then with
# these: d_node, weight_decay.
_LETTERS = ((32, 1.0), (64, 1.5))
_MANY = ((32, 6.0), (24, 3.0))


def our_grid(task: Task, preset: str) -> list[BriLLMCandidate]:
    """Candidates of ``mini`` or ``mini-ngrams``, the likeliest first."""
    lengths, n_heldout = (list(map(len, task.ids[part])) for part in ("train", "validation"))
    model = ModelConfig.preset(preset)
    training = TrainConfig.preset(preset, minutes=task.minutes)
    grid = [for_text(task.n_nodes, lengths, sum(n_heldout), model, training)]
    for d_node, weight_decay in _MANY if task.n_nodes > MANY_NODES else _LETTERS:
        changed = model.replace(d_node=d_node), training.replace(weight_decay=weight_decay)
        grid.append(for_vocabulary(task.n_nodes, *changed, d_node=d_node))
    return [BriLLMCandidate(*settings) for settings in grid]


# ----------------------------------------------------------------------------------------- choice


def choose(task: Task, name: str, candidates: Sequence[Candidate], note: Note) -> Contender:
    """The candidate that is best on the validation part, then trained with the other seeds."""
    first, *others = task.seeds
    told = _set_apart([candidate.settings() for candidate in candidates])
    grid: list[dict[str, Any]] = []
    losses: list[float] = []
    trained: list[Trained] = []
    best = 0
    for k, candidate in enumerate(candidates):
        several = len(candidates) > 1
        which = f"candidate {k + 1} of {len(candidates)}" if several else f"seed {first}"
        note(_words(f"{name}, {which}", told[k]))
        found = candidate.train(task, first)
        reads = found.readings.values()
        losses.append(min(read(found.model, task.ids["validation"]) for read in reads))
        grid.append({**told[k], "validation": losses[k]})
        note(f"validation {losses[k]:.4f}")
        if not trained or losses[k] < losses[best]:
            best, trained = k, [found]
    for seed in others:
        note(_words(f"{name}, seed {seed}", told[best]))
        trained.append(candidates[best].train(task, seed))
    return scored(task, name, trained, grid)


def _set_apart(grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each candidate's settings those that are not the same in all candidates."""
    return [
        {name: value for name, value in one.items() if any(other[name] != value for other in grid)}
        for one in grid
    ]


def _words(what: str, settings: dict[str, Any]) -> str:
    told = ", ".join(f"{name} {value:g}" for name, value in settings.items() if value is not None)
    return f"{what}: {told}" if told else what


def scored(
    task: Task, name: str, trained: Sequence[Trained], grid: Sequence[dict[str, Any]]
) -> Contender:
    """Score what was trained, one a seed, in every reading.

    Parameters
    ----------
    trained : sequence of Trained
        The same candidate with each seed of the task.
    grid : sequence of dict
        What was tried, for the file.
    """
    first = trained[0]
    losses = {
        reading: {part: [loss(t.model, task.ids[part]) for t in trained] for part in HELD_OUT}
        for reading, loss in first.readings.items()
    }
    last = [t.history[-1] for t in trained]
    return Contender(
        name,
        first.n_parameters,
        statistics.fmean(record.seconds for record in last),
        round(statistics.fmean(record.tokens for record in last)),
        losses,
        {**first.settings, "grid": list(grid)},
        _curve(name, first.history),
    )


def _curve(name: str, history: Sequence[Record]) -> Curve:
    measured = [r for r in history if not math.isnan(r.heldout_loss)]
    return Curve(
        name,
        [r.seconds for r in measured],
        [r.tokens for r in measured],
        [r.heldout_loss for r in measured],
    )
