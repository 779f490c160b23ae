"""Both backends agree with vectors of the released model; files of another layout are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, is_refused

from minibrillm.checks import UserError
from minibrillm.released.parity import TOLERANCE, Agreement, compare, load_golden

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
QUANTITIES = {
    "energies",
    "loss",
    "grad_weights",
    "grad_biases",
    "grad_node_bias",
    "grad_positions",
}


def golden_copy(folder: Path, **changes: np.ndarray | None) -> Path:
    """The first golden file with other arrays; None leaves one out."""
    with np.load(GOLDEN[0]) as file:
        arrays = {**file, **changes}
    path = folder / "changed.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def is_no_golden_file(path: Path, *said: str) -> None:
    with pytest.raises(UserError) as raised:
        load_golden(path)
    for part in said:
        assert part in str(raised.value)


def test_golden_vectors_are_there() -> None:
    assert [p.name for p in GOLDEN] == ["full_softmax.npz", "sampled_softmax.npz"]


@pytest.mark.parametrize("file", GOLDEN, ids=lambda p: p.stem)
def test_every_quantity_agrees_in_both_backends_and_precisions(file: Path) -> None:
    found = compare(load_golden(file))
    assert {(a.quantity, a.backend, a.dtype) for a in found} == {
        (q, b, t) for q in QUANTITIES for b in ("numpy", "numba") for t in ("float64", "float32")
    }
    for agreement in found:
        assert agreement.agrees
        assert agreement.error <= (TOLERANCE if agreement.dtype == "float64" else 1e-4)


def test_what_differs_does_not_agree(tmp_path: Path) -> None:
    with np.load(GOLDEN[0]) as file:
        energies, gradient = file["energies"].copy(), file["grad_positions"].copy()
    energies[1, 2, 3] += 1e-6
    gradient[0] *= 1 + 1e-6
    golden = load_golden(golden_copy(tmp_path, energies=energies, grad_positions=gradient))
    found = compare(golden)
    differs = {(a.quantity, a.backend, a.dtype) for a in found if not a.agrees}
    assert differs == {
        (quantity, backend, "float64")
        for quantity in ("energies", "grad_positions")
        for backend in ("numpy", "numba")
    }


def test_single_precision_is_shown_but_not_judged() -> None:
    assert Agreement("loss", "numpy", "float32", 1.0).agrees
    assert Agreement("loss", "numpy", "float64", TOLERANCE).agrees
    assert not Agreement("loss", "numpy", "float64", 2 * TOLERANCE).agrees
    assert not Agreement("loss", "numpy", "float64", float("nan")).agrees


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"energies": None}, "lacks the array 'energies'"),
        ({"tokens": np.zeros((2, 3))}, "'tokens' is float64"),
        ({"weights": np.zeros((2, 2))}, "'weights' is float64 with 2 dimensions"),
        ({"biases": np.zeros((2, 2))}, "has shape"),
        ({"positions": np.zeros(1), "grad_positions": np.zeros(1)}, "do not fit 1 positions"),
        ({"loss": np.zeros(3)}, "'loss'"),
    ],
    ids=str,
)
def test_another_layout(tmp_path: Path, changes: dict[str, np.ndarray | None], said: str) -> None:
    is_no_golden_file(golden_copy(tmp_path, **changes), said, "changed.npz")


def test_candidates_without_the_target(tmp_path: Path) -> None:
    with np.load(GOLDEN[0]) as file:
        candidates = file["candidates"][..., ::-1].copy()
    is_no_golden_file(golden_copy(tmp_path, candidates=candidates), "true next")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    is_no_golden_file(tmp_path / "a.npz", "a.npz is not a golden .npz file")


def test_one_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    is_no_golden_file(tmp_path / "a.npy", "a.npy")


def test_no_file(tmp_path: Path) -> None:
    is_no_golden_file(tmp_path / "nowhere.npz", "there is no file", "nowhere.npz")
    is_no_golden_file(tmp_path, "is a directory")


@pytest.mark.parametrize("place", [200, 900, 2000, 6000])
def test_a_damaged_archive(tmp_path: Path, place: int) -> None:
    content = bytearray(GOLDEN[0].read_bytes())
    content[place : place + 40] = bytes(reversed(content[place : place + 40]))
    file = tmp_path / "damaged.npz"
    file.write_bytes(content)
    is_no_golden_file(file, "damaged.npz")


# the command


@pytest.mark.parametrize("file", GOLDEN, ids=lambda p: p.stem)
def test_command(minibrillm: Command, file: Path) -> None:
    said = minibrillm("parity", file)
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("float64 agrees to 1e-10\n")
    assert "DIFFERS" not in said.out
    data = json.loads(minibrillm("parity", file, "--json").out)
    assert data["failed"] == []
    found = {(c["quantity"], c["backend"], c["dtype"]) for c in data["comparisons"]}
    assert found == {
        (q, b, t) for q in QUANTITIES for b in ("numpy", "numba") for t in ("float64", "float32")
    }
    for comparison in data["comparisons"]:
        assert comparison["agrees"]
        assert comparison["error"] <= (1e-10 if comparison["dtype"] == "float64" else 1e-4)


def test_command_names_what_differs(minibrillm: Command, tmp_path: Path) -> None:
    with np.load(GOLDEN[0]) as file:
        energies, gradient = file["energies"].copy(), file["grad_positions"].copy()
    energies[1, 2, 3] += 1e-6
    said = minibrillm("parity", golden_copy(tmp_path, energies=energies))
    assert said.code == 1
    assert said.err == "float64 differs by more than 1e-10: energies\n"
    assert [line.split()[0] for line in said.out.splitlines() if "DIFFERS" in line] == ["energies"]
    gradient[0] *= 1 + 1e-6
    path = golden_copy(tmp_path, energies=energies, grad_positions=gradient)
    said = minibrillm("parity", path, "--json")
    assert said.code == 1
    assert json.loads(said.out)["failed"] == ["energies", "grad_positions"]


def test_command_without_a_file(minibrillm: Command, tmp_path: Path) -> None:
    is_refused(minibrillm("parity", "nowhere.npz"), "there is no file nowhere.npz")
    is_refused(minibrillm("parity", tmp_path), "is a directory")
