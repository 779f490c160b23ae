"""Checkpoints in all the ways they are saved are read; what is none runs no code and is refused."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from released_files import (
    IN_ORDER,
    N_EDGES,
    D,
    State,
    read,
    refuses,
    released_files,
    same_model,
    save_state,
    slots_of,
    state_of,
    table_of,
)

from minibrillm.released import read_released


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A released model in files; its vocabulary is in order."""
    return released_files(tmp_path, IN_ORDER)


# the ways to save a checkpoint


def variants(state: State, folder: Path) -> dict[str, Callable[[], list[Path]]]:
    import torch

    prefixed = {f"module.{name}": array for name, array in state.items()}
    parameters = {k: torch.nn.Parameter(torch.from_numpy(a)) for k, a in state.items()}
    first = {name: state[name] for name in ("weights", "positions")}
    rest = {name: state[name] for name in ("biases", "node_bias")}
    transposed = {k: torch.from_numpy(a).transpose(0, -1) for k, a in state.items()}
    views = {k: t.contiguous().transpose(0, -1) for k, t in transposed.items()}
    training = {"epoch": 3, "optimizer_state_dict": {"lr": 0.1}}
    tensors = {k: torch.from_numpy(a) for k, a in state.items()}
    here = folder / "variant"
    return {
        "prefix": lambda: [save_state(here, prefixed)],
        "parameters": lambda: [save_state(here, parameters)],
        "two files": lambda: [save_state(here, first), save_state(folder / "rest", rest)],
        "no archive": lambda: [save_state(here, state, _use_new_zipfile_serialization=False)],
        "not contiguous": lambda: [save_state(here, views)],
        "training": lambda: [save_state(here, {"model_state_dict": tensors, **training})],
    }


@pytest.mark.parametrize(
    "name", ["prefix", "parameters", "two files", "no archive", "not contiguous", "training"]
)
def test_ways_to_save(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    state = state_of(slots_of(IN_ORDER, table_of(IN_ORDER)))
    paths = variants(state, tmp_path)[name]()
    model = read_released(paths, files["vocabulary"], frequencies=files["frequencies"])
    same_model(model, read(files))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_becomes_single(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    state = state_of(slots_of(IN_ORDER, table_of(IN_ORDER)))
    halves = {k: torch.from_numpy(a).to(getattr(torch, kind)) for k, a in state.items()}
    model = read(files, model=save_state(tmp_path / "half", halves))
    assert model.parameters["edge_weight"].dtype == np.float32
    expected = halves["weights"].float().numpy()
    assert np.array_equal(model.parameters["edge_weight"], expected)


# mistakes: PyTorch, and files that are no checkpoints


class RunsCode:
    """A pickle that would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_a_checkpoint_with_code_in_it(
    files: dict[str, Path], tmp_path: Path, options: dict[str, bool]
) -> None:
    evil = save_state(tmp_path / "evil.bin", {"weights": RunsCode(tmp_path / "gotcha")}, **options)
    said = refuses(read, files, model=evil)
    assert "evil.bin holds more than tensors" in said
    assert "mkdir" in said
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize("content", [b"", b"hello world " * 99, b"PK\x03\x04 cut", b"\x80\x02]."])
def test_no_checkpoint(files: dict[str, Path], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    said = refuses(read, files, model=tmp_path / "x.bin")
    assert "x.bin" in said
    assert "not a PyTorch checkpoint" in said or "expected tensors by name" in said


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_truncated_checkpoint(files: dict[str, Path], share: float) -> None:
    content = files["model"].read_bytes()
    files["model"].write_bytes(content[: int(share * len(content))])
    assert "m.bin is not a PyTorch checkpoint of tensors, or damaged" in refuses(read, files)


def test_missing_files(files: dict[str, Path], tmp_path: Path) -> None:
    for name in files:
        gone = {**files, name: tmp_path / "gone"}
        assert f"there is no file {tmp_path / 'gone'}" in refuses(read, gone)
        folder = {**files, name: tmp_path}
        assert f"{tmp_path} is a directory" in refuses(read, folder)


def changed(files: dict[str, Path], **changes: Any) -> dict[str, Path]:
    state: dict[str, Any] = dict(state_of(slots_of(IN_ORDER, table_of(IN_ORDER))))
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name]) if name in state and callable(value) else value
    return {**files, "model": save_state(files["model"].with_name("changed.bin"), state)}


@pytest.mark.parametrize("name", ["weights", "biases", "node_bias", "positions"])
def test_missing_arrays(files: dict[str, Path], name: str) -> None:
    assert f"lacks '{name}' (" in refuses(read, changed(files, **{name: None}))


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def put(array: np.ndarray) -> np.ndarray:
        array[-1, 0, 0] = value
        return array

    return put


BAD_ARRAYS: dict[str, tuple[str, Any, str]] = {
    "other name": ("cond_proj", np.zeros(3, np.float32), "'cond_proj', which is no part"),
    "no tensor": ("weights", [1.0, 2.0], "'weights' is list"),
    "integers": ("biases", lambda a: a.astype(np.int64), "'biases' is torch.int64"),
    "weights, 2 axes": ("weights", lambda a: a[0], "shape (8, 8), expected (E + 1, d, d)"),
    "not square": ("weights", lambda a: a[:, :4], "expected (E + 1, d, d)"),
    "no slot": ("weights", lambda a: a[:0], "shape (0, 8, 8), expected (E + 1, d, d)"),
    "fewer biases": ("biases", lambda a: a[1:], f"expected ({N_EDGES + 1}, 1, 8)"),
    "biases, 2 axes": (
        "biases",
        lambda a: a[:, 0],
        f"shape ({N_EDGES + 1}, 8), expected ({N_EDGES + 1}, 1, 8)",
    ),
    "fewer nodes": ("node_bias", lambda a: a[1:], "shape (6, 1, 8), expected (7, 1, 8)"),
    "positions, 1 axis": ("positions", lambda a: a[0, :, 0], "shape (12,), expected (1, 1, 1)"),
    "positions, 2 columns": ("positions", lambda a: a.reshape(1, 6, 2), "expected (1, 6, 1)"),
    "no positions": ("positions", lambda a: a[:, :0], "shape (1, 0, 1), expected (1, 1, 1)"),
    "NaN": ("weights", with_value(math.nan), "'weights' holds NaN or infinity"),
    "infinity": ("biases", with_value(math.inf), "'biases' holds NaN or infinity"),
    "minus infinity": ("positions", with_value(-math.inf), "'positions' holds NaN or infinity"),
    "NaN node": ("node_bias", with_value(math.nan), "'node_bias' holds NaN or infinity"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_of_another_kind(files: dict[str, Path], case: str) -> None:
    name, value, said = BAD_ARRAYS[case]
    message = refuses(read, changed(files, **{name: value}))
    assert said in message
    assert "changed.bin" in message


def test_the_example_itself_is_good(files: dict[str, Path]) -> None:
    same_model(read(changed(files)), read(files))


def test_the_older_layout(files: dict[str, Path], tmp_path: Path) -> None:
    state = {"positions": np.ones((1, 512, 1), np.float32)}
    for k, name in itertools.product(range(7), ("network", "bias")):
        state[f"{name}.{k}"] = np.zeros((7, D if name == "network" else 1, D), np.float32)
    said = refuses(read, files, model=save_state(tmp_path / "old.bin", state))
    assert "older, dense layout" in said
    assert "not read" in said


def test_a_part_given_twice(files: dict[str, Path]) -> None:
    twice = [files["model"], files["model"]]
    said = refuses(read_released, twice, files["vocabulary"], frequencies=files["frequencies"])
    assert "has been read already" in said


def test_a_checkpoint_that_is_no_dictionary(files: dict[str, Path], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([torch.zeros(3)], tmp_path / "list.bin")
    assert "holds a list" in refuses(read, files, model=tmp_path / "list.bin")
    torch.save({3: torch.zeros(3)}, tmp_path / "numbers.bin")
    assert "tensors by name" in refuses(read, files, model=tmp_path / "numbers.bin")
