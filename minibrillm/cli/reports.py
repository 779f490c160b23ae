"""What a training says before it begins, while it goes on, and when it is over."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibrillm.checks import UserError
from minibrillm.cli.terminal import in_options, notice, say, stopping

if TYPE_CHECKING:
    import numpy as np

    from minibrillm.model import BriLLM
    from minibrillm.runs import Run
    from minibrillm.training import Trainer


def plan(trainer: Trainer, folder: Path | None) -> None:
    """Say what is about to happen."""
    from minibrillm.runs import training_memory

    model, config = trainer.model, trainer.config
    graph, shape = model.graph, model.config
    end = [f"{config.steps} steps"] if config.steps is not None else []
    end += [f"{config.minutes:g} min"] if config.minutes is not None else []
    memory = training_memory(shape, graph.n_nodes, graph.n_edges)
    n_documents = len(trainer.train_ids)
    lines = {
        "text": f"{len(trainer.windows.ids):,} tokens to train on"
        f"{f' in {n_documents:,} documents' if n_documents > 1 else ''}, "
        f"{sum(map(len, trainer.heldout_ids)):,} held out",
        "graph": f"{graph.n_nodes:,} nodes, {graph.n_edges:,} private edges "
        f"({graph.n_edges / graph.n_nodes**2:.1%} of all pairs)",
        "model": f"memory {shape.memory}, edges {shape.edges}, prior {shape.prior}, "
        f"d = {shape.d_node}: {model.n_parameters:,} parameters",
        "memory": f"about {memory / 1e6:,.0f} MB for weights, gradients and optimiser",
        "training": f"{' or '.join(end)}, {config.batch_size} × {config.sequence_length} tokens "
        f"a step, {_threads(model.backend)}, seed {config.seed}",
        "run": "not kept" if folder is None else str(folder),
    }
    for name, line in lines.items():
        say(f"{name:>9}  {line}")


def _threads(backend: str) -> str:
    if backend != "numba":
        return "NumPy"
    import numba

    count = numba.get_num_threads()
    return f"Numba on {count} thread{'s' * (count != 1)}"


def train_to_the_end(training: Trainer | Run, trainer: Trainer, advice: str = "") -> None:
    """Train, unless it is over already; ``advice`` is what Ctrl-C ends with."""
    if trainer.progress < 1:
        with stopping(advice):
            training.train(progress_bar=sys.stderr.isatty())
    if trainer.history:
        last = trainer.history[-1]
        say(f"\n{last.step} steps, {last.tokens:,} tokens in {last.seconds:.0f} s")


def scores(trainer: Trainer, ids: Sequence[np.ndarray], text: Sequence[str] | None) -> None:
    """Say how good the model is on token ids held out; ``text`` is what they encode, if known."""
    from minibrillm.judging import evaluate

    found = evaluate(trainer.model, ids, trainer.train_ids, text, trainer.kept)
    say(in_options(found.table()))


def stream(model: BriLLM, prompt: str, n_tokens: int, **settings: Any) -> None:
    """Write the prompt and what follows it as it comes."""
    pieces = model.stream(prompt, n_tokens, **settings)
    first = next(pieces, "")  # an impossible setting is refused before anything is written
    sys.stdout.write(prompt + first)
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")


def sample(model: BriLLM, prompt: str, n_tokens: int, **settings: Any) -> None:
    """As `stream`, at the end of a training: a text that breaks off is no failure of that."""
    try:
        stream(model, prompt, n_tokens, **settings)
    except UserError as error:
        notice(in_options(str(error)))
