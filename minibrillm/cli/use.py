"""The commands `evaluate` and `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minibrillm.checks import UserError
from minibrillm.cli.options import AsJson, Backend, Encoding, Field, RunFolder
from minibrillm.cli.reports import stream
from minibrillm.cli.terminal import in_options, notice, say

if TYPE_CHECKING:
    from minibrillm.text import Tokenizer


def evaluate(
    run: RunFolder,
    text: Annotated[
        Path | None,
        typer.Argument(help="Text to score, as for train (default: what the run held out)."),
    ] = None,
    field: Field = None,
    encoding: Encoding = None,
    backend: Backend = "numba",
    as_json: AsJson = False,
) -> None:
    """Score a model on unseen text, with n-grams beside it."""
    from minibrillm.judging import evaluate as judge
    from minibrillm.runs import has_training, kept_steps, load, load_text
    from minibrillm.text import locate, read_corpus

    imported = not has_training(run)
    if imported and text is None:
        raise UserError(f"{run} was not trained here, it holds no text held out; give a TEXT")
    model = load(run, backend)
    kept = {} if imported else load_text(run)
    if text is not None:
        content = read_corpus(locate(text), field, encoding).documents
        _tell_unknown(model.tokenizer, "".join(content))
        ids = [model.tokenizer.encode(document) for document in content]
    else:
        ids, content = kept["heldout"], None
    steps = None if imported else kept_steps(run)
    result = judge(model, ids, kept.get("train"), content, steps)
    say(json.dumps(result.to_json(), indent=1) if as_json else in_options(result.table()))


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(help="Text to go on from; empty: a random start.")] = "",
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 200,
    greedy: Annotated[bool, typer.Option(help="Always the likeliest token.")] = False,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest that hold this much.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[
        str | None, typer.Option(help="Stop before this text, e.g. a full stop; \\n is a newline.")
    ] = None,
    backend: Backend = "numba",
) -> None:
    """Continue a prompt, in Chinese or in English."""
    from minibrillm.runs import load

    stream(
        load(run, backend),
        prompt,
        tokens,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=None if stop is None else stop.replace("\\n", "\n"),
    )


def _tell_unknown(tokenizer: Tokenizer, text: str) -> None:
    """A notice if the vocabulary lacks some characters of a text."""
    unknown = tokenizer.unknown(text)
    if unknown and tokenizer.unknown_id is not None:  # else `encode` refuses the text
        shown = " ".join(map(repr, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        notice(f"the vocabulary lacks {shown}: read as unknown")
