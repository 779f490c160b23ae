"""Writing a model in the files of the released code, BriLLM0.5 (MODEL.md, "Released files")."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.released.files import import_torch
from minibrillm.text import BPETokenizer, Tokenizer

# What must be equal for a model to compute what the released code computes.
_SETTINGS = ("memory", "start", "edges", "positions", "first_position", "prior")


def write_released(
    model: BriLLM,
    path: Path,
    *,
    vocabulary: Path,
    frequencies: Path | None = None,
    edges: Path | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write a model of the preset ``released`` as the released code saves it.

    Parameters
    ----------
    model : BriLLM
    path : Path
        The checkpoint to write; slots in the order of source and target ids.
    vocabulary, frequencies, edges, tokenizer : Path
        The files that `read_released` takes; frequencies list shared pairs with count 0.

    Raises
    ------
    UserError
        PyTorch is not installed; another kind of model; a file that exists or cannot be written.
    """
    torch = import_torch()
    _check_config(model.config)
    written: list[tuple[Path, Callable[[Path], None]]] = [
        (path, lambda p: torch.save(_state(model), p)),
        (vocabulary, lambda p: _write_vocabulary(p, model.tokenizer)),
    ]
    if frequencies is not None:
        written.append((frequencies, lambda p: _write_frequencies(p, model)))
    if edges is not None:
        written.append((edges, lambda p: _write_edges(p, model.graph)))
    if tokenizer is not None:
        if not isinstance(model.tokenizer, BPETokenizer):
            raise UserError("this model reads characters: it has no tokenizer file to write")
        content = model.tokenizer.library_json()
        written.append((tokenizer, lambda p: _write_text(p, content)))
    for k, (target, _) in enumerate(written):
        if target.exists() or any(target == other for other, _ in written[:k]):
            raise UserError(f"{target} would be overwritten; name a new file to write")
    for target, write in written:
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        try:
            write(temporary)
            temporary.replace(target)
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as the latter
            temporary.unlink(missing_ok=True)
            raise UserError(f"cannot write {target}: {error}") from None


def _check_config(config: ModelConfig) -> None:
    released = ModelConfig.preset("released")
    for name in _SETTINGS:
        ours, theirs = getattr(config, name), getattr(released, name)
        if ours != theirs:
            raise UserError(
                f"this model has {name} {ours!r}, the released code {theirs!r}; only a model of "
                "the preset released can be written for it"
            )


def _state(model: BriLLM) -> dict[str, Any]:
    """The state dict, in the order in which the released code registers its parameters."""
    torch, parameters = import_torch(), model.parameters
    return {
        "positions": torch.from_numpy(parameters["position_logits"][None, :, None]),
        "weights": torch.from_numpy(parameters["edge_weight"]),
        "biases": torch.from_numpy(parameters["edge_bias"][:, None]),
        "node_bias": torch.from_numpy(parameters["node_bias"][:, None]),
    }


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _write_vocabulary(path: Path, tokenizer: Tokenizer) -> None:
    ids = {token: k for k, token in enumerate(tokenizer.vocabulary)}
    _write_text(path, json.dumps(ids, ensure_ascii=False, indent=1))


def _write_frequencies(path: Path, model: BriLLM) -> None:
    """Every pair but those with a private edge that was never seen, a source a line.

    The released training takes the first targets of a line as negatives: the most frequent first.
    """
    graph, names = model.graph, model.tokenizer.vocabulary
    with path.open("w", encoding="utf-8") as file:
        for u, name in enumerate(names):
            own = slice(graph.indptr[u], graph.indptr[u + 1])
            targets, counts = graph.targets[own], graph.counts[own]
            order = np.argsort(-counts, kind="stable")
            row = {names[v]: c for v, c in zip(targets[order], counts[order].tolist(), strict=True)}
            row = {target: count for target, count in row.items() if count > 0}
            shared = np.setdiff1d(np.arange(len(names)), targets, assume_unique=True)
            row.update((names[v], 0) for v in shared)
            line = f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(row, ensure_ascii=False)}"
            file.write(("{" if u == 0 else ",\n") + line)
        file.write("}\n")


def _write_edges(path: Path, graph: TokenGraph) -> None:
    np.savetxt(path, np.stack([graph.sources, graph.targets], axis=1), "%d", delimiter="\t")
