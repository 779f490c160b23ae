"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibrillm.checks import UserError
from minibrillm.cli.options import Encoding, Field, Kind, Seed, VocabSize
from minibrillm.cli.reports import plan, sample, scores, train_to_the_end
from minibrillm.cli.terminal import say

if TYPE_CHECKING:
    from minibrillm.runs import Run

_MINUTES = 3.0  # of training, unless steps or minutes are given


def train(
    context: typer.Context,
    text: Annotated[
        Path | None,
        typer.Argument(
            help="Text to learn from: a file, a folder of .txt files, a .jsonl file (with --field) "
            "or a corpus by name (not needed with --resume)."
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="mini-ngrams (recommended), mini (its prior counts bigrams only), released (the "
            "authors' code) or paper (its equation)."
        ),
    ] = "mini-ngrams",
    minutes: Annotated[
        float | None,
        typer.Option(help=f"Train so long (default {_MINUTES:g}); a short text ends sooner."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train so many steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run (default runs/TEXT-PRESET).")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    seed: Seed = 0,
    backend: Annotated[
        str | None, typer.Option(help="numba (fast, default) or numpy (the textbook).")
    ] = None,
    tokenizer: Kind = "characters",
    vocab_size: VocabSize = None,
    field: Field = None,
    encoding: Encoding = None,
    cross_documents: Annotated[
        bool, typer.Option(help="Let sequences run on from one document into the next.")
    ] = False,
    heldout: Annotated[float, typer.Option(help="Share of the text held out, at its end.")] = 0.1,
    d_node: Annotated[
        int | None,
        typer.Option(
            help="Node width d (default: what suits the text); fastest in multiples of 16."
        ),
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(help="How often a bigram must be seen to have its own edge.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Sequences a step (default: what suits the text)."),
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="Edges a sequence crosses (default: what suits the text).")
    ] = None,
    signal_bound: Annotated[
        float | None,
        typer.Option(
            help="What the bound of all signals, which is learned, starts from; 0: none, as in "
            "paper and released."
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="More for small texts and long training.")
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="Share of each signal that is dropped where it competes."),
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(help="Train with k negatives, not the exact softmax (0).")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; 0: only at the end.")
    ] = None,
) -> None:
    """Train a model on a text, and score the part held out."""
    from minibrillm.config import ModelConfig, TrainConfig
    from minibrillm.runs import new_run, read_split
    from minibrillm.text import join_documents, train_tokenizer

    of_model = _given(d_node=d_node, min_count=min_count, signal_bound=signal_bound)
    limit = _given(minutes=minutes, steps=steps)
    of_training = _given(
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        negatives=negatives,
        checkpoint_every=checkpoint_every,
    )
    if out is None and text is not None:
        out = Path("runs") / f"{text.stem}-{preset}"
    reading: dict[str, Any] = {"field": field, "heldout": heldout, "encoding": encoding}
    reading["cross_documents"] = cross_documents
    if resume:
        _refuse_on_resume(context)
        if out is None:
            raise UserError("--resume needs --out RUN, the folder of the run to go on with")
        run = _resumed(out, text, reading, backend, limit, of_training)
        _finish(run, None)
        return
    if text is None or out is None:
        raise UserError("name a text to train on: minibrillm train TEXT (or --resume --out RUN)")
    config = ModelConfig.preset(preset, **of_model)
    of_training |= limit or {"minutes": _MINUTES}
    training = TrainConfig.preset(preset, seed=seed, **of_training)
    split = read_split(text, **reading)
    tok = train_tokenizer(join_documents(split.train), tokenizer, vocab_size)
    given = {*of_model, *of_training}
    run = new_run(out, split, tok, config, training, given=given, backend=backend or "numba")
    _finish(run, split.heldout)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _refuse_on_resume(context: typer.Context) -> None:
    """What made the model cannot change when its training goes on."""
    for name in ("seed", "tokenizer", "vocab_size", "d_node", "min_count", "signal_bound"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} cannot change with --resume; leave it out, or start anew")


def _resumed(
    out: Path,
    text: Path | None,
    reading: dict[str, Any],
    backend: str | None,
    limit: dict[str, Any],
    changes: dict[str, Any],
) -> Run:
    """The run in a folder; a limit that is given replaces the one it had."""
    from minibrillm.runs import Run, check_same_text, read_split

    if limit:
        changes = changes | {"minutes": None, "steps": None} | limit
    run = Run.resume(out, backend, **changes)
    if text is not None:
        check_same_text(run.trainer, read_split(text, **reading))
    say(f"resuming {out} at step {run.trainer.step}")
    return run


def _finish(run: Run, heldout_text: tuple[str, ...] | None) -> None:
    """Train to the end, and say how good the model is and what it writes."""
    trainer, folder = run.trainer, run.folder
    plan(trainer, folder)
    go_on = f"; saved, go on with: minibrillm train --resume --out {folder}"
    train_to_the_end(run, trainer, go_on)
    scores(trainer, trainer.heldout_ids, heldout_text)
    say("\na sample (temperature 0.7):")
    sample(run.model, "", 300, temperature=0.7, seed=trainer.config.seed)
    say(f"\nsaved in {folder}; go on with: minibrillm generate {folder} --prompt TEXT")
