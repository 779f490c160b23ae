"""The commands `corpus list`, `corpus fetch` and `corpus path`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from minibrillm.checks import UserError
from minibrillm.cli.options import AsJson
from minibrillm.cli.terminal import say

corpora = typer.Typer(
    help="Texts to learn from, by name.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `minibrillm corpus list` says.")]


@corpora.command("list")
def list_corpora(as_json: AsJson = False) -> None:
    """What there is, and what is on this machine."""
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
        say(json.dumps(rows, indent=1))
        return
    for row in rows:
        say(f"{row['name']:<16} {row['about']}")
        say(" " * 17 + (row["path"] or f"not here yet: minibrillm corpus fetch {row['name']}"))


@corpora.command("fetch")
def fetch(name: Name) -> None:
    """Download a corpus, check it, and print where it is.

    What is on this machine is not downloaded again.
    """
    from minibrillm.text import BUNDLED, corpus_path, fetch_corpus

    say(str(corpus_path(name) if name == BUNDLED else fetch_corpus(name, sys.stderr.isatty())))


@corpora.command("path")
def show_path(name: Name) -> None:
    """Print where a corpus is; downloads nothing."""
    from minibrillm.text import corpus_path

    say(str(corpus_path(name)))
