"""The command line: ``minibrillm`` or ``python -m minibrillm``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibrillm import __version__
from minibrillm.checks import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import numpy as np

    from minibrillm.config import ModelConfig, TrainConfig
    from minibrillm.judging import Comparison, Task
    from minibrillm.model import BriLLM
    from minibrillm.text import Split, Tokenizer
    from minibrillm.training import Trainer

app = typer.Typer(
    help="BriLLM, the signal-flow language model: train, evaluate, generate, compare.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Backend = Annotated[str, typer.Option(help="numba (fast) or numpy (the textbook).")]
Field = Annotated[
    str | None, typer.Option(help="Field of a .jsonl file that holds the text of a line.")
]
Seed = Annotated[int, typer.Option(help="Seed of weights and batches, or of the text generated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

# What `compare` and `ablate` share.
Minutes = Annotated[float, typer.Option(help="Of training, for each model.")]
Seeds = Annotated[int, typer.Option(help="Train each so often, from different weights.")]
FirstSeed = Annotated[int, typer.Option(help="The first of the seeds.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")]


def _say(line: str = "") -> None:
    typer.echo(line)


def _notice(line: str) -> None:
    typer.echo(f"note: {line}", err=True)


# ------------------------------------------------------------------------------------------ train


@app.command()
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
        str, typer.Option(help="mini-ngrams, mini, released or paper.")
    ] = "mini-ngrams",
    minutes: Annotated[
        float | None,
        typer.Option(help="Train so long (default 3), a short text only for 40 readings."),
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
    tokenizer: Annotated[str, typer.Option(help="characters or bpe.")] = "characters",
    vocab_size: Annotated[
        int | None, typer.Option(help="Largest vocabulary (default: every character; BPE 512).")
    ] = None,
    field: Field = None,
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
        int | None, typer.Option(help="Edges a sequence crosses (default 64, or as documents are).")
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
    """Train a model on a text, and show how good it is on the part held out."""
    from minibrillm.config import ModelConfig, TrainConfig
    from minibrillm.text import join_documents, train_tokenizer
    from minibrillm.training import Trainer

    heldout_text = None
    schedule = {
        "minutes": minutes,
        "steps": steps,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "dropout": dropout,
        "negatives": negatives,
        "checkpoint_every": checkpoint_every,
    }
    settings: dict[str, Any] = {k: v for k, v in schedule.items() if v is not None}
    if resume:
        _refuse_on_resume(context)
        if out is None:
            if text is None:
                raise UserError("--resume needs --out RUN, the folder of the run to go on with")
            out = _default_run(text, preset)
        if (minutes is None) != (steps is None):  # the limit given now replaces the old one
            settings |= {"minutes": minutes, "steps": steps}
        trainer = Trainer.resume(out, backend, **settings)
        if text is not None:
            _check_same_text(trainer, text, field, cross_documents, heldout)
        _say(f"resuming {out} at step {trainer.step}")
    else:
        if text is None:
            raise UserError(
                "name a text to train on: minibrillm train TEXT (or --resume --out RUN)"
            )
        choices = {"d_node": d_node, "min_count": min_count, "signal_bound": signal_bound}
        changes = {name: value for name, value in choices.items() if value is not None}
        config = ModelConfig.preset(preset, **changes)
        if minutes is None and steps is None:
            settings["minutes"] = 3.0
        training = TrainConfig.preset(preset, seed=seed, **settings)
        out = out or _default_run(text, preset)
        split = _split_of(text, field, cross_documents, heldout)
        tok = train_tokenizer(join_documents(split.train), tokenizer, vocab_size)
        heldout_text = split.heldout
        given = {*changes, *settings}
        trainer = _new_run(text, split, tok, config, training, given, out, backend or "numba")
    _plan(trainer, out)
    _warn_of_long_runs(trainer)
    _train_and_report(trainer, out, heldout_text)


def _refuse_on_resume(context: typer.Context) -> None:
    """What made the model cannot change when its training goes on."""
    for name in ("seed", "tokenizer", "vocab_size", "d_node", "min_count", "signal_bound"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} cannot change with --resume; leave it out, or start anew")


def _default_run(text: Path, preset: str) -> Path:
    return Path("runs") / f"{text.stem}-{preset}"


def _split_of(path: Path, field: str | None, cross_documents: bool, heldout: float) -> Split:
    from minibrillm.text import Split, join_documents, locate, read_corpus, split_corpus

    split = split_corpus(read_corpus(locate(path), field), heldout)
    if cross_documents:
        split = Split((join_documents(split.train),), (join_documents(split.heldout),))
    if min(sum(map(len, split.train)), sum(map(len, split.heldout))) < 2:
        raise UserError(f"{path} is too short to train on and hold a part out; give more text")
    return split


def _encode(tok: Tokenizer, documents: tuple[str, ...]) -> list[np.ndarray]:
    return [tok.encode(document) for document in documents]


def _new_run(
    path: Path,
    split: Split,
    tok: Tokenizer,
    config: ModelConfig,
    training: TrainConfig,
    given: Collection[str],
    out: Path,
    backend: str,
) -> Trainer:
    from minibrillm.graph import TokenGraph
    from minibrillm.model import BriLLM
    from minibrillm.presets import for_text
    from minibrillm.training import Trainer, check_memory, curve_part, free_memory

    train_ids, heldout_ids = _encode(tok, split.train), _encode(tok, split.heldout)
    lengths, n_heldout = list(map(len, train_ids)), sum(map(len, curve_part(heldout_ids)))
    config, training = for_text(tok.n_nodes, lengths, n_heldout, config, training, given)
    n_edges, n_tokens = training.sequence_length, len(train_ids[0])
    if len(train_ids) == 1 and n_tokens <= n_edges:
        raise UserError(
            f"{path} is shorter than one sequence: {n_tokens} tokens to train on, a sequence "
            f"has {n_edges + 1}; give more text or a smaller --sequence-length"
        )
    graph = TokenGraph.for_config(config, train_ids, tok.n_nodes)
    check_memory(config, graph.n_nodes, graph.n_edges, free_memory())
    model = BriLLM.create(config, tok, graph, seed=training.seed, backend=backend)
    return Trainer.start(model, train_ids, heldout_ids, training, out)


def _check_same_text(
    trainer: Trainer, path: Path, field: str | None, cross_documents: bool, heldout: float
) -> None:
    from minibrillm.training import text_digest

    split, tok = _split_of(path, field, cross_documents, heldout), trainer.model.tokenizer
    given = text_digest(_encode(tok, split.train), _encode(tok, split.heldout))
    if given != text_digest(trainer.train_ids, trainer.heldout_ids):
        raise UserError(
            f"{path} with --heldout {heldout:g} is not the text this run was trained on; leave "
            "it out to go on with the run's own text, or start a new run"
        )


def _plan(trainer: Trainer, out: Path | None) -> None:
    """Say what is about to happen."""
    from minibrillm.training import training_memory

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
        "run": "not kept" if out is None else str(out),
    }
    for name, line in lines.items():
        _say(f"{name:>9}  {line}")


def _warn_of_long_runs(trainer: Trainer) -> None:
    """Where the same edge is crossed longer than in any sequence, a signal without bound grows."""
    from minibrillm.text import longest_run

    if trainer.model.config.signal_bound:
        return
    longest, node = longest_run([*trainer.train_ids, *trainer.heldout_ids])
    if longest > trainer.config.sequence_length:
        token = trainer.model.tokenizer.token(node)
        _notice(
            f"{token!r} stands {longest} times in a row, longer than a sequence: a signal without "
            "bound may grow there; --signal-bound 8 bounds it"
        )


def _threads(backend: str) -> str:
    if backend != "numba":
        return "NumPy"
    import numba

    count = numba.get_num_threads()
    return f"Numba on {count} thread{'s' * (count != 1)}"


def _train_and_report(trainer: Trainer, out: Path, heldout_text: tuple[str, ...] | None) -> None:
    from minibrillm.judging import evaluate as score

    _train(trainer)
    last = trainer.history[-1] if trainer.history else None
    if last is not None:
        _say(f"\n{last.step} steps, {last.tokens:,} tokens in {last.seconds:.0f} s")
    ids = trainer.heldout_ids
    _say(score(trainer.model, ids, trainer.train_ids, heldout_text, trainer.kept).table())
    _say("\na sample (temperature 0.7):")
    _sample(trainer.model, "", 300, temperature=0.7, seed=trainer.config.seed)
    _say(f"\nsaved in {out}; go on with: minibrillm generate {out} --prompt TEXT")


def _train(trainer: Trainer) -> None:
    from minibrillm.training import Interrupted

    try:
        trainer.train(progress_bar=sys.stderr.isatty())
    except Interrupted as stop:
        kept = ""
        if trainer.run_folder is not None:
            kept = f"; saved, go on with: minibrillm train --resume --out {trainer.run_folder}"
        typer.echo(f"{stop}{kept}", err=True)
        raise typer.Exit(130) from None


# ------------------------------------------------------------------------------------------- demo


# Chosen on the validation split: how much of the time each language gets, the batch and the decay
# (strong for Chinese, which has a thousand nodes to learn from the same pieces), and a beginning.
_DEMO: dict[str, tuple[float, dict[str, Any], str]] = {
    "zh": (0.7, {"batch_size": 32, "weight_decay": 6.0}, "一天早上"),
    "en": (0.3, {"batch_size": 128, "weight_decay": 1.0}, "One morning"),
}


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="Train so long, both languages together.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option(help="Or at most so many optimiser steps for each language.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the runs in OUT/zh and OUT/en.")] = None,
    seed: Seed = 0,
    backend: Backend = "numba",
) -> None:
    """Train on the bundled pieces, in Chinese and in English, no network, and write in both."""
    from minibrillm.config import TrainConfig
    from minibrillm.judging import evaluate as score
    from minibrillm.model import BriLLM
    from minibrillm.presets import for_vocabulary
    from minibrillm.text import bundled
    from minibrillm.training import Trainer

    trainers = {}
    for language, (share, settings, _) in _DEMO.items():
        config = TrainConfig.preset(
            "mini", minutes=share * minutes, steps=steps, seed=seed, **settings
        )
        train_texts, chosen_by = (bundled(split, language) for split in ("train", "validation"))
        model = BriLLM.from_text(train_texts, "mini-ngrams", seed=seed, backend=backend)
        size, batch_size = model.config.d_node, config.batch_size
        _, config = for_vocabulary(model.graph.n_nodes, model.config, config, size, batch_size)
        ids = _encode(model.tokenizer, train_texts), _encode(model.tokenizer, chosen_by)
        trainers[language] = (
            Trainer(model, *ids, config)
            if out is None
            else Trainer.start(model, *ids, config, out / language)
        )
    for language, trainer in trainers.items():
        name, prompt = _LANGUAGE_NAMES[language], _DEMO[language][-1]
        _say(f"{name}\n")
        _plan(trainer, trainer.run_folder)
        _train(trainer)
        last = trainer.history[-1]
        _say(f"\n{last.step} steps, {last.tokens:,} tokens in {last.seconds:.0f} s")
        _say(f"pieces not trained on, {name}:")
        test_texts = bundled("test", language)
        test_ids = _encode(trainer.model.tokenizer, test_texts)
        found = score(trainer.model, test_ids, trainer.train_ids, test_texts, trainer.kept)
        _say(found.table())
        _say(f"\na piece that begins with {prompt!r} (temperature 0.4):")
        _sample(trainer.model, f"\n{prompt}", 200, temperature=0.4, seed=seed, stop="\n")
        _say()


_LANGUAGE_NAMES = {"zh": "Chinese", "en": "English"}


# ----------------------------------------------------------------------------------------- corpora

corpora = typer.Typer(
    help="Texts to learn from: what there is, what is on this machine, and downloads.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(corpora, name="corpus")
CorpusName = Annotated[
    str, typer.Argument(metavar="NAME", help="As `minibrillm corpus list` says.")
]


@corpora.command("list")
def list_corpora(as_json: AsJson = False) -> None:
    """The corpora that have a name, and which of them are on this machine."""
    from minibrillm.text import BUNDLED, DOWNLOADS, corpus_path

    about = {BUNDLED: "short pieces in Chinese and English, CC0, made for this project"}
    about |= {name: known.about for name, known in DOWNLOADS.items()}
    rows = []
    for name, text in about.items():
        try:
            path: str | None = str(corpus_path(name))
        except UserError:
            path = None
        rows.append({"name": name, "about": text, "path": path})
    if as_json:
        _say(json.dumps(rows, indent=1))
        return
    for row in rows:
        _say(f"{row['name']:<16} {row['about']}")
        _say(" " * 17 + (row["path"] or f"not here yet: minibrillm corpus fetch {row['name']}"))


@corpora.command("fetch")
def fetch(name: CorpusName) -> None:
    """Download a corpus, check it, and print where it is; nothing to do if it is there."""
    from minibrillm.text import BUNDLED, corpus_path, fetch_corpus

    _say(str(corpus_path(name) if name == BUNDLED else fetch_corpus(name, sys.stderr.isatty())))


@corpora.command("path")
def show_path(name: CorpusName) -> None:
    """Print where a corpus is on this machine; downloads nothing."""
    from minibrillm.text import corpus_path

    _say(str(corpus_path(name)))


# ------------------------------------------------------------------------------ evaluate, generate


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    text: Annotated[
        Path | None,
        typer.Argument(help="Text to score, as for train (default: what the run held out)."),
    ] = None,
    field: Field = None,
    backend: Backend = "numba",
    as_json: AsJson = False,
) -> None:
    """Score a model on text it has not seen, beside n-grams on the same tokens."""
    from minibrillm.judging import evaluate as score
    from minibrillm.runs import has_training, kept_steps, load
    from minibrillm.text import locate, read_corpus
    from minibrillm.training import load_text

    imported = not has_training(run)
    if imported and text is None:
        raise UserError(f"{run} was not trained here, it holds no text held out; give a TEXT")
    model = load(run, backend)
    kept = {} if imported else load_text(run)
    if text is not None:
        content = read_corpus(locate(text), field).documents
        _known(model, "".join(content))
        ids = _encode(model.tokenizer, content)
    else:
        ids, content = kept["heldout"], None
    steps = None if imported else kept_steps(run)
    result = score(model, ids, kept.get("train"), content, steps)
    _say(json.dumps(result.to_json(), indent=1) if as_json else result.table())


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from; empty: a random start.")] = "",
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 200,
    greedy: Annotated[bool, typer.Option(help="Always the likeliest token.")] = False,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest that hold this much.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[str | None, typer.Option(help="Stop at this token, e.g. a full stop.")] = None,
    backend: Backend = "numba",
) -> None:
    """Continue a prompt, in Chinese or in English."""
    from minibrillm.runs import load

    if tokens < 1:
        raise UserError(f"--tokens is {tokens}; expected at least 1")
    if seed is not None and seed < 0:
        raise UserError(f"--seed is {seed}; expected at least 0")
    model = load(run, backend)
    stop = None if stop is None else stop.replace("\\n", "\n")
    _stream(
        model,
        _known(model, prompt),
        tokens,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )


def _known(model: BriLLM, text: str) -> str:
    """The same text, with a notice if the vocabulary lacks some of its characters."""
    unknown = model.tokenizer.unknown(text)
    if unknown and model.tokenizer.unknown_id is not None:  # else `encode` refuses the text
        shown = " ".join(repr(c) for c in unknown[:8]) + (" …" if len(unknown) > 8 else "")
        _notice(f"the model does not know {shown}; read as <unk>")
    return text


def _stream(model: BriLLM, prompt: str, n_tokens: int, **settings: Any) -> None:
    """Write the prompt and what follows it to the terminal as it comes."""
    pieces = model.stream(prompt, n_tokens, **settings)
    first = next(pieces, "")  # an impossible setting is refused before anything is written
    sys.stdout.write(prompt + first)
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")


def _sample(model: BriLLM, prompt: str, n_tokens: int, **settings: Any) -> None:
    """As `_stream`, at the end of a training: a text that breaks off is no failure of that."""
    try:
        _stream(model, prompt, n_tokens, **settings)
    except UserError as error:
        _notice(str(error))


# --------------------------------------------------------------------------------- released files


@app.command()
def import_released(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.bin", help="Checkpoint, or all its parts.")
    ],
    vocab: Annotated[Path, typer.Option(help="vocab.json: the id of every token.")],
    out: Annotated[Path, typer.Option(help="Folder of the run to make.")],
    frequencies: Annotated[
        Path | None,
        typer.Option(help="word_frequency.json: pairs with count 0 have no edge of their own."),
    ] = None,
    edges: Annotated[
        Path | None,
        typer.Option(help="Or: source and target id of every private edge, a tab between."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json, if tokens are not characters.")
    ] = None,
) -> None:
    """Make a run of a checkpoint of the released code, to evaluate it and to generate text."""
    from minibrillm.released import read_released
    from minibrillm.runs import latest_checkpoint, save_checkpoint

    if latest_checkpoint(out) is not None or (out / "text.safetensors").exists():
        raise UserError(f"{out} already holds a run; choose another folder")
    model = read_released(
        models, vocab, frequencies=frequencies, edges=edges, tokenizer=tokenizer, backend="numpy"
    )
    save_checkpoint(out, model)
    _say(
        f"{model.graph.n_nodes:,} nodes, {model.graph.n_edges:,} private edges, "
        f"d = {model.config.d_node}: {model.n_parameters:,} parameters"
    )
    _say(f"saved in {out}; go on with: minibrillm generate {out} --prompt TEXT")


@app.command()
def export_released(
    run: Annotated[Path, typer.Argument(help="Folder of a run with the preset released.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL.bin", help="Checkpoint to write.")],
    vocab: Annotated[Path, typer.Option(help="vocab.json to write: the id of every token.")],
    frequencies: Annotated[
        Path | None,
        typer.Option(help="word_frequency.json to write: says which pairs share an edge."),
    ] = None,
    edges: Annotated[
        Path | None, typer.Option(help="The same, shorter: ids of every private edge.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json to write, if tokens are not characters.")
    ] = None,
) -> None:
    """Write a run for the released code: a checkpoint, and the files that go with it."""
    from minibrillm.released import write_released
    from minibrillm.runs import load
    from minibrillm.text import BPETokenizer

    source = load(run, "numpy")
    write_released(
        source, model, vocabulary=vocab, frequencies=frequencies, edges=edges, tokenizer=tokenizer
    )
    if frequencies is None and edges is None and source.graph.n_edges < source.graph.n_nodes**2:
        _notice(f"{model} does not say which pair has which edge; --frequencies or --edges does")
    if tokenizer is None and isinstance(source.tokenizer, BPETokenizer):
        _notice(f"{vocab} does not say how text becomes tokens; --tokenizer does")
    _say(f"wrote {', '.join(str(p) for p in (model, vocab, frequencies, edges, tokenizer) if p)}")


# ------------------------------------------------------------------------------------ parity, info


@app.command()
def parity(
    file: Annotated[Path, typer.Argument(help="Golden vectors, .npz (MODEL.md says the layout).")],
    as_json: AsJson = False,
) -> None:
    """Compare both backends with vectors of the released model; exit 1 if float64 disagrees."""
    from minibrillm.released.parity import TOLERANCE, compare, load_golden

    found = compare(load_golden(file))
    failed = sorted({c.quantity for c in found if not c.agrees})
    if as_json:
        rows = [{**vars(c), "agrees": c.agrees} for c in found]
        _say(json.dumps({"file": str(file), "failed": failed, "comparisons": rows}, indent=1))
    else:
        _say(f"largest relative error against {file}")
        columns = list(dict.fromkeys((c.backend, c.dtype) for c in found))
        _say(" " * 15 + "".join(f"{f'{b} {d}':>16}" for b, d in columns))
        for quantity in dict.fromkeys(c.quantity for c in found):
            errors = [c for c in found if c.quantity == quantity]
            mark = "" if all(c.agrees for c in errors) else "   DIFFERS"
            _say(f"{quantity:15}" + "".join(f"{c.error:16.1e}" for c in errors) + mark)
    if failed:
        typer.echo(f"float64 differs by more than {TOLERANCE:g}: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    if not as_json:
        _say(f"float64 agrees to {TOLERANCE:g}")


@app.command()
def info(as_json: AsJson = False) -> None:
    """Versions, threads, BLAS and fonts: what a bug report needs."""
    import importlib.metadata

    import numba
    import numpy as np
    import threadpoolctl

    from minibrillm import kernels
    from minibrillm.look import chinese_font

    kernels.adamw(*np.zeros((5, 1)), 1.0, 1, 0.0, 0.0, 0.5, 0.5, 1e-8, 0.5)  # starts the threads
    try:
        font = chinese_font()
    except UserError as error:
        font = str(error)
    packages = ("numpy", "scipy", "numba", "llvmlite", "matplotlib", "tokenizers", "safetensors")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    blas = sorted(
        {
            f"{lib['internal_api']} {lib.get('version')} ({lib.get('architecture', 'unknown')})"
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        }
    )
    facts: dict[str, Any] = {
        "minibrillm": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        **versions,
        "threads": numba.get_num_threads(),
        "cores": os.cpu_count(),
        "threading layer": numba.threading_layer(),
        "kernel cache": kernels.cache_folder(),
        "BLAS": ", ".join(blas),
        "Chinese font": font,
        "output encoding": sys.stdout.encoding,
    }
    if as_json:
        _say(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for name, value in facts.items():
        _say(f"{name:>16}  {value}")


# ---------------------------------------------------------------------------------------- compare


@app.command()
def compare(
    text: Annotated[Path, typer.Argument(help="Text to compare on, as for train.")],
    field: Field = None,
    minutes: Minutes = 1.0,
    seeds: Seeds = 1,
    seed: FirstSeed = 0,
    tokenizer: Annotated[str, typer.Option(help="characters or bpe.")] = "characters",
    vocab_size: Annotated[
        int | None, typer.Option(help="Largest vocabulary (default: every character; BPE 512).")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="ngrams, released, mini, mini-ngrams, gpt or lstm; again for more (all)."
        ),
    ] = None,
    grid: Annotated[
        int,
        typer.Option(help="Sizes to try of ours, GPT and LSTM; the best on validation counts."),
    ] = 3,
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw losses against seconds and parameters: FILE.png.")
    ] = None,
) -> None:
    """Compare with n-grams, a GPT and an LSTM on the same text in the same time (needs torch)."""
    from minibrillm import judging
    from minibrillm.look import plot_comparison

    names = only or judging.CONTENDERS
    judging.check(names, grid)
    task = _task(text, field, minutes, range(seed, seed + seeds), tokenizer, vocab_size)
    _check_writable(json_file)
    _check_drawable(plot)
    with _interruptible():
        result = judging.compare(task, names, grid, _notice, _tell_newest(text, json_file))
    _say(result.table())
    if plot is not None:
        plot_comparison(result).savefig(plot, dpi=150)


@app.command()
def ablate(
    text: Annotated[Path, typer.Argument(help="Text to train on, as for train.")],
    field: Field = None,
    minutes: Minutes = 1.0,
    seeds: Seeds = 1,
    seed: FirstSeed = 0,
    vocab_size: Annotated[
        int | None, typer.Option(help="Largest vocabulary (default: every character).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """From paper to released to mini to mini-ngrams, one change at a time: what does each bring?"""
    from minibrillm.judging import ablate as climb

    task = _task(text, field, minutes, range(seed, seed + seeds), "characters", vocab_size)
    _check_writable(json_file)
    with _interruptible():
        result = climb(task, _notice, _tell_newest(text, json_file))
    _say(result.table())


def _task(
    text: Path,
    field: str | None,
    minutes: float,
    seeds: range,
    tokenizer: str,
    vocab_size: int | None,
) -> Task:
    """What several models are to be trained on; refuses what is impossible."""
    from minibrillm.config import TrainConfig
    from minibrillm.judging import Task, three_parts
    from minibrillm.text import locate, read_corpus

    TrainConfig(minutes=minutes, seed=seeds.start)
    if math.isinf(minutes):
        raise UserError("--minutes is inf: nothing would ever be compared")
    if len(seeds) < 1:
        raise UserError(f"--seeds is {seeds.stop - seeds.start}; expected at least 1")
    parts = three_parts(read_corpus(locate(text), field))
    return Task.of(parts, minutes, seeds, tokenizer, vocab_size)


def _tell_newest(text: Path, json_file: Path | None) -> Callable[[Comparison], None]:
    """After each model: its losses in one line, and all that is known to the file."""

    def known(found: Comparison) -> None:
        _notice(found.newest())
        _write_figures(json_file, {"text": str(text), **found.to_json()})

    return known


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends with one line and exit code 130."""
    from minibrillm.training import Interrupted

    try:
        yield
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(130) from None


def _check_writable(path: Path | None) -> None:
    if path is not None:
        try:
            path.open("ab").close()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another") from None


def _check_drawable(path: Path | None) -> None:
    """Before an hour of training rather than after it."""
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"cannot draw {path}; take a name that ends in .png, .svg or .pdf")
    _check_writable(path)


# ------------------------------------------------------------------------------------------ bench


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes: under a minute.")] = False,
    section: Annotated[
        list[str] | None,
        typer.Option(
            help="limit, training, generation, growth, memory, start, or texts (20 minutes, only "
            "on request); again for more."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file, one JSON object.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Text of letters, a file or a corpus by name (default: made up)."),
    ] = None,
    chinese: Annotated[
        Path | None,
        typer.Option(help="Text in Chinese, a file or a corpus by name (default: made up)."),
    ] = None,
) -> None:
    """Measure speed and memory: against the machine's limits, against PyTorch, against size."""
    from minibrillm.bench import FULL, QUICK, SECTIONS, Bench, check_sections, complete, machine

    names = check_sections(section or [])
    sizes = QUICK if quick else FULL

    def note(line: str) -> None:
        if sys.stderr.isatty():
            _notice(line)

    setting = Bench(sizes, text, chinese, note)
    figures: dict[str, Any] = {**machine(), **setting.facts, "quick": quick}
    _write_figures(json_file, figures)  # a file that cannot be written is refused at once
    for name, value in figures.items():
        _say(f"{name.replace('_', ' '):>13}  {value}")
    _say("medians, and quartiles in brackets; what is compared was timed in turns")
    for name in names:
        found = SECTIONS[name](setting)
        figures |= found.figures
        _write_figures(json_file, complete(figures))
        _say(f"\n{found.table()}")


def _write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        try:
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another") from None


# ------------------------------------------------------------------------------------------- entry


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"minibrillm {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # Chinese must come out on any terminal, Windows' code pages included.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}".replace("\n", " "), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        typer.echo(
            "error: not enough memory; take a smaller --batch-size, --d-node or --vocab-size",
            err=True,
        )
        sys.exit(2)
