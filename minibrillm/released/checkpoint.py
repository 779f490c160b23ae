"""The arrays of a released checkpoint: read, joined from its parts, and checked."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.released.files import import_torch

Array = np.ndarray

_SHAPES = {
    "weights": "(E + 1, d, d)",
    "biases": "(E + 1, 1, d)",
    "node_bias": "(V, 1, d)",
    "positions": "(1, T, 1)",
}
_OLDER = re.compile(r"(network|bias)\.\d+")


def read_arrays(paths: Sequence[Path], n_nodes: int) -> dict[str, Array]:
    """The four arrays by their released names, all of one precision, checked."""
    torch = import_torch()
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
    torch = import_torch()
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
