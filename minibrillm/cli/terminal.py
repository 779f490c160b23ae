"""What the command line says: results on stdout; notes, warnings and mistakes on stderr."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator

import typer

# What the library calls otherwise than the command line, and what has two words there.
_OPTIONS = {"n_nodes": "--vocab-size", "n_tokens": "--tokens"} | {
    name: "--" + name.replace("_", "-")
    for name in (
        *("d_node", "min_count", "signal_bound", "batch_size", "sequence_length", "learning_rate"),
        *("weight_decay", "checkpoint_every", "top_k", "top_p", "encoding"),
    )
}
_OF_A_RECORD = re.compile(r"\b(?:ModelConfig|TrainConfig|Sampling)\.(\w+)")
_SETTING = re.compile(rf"(?<![\w./-])({'|'.join(_OPTIONS)})\b(?![/.-]\w)(=?)")


def in_options(message: str) -> str:
    """A message of the library as a user of the command line reads it: ``d_node=16`` as an option.

    Names of one word, such as ``seed``, are options only where the library says of what.
    """
    message = _OF_A_RECORD.sub(lambda found: "--" + found[1].replace("_", "-"), message)
    return _SETTING.sub(lambda found: _OPTIONS[found[1]] + " " * len(found[2]), message)


def say(line: str = "") -> None:
    """Write a line of results."""
    typer.echo(line)


def notice(line: str) -> None:
    """Write what a user should know and need not act on."""
    typer.echo(f"note: {line}", err=True)


def show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Write a warning of the library as one line; in the place of `warnings.showwarning`."""
    notice(in_options(textwrap.shorten(str(message), 300, placeholder=" …")))


def refuse(message: str) -> None:
    """Write in one line what a user did wrong, and what to do."""
    typer.echo(f"error: {in_options(message)}".replace("\n", " "), err=True)


@contextlib.contextmanager
def stopping(advice: str = "") -> Iterator[None]:
    """Ctrl-C during a training ends with one line, and exit code 130."""
    from minibrillm.machine import Interrupted

    try:
        yield
    except Interrupted as stop:
        typer.echo(f"{stop}{advice}", err=True)
        raise typer.Exit(130) from None
