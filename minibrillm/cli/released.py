"""The commands `import-released`, `export-released` and `parity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minibrillm.checks import UserError
from minibrillm.cli.options import AsJson
from minibrillm.cli.terminal import notice, say


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
    """Make a run of a checkpoint of the released code.

    It can be evaluated, and generate text, like any other run.
    """
    from minibrillm.released import read_released
    from minibrillm.storage import latest_checkpoint

    if latest_checkpoint(out) is not None or (out / "text.safetensors").exists():
        raise UserError(f"{out} already holds a run; choose another folder")
    model = read_released(
        models, vocab, frequencies=frequencies, edges=edges, tokenizer=tokenizer, backend="numpy"
    )
    model.save(out)
    say(
        f"{model.graph.n_nodes:,} nodes, {model.graph.n_edges:,} private edges, "
        f"d = {model.config.d_node}: {model.n_parameters:,} parameters"
    )
    say(f"saved in {out}; go on with: minibrillm generate {out} --prompt TEXT")


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
    """Write a run as a checkpoint of the released code.

    With it come the files that say what its numbers belong to.
    """
    from minibrillm.released import write_released
    from minibrillm.runs import load
    from minibrillm.text import BPETokenizer

    source = load(run, "numpy")
    write_released(
        source, model, vocabulary=vocab, frequencies=frequencies, edges=edges, tokenizer=tokenizer
    )
    if frequencies is None and edges is None and source.graph.n_edges < source.graph.n_nodes**2:
        notice(f"{model} does not say which pair has which edge; --frequencies or --edges does")
    if tokenizer is None and isinstance(source.tokenizer, BPETokenizer):
        notice(f"{vocab} does not say how text becomes tokens; --tokenizer does")
    say(f"wrote {', '.join(str(p) for p in (model, vocab, frequencies, edges, tokenizer) if p)}")


def parity(
    file: Annotated[Path, typer.Argument(help="Golden vectors, .npz (MODEL.md says the layout).")],
    as_json: AsJson = False,
) -> None:
    """Check both backends against the released model.

    Its vectors are compared with ours; the exit code is 1 if float64 disagrees.
    """
    from minibrillm.released.parity import TOLERANCE, compare, load_golden

    found = compare(load_golden(file))
    failed = sorted({c.quantity for c in found if not c.agrees})
    if as_json:
        rows = [{**vars(c), "agrees": c.agrees} for c in found]
        say(json.dumps({"file": str(file), "failed": failed, "comparisons": rows}, indent=1))
    else:
        say(f"largest relative error against {file}")
        columns = list(dict.fromkeys((c.backend, c.dtype) for c in found))
        say(" " * 15 + "".join(f"{f'{b} {d}':>16}" for b, d in columns))
        for quantity in dict.fromkeys(c.quantity for c in found):
            errors = [c for c in found if c.quantity == quantity]
            mark = "" if all(c.agrees for c in errors) else "   DIFFERS"
            say(f"{quantity:15}" + "".join(f"{c.error:16.1e}" for c in errors) + mark)
    if failed:
        typer.echo(f"float64 differs by more than {TOLERANCE:g}: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    if not as_json:
        say(f"float64 agrees to {TOLERANCE:g}")
