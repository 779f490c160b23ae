"""A released model goes there and back bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from released_files import (
    IN_ORDER,
    SHUFFLED,
    read,
    released_files,
    same_model,
)

from minibrillm.model import BriLLM
from minibrillm.released import write_released


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
    kept = {"node_counts"} if vocabulary is SHUFFLED else set()
    if how == "edges":
        kept = {"node_counts", "counts"}
    # Edges carry no frequencies; a shared pair keeps no count, not even one by place.
    again.graph = replace(again.graph, **{name: getattr(model.graph, name) for name in kept})
    same_model(again, model)


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
