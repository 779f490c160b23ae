"""Ours beside n-grams, a GPT and an LSTM: the same text, tokens, threads and minutes for all.

What a contender may choose (networks their size, n-grams their order) it chooses on the validation
part of the held-out text; the test part is for the figure that counts. Needs PyTorch only for the
GPT and the LSTM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numba

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey, loss_by_order
from minibrillm.judging.grids import (
    BriLLMCandidate,
    LeftOut,
    Note,
    PeerCandidate,
    choose,
    our_grid,
)
from minibrillm.judging.results import Comparison, Contender
from minibrillm.judging.task import HELD_OUT, Task

CONTENDERS = ("ngrams", "released", "mini", "mini-ngrams", "gpt", "lstm")
_HIGHEST_ORDER = 7


def compare(
    task: Task,
    only: Sequence[str] = CONTENDERS,
    grid: int = 3,
    note: Note = lambda line: None,
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
    runs: dict[str, Callable[[], Iterator[Contender]]] = {
        "ngrams": lambda: _ngrams(task),
        "released": lambda: _released(task, note),
        "mini": lambda: _ours(task, "mini", grid, note),
        "mini-ngrams": lambda: _ours(task, "mini-ngrams", grid, note),
        "gpt": lambda: _gpt(task, grid, note),
        "lstm": lambda: _lstm(task, grid, note),
    }
    for kind in CONTENDERS:
        if kind not in only:
            continue
        note(f"{kind} …")
        try:
            for contender in runs[kind]():
                found.add(kind, task, contender)
                on_row(found)
        except LeftOut as reason:
            found.notes.append(f"{kind} left out: {reason}")
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


def _ngrams(task: Task) -> Iterator[Contender]:
    """The bigram, and the order that is best on the validation part."""
    began = time.perf_counter()
    train, n_nodes = task.ids["train"], task.n_nodes
    by_order = {
        part: loss_by_order(train, task.ids[part], n_nodes, _HIGHEST_ORDER) for part in HELD_OUT
    }
    shown = {part: {str(k): loss for k, loss in found.items()} for part, found in by_order.items()}
    seconds = time.perf_counter() - began
    validation = by_order["validation"]
    best = min(validation, key=lambda order: validation[order])
    for order in dict.fromkeys((2, best)):
        levels = KneserNey.fit(train, n_nodes, order).levels
        yield Contender(
            f"{order}-gram, Kneser-Ney",
            sum(level.share.size + level.backoff.size for level in levels),
            seconds,
            sum(map(len, train)),
            {
                "full context": {
                    part: [by_order[part][order]] * len(task.seeds) for part in HELD_OUT
                }
            },
            {"order": order, "losses_by_order": shown},
        )


def _released(task: Task, note: Note) -> Iterator[Contender]:
    """``released`` with the negatives of the paper, and with the exact softmax."""
    model = ModelConfig.preset("released")
    training = TrainConfig.preset("released", minutes=task.minutes)
    for how, k in ((f"{training.negatives} negatives", training.negatives), ("exact softmax", 0)):
        candidate = BriLLMCandidate(model, training.replace(negatives=k))
        yield choose(task, f"BriLLM released, {how}", [candidate], note)


def _ours(task: Task, preset: str, n_candidates: int, note: Note) -> Iterator[Contender]:
    """``mini`` or ``mini-ngrams``."""
    yield choose(task, f"BriLLM {preset}", our_grid(task, preset)[:n_candidates], note)


def _gpt(task: Task, n_candidates: int, note: Note) -> Iterator[Contender]:
    from minibrillm import rivals

    recipes = rivals.gpt_recipes(task.n_nodes)[:n_candidates]
    yield choose(task, "GPT", [PeerCandidate(recipe) for recipe in recipes], note)


def _lstm(task: Task, n_candidates: int, note: Note) -> Iterator[Contender]:
    from minibrillm import rivals

    recipes = rivals.lstm_recipes(task.n_nodes)[:n_candidates]
    yield choose(task, "LSTM", [PeerCandidate(recipe) for recipe in recipes], note)
