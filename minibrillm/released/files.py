"""PyTorch checkpoints of the released code, BriLLM0.5, in and out (MODEL.md, "Released files").

What a released model consists of besides the checkpoint (its vocabulary, which pair of tokens
has which slot, a tokenizer) lies in files of its own: `read_released` takes them, and
`write_released` writes them.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import (
    BPETokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    VocabularyTokenizer,
    read_text,
)

Array = np.ndarray

# What must be equal for a model to compute what the released code computes.
_SETTINGS = ("memory", "start", "edges", "positions", "first_position", "prior")
_SHAPES = {
    "weights": "(E + 1, d, d)",
    "biases": "(E + 1, 1, d)",
    "node_bias": "(V, 1, d)",
    "positions": "(1, T, 1)",
}
_OLDER = re.compile(r"(network|bias)\.\d+")
_SPECIAL = re.compile(r"<[^<>]*>|\[[^\[\]]*\]")


class _Slots(NamedTuple):
    """Which pair has slot 1, 2, …, and how often each pair and each token was seen."""

    sources: Array  # (E,) int64, ids
    targets: Array  # (E,)
    counts: Array  # (E,)
    node_counts: Array  # (V,)


# ------------------------------------------------------------------------------------------- read


def read_released(
    models: Sequence[Path],
    vocabulary: Path,
    *,
    frequencies: Path | None = None,
    edges: Path | None = None,
    tokenizer: Path | None = None,
    backend: str = "numba",
) -> BriLLM:
    """A model of the preset ``released`` with the weights of a released checkpoint.

    Parameters
    ----------
    models : sequence of Path
        The checkpoint, or the parts it was split into: ``weights`` (E + 1, d, d), ``biases``
        (E + 1, 1, d), ``node_bias`` (V, 1, d), ``positions`` (1, T, 1).
    vocabulary : Path
        JSON, ``{token: id}``.
    frequencies : Path, optional
        JSON, ``{source: {target: count}}``: pairs with count 0 share slot 0.
    edges : Path, optional
        Instead of frequencies: line k, counted from 1, holds the ids of source and target of slot
        k, separated by a tab. With neither, the checkpoint must have V² private edges.
    tokenizer : Path, optional
        ``tokenizer.json`` of the `tokenizers` library; not needed where tokens are characters.
    backend : "numba" or "numpy"

    Returns
    -------
    BriLLM, float32 (float64 if the checkpoint is)

    Raises
    ------
    UserError
        PyTorch is not installed; a file is missing, damaged or of another layout, or does not
        fit the others; weights that are not finite.
    """
    tokens, ids = _read_vocabulary(vocabulary)
    tok = _tokenizer(tokens, ids, vocabulary, tokenizer)
    if frequencies is not None and edges is not None:
        raise UserError("frequencies and edges both say which pair has which slot; give one")
    arrays = _read_arrays(models, len(tokens))
    n_edges, d = len(arrays["weights"]) - 1, arrays["weights"].shape[1]
    if frequencies is not None:
        slots = _slots_by_frequency(frequencies, tokens, ids, n_edges)
    elif edges is not None:
        slots = _slots_as_listed(edges, len(tokens), n_edges)
    else:
        slots = _slots_of_all_pairs(len(tokens), n_edges)
    graph, order = _graph(slots, len(tokens))
    if order is not None:
        for name in ("weights", "biases"):  # one after the other: each holds a copy for a moment
            arrays[name] = arrays[name][order]
    config = ModelConfig.preset("released", d_node=d, max_positions=arrays["positions"].shape[1])
    parameters = {
        "edge_weight": arrays["weights"],
        "edge_bias": arrays["biases"][:, 0],
        "node_bias": arrays["node_bias"][:, 0],
        "position_logits": arrays["positions"][0, :, 0],
    }
    return BriLLM(config, tok, graph, parameters, backend)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            "a released checkpoint is a PyTorch file, and PyTorch is missing; install it with: "
            'pip install "minibrillm[torch]"'
        ) from None
    return torch


def _read_json(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def _read_vocabulary(path: Path) -> tuple[list[str], Array]:
    """Tokens in the order of the file, and the id of each, (V,): a permutation of 0 … V-1."""
    vocabulary = _read_json(path)
    values = list(vocabulary.values())
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise UserError(f"{path} is not a vocabulary; expected {{token: id}} with integer ids")
    missing = sorted(set(range(len(values))) - set(values))
    if missing:
        raise UserError(
            f"{path} has {len(values)} tokens, so its ids must be 0 … {len(values) - 1}, each "
            f"once; {missing[0]} is missing"
        )
    return list(vocabulary), np.array(values, np.int64)


def _tokenizer(tokens: list[str], ids: Array, vocabulary: Path, path: Path | None) -> Tokenizer:
    by_id = [tokens[place] for place in np.argsort(ids)]
    if path is None:
        for token in by_id:
            if len(token) > 1 and not _SPECIAL.fullmatch(token):
                raise UserError(
                    f"{vocabulary} has tokens of several characters, such as {token!r}; give the "
                    "tokenizer that makes them (--tokenizer tokenizer.json)"
                )
        try:
            return VocabularyTokenizer(by_id)
        except UserError as error:
            raise UserError(f"{vocabulary}: {error}") from None
    content = read_text(path)
    try:
        tok = HuggingFaceTokenizer(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if tok.n_nodes != len(by_id):
        raise UserError(f"{path} has {tok.n_nodes} tokens, {vocabulary} {len(by_id)}")
    for k, (ours, theirs) in enumerate(zip(tok.vocabulary, by_id, strict=True)):
        if ours != theirs:
            raise UserError(f"id {k} is {ours!r} in {path} but {theirs!r} in {vocabulary}")
    return tok


# ------------------------------------------------------------------------------------- checkpoint


def _read_arrays(paths: Sequence[Path], n_nodes: int) -> dict[str, Array]:
    """The four arrays by their released names, all of one precision, checked."""
    torch = _torch()
    state: dict[str, Any] = {}
    for path in paths:
        for name, value in _load(path).items():
            name = name.removeprefix("module.")  # torch.nn.DataParallel puts it in front
            if name in state:
                raise UserError(f"{path}: {name!r} has been read already")
            state[name] = value
    files = " + ".join(map(str, paths))
    if any(_OLDER.fullmatch(name) for name in state):
        raise UserError(
            f"{files} has the older, dense layout (of versions 1 and 2: a block of edges for each "
            "source, no node bias), which is not read; only that of BriLLM0.5 is"
        )
    for name in sorted(state.keys() ^ _SHAPES.keys()):
        if name in _SHAPES:
            raise UserError(f"{files} lacks {name!r} {_SHAPES[name]}")
        raise UserError(f"{files} holds {name!r}, which is no part of the released model")
    for name, value in state.items():
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not dense or not value.is_floating_point():
            what = getattr(value, "dtype", type(value).__name__)
            raise UserError(f"{files}: {name!r} is {what}; expected a dense tensor of floats")
    _check_shapes({name: tuple(value.shape) for name, value in state.items()}, n_nodes, files)
    wide = any(value.dtype == torch.float64 for value in state.values())
    arrays: dict[str, Array] = {}
    for name, value in state.items():
        dtype = torch.float64 if wide else torch.float32
        arrays[name] = values = value.detach().to(dtype).numpy()  # no copy if it has it already
        # Without isfinite's array of flags: minimum and maximum pass NaN and infinity on.
        if values.size and not np.isfinite([values.min(), values.max()]).all():
            raise UserError(f"{files}: {name!r} holds NaN or infinity")
    return arrays


def _load(path: Path) -> dict[str, Any]:
    torch = _torch()
    if not path.is_file():
        raise UserError(f"{path} is a directory" if path.is_dir() else f"there is no file {path}")
    try:
        # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # of many kinds, and the unpickler's own cannot be named here
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UserError(
                f"{path} holds more than tensors ({code[1]}: code that would run); it is not read"
            ) from None
        raise UserError(
            f"{path} is not a PyTorch checkpoint of tensors, or damaged ({type(error).__name__})"
        ) from None
    if isinstance(found, dict) and "model_state_dict" in found:  # written during training
        found = found["model_state_dict"]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} holds a {type(found).__name__}; expected tensors by name")
    return found


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], n_nodes: int, files: str) -> None:
    got = shapes["weights"]
    if len(got) != 3 or got[0] < 1 or got[1] != got[2]:
        raise UserError(f"{files}: 'weights' has shape {got}, expected {_SHAPES['weights']}")
    n_slots, d, _ = got
    n_positions = shapes["positions"][1] if len(shapes["positions"]) == 3 else 0
    expected = {
        "biases": (n_slots, 1, d),
        "node_bias": (n_nodes, 1, d),
        "positions": (1, max(n_positions, 1), 1),
    }
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise UserError(
                f"{files}: {name!r} has shape {shapes[name]}, expected {shape}: {_SHAPES[name]} "
                f"with E + 1 = {n_slots} and d = {d} (from 'weights') and V = {n_nodes} (the "
                "vocabulary)"
            )


# ------------------------------------------------------------------------------------------ slots


def _slots_by_frequency(path: Path, tokens: list[str], ids: Array, n_edges: int) -> _Slots:
    """Slots in the order of the vocabulary file, source by source, target by target.

    The released code numbers slots by the *places* of source and target in that file, and looks
    them up by their *ids*. In released files the two are the same; where they are not, its model
    was trained so, and a place is an id here too.
    """
    listed = _read_frequencies(path, tokens)  # (V, V), by place
    private = listed != 0  # the released rule: a pair that is not listed has a slot of its own
    n_private, n_seen = int(private.sum()), int((listed > 0).sum())
    if n_private != n_edges:
        if n_seen != n_edges:
            raise UserError(
                f"the checkpoint has {n_edges} private edges, but {path} gives {n_private} (or "
                f"{n_seen}, if pairs that it does not list are shared); is it of another model?"
            )
        private = listed > 0
    sources, targets = np.nonzero(private)
    place = np.argsort(ids)
    seen = np.maximum(listed, 0)[place][:, place]  # (V, V), by id
    return _Slots(sources, targets, seen[sources, targets], seen.sum(axis=1))


def _read_frequencies(path: Path, tokens: list[str]) -> Array:
    """Counts (V, V) by place in the vocabulary file, -1 for a pair that is not listed."""
    table = _read_json(path)
    place = {token: k for k, token in enumerate(tokens)}
    listed = np.full((len(tokens), len(tokens)), -1, np.int64)
    for source, row in table.items():
        if not isinstance(row, dict):
            raise UserError(f"{path} is not {{source: {{target: count}}}}; look at {source!r}")
        if source not in place or not row:
            continue
        columns = np.fromiter((place.get(target, -1) for target in row), np.int64, len(row))
        try:
            counts = np.array(array("q", row.values()))  # takes integers only
        except (TypeError, OverflowError):
            counts = np.array([-1])
        if counts.min() < 0:
            raise UserError(f"{path}: the counts after {source!r} are not integers from 0 on")
        listed[place[source], columns[columns >= 0]] = counts[columns >= 0]
    return listed


def _slots_as_listed(path: Path, n_nodes: int, n_edges: int) -> _Slots:
    lines = read_text(path).splitlines()
    try:
        pairs = np.array([line.split("\t") for line in lines], np.int64)
    except (ValueError, OverflowError):
        pairs = np.empty(0, np.int64)
    if pairs.shape != (len(lines), 2):
        raise UserError(
            f"{path} is not a list of edges; expected two ids a line, separated by a tab"
        )
    if len(pairs) != n_edges:
        raise UserError(f"{path} lists {len(pairs)} edges, the checkpoint has {n_edges} private")
    if pairs.min() < 0 or pairs.max() >= n_nodes:
        raise UserError(
            f"{path}: ids must lie in 0 … {n_nodes - 1}; got {pairs.min()} … {pairs.max()}"
        )
    keys, places = np.unique(pairs @ [n_nodes, 1], return_index=True)
    if len(keys) != len(pairs):
        twice = np.setdiff1d(np.arange(len(pairs)), places)[0]
        raise UserError(f"{path}: line {twice + 1} lists an edge that an earlier line lists too")
    return _each_once(pairs[:, 0], pairs[:, 1], n_nodes)


def _slots_of_all_pairs(n_nodes: int, n_edges: int) -> _Slots:
    if n_edges != n_nodes**2:
        raise UserError(
            f"the checkpoint has {n_edges} private edges for {n_nodes} tokens, not every pair has "
            "one; say which do: --frequencies word_frequency.json or --edges FILE"
        )
    sources, targets = np.divmod(np.arange(n_edges), n_nodes)
    return _each_once(sources, targets, n_nodes)


def _each_once(sources: Array, targets: Array, n_nodes: int) -> _Slots:
    """Slots whose frequencies are not known: every private edge counts as seen once."""
    node_counts = np.bincount(sources, minlength=n_nodes)
    return _Slots(sources, targets, np.ones_like(sources), node_counts)


def _graph(slots: _Slots, n_nodes: int) -> tuple[TokenGraph, Array | None]:
    """The graph, and the slots (E + 1,) in its order; None if they are in that order already."""
    keys = slots.sources * n_nodes + slots.targets
    edge = np.argsort(keys, kind="stable")
    keys = keys[edge]
    node_counts = slots.node_counts
    graph = TokenGraph(
        n_nodes=n_nodes,
        indptr=np.searchsorted(keys, np.arange(n_nodes + 1) * n_nodes),
        targets=slots.targets[edge],
        counts=slots.counts[edge],
        # The first token of a text is drawn from these: where nothing was counted, from all.
        node_counts=node_counts if node_counts.any() else np.ones_like(node_counts),
        n_bigrams=int(node_counts.sum()),
        prior=None,
    )
    in_order = np.array_equal(edge, np.arange(len(edge)))
    return graph, None if in_order else np.append(0, edge + 1)


# ------------------------------------------------------------------------------------------ write


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
    torch = _torch()
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
    torch, parameters = _torch(), model.parameters
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
