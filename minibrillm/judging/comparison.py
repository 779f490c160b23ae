"""Ours beside n-grams, a GPT and an LSTM: the same text, tokens, threads and minutes for all.

What a contender may choose (networks their size, n-grams their order) it chooses on the validation
part of the held-out text; the test part is for the figure that counts. Needs PyTorch only for the
GPT and the LSTM.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numba
import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey, loss_by_order
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.presets import MANY_NODES, for_text, for_vocabulary
from minibrillm.scoring import WINDOW, stream_loss, window_loss
from minibrillm.text import Corpus, Tokenizer, join_documents, split_corpus, train_tokenizer
from minibrillm.training import Record, Trainer, check_memory, free_memory

if TYPE_CHECKING:
    from minibrillm.rivals import PeerTrainer, Recipe

Array = np.ndarray
Documents = Sequence[Array]
Trained: TypeAlias = "Trainer | PeerTrainer"
Reading = Callable[..., float]

CONTENDERS = ("ngrams", "released", "mini", "mini-ngrams", "gpt", "lstm")
_HIGHEST_ORDER = 7
_PARTS = ("validation", "test")


# -------------------------------------------------------------------------------------- the text


@dataclass(frozen=True)
class Parts:
    """Documents to train on, to choose by, and to report."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def three_parts(corpus: Corpus, heldout: float = 0.1) -> Parts:
    """The corpus' own splits, or else its last part held out and cut in two halves.

    Several documents are cut between two of them, a single one in the middle of its characters.

    Parameters
    ----------
    heldout : float
        Share of the characters held out where the corpus has no splits of its own.

    Raises
    ------
    UserError
        A part with fewer than two characters.
    """
    split = split_corpus(corpus, heldout)
    own = tuple(
        d for d, s in zip(corpus.documents, corpus.splits or (), strict=False) if s == "test"
    )
    if own and own != split.heldout:
        parts = Parts(split.train, split.heldout, own)
    else:
        halves = split_corpus(Corpus(split.heldout), 0.5)
        parts = Parts(split.train, halves.train, halves.heldout)
    for name, documents in vars(parts).items():
        if max(map(len, documents), default=0) < 2:
            raise UserError(f"the text is too short: nothing is left for {name}; give more text")
    return parts


@dataclass(frozen=True)
class Task:
    """What every contender gets.

    Parameters
    ----------
    tokenizer : Tokenizer
        Learned from the training part.
    ids : dict
        Token ids of the documents of "train", "validation" and "test".
    characters : dict
        How many characters the scored tokens of "validation" and "test" are.
    minutes : float
        Of training for each network, and for each candidate of the grid.
    seeds : tuple of int
    """

    tokenizer: Tokenizer
    ids: dict[str, list[Array]]
    characters: dict[str, int]
    minutes: float
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        parts: Parts,
        minutes: float,
        seeds: Sequence[int],
        tokenizer: str = "characters",
        n_nodes: int | None = None,
    ) -> Task:
        """Learn the tokenizer and encode the parts."""
        tok = train_tokenizer(join_documents(parts.train), tokenizer, n_nodes)
        ids = {name: [tok.encode(d) for d in documents] for name, documents in vars(parts).items()}
        characters = {
            name: sum(
                len(d) - len(tok.decode(first[:1]))
                for d, first in zip(getattr(parts, name), ids[name], strict=True)
            )
            for name in _PARTS
        }
        return cls(tok, ids, characters, minutes, tuple(seeds))

    @property
    def n_nodes(self) -> int:
        """V."""
        return self.tokenizer.n_nodes

    def n_scored(self, part: str) -> int:
        """Tokens of a part that are foretold: all but the first of each document."""
        return sum(max(len(d) - 1, 0) for d in self.ids[part])

    @property
    def by_document(self) -> str:
        """What reading the held-out text without windows is called."""
        several = max(len(self.ids[part]) for part in _PARTS) > 1
        return "document by document" if several else "one stream"


# ------------------------------------------------------------------------------------ the results


@dataclass(frozen=True)
class Row:
    """One model, read in one way.

    Parameters
    ----------
    contender : str
        One of `CONTENDERS`.
    name, reading : str
        "BriLLM mini", "windows of 256".
    parameters, tokens : int
        Numbers it stores (those of a counted prior too), and tokens it read in training (the same
        ones again and again).
    seconds : float
        Of training, mean over the seeds.
    validation, test, whole : list of float
        Held-out nats per token, one for each seed; the whole is both parts together.
    bits_per_character : float
        On the test part, mean over the seeds.
    settings : dict
        What was chosen, and from what.
    """

    contender: str
    name: str
    reading: str
    parameters: int
    seconds: float
    tokens: int
    validation: list[float]
    test: list[float]
    whole: list[float]
    bits_per_character: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean nats per token on the test part."""
        return statistics.fmean(self.test)

    @property
    def ours(self) -> bool:
        """Whether this is BriLLM."""
        return self.contender in ("released", "mini", "mini-ngrams")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, with mean and spread (standard deviation) of each part."""
        out = asdict(self)
        for part in (*_PARTS, "whole"):
            mean, spread = _mean_and_spread(getattr(self, part))
            out |= {f"{part}_mean": mean, f"{part}_spread": spread}
        return out

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        """A row from what its `to_json` gave."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Curve:
    """Held-out loss (first part of the validation text) as training goes on, of the first seed."""

    name: str
    seconds: list[float]
    tokens: list[int]
    losses: list[float]


@dataclass
class Comparison:
    """What came out: rows for the table, curves for the figure, and under which conditions."""

    conditions: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task) -> Comparison:
        """Nothing yet, but the conditions."""
        return cls(
            {
                "minutes": task.minutes,
                "seeds": list(task.seeds),
                "threads": numba.get_num_threads(),
                "n_nodes": task.n_nodes,
                "tokens": {part: sum(map(len, ids)) for part, ids in task.ids.items()},
            }
        )

    def best(self) -> list[Row]:
        """The rows with the best reading (on the validation part) of each model."""
        found: dict[str, Row] = {}
        for row in self.rows:
            known = found.get(row.name)
            if known is None or sum(row.validation) < sum(known.validation):
                found[row.name] = row
        return list(found.values())

    def table(self) -> str:
        """The rows as lines of text, and where BriLLM loses."""
        head = ("", "read in", "parameters", "seconds", "tokens read")
        rows: list[tuple[str, ...]] = [(*head, "validation", "test", "whole", "bits/char")]
        last = ""
        for row in self.rows:
            sizes = (f"{row.parameters:,}", f"{row.seconds:.0f}", f"{row.tokens:,}")
            losses = [_shown(getattr(row, part)) for part in (*_PARTS, "whole")]
            same = row.name == last
            first = ("", row.reading, "", "", "") if same else (row.name, row.reading, *sizes)
            rows.append((*first, *losses, f"{row.bits_per_character:.4f}"))
            last = row.name
        wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = [
            "  ".join(
                [*map(str.ljust, row[:2], wide[:2]), *map(str.rjust, row[2:], wide[2:])]
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self._explanation(), *self.notes, *self.verdict()])

    def newest(self) -> str:
        """The model that was added last, in one line."""
        row = self.best()[-1]
        losses = ", ".join(f"{part} {_shown(getattr(row, part))}" for part in _PARTS)
        return f"{row.name}, {row.reading}: {losses}"

    def _explanation(self) -> str:
        facts = self.conditions
        text = (
            f"held-out nats per token, bits per character of the test part; "
            f"{facts['minutes']:g} min of training each, {facts['threads']} threads; "
            f"{facts['tokens']['train']:,} tokens to train on, "
            f"{facts['tokens']['validation']:,} to choose by (validation), "
            f"{facts['tokens']['test']:,} to report (test)"
        )
        n_seeds = len(facts["seeds"])
        return text + (f"; ± standard deviation of {n_seeds} seeds" if n_seeds > 1 else "")

    def verdict(self) -> list[str]:
        """Lines that say whether the better BriLLM loses on the test part, and to what."""
        best = self.best()
        ours = min((r for r in best if r.ours), key=lambda r: sum(r.validation), default=None)
        others = [r for r in best if not r.ours]
        if ours is None or not others:
            return []
        ahead = [r for r in others if r.loss < ours.loss]
        if not ahead:
            nearest = min(others, key=lambda r: r.loss)
            by = f"by {nearest.loss - ours.loss:.4f} nats per token"
            return [f"{ours.name} is ahead of all others on the test part, of {nearest.name} {by}"]
        return [
            f"{ours.name} loses to {r.name} on the test part: "
            f"{ours.loss:.4f} against {r.loss:.4f} nats per token"
            for r in ahead
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of everything."""
        return {
            "conditions": self.conditions,
            "rows": [row.to_json() for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        """A comparison from what its `to_json` gave."""
        rows = [Row.from_json(row) for row in data["rows"]]
        curves = [Curve(**curve) for curve in data["curves"]]
        return cls(data["conditions"], rows, curves, data["notes"])


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation where there are several."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _shown(values: Sequence[float]) -> str:
    mean, spread = _mean_and_spread(values)
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


# ---------------------------------------------------------------------------------------- the run


def compare(
    task: Task,
    only: Sequence[str] = CONTENDERS,
    grid: int = 3,
    note: Callable[[str], None] = lambda line: None,
    on_row: Callable[[Comparison], None] = lambda found: None,
) -> Comparison:
    """Train and score all contenders, one after the other.

    Parameters
    ----------
    only : sequence of str
        Some of `CONTENDERS`.
    grid : int
        How many candidates of ours, the GPT and the LSTM are tried, the likeliest first, with the
        first seed.
    note : callable
        Told what is being done.
    on_row : callable
        Called after each model with all that is known.

    Raises
    ------
    UserError
        As `check`.
    """
    check(only, grid)
    found = Comparison.of(task)
    runs: dict[str, Callable[[], Iterator[Model]]] = {
        "ngrams": lambda: _ngrams(task),
        "released": lambda: _released(task, note),
        "mini": lambda: _ours(task, "mini", grid, note),
        "mini-ngrams": lambda: _ours(task, "mini-ngrams", grid, note),
        "gpt": lambda: _gpt(task, grid, note),
        "lstm": lambda: _lstm(task, grid, note),
    }
    for contender in CONTENDERS:
        if contender not in only:
            continue
        note(f"{contender} …")
        try:
            for model in runs[contender]():
                report(found, task, contender, model)
                on_row(found)
        except LeftOut as reason:
            found.notes.append(f"{contender} left out: {reason}")
            note(found.notes[-1])
    return found


def check(only: Sequence[str], grid: int) -> None:
    """Refuse what cannot be compared, before anything is trained.

    Raises
    ------
    UserError
        An unknown contender, no candidate to try, or no PyTorch where it is needed.
    """
    for name in only:
        if name not in CONTENDERS:
            raise UserError(f"there is no {name!r} to compare; choose from {', '.join(CONTENDERS)}")
    if grid < 1:
        raise UserError(f"the grid has {grid} candidates; expected at least 1")
    if {"gpt", "lstm"} & set(only):
        from minibrillm.rivals import set_threads

        set_threads(numba.get_num_threads())


class LeftOut(Exception):
    """This contender cannot run here, and why."""


@dataclass
class Model:
    """A contender that was trained and scored.

    Parameters
    ----------
    losses : dict
        By reading and part, nats per token, one for each seed.
    """

    name: str
    parameters: int
    seconds: float
    tokens: int
    losses: dict[str, dict[str, list[float]]]
    settings: dict[str, Any]
    curve: Curve | None = None


def report(found: Comparison, task: Task, contender: str, model: Model) -> None:
    """Add the rows of a model, its best reading first."""
    n = {part: task.n_scored(part) for part in _PARTS}
    rows = []
    for reading, losses in model.losses.items():
        whole = [
            (a * n["validation"] + b * n["test"]) / sum(n.values())
            for a, b in zip(losses["validation"], losses["test"], strict=True)
        ]
        nats = statistics.fmean(losses["test"]) * n["test"]
        rows.append(
            Row(
                contender,
                model.name,
                reading,
                model.parameters,
                model.seconds,
                model.tokens,
                losses["validation"],
                losses["test"],
                whole,
                nats / math.log(2) / task.characters["test"],
                model.settings,
            )
        )
    found.rows += sorted(rows, key=lambda row: sum(row.validation))
    if model.curve is not None:
        found.curves.append(model.curve)


def _ngrams(task: Task) -> Iterator[Model]:
    """The bigram, and the order that is best on the validation part."""
    began = time.perf_counter()
    train, n_nodes = task.ids["train"], task.n_nodes
    by_order = {
        part: loss_by_order(train, task.ids[part], n_nodes, _HIGHEST_ORDER) for part in _PARTS
    }
    shown = {part: {str(k): loss for k, loss in found.items()} for part, found in by_order.items()}
    seconds = time.perf_counter() - began
    validation = by_order["validation"]
    best = min(validation, key=lambda order: validation[order])
    for order in dict.fromkeys((2, best)):
        levels = KneserNey.fit(train, n_nodes, order).levels
        yield Model(
            f"{order}-gram, Kneser-Ney",
            sum(level.share.size + level.backoff.size for level in levels),
            seconds,
            sum(map(len, train)),
            {"full context": {part: [by_order[part][order]] * len(task.seeds) for part in _PARTS}},
            {"order": order, "losses_by_order": shown},
        )


class Candidate(NamedTuple):
    """One way to train a contender: what is chosen by it, and the training with a given seed."""

    settings: dict[str, Any]
    train: Callable[[int], Trained]


def chosen(
    task: Task,
    name: str,
    candidates: Sequence[Candidate],
    readings: Callable[[Trained], dict[str, Reading]],
    note: Callable[[str], None],
) -> Model:
    """The candidate that is best on the validation part, then trained with the other seeds."""
    first, *others = task.seeds
    trained: list[Trained] = []
    grid: list[dict[str, Any]] = []
    best = 0
    for k, candidate in enumerate(candidates):
        several = len(candidates) > 1
        which = f"candidate {k + 1} of {len(candidates)}" if several else f"seed {first}"
        note(_words(f"{name}, {which}", candidate.settings))
        trainer = candidate.train(first)
        scores = (
            read(trainer.model, task.ids["validation"]) for read in readings(trainer).values()
        )
        grid.append({**candidate.settings, "validation": min(scores)})
        note(f"validation {grid[-1]['validation']:.4f}")
        if not trained or grid[-1]["validation"] < grid[best]["validation"]:
            best, trained = k, [trainer]
    for seed in others:
        note(_words(f"{name}, seed {seed}", candidates[best].settings))
        trained.append(candidates[best].train(seed))
    settings = candidates[best].settings
    if isinstance(trained[0], Trainer):
        model, training = trained[0].model.config, trained[0].config
        settings = {"model": model.to_json(), "training": training.to_json()}
    return _model(name, task, trained, readings(trained[0]), {**settings, "grid": grid})


# `mini` and `mini-ngrams` are tried with the settings that fit the text (`for_text`), then with these.
_LETTERS: tuple[dict[str, Any], ...] = (
    {"d_node": 32, "weight_decay": 1.0},
    {"d_node": 64, "weight_decay": 1.5},
)
_MANY: tuple[dict[str, Any], ...] = (
    {"d_node": 32, "weight_decay": 6.0},
    {"d_node": 24, "weight_decay": 3.0},
)


def _our_grid(task: Task, preset: str) -> tuple[dict[str, Any], ...]:
    lengths, n_heldout = (list(map(len, task.ids[part])) for part in ("train", "validation"))
    given = ModelConfig.preset(preset), TrainConfig.preset(preset, minutes=task.minutes)
    fitted = for_text(task.n_nodes, lengths, sum(n_heldout), *given)
    changes = {
        name: value
        for new, old in zip(fitted, given, strict=True)
        for name, value in new.to_json().items()
        if value != old.to_json()[name]
    }
    return (changes, *(_MANY if task.n_nodes > MANY_NODES else _LETTERS))


def _ours(
    task: Task, preset: str, n_candidates: int, note: Callable[[str], None]
) -> Iterator[Model]:
    """``mini`` or ``mini-ngrams``."""
    yield _brillm(task, preset, f"BriLLM {preset}", _our_grid(task, preset)[:n_candidates], note)


def _released(task: Task, note: Callable[[str], None]) -> Iterator[Model]:
    """``released`` with the negatives of the paper, and with the exact softmax."""
    k = TrainConfig.preset("released", steps=1).negatives
    yield _brillm(task, "released", f"BriLLM released, {k} negatives", [{"negatives": k}], note)
    yield _brillm(task, "released", "BriLLM released, exact softmax", [{"negatives": 0}], note)


def _brillm(
    task: Task,
    preset: str,
    name: str,
    grid: Sequence[dict[str, Any]],
    note: Callable[[str], None],
) -> Model:
    candidates = [
        Candidate(changes, functools.partial(_train_preset, task, preset, changes))
        for changes in grid
    ]
    return chosen(task, name, candidates, lambda t: brillm_readings(task, t), note)


def _train_preset(task: Task, preset: str, changes: dict[str, Any], seed: int) -> Trainer:
    of_model = {name: value for name, value in changes.items() if hasattr(ModelConfig, name)}
    others = {name: value for name, value in changes.items() if name not in of_model}
    training = TrainConfig.preset(preset, minutes=task.minutes, **others)
    config = ModelConfig.preset(preset, **of_model)
    config, training = for_vocabulary(task.n_nodes, config, training, config.d_node)
    return train_brillm(task, config, training, seed)


def train_brillm(task: Task, config: ModelConfig, training: TrainConfig, seed: int) -> Trainer:
    """A trained BriLLM; ``training`` with another seed."""
    training, train = training.replace(seed=seed), task.ids["train"]
    graph = TokenGraph.for_config(config, train, task.n_nodes)
    try:
        check_memory(config, graph.n_nodes, graph.n_edges, free_memory())
    except UserError as error:
        raise LeftOut(str(error)) from None
    model = BriLLM.create(config, task.tokenizer, graph, seed=seed)
    trainer = Trainer(model, train, task.ids["validation"], training, count_evaluations=False)
    trainer.train(progress_bar=False)
    return trainer


def brillm_readings(task: Task, trainer: Trained) -> dict[str, Reading]:
    """Windows and stream; but a chain, or a mean by position, never learned what lies beyond its
    training length."""
    readings: dict[str, Reading] = {f"windows of {WINDOW}": window_loss}
    limit, trained = trainer.model.max_positions, trainer.config.sequence_length
    if isinstance(trainer, Trainer) and trainer.model.config.memory != "leaky":
        readings[f"windows of {trained}"] = lambda m, ids: window_loss(m, ids, trained)
    longest = max(len(d) - 1 for part in _PARTS for d in task.ids[part])
    if limit is None or longest <= limit:
        readings[task.by_document] = stream_loss
    return readings


def _gpt(task: Task, n_candidates: int, note: Callable[[str], None]) -> Iterator[Model]:
    from minibrillm import rivals

    def readings(trained: Trained) -> dict[str, Reading]:
        return {f"windows of {trained.model.max_positions}, sliding": rivals.sliding_loss}

    recipes = rivals.gpt_recipes(task.n_nodes)[:n_candidates]
    yield chosen(task, "GPT", _peers(task, recipes), readings, note)


def _lstm(task: Task, n_candidates: int, note: Callable[[str], None]) -> Iterator[Model]:
    from minibrillm import rivals

    readings: dict[str, Reading] = {f"windows of {WINDOW}": window_loss}
    readings[task.by_document] = stream_loss
    recipes = rivals.lstm_recipes(task.n_nodes)[:n_candidates]
    yield chosen(task, "LSTM", _peers(task, recipes), lambda trained: readings, note)


def _peers(task: Task, recipes: Sequence[Recipe]) -> list[Candidate]:
    return [
        Candidate(recipe.to_json(), functools.partial(_train_peer, task, recipe))
        for recipe in recipes
    ]


def _words(what: str, settings: dict[str, Any]) -> str:
    chosen = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return f"{what}: {chosen}" if chosen else what


def _train_peer(task: Task, recipe: Recipe, seed: int) -> PeerTrainer:
    from minibrillm.rivals import PeerTrainer

    config = recipe.train_config(minutes=task.minutes, seed=seed)
    peer = recipe.build(task.n_nodes, seed)
    trainer = PeerTrainer(peer, task.ids["train"], task.ids["validation"], config)
    trainer.train()
    return trainer


def _model(
    name: str,
    task: Task,
    trainers: Sequence[Trained],
    readings: dict[str, Reading],
    settings: dict[str, Any],
) -> Model:
    """Score what was trained, one trainer a seed, in every reading."""
    losses = {
        reading: {part: [loss(t.model, task.ids[part]) for t in trainers] for part in _PARTS}
        for reading, loss in readings.items()
    }
    first = trainers[0]
    counted = first.model.graph.n_counted if isinstance(first, Trainer) else 0
    last = [t.history[-1] for t in trainers]
    return Model(
        name,
        first.model.n_parameters + counted,
        statistics.fmean(r.seconds for r in last),
        round(statistics.fmean(r.tokens for r in last)),
        losses,
        settings,
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
