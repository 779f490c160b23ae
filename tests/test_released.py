"""A released checkpoint computes here what it computes there, and goes back bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from conftest import Command, is_refused, random_model

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM
from minibrillm.released import read_released, write_released
from minibrillm.runs import load_model, save_checkpoint
from minibrillm.text import (
    BPETokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    VocabularyTokenizer,
    tokenizer_from_json,
)

State = dict[str, np.ndarray]
Table = dict[str, dict[str, int]]

D = 8
N_POSITIONS = 12
IN_ORDER = {"<unk>": 0, "的": 1, "-": 2, ">": 3, "a": 4, "[PAD]": 5, "b": 6}
# Ids in another order than the lines of the file.
SHUFFLED = {"a": 4, "[PAD]": 5, "的": 1, "<unk>": 0, "b": 6, ">": 3, "-": 2}
TEXT = "的a->b的aab->"


def table_of(vocabulary: dict[str, int], seed: int = 0) -> Table:
    """Frequencies: about a third of all pairs is listed with 0, a third not listed."""
    rng = np.random.default_rng(seed)
    draw = {s: {t: int(rng.integers(-4, 5)) for t in vocabulary} for s in vocabulary}
    return {s: {t: max(c, 0) for t, c in row.items() if c > -3} for s, row in draw.items()}


def slots_of(vocabulary: dict[str, int], table: Table | None) -> dict[tuple[int, int], int]:
    """Slot of every pair of ids, in the words of the released code's layout.

    Slots are given out to the places of the vocabulary file, one after the other; the pair that is
    looked up is one of ids.
    """
    slots, free = {}, 1
    for p, s in enumerate(vocabulary):
        for q, t in enumerate(vocabulary):
            shared = table is not None and table.get(s, {}).get(t) == 0
            slots[p, q] = 0 if shared else free
            free += not shared
    return slots


N_EDGES = max(slots_of(IN_ORDER, table_of(IN_ORDER)).values())


def state_of(slots: dict[tuple[int, int], int], dtype: type = np.float32, seed: int = 1) -> State:
    rng = np.random.default_rng(seed)
    n_nodes, n_slots = math.isqrt(len(slots)), max(slots.values()) + 1
    shapes = {
        "positions": (1, N_POSITIONS, 1),
        "weights": (n_slots, D, D),
        "biases": (n_slots, 1, D),
        "node_bias": (n_nodes, 1, D),
    }
    return {name: rng.normal(0, 0.7, shape).astype(dtype) for name, shape in shapes.items()}


def gelu(h: np.ndarray) -> np.ndarray:
    return h * np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in h])


def encoding(position: int) -> np.ndarray:
    out = np.zeros(D)
    for k in range(D // 2):
        angle = position * 10000.0 ** (2 * k / D)
        out[2 * k], out[2 * k + 1] = math.sin(angle), math.cos(angle)
    return out


def energies_by_hand(state: State, slots: dict[tuple[int, int], int], ids: list[int]) -> np.ndarray:
    """Energy of each target at each position, (T, V), pair by pair from the released arrays."""
    w, b, n, alpha = (
        state[name].astype(np.float64) for name in ("weights", "biases", "node_bias", "positions")
    )
    signals: list[np.ndarray] = []
    rows = []
    for i, u in enumerate(ids):
        if i == 0:
            a = gelu(np.ones(D) / D + n[u, 0] + encoding(0))
        else:
            e = np.exp(alpha[0, :i, 0] - alpha[0, :i, 0].max())
            a = (e / e.sum()) @ np.array(signals)
        answers = [
            gelu(a @ w[slots[u, v]] + b[slots[u, v], 0] + encoding(i + 1)) for v in range(len(n))
        ]
        rows.append([np.sqrt((y * y).sum()) for y in answers])
        if i + 1 < len(ids):
            signals.append(answers[ids[i + 1]])
    return np.array(rows)


def loss_by_hand(energies: np.ndarray, ids: list[int]) -> float:
    nll = [math.log(np.exp(row).sum()) - row[v] for row, v in zip(energies, ids[1:], strict=False)]
    return float(np.mean(nll))


def save_state(path: Path, state: dict[str, Any], **options: Any) -> Path:
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }
    torch.save(tensors, path, **options)
    return path


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A released model in files; its vocabulary is in order."""
    return released_files(tmp_path, IN_ORDER)


def released_files(
    folder: Path, vocabulary: dict[str, int], dtype: type = np.float32
) -> dict[str, Path]:
    table = table_of(vocabulary)
    return {
        "model": save_state(folder / "m.bin", state_of(slots_of(vocabulary, table), dtype)),
        "vocabulary": write_json(folder / "vocab.json", vocabulary),
        "frequencies": write_json(folder / "freq.json", table),
    }


def read(files: dict[str, Path], backend: str = "numpy", **changes: Path | None) -> BriLLM:
    chosen = {k: v for k, v in {**files, **changes}.items() if v is not None}
    return read_released([chosen.pop("model")], chosen.pop("vocabulary"), backend=backend, **chosen)


def same_model(ours: BriLLM, theirs: BriLLM) -> None:
    assert ours.config == theirs.config
    assert ours.tokenizer.to_json() == theirs.tokenizer.to_json()
    groups = (
        (ours.parameters, theirs.parameters),
        (ours.graph.to_arrays(), theirs.graph.to_arrays()),
    )
    for mine, yours in groups:
        assert mine.keys() == yours.keys()
        for name, array in mine.items():
            assert array.dtype == yours[name].dtype
            assert np.array_equal(array, yours[name]), name


def refuses(call: Callable[..., object], *arguments: Any, **settings: Any) -> str:
    """Message of the `UserError` that a call raises: one line."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **settings)
    message = str(raised.value)
    assert message
    return message


# the same numbers


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 2e-5)])
@pytest.mark.parametrize("vocabulary", [IN_ORDER, SHUFFLED], ids=["in order", "shuffled"])
def test_energies_and_loss(
    tmp_path: Path, vocabulary: dict[str, int], dtype: type, tolerance: float, backend: str
) -> None:
    model = read(released_files(tmp_path, vocabulary, dtype), backend)
    slots = slots_of(vocabulary, table_of(vocabulary))
    ids = model.tokenizer.encode(TEXT)
    assert ids.tolist() == [vocabulary[c] for c in TEXT]
    expected = energies_by_hand(state_of(slots, dtype), slots, ids.tolist())
    found = model.energies(ids)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert model.loss(ids) == pytest.approx(loss_by_hand(expected, ids.tolist()), rel=tolerance)


def test_what_is_read(files: dict[str, Path]) -> None:
    model, table = read(files), table_of(IN_ORDER)
    assert model.config == ModelConfig.preset("released", d_node=D, max_positions=N_POSITIONS)
    private = {(s, t) for s in IN_ORDER for t in IN_ORDER if table[s].get(t) != 0}
    edges = {(u, v): c for u, v, c in zip(*edge_list(model), strict=True)}
    assert edges.keys() == {(IN_ORDER[s], IN_ORDER[t]) for s, t in private}
    assert 0 < len(edges) < len(IN_ORDER) ** 2
    for s, t in private:
        assert edges[IN_ORDER[s], IN_ORDER[t]] == table[s].get(t, 0)
    sums = [sum(table[s].values()) for s in IN_ORDER]
    assert model.graph.node_counts.tolist() == sums
    assert model.graph.n_bigrams == sum(sums)
    assert {*edges.values()} >= {0, 1, 2}  # not listed, seen once, seen twice


def edge_list(model: BriLLM) -> list[list[int]]:
    graph = model.graph
    return [graph.sources.tolist(), graph.targets.tolist(), graph.counts.tolist()]


def test_counts_belong_to_ids(tmp_path: Path) -> None:
    model, table = read(released_files(tmp_path, SHUFFLED)), table_of(SHUFFLED)
    token = {k: t for t, k in SHUFFLED.items()}
    assert model.tokenizer.vocabulary == [token[k] for k in range(len(token))]
    for u, v, count in zip(*edge_list(model), strict=True):
        assert count == table[token[u]].get(token[v], 0)
    sums = [sum(table[token[u]].values()) for u in range(len(token))]
    assert model.graph.node_counts.tolist() == sums


def test_pairs_that_are_not_listed_are_shared_where_only_that_fits(
    files: dict[str, Path], tmp_path: Path
) -> None:
    seen = {s: {t: c for t, c in row.items() if c} for s, row in table_of(IN_ORDER).items()}
    complete = {s: {t: seen[s].get(t, 0) for t in IN_ORDER} for s in IN_ORDER}
    slots = slots_of(IN_ORDER, complete)
    files["model"] = save_state(tmp_path / "seen.bin", state_of(slots))
    ours = read(files, frequencies=write_json(tmp_path / "seen.json", seen))
    same_model(ours, read(files, frequencies=write_json(tmp_path / "all.json", complete)))
    ids = ours.tokenizer.encode(TEXT)
    expected = energies_by_hand(state_of(slots), slots, ids.tolist())
    np.testing.assert_allclose(ours.energies(ids), expected, rtol=2e-5)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_edges_in_any_order(files: dict[str, Path], tmp_path: Path, backend: str) -> None:
    slots = slots_of(IN_ORDER, table_of(IN_ORDER))
    pairs = sorted((pair for pair in slots if slots[pair]), key=lambda pair: slots[pair])
    order = np.random.default_rng(3).permutation(len(pairs))
    shuffled = {pairs[k]: place + 1 for place, k in enumerate(order)}
    lines = "".join(f"{u}\t{v}\n" for u, v in shuffled)
    (tmp_path / "edges.tsv").write_text(lines, encoding="utf-8")
    model = read(files, backend, frequencies=None, edges=tmp_path / "edges.tsv")
    ids = model.tokenizer.encode(TEXT)
    state = state_of(slots)
    expected = energies_by_hand(state, dict.fromkeys(slots, 0) | shuffled, ids.tolist())
    np.testing.assert_allclose(model.energies(ids), expected, rtol=2e-5)
    assert set(model.graph.counts.tolist()) == {1}
    assert model.graph.node_counts.tolist() == model.graph.out_degree.tolist()
    # The same edges in order are the same model with other weights.
    ordered = "".join(f"{u}\t{v}\n" for u, v in pairs)
    (tmp_path / "ordered.tsv").write_text(ordered, encoding="utf-8")
    other = read(files, frequencies=None, edges=tmp_path / "ordered.tsv")
    assert np.array_equal(other.parameters["edge_weight"], state["weights"])
    assert not np.array_equal(model.parameters["edge_weight"], state["weights"])


def test_every_pair_has_an_edge(files: dict[str, Path], tmp_path: Path) -> None:
    slots = slots_of(IN_ORDER, None)
    files["model"] = save_state(tmp_path / "dense.bin", state_of(slots))
    model = read(files, frequencies=None)
    assert model.graph.n_edges == len(IN_ORDER) ** 2
    ids = model.tokenizer.encode(TEXT)
    expected = energies_by_hand(state_of(slots), slots, ids.tolist())
    np.testing.assert_allclose(model.energies(ids), expected, rtol=2e-5)


def test_no_pair_was_ever_counted(files: dict[str, Path], tmp_path: Path) -> None:
    files["model"] = save_state(tmp_path / "dense.bin", state_of(slots_of(IN_ORDER, None)))
    model = read(files, frequencies=write_json(tmp_path / "none.json", {"的": {}}))
    assert model.generate("", 5, seed=0)


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


# and back


@pytest.mark.parametrize("vocabulary", [IN_ORDER, SHUFFLED], ids=["in order", "shuffled"])
@pytest.mark.parametrize("how", ["frequencies", "edges"])
def test_there_and_back(tmp_path: Path, vocabulary: dict[str, int], how: str) -> None:
    torch = pytest.importorskip("torch")
    model = read(released_files(tmp_path, vocabulary))
    new = {name: tmp_path / f"new-{name}" for name in ("model", "vocabulary", how)}
    write_released(model, new["model"], **{k: p for k, p in new.items() if k != "model"})
    state = torch.load(new["model"], weights_only=True)
    original = torch.load(tmp_path / "m.bin", weights_only=True)
    assert list(state) == list(original)
    for name, tensor in original.items():
        assert state[name].dtype == tensor.dtype
        assert state[name].shape == tensor.shape
        assert torch.equal(state[name], tensor), name
    written = json.loads(new["vocabulary"].read_text(encoding="utf-8"))
    assert written == vocabulary
    assert list(written.values()) == list(range(len(written)))
    again = read(new)
    kept = {"n_bigrams", "node_counts"} if vocabulary is SHUFFLED else set()
    if how == "edges":
        kept = {"n_bigrams", "node_counts", "counts"}
    # Edges carry no frequencies; a shared pair keeps no count, not even one by place.
    again.graph = replace(again.graph, **{name: getattr(model.graph, name) for name in kept})
    same_model(again, model)


def test_frequencies_as_the_released_code_reads_them(
    files: dict[str, Path], tmp_path: Path
) -> None:
    model, table = read(files), table_of(IN_ORDER)
    new = tmp_path / "new.json"
    write_released(model, tmp_path / "new", vocabulary=tmp_path / "v", frequencies=new)
    written = json.loads(new.read_text(encoding="utf-8"))
    assert written == table
    for row in written.values():  # the first are the negatives of the released training
        assert list(row.values()) == sorted(row.values(), reverse=True)
    assert slots_of(IN_ORDER, written) == slots_of(IN_ORDER, table)


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
@pytest.mark.parametrize("min_count", [1, 2])
def test_a_model_of_our_own(tmp_path: Path, tokenizer: str, min_count: int) -> None:
    pytest.importorskip("torch")
    text = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat -> a dog.\n" * 3
    model = BriLLM.from_text(
        text, "released", tokenizer=tokenizer, d_node=4, min_count=min_count, backend="numpy"
    )
    new = {name: tmp_path / name for name in ("model", "vocabulary", "frequencies")}
    if tokenizer == "bpe":
        new["tokenizer"] = tmp_path / "tokenizer.json"
    write_released(model, new["model"], **{k: p for k, p in new.items() if k != "model"})
    again = read(new)
    assert again.tokenizer.vocabulary == model.tokenizer.vocabulary
    assert again.tokenizer.unknown_id == model.tokenizer.unknown_id
    for name, array in model.parameters.items():
        assert np.array_equal(array, again.parameters[name]), name
    for name in ("indptr", "targets", "counts"):
        assert np.array_equal(getattr(model.graph, name), getattr(again.graph, name))
    ids = model.tokenizer.encode(text[:90])
    assert np.array_equal(again.tokenizer.encode(text[:90]), ids)
    assert again.tokenizer.decode(ids) == text[:90]
    assert np.array_equal(again.energies(ids), model.energies(ids))


def test_export_refuses_other_models(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for preset, said in (("mini", "memory 'leaky'"), ("paper", "memory 'chain'")):
        model = random_model(ModelConfig.preset(preset, d_node=4, min_count=1))
        message = refuses(write_released, model, tmp_path / "a", vocabulary=tmp_path / "b")
        assert said in message
        assert "preset released" in message
    one_off = random_model(ModelConfig.preset("released", d_node=4, first_position=0))
    said = refuses(write_released, one_off, tmp_path / "a", vocabulary=tmp_path / "b")
    assert "first_position 0" in said
    assert list(tmp_path.iterdir()) == []


def test_export_overwrites_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    model, before = read(files), files["vocabulary"].read_bytes()
    for settings in (
        {"vocabulary": files["vocabulary"]},
        {"vocabulary": tmp_path / "v", "frequencies": files["frequencies"]},
        {"vocabulary": tmp_path / "v", "edges": tmp_path / "v"},
        {"vocabulary": tmp_path / "new"},
    ):
        said = refuses(write_released, model, tmp_path / "new", **settings)
        assert "would be overwritten" in said
    assert "overwritten" in refuses(write_released, model, files["model"], vocabulary=tmp_path)
    assert files["vocabulary"].read_bytes() == before
    assert not (tmp_path / "new").exists()
    said = refuses(write_released, model, tmp_path / "no" / "m", vocabulary=tmp_path / "v")
    assert "cannot write" in said
    said = refuses(write_released, model, tmp_path / "m", vocabulary=tmp_path / "no" / "v")
    assert "cannot write" in said
    said = refuses(
        write_released, model, tmp_path / "n", vocabulary=tmp_path / "v", tokenizer=tmp_path / "t"
    )
    assert "no tokenizer file" in said


# mistakes: PyTorch, and files that are no checkpoints


def test_without_pytorch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minibrillm: Command
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    vocabulary = write_json(tmp_path / "vocab.json", IN_ORDER)
    told = ("import-released", "m.bin", "--vocab", vocabulary, "--out", "run")
    is_refused(minibrillm(*told), 'pip install "minibrillm[torch]"')
    save_checkpoint(tmp_path / "r", random_model(ModelConfig.preset("released", d_node=4)))
    is_refused(minibrillm("export-released", "r", "m", "--vocab", "v"), "minibrillm[torch]")
    assert not (tmp_path / "run").exists()


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


# mistakes: vocabulary (found before PyTorch is needed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds a list"),
        ("{}", "is not a vocabulary"),
        ('{"a": "0"}', "integer ids"),
        ('{"a": false}', "integer ids"),
        ('{"a": 0, "b": 1.0}', "integer ids"),
        ('{"a": 0, "b": 2}', "0 … 1, each once; 1 is missing"),
        ('{"a": 1, "b": 2}', "0 is missing"),
        ('{"a": 0, "b": 0}', "1 is missing"),
        ('{"a": 0, "b": -1}', "1 is missing"),
        ('{"a": 0, "a": 1}', "0 is missing"),
        ('{"the": 0, "a": 1}', "such as 'the'; give the tokenizer"),
        ('{"Ġt": 0, "a": 1}', "--tokenizer"),
        ('{"<unk>": 0, "[PAD]": 1}', "no token of one character"),
        ('{"a": 0, "\\ud800": 1}', "surrogate"),
    ],
)
def test_bad_vocabularies(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    message = refuses(read_released, [tmp_path / "m.bin"], tmp_path / "v.json")
    assert said in message
    assert "v.json" in message


# mistakes: frequencies and edges


def test_frequencies_of_another_model(files: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(IN_ORDER)
    n_private = sum(slot > 0 for slot in slots_of(IN_ORDER, table).values())
    table["的"] = dict.fromkeys(IN_ORDER, 0)
    fewer = sum(slot > 0 for slot in slots_of(IN_ORDER, table).values())
    seen = sum(c > 0 for row in table.values() for c in row.values())
    assert len({n_private, fewer, seen}) == 3
    said = refuses(read, files, frequencies=write_json(tmp_path / "f.json", table))
    assert f"has {n_private} private edges" in said
    assert f"gives {fewer} (or {seen}" in said


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": 3}, "is not {source: {target: count}}; look at 'a'"),
        ({"a": {"b": "3"}}, "counts after 'a' are not integers"),
        ({"a": {"b": 1.5}}, "counts after 'a' are not integers"),
        ({"a": {"b": -1}}, "counts after 'a' are not integers"),
        ({"a": {"b": None}}, "counts after 'a' are not integers"),
        ({"a": {"b": [1]}}, "counts after 'a' are not integers"),
        ({"a": {"b": [1], "-": 2}}, "counts after 'a' are not integers"),
        ({"a": {"b": 1 << 70}}, "counts after 'a' are not integers"),
        ([], "holds a list"),
    ],
)
def test_bad_frequencies(files: dict[str, Path], tmp_path: Path, table: object, said: str) -> None:
    path = write_json(tmp_path / "bad.json", table)
    message = refuses(read, files, frequencies=path)
    assert said in message
    assert "bad.json" in message


def test_frequencies_of_tokens_that_are_not_in_the_vocabulary(
    files: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(IN_ORDER)
    more = {"Q": {"a": 0}} | {s: {"Q": 0, **row, "R": 3} for s, row in table.items()}
    same_model(read(files, frequencies=write_json(tmp_path / "more.json", more)), read(files))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], f"lists {N_EDGES - 1} edges, the checkpoint has {N_EDGES}"),
        (
            lambda lines: [*lines, "6\t6"],
            f"lists {N_EDGES + 1} edges, the checkpoint has {N_EDGES}",
        ),
        (lambda lines: [*lines[:-1], lines[0]], f"line {N_EDGES} lists an edge that an earlier"),
        (lambda lines: [*lines[:-1], "6\t7"], "must lie in 0 … 6; got 0 … 7"),
        (lambda lines: [*lines[:-1], "-1\t6"], "must lie in 0 … 6; got -1"),
        (lambda lines: [*lines[:-1], "1 6"], "two ids a line"),
        (lambda lines: [*lines[:-1], "1\t2\t3"], "two ids a line"),
        (lambda lines: [line + "\t1" for line in lines], "two ids a line"),
        (lambda lines: [*lines, ""], "two ids a line"),
        (lambda lines: [*lines[:-1], "的\ta"], "two ids a line"),
        (lambda lines: [*lines[:-1], "1\t99999999999999999999"], "two ids a line"),
        (lambda lines: [], "is empty"),
    ],
)
def test_bad_edges(files: dict[str, Path], tmp_path: Path, change: Any, said: str) -> None:
    slots = slots_of(IN_ORDER, table_of(IN_ORDER))
    lines = [f"{u}\t{v}" for (u, v), slot in slots.items() if slot]
    path = tmp_path / "edges.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    read(files, frequencies=None, edges=path)
    path.write_text("".join(line + "\n" for line in change(lines)), encoding="utf-8")
    assert said in refuses(read, files, frequencies=None, edges=path)


def test_neither_or_both(files: dict[str, Path], tmp_path: Path) -> None:
    said = refuses(read, files, frequencies=None)
    assert f"{N_EDGES} private edges for 7 tokens" in said
    assert "--frequencies" in said
    assert "--edges" in said
    assert "give one" in refuses(read, files, edges=tmp_path / "edges.tsv")


# tokenizers


def test_characters_with_ids_of_their_own() -> None:
    tok = VocabularyTokenizer(["b", "<unk>", "的", "a", "[PAD]"])
    assert (tok.n_nodes, tok.unknown_id) == (5, 1)
    assert tok.encode("ab的?龘a").tolist() == [3, 0, 2, 1, 1, 3]
    assert tok.encode("").tolist() == []
    assert tok.decode([3, 0, 2, 1, 4]) == "ab的��"
    assert "".join(tok.decode_stream([3, 1, 0])) == "a�b"
    assert tok.unknown("a龘?b") == ["?", "龘"]
    assert [tok.token(k) for k in range(5)] == ["b", "<unk>", "的", "a", "[PAD]"]
    again = tokenizer_from_json(json.loads(json.dumps(tok.to_json())))
    assert type(again) is VocabularyTokenizer
    assert again.to_json() == tok.to_json()
    assert again.encode("ab的?").tolist() == tok.encode("ab的?").tolist()


def test_characters_without_unk() -> None:
    tok = VocabularyTokenizer(["b", "a", "[PAD]"])
    assert tok.unknown_id is None
    assert tok.encode("abba").tolist() == [1, 0, 0, 1]
    said = refuses(tok.encode, "a龘b?")
    assert "neither a node for '?' '龘' nor one for unknown" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"kind": "vocabulary"}, "'tokens' is missing"),
        ({"kind": "vocabulary", "tokens": "ab"}, "expected a list"),
        ({"kind": "vocabulary", "tokens": [1]}, "list of strings"),
        ({"kind": "vocabulary", "tokens": ["a", "a"]}, "distinct"),
        ({"kind": "vocabulary", "tokens": ["<unk>"]}, "one character"),
        ({"kind": "huggingface"}, "'tokenizer' is missing"),
        ({"kind": "huggingface", "tokenizer": "{}"}, "no tokenizer of the tokenizers library"),
        ({"kind": "huggingface", "tokenizer": "["}, "no tokenizer of the tokenizers library"),
    ],
)
def test_bad_json_of_a_tokenizer(data: dict[str, Any], said: str) -> None:
    assert said in refuses(tokenizer_from_json, data)


ENGLISH = "The cat sat on the mat. The dog ran to the cat.\n" * 9


def library_tokenizer(**changes: Any) -> dict[str, Any]:
    """A small tokenizer.json of the kind that the released English model uses."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    engine.normalizer = tokenizers.normalizers.NFKC()
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=48, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    engine.train_from_iterator([ENGLISH], trainer=trainer)
    data: dict[str, Any] = json.loads(engine.to_str())
    for path, value in changes.items():
        part, _, name = path.rpartition("__")
        (data[part] if part else data)[name] = value
    return data


def library_vocabulary(data: dict[str, Any]) -> dict[str, int]:
    vocabulary: dict[str, int] = data["model"]["vocab"]
    return vocabulary


def test_a_byte_level_tokenizer() -> None:
    data = library_tokenizer()
    limits = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tok = HuggingFaceTokenizer(json.dumps({**data, "truncation": limits}))
    names = library_vocabulary(data)
    assert tok.vocabulary == sorted(names, key=names.__getitem__)
    assert (tok.n_nodes, tok.unknown_id) == (len(names), names["[UNK]"])
    ids = tok.encode("The cat sat")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data)).encode("The cat sat")
    assert ids.tolist() == theirs.ids
    assert len(ids) > 2
    assert tok.decode(ids) == " The cat sat"
    assert "".join(tok.decode_stream(ids.tolist())) == " The cat sat"
    assert tok.unknown("The ﬁne 龘 cat") == ["f", "i", "龘"]  # NFKC: ﬁ is f and i
    assert tok.encode("龘").tolist()[-3:] == [names["[UNK]"]] * 3
    assert tok.decode([names["[UNK]"], names["[PAD]"], names["Ġthe"]]) == "�� the"
    assert names["[PAD]"] not in tok.encode("the [PAD] cat")
    assert tok.token(names["[PAD]"]) == "[PAD]"
    assert tok.token(names["Ġthe"]) == "␣the"
    again = tokenizer_from_json(json.loads(json.dumps(tok.to_json())))
    assert type(again) is HuggingFaceTokenizer
    assert again.to_json() == tok.to_json()
    assert again.encode(ENGLISH).tolist() == tok.encode(ENGLISH).tolist()


def test_a_byte_level_tokenizer_without_unk() -> None:
    tok = HuggingFaceTokenizer(json.dumps(library_tokenizer(model__unk_token=None)))
    assert tok.unknown_id is None
    assert tok.decode(tok.encode("The cat")) == " The cat"
    assert "neither a node for '龘'" in refuses(tok.encode, "the 龘 cat")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "not byte-level BPE"),
        ({"pre_tokenizer": None}, "not byte-level BPE"),
        ({"model__end_of_word_suffix": "</w>"}, "not byte-level BPE"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "byte-level BPE"),
        ({"model__merges": [], "model__vocab": {"[PAD]": 0, "[UNK]": 1, "信": 2}}, "alphabet"),
        ({"model__merges": [], "model__vocab": {"[PAD]": 0, "[UNK]": 1, "a": 3}}, "not 0 to 2"),
    ],
)
def test_tokenizers_of_another_kind(changes: dict[str, Any], said: str) -> None:
    content = json.dumps(library_tokenizer(**changes))
    assert said in refuses(HuggingFaceTokenizer, content)


def test_the_tokenizer_must_be_that_of_the_vocabulary(tmp_path: Path) -> None:
    data = library_tokenizer()
    path = write_json(tmp_path / "tokenizer.json", data)
    names = library_vocabulary(data)
    a, b = list(names)[5:7]
    swapped = {**names, a: names[b], b: names[a]}
    fewer = {name: k for name, k in names.items() if k < len(names) - 1}
    for vocabulary, said in ((swapped, f"id {names[a]} is {a!r} in"), (fewer, "tokens, ")):
        where = write_json(tmp_path / "vocab.json", vocabulary)
        message = refuses(read_released, [tmp_path / "m"], where, tokenizer=path)
        assert said in message
        assert "vocab.json" in message
        assert "tokenizer.json" in message
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    where = write_json(tmp_path / "vocab.json", names)
    said = refuses(read_released, [tmp_path / "m"], where, tokenizer=tmp_path / "bad.json")
    assert "bad.json: no tokenizer" in said


# the command line


@pytest.fixture
def imported(files: dict[str, Path], minibrillm: Command) -> Path:
    made = minibrillm(*import_of(files), "--out", "run")
    assert (made.code, made.err) == (0, "")
    assert f"7 nodes, {N_EDGES} private edges, d = 8" in made.out
    assert "minibrillm generate run" in made.out
    return Path("run")


def import_of(files: dict[str, Path]) -> list[object]:
    told = ["import-released", files["model"], "--vocab", files["vocabulary"]]
    return [*told, "--frequencies", files["frequencies"]]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_import_and_use(
    files: dict[str, Path], imported: Path, minibrillm: Command, backend: str
) -> None:
    same_model(load_model(imported, "numpy"), read(files))
    tell = ("generate", imported, "--tokens", 6, "--seed", 1, "--backend", backend)
    for prompt in ("的a", ""):
        made = minibrillm(*tell, "--prompt", prompt)
        assert (made.code, made.err) == (0, "")
        assert made.out.startswith(prompt)
        assert len(made.out) == len(prompt) + 6 + 1
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    found = minibrillm("evaluate", imported, "text.txt", "--json", "--backend", backend)
    assert (found.code, found.err) == (0, "")
    data = json.loads(found.out)
    assert [row["model"] for row in data["scores"]] == [
        f"BriLLM, windows of {N_POSITIONS}",
        "BriLLM, one stream",
    ]
    slots = slots_of(IN_ORDER, table_of(IN_ORDER))
    ids = [IN_ORDER[c] for c in TEXT]
    expected = loss_by_hand(energies_by_hand(state_of(slots), slots, ids), ids)
    for row in data["scores"]:
        assert row["nats_per_token"] == pytest.approx(expected, rel=2e-5)
    assert (data["tokens"], data["unknown"]) == (len(TEXT) - 1, 0)


def test_an_imported_run_has_no_text(imported: Path, minibrillm: Command) -> None:
    is_refused(minibrillm("evaluate", imported), "no text held out; give a TEXT")
    said = minibrillm("train", "--resume", "--out", imported, "--steps", 1)
    is_refused(said, "without training state")


def test_unknown_characters(imported: Path, minibrillm: Command, tmp_path: Path) -> None:
    made = minibrillm("generate", imported, "--prompt", "a龘", "--backend", "numpy", "--tokens", 1)
    assert made.code == 0
    assert made.err == "note: the model does not know '龘'; read as <unk>\n"
    model = random_model(ModelConfig.preset("released", d_node=4), n_nodes=3)
    model.tokenizer = VocabularyTokenizer(["a", "b", "[PAD]"])
    save_checkpoint(tmp_path / "plain", model)
    said = minibrillm("generate", "plain", "--prompt", "a龘", "--backend", "numpy")
    is_refused(said, "neither a node for '龘'")


def test_import_spares_a_run(files: dict[str, Path], imported: Path, minibrillm: Command) -> None:
    is_refused(minibrillm(*import_of(files), "--out", imported), "already holds a run")
    Path("other").mkdir()
    Path("other/text.safetensors").write_bytes(b"")
    is_refused(minibrillm(*import_of(files), "--out", "other"), "already holds a run")
    Path("file").write_text("in the way", encoding="utf-8")
    is_refused(minibrillm(*import_of(files), "--out", "file"), "cannot write")


def test_a_refused_import_leaves_nothing(files: dict[str, Path], minibrillm: Command) -> None:
    files["model"].write_bytes(b"nothing")
    is_refused(minibrillm(*import_of(files), "--out", "run"), "is not a PyTorch checkpoint")
    assert not Path("run").exists()


@pytest.mark.parametrize("how", ["frequencies", "edges"])
def test_export_and_import_again(imported: Path, minibrillm: Command, how: str) -> None:
    made = minibrillm("export-released", imported, "new.bin", "--vocab", "v", f"--{how}", "e")
    assert (made.code, made.out, made.err) == (0, "wrote new.bin, v, e\n", "")
    told = ("import-released", "new.bin", "--vocab", "v", f"--{how}", "e", "--out", "again")
    assert minibrillm(*told).code == 0
    ours, theirs = load_model(Path("again"), "numpy"), load_model(imported, "numpy")
    ids = theirs.tokenizer.encode(TEXT)
    assert np.array_equal(ours.energies(ids), theirs.energies(ids))
    assert minibrillm("export-released", "again", "third.bin", "--vocab", "w").err != ""
    torch = pytest.importorskip("torch")
    first, third = (torch.load(p, weights_only=True) for p in ("m.bin", "third.bin"))
    for name in first:
        assert torch.equal(first[name], third[name])


def test_export_says_what_is_missing(
    files: dict[str, Path], minibrillm: Command, tmp_path: Path
) -> None:
    model = BriLLM.from_text(ENGLISH, "released", tokenizer="bpe", d_node=4, backend="numpy")
    save_checkpoint(tmp_path / "bpe", model)
    made = minibrillm("export-released", "bpe", "a.bin", "--vocab", "a.json")
    assert (made.code, made.out) == (0, "wrote a.bin, a.json\n")
    assert re_lines(made.err, "--frequencies or --edges", "--tokenizer does")
    is_refused(minibrillm("export-released", "bpe", "a.bin", "--vocab", "b.json"), "overwritten")
    tell = ("--frequencies", "f", "--edges", "e", "--tokenizer", "t")
    made = minibrillm("export-released", "bpe", "b.bin", "--vocab", "b.json", *tell)
    assert (made.code, made.err) == (0, "")
    told = ("--vocab", "b.json", "--frequencies", "f", "--tokenizer", "t", "--out", "again")
    assert minibrillm("import-released", "b.bin", *told).code == 0
    Path("text.txt").write_text(ENGLISH + "龘", encoding="utf-8")
    found = minibrillm("evaluate", "again", "text.txt", "--json", "--backend", "numpy")
    data = json.loads(found.out)
    first = len(model.tokenizer.decode(model.tokenizer.encode(ENGLISH)[:1]))
    assert (data["characters"], data["unknown"]) == (len(ENGLISH + "龘") - first, 0)
    save_checkpoint(tmp_path / "mini", random_model(ModelConfig.preset("mini", d_node=4)))
    is_refused(minibrillm("export-released", "mini", "x", "--vocab", "y"), "preset released")


def re_lines(text: str, *parts: str) -> bool:
    lines = text.splitlines()
    return len(lines) == len(parts) and all(p in x for p, x in zip(parts, lines, strict=True))


def test_a_text_with_unknown_bytes_is_measured_by_its_characters(
    tmp_path: Path, minibrillm: Command
) -> None:
    """Three ``[UNK]`` of one character must not count as three characters."""
    tok = HuggingFaceTokenizer(json.dumps(library_tokenizer()))
    model = random_model(ModelConfig.preset("released", d_node=4), n_nodes=tok.n_nodes)
    model.tokenizer = tok
    save_checkpoint(tmp_path / "run", model)
    text = "The cat sat on the 龘 mat."
    Path("text.txt").write_text(text, encoding="utf-8")
    found = minibrillm("evaluate", "run", "text.txt", "--json", "--backend", "numpy")
    data = json.loads(found.out)
    first = len(tok.decode(tok.encode(text)[:1]))
    assert data["unknown"] == 3
    assert data["characters"] == len(text) - first
    assert data["bytes"] == len(text.encode()) - first
    assert "note: the model does not know '龘'" in found.err


def test_usage(files: dict[str, Path], minibrillm: Command) -> None:
    for told in (
        ["import-released"],
        ["import-released", "m.bin", "--vocab", "v.json"],
        ["import-released", "m.bin", "--out", "run"],
        ["export-released", "run", "m.bin"],
    ):
        said = minibrillm(*told)
        assert (said.code, said.out) == (2, "")
        assert "Traceback" not in said.err
    both = minibrillm(*import_of(files), "--edges", "e", "--out", "run")
    is_refused(both, "give one")


def test_parts_on_the_command_line(files: dict[str, Path], minibrillm: Command) -> None:
    state = state_of(slots_of(IN_ORDER, table_of(IN_ORDER)))
    one = save_state(Path("model_0.bin"), {k: state[k] for k in ("weights", "positions")})
    two = save_state(Path("model_1.bin"), {k: state[k] for k in ("biases", "node_bias")})
    _, _, *rest = import_of(files)
    assert minibrillm("import-released", one, two, *rest, "--out", "run").code == 0
    same_model(load_model(Path("run"), "numpy"), read(files))


def test_our_tokenizers_name_their_nodes() -> None:
    assert CharacterTokenizer("ab").vocabulary == ["<unk>", "a", "b"]
    assert BPETokenizer.train("a b a b", 258).vocabulary[-1].startswith("Ġ")
