"""The command line: ``minibrillm`` or ``python -m minibrillm``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from minibrillm import __version__
from minibrillm.checks import UserError
from minibrillm.cli.corpus import corpora
from minibrillm.cli.demo import demo
from minibrillm.cli.info import info
from minibrillm.cli.judge import ablate, bench, compare
from minibrillm.cli.released import export_released, import_released, parity
from minibrillm.cli.terminal import refuse, say, show_warning
from minibrillm.cli.train import train
from minibrillm.cli.use import evaluate, generate

app = typer.Typer(
    help="BriLLM, the signal-flow language model: train, evaluate, generate, compare.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands: tuple[Callable[..., None], ...] = (
    *(demo, train, evaluate, generate),
    *(compare, ablate, bench),
    *(import_released, export_released, parity, info),
)
for command in commands:
    app.command()(command)
app.add_typer(corpora, name="corpus")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"minibrillm {__version__}")
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
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            app()
    except (UserError, OSError) as error:
        refuse(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        refuse("not enough memory; take a smaller batch_size, d_node or n_nodes")
        sys.exit(2)
