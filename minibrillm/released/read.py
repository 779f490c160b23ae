"""Reading a model from the files of the released code, BriLLM0.5 (MODEL.md, "Released files").

What a released model consists of besides the checkpoint (its vocabulary, which pair of tokens
has which slot, a tokenizer) lies in files of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM
from minibrillm.released.checkpoint import read_arrays
from minibrillm.released.slots import (
    graph_of,
    slots_as_listed,
    slots_by_frequency,
    slots_of_all_pairs,
)
from minibrillm.released.vocabulary import make_tokenizer, read_vocabulary


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
    tokens, ids = read_vocabulary(vocabulary)
    tok = make_tokenizer(tokens, ids, vocabulary, tokenizer)
    if frequencies is not None and edges is not None:
        raise UserError("frequencies and edges both say which pair has which slot; give one")
    arrays = read_arrays(models, len(tokens))
    n_edges, d = len(arrays["weights"]) - 1, arrays["weights"].shape[1]
    if frequencies is not None:
        slots = slots_by_frequency(frequencies, tokens, ids, n_edges)
    elif edges is not None:
        slots = slots_as_listed(edges, len(tokens), n_edges)
    else:
        slots = slots_of_all_pairs(len(tokens), n_edges)
    graph, order = graph_of(slots, len(tokens))
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
