"""The commands `compare`, `ablate` and `bench`."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibrillm.checks import UserError
from minibrillm.cli.options import Encoding, Field, Kind, VocabSize
from minibrillm.cli.terminal import notice, say, stopping

if TYPE_CHECKING:
    from minibrillm.judging import Comparison, Task

Minutes = Annotated[float, typer.Option(help="Of training, for each model.")]
Seeds = Annotated[int, typer.Option(help="Train each so often, from different weights.")]
FirstSeed = Annotated[int, typer.Option(help="The first of the seeds.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")]


def compare(
    text: Annotated[Path, typer.Argument(help="Text to compare on, as for train.")],
    field: Field = None,
    encoding: Encoding = None,
    minutes: Minutes = 1.0,
    seeds: Seeds = 1,
    seed: FirstSeed = 0,
    tokenizer: Kind = "characters",
    vocab_size: VocabSize = None,
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
    """Compare with n-grams, a GPT and an LSTM (needs torch).

    All learn from the same text, with the same tokens, for the same time.
    """
    from minibrillm import judging
    from minibrillm.look import plot_comparison

    names = only or judging.CONTENDERS
    judging.check(names, grid)
    seeds_used = range(seed, seed + seeds)
    task = _task(text, field, encoding, minutes, seeds_used, tokenizer, vocab_size)
    _check_writable(json_file)
    _check_drawable(plot)
    with stopping():
        result = judging.compare(task, names, grid, notice, _tell_newest(text, json_file))
    say(result.table())
    if plot is not None:
        plot_comparison(result).savefig(plot, dpi=150)


def ablate(
    text: Annotated[Path, typer.Argument(help="Text to train on, as for train.")],
    field: Field = None,
    encoding: Encoding = None,
    minutes: Minutes = 1.0,
    seeds: Seeds = 1,
    seed: FirstSeed = 0,
    vocab_size: VocabSize = None,
    json_file: JsonFile = None,
) -> None:
    """See what each change from paper to mini-ngrams brings.

    From paper to released to mini to mini-ngrams, one change at a time.
    """
    from minibrillm.judging import ablate as climb

    seeds_used = range(seed, seed + seeds)
    task = _task(text, field, encoding, minutes, seeds_used, "characters", vocab_size)
    _check_writable(json_file)
    with stopping():
        result = climb(task, notice, _tell_newest(text, json_file))
    say(result.table())


def _task(
    text: Path,
    field: str | None,
    encoding: str | None,
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
    parts = three_parts(read_corpus(locate(text), field, encoding))
    return Task.of(parts, minutes, seeds, tokenizer, vocab_size)


def _tell_newest(text: Path, json_file: Path | None) -> Callable[[Comparison], None]:
    """After each model: its losses in one line, and all that is known to the file."""

    def known(found: Comparison) -> None:
        notice(found.newest())
        _write_figures(json_file, {"text": str(text), **found.to_json()})

    return known


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
    """Measure speed and memory.

    Against the machine's limits, against PyTorch, and against the size of the model.
    """
    from minibrillm.bench import FULL, QUICK, SECTIONS, Bench, check_sections, complete, machine

    names = check_sections(section or [])
    sizes = QUICK if quick else FULL

    def note(line: str) -> None:
        if sys.stderr.isatty():
            notice(line)

    setting = Bench(sizes, text, chinese, note)
    figures: dict[str, Any] = {**machine(), **setting.facts, "quick": quick}
    _write_figures(json_file, figures)  # a file that cannot be written is refused at once
    for name, value in figures.items():
        say(f"{name.replace('_', ' '):>13}  {value}")
    say("medians, and quartiles in brackets; what is compared was timed in turns")
    for name in names:
        found = SECTIONS[name](setting)
        figures |= found.figures
        _write_figures(json_file, complete(figures))
        say(f"\n{found.table()}")


def _check_writable(path: Path | None) -> None:
    if path is not None:
        with _told_in_one_line(path):
            path.open("ab").close()


def _check_drawable(path: Path | None) -> None:
    """Before an hour of training rather than after it."""
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"cannot draw {path}; take a name that ends in .png, .svg or .pdf")
    _check_writable(path)


def _write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        with _told_in_one_line(path):
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another") from None
