"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]
Backend = Annotated[str, typer.Option(help="numba (fast) or numpy (the textbook).")]
Field = Annotated[
    str | None, typer.Option(help="Field of a .jsonl file that holds the text of a line.")
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of the text, such as gb18030 or big5 (default: found out)."),
]
Kind = Annotated[str, typer.Option("--tokenizer", help="characters or bpe.")]
VocabSize = Annotated[
    int | None, typer.Option(help="Largest vocabulary (default: every character; BPE 512).")
]
Seed = Annotated[int, typer.Option(help="Seed of weights and batches, or of the text generated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
