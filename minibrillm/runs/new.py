"""A new run on a text, with settings that suit it."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.graph import TokenGraph
from minibrillm.machine import free_memory
from minibrillm.model import BriLLM
from minibrillm.presets import for_text
from minibrillm.runs.memory import check_memory
from minibrillm.runs.run import Run
from minibrillm.scoring import curve_part
from minibrillm.text import Split, Tokenizer, longest_run


def new_run(
    folder: str | Path,
    split: Split,
    tokenizer: Tokenizer,
    config: ModelConfig,
    training: TrainConfig,
    *,
    given: Collection[str] = (),
    backend: str = "numba",
) -> Run:
    """A fresh model of a text, to be trained in a folder with settings that suit that text.

    Warns of a text that a signal without bound may not stand.

    Parameters
    ----------
    folder : str or Path
        Must not keep another run.
    split : Split
        What to train on, and what to hold out (`read_split`).
    tokenizer : Tokenizer
        Learned from the part to train on.
    config, training : ModelConfig, TrainConfig
        Settings to start from; `minibrillm.presets.for_text` changes them.
    given : names of settings that stay as they are
    backend : "numba" or "numpy"

    Raises
    ------
    UserError
        A text too short for one sequence, too little memory (said before any weight is drawn), or
        a folder that keeps a run or cannot be written.
    """
    train_ids, heldout_ids = (
        [tokenizer.encode(document) for document in part] for part in (split.train, split.heldout)
    )
    n_heldout = sum(map(len, curve_part(heldout_ids)))
    lengths = list(map(len, train_ids))
    config, training = for_text(tokenizer.n_nodes, lengths, n_heldout, config, training, given)
    graph = TokenGraph.for_config(config, train_ids, tokenizer.n_nodes)
    check_memory(config, graph.n_nodes, graph.n_edges, free_memory())
    model = BriLLM.create(config, tokenizer, graph, seed=training.seed, backend=backend)
    run = Run.start(folder, model, train_ids, heldout_ids, training)
    _warn_of_repeats(run)
    return run


def _warn_of_repeats(run: Run) -> None:
    """Where one edge is crossed longer than in any sequence, a signal without bound grows."""
    trainer = run.trainer
    if run.model.config.signal_bound:
        return
    longest, node = longest_run([*trainer.train_ids, *trainer.heldout_ids])
    if longest > trainer.config.sequence_length:
        warnings.warn(
            f"{run.model.tokenizer.token(node)!r} stands {longest} times in a row, longer than a "
            "sequence: a signal without bound may grow there; signal_bound=8 bounds it",
            stacklevel=3,
        )
