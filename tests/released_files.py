"""A small released model in files, and what it computes, pair by pair, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.released import read_released
from minibrillm.storage import graph_to_arrays

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
        (graph_to_arrays(ours.graph), graph_to_arrays(theirs.graph)),
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
