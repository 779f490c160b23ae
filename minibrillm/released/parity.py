"""Does this implementation agree with vectors made by the released model?"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import CharacterTokenizer

Array = np.ndarray

TOLERANCE = 1e-10
BACKENDS = ("numpy", "numba")

# name: number of dimensions, integer or not (MODEL.md, "Golden vectors")
_LAYOUT = {
    "weights": (3, False),
    "biases": (2, False),
    "edge_index": (2, True),
    "node_bias": (2, False),
    "positions": (1, False),
    "tokens": (2, True),
    "candidates": (3, True),
    "energies": (3, False),
    "loss": (0, False),
    "grad_weights": (3, False),
    "grad_biases": (2, False),
    "grad_node_bias": (2, False),
    "grad_positions": (1, False),
}


# What numpy.load raises on files that are no archives of arrays, or damaged ones.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Agreement:
    """Largest relative error of one quantity: max |ours - theirs| / max |theirs|."""

    quantity: str
    backend: str
    dtype: str
    error: float

    @property
    def agrees(self) -> bool:
        """Whether float64 agrees to `TOLERANCE`; float32 is shown, not judged."""
        return self.dtype != "float64" or self.error <= TOLERANCE


def load_golden(path: str | Path) -> dict[str, Array]:
    """Read a golden file and check its layout; anything else is a `UserError`."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name a .npz file") from None
    except _DAMAGE as error:
        raise UserError(f"{path} is not a golden .npz file ({error})") from None
    for name, (ndim, integer) in _LAYOUT.items():
        if name not in arrays:
            raise UserError(f"{path} lacks the array {name!r}")
        array = arrays[name]
        kind = np.integer if integer else np.floating
        if array.size == 0:
            raise UserError(f"{path}: {name!r} is empty")
        if array.ndim != ndim or not np.issubdtype(array.dtype, kind):
            raise UserError(
                f"{path}: {name!r} is {array.dtype} with {array.ndim} dimensions; expected "
                f"{'integers' if integer else 'floats'} with {ndim}"
            )
    _check_sizes(path, arrays)
    return arrays


def _check_sizes(path: Path, golden: dict[str, Array]) -> None:
    n_slots, d = golden["biases"].shape
    n_nodes, n_positions = len(golden["node_bias"]), len(golden["positions"])
    n_streams, n_tokens = golden["tokens"].shape
    n_candidates = golden["candidates"].shape[2]
    competition = (n_streams, n_tokens - 1, n_candidates)
    expected: dict[str, tuple[int, ...]] = {
        "weights": (n_slots, d, d),
        "edge_index": (n_nodes, n_nodes),
        "node_bias": (n_nodes, d),
        "candidates": competition,
        "energies": competition,
    }
    for name in ("weights", "biases", "node_bias", "positions"):
        expected[f"grad_{name}"] = golden[name].shape
    for name, shape in expected.items():
        if golden[name].shape != shape:
            raise UserError(f"{path}: {name!r} has shape {golden[name].shape}, expected {shape}")
    if n_tokens < 2 or n_tokens - 1 > n_positions:
        raise UserError(f"{path}: {n_tokens} tokens do not fit {n_positions} positions")
    for name, end in (("tokens", n_nodes), ("candidates", n_nodes), ("edge_index", n_slots)):
        if golden[name].min() < 0 or golden[name].max() >= end:
            raise UserError(f"{path}: {name!r} must lie in 0 … {end - 1}")
    if not np.array_equal(golden["candidates"][..., 0], golden["tokens"][:, 1:]):
        raise UserError(f"{path}: the first of the candidates must be the true next token")


def compare(golden: dict[str, Array]) -> list[Agreement]:
    """Run the ``released`` preset on a golden file, both backends, float64 and float32."""
    sources, targets = np.nonzero(golden["edge_index"])
    # Slot by slot in our order; two edges may share a slot, whose gradient is then their sum.
    slots = np.append(0, golden["edge_index"][sources, targets])
    n_nodes = len(golden["edge_index"])
    graph = TokenGraph(
        n_nodes=n_nodes,
        indptr=np.searchsorted(sources, np.arange(n_nodes + 1)),
        targets=targets,
        counts=np.ones_like(targets),
        node_counts=np.ones(n_nodes, np.int64),
        prior=None,
    )
    config = ModelConfig.preset(
        "released", d_node=golden["biases"].shape[1], max_positions=len(golden["positions"])
    )
    # The tokens of a golden file have no names: any will do.
    tokenizer = CharacterTokenizer("".join(chr(0x20000 + k) for k in range(n_nodes - 1)))
    found = []
    for backend in BACKENDS:
        for dtype in (np.float64, np.float32):
            parameters = {
                "edge_weight": golden["weights"][slots].astype(dtype),
                "edge_bias": golden["biases"][slots].astype(dtype),
                "node_bias": golden["node_bias"].astype(dtype),
                "position_logits": golden["positions"].astype(dtype),
            }
            model = BriLLM(config, tokenizer, graph, parameters, backend)
            for quantity, value in _found(golden, model, slots).items():
                theirs = golden[quantity]
                scale = np.abs(theirs).max() or 1.0
                error = float(np.abs(value - theirs).max() / scale)
                found.append(Agreement(quantity, backend, np.dtype(dtype).name, error))
    return found


def _found(golden: dict[str, Array], model: BriLLM, slots: Array) -> dict[str, Array]:
    """Our numbers, in the layout of the file."""
    tokens, candidates = (golden[name].astype(np.int64) for name in ("tokens", "candidates"))
    loss, gradients = model.loss_and_gradients(tokens, candidates)
    energies = model.energies(tokens)[:, :-1]
    ours: dict[str, Array] = {
        "energies": np.take_along_axis(energies, candidates, axis=2),
        "loss": np.asarray(loss),
        "grad_node_bias": gradients["node_bias"],
        "grad_positions": gradients["position_logits"],
    }
    for name, part in (("grad_weights", "edge_weight"), ("grad_biases", "edge_bias")):
        ours[name] = np.zeros(golden[name].shape)
        np.add.at(ours[name], slots, gradients[part])
    return ours
