"""A checkpoint comes back bit for bit, and a damaged one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minibrillm import __version__
from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.runs import load, load_training
from minibrillm.storage import (
    FORMAT,
    TrainingState,
    graph_to_arrays,
    latest_checkpoint,
    read_arrays,
    read_json,
    save_arrays,
    save_checkpoint,
)

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 6


def tiny(preset: str = "mini", **changes: Any) -> BriLLM:
    few = {"d_node": 4, "min_count": 1, "backend": "numpy"}
    return BriLLM.from_text(TEXT, preset, **{**few, **changes})


def training_of(model: BriLLM, step: int) -> TrainingState:
    arrays = {f"weights.{name}": array + 1 for name, array in model.parameters.items()}
    return TrainingState(step, arrays, {"config": {"steps": 9}, "random_state": {"a": 1 << 100}})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one checkpoint, at step 3."""
    model = tiny()
    save_checkpoint(tmp_path / "run", model, training_of(model, 3))
    return tmp_path / "run"


def newest(run: Path) -> Path:
    found = latest_checkpoint(run)
    assert found is not None
    return found


# round trips


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
@pytest.mark.parametrize("preset", ["mini", "mini-ngrams", "paper", "released"])
def test_model_round_trip(tmp_path: Path, preset: str, tokenizer: str, dtype: type) -> None:
    model = tiny(preset, tokenizer=tokenizer, dtype=dtype, n_nodes=270, seed=5, min_count=2)
    save_checkpoint(tmp_path / "run", model)
    again = load(tmp_path / "run", backend="numpy")
    assert again.config == model.config
    assert again.tokenizer.to_json() == model.tokenizer.to_json()
    assert again.graph.n_nodes == model.graph.n_nodes
    assert (again.graph.prior is None) == (not preset.startswith("mini"))
    assert (again.graph.ngrams is None) == (preset != "mini-ngrams")
    ours, theirs = graph_to_arrays(again.graph), graph_to_arrays(model.graph)
    for ours_group, theirs_group in ((again.parameters, model.parameters), (ours, theirs)):
        assert ours_group.keys() == theirs_group.keys()
        for name, array in theirs_group.items():
            assert ours_group[name].dtype == array.dtype, name
            assert np.array_equal(ours_group[name], array), name
    assert all(array.dtype == dtype for array in again.parameters.values())
    ids = model.tokenizer.encode(TEXT[:20])
    assert np.array_equal(again.energies(ids), model.energies(ids))
    assert again.generate("我", 20, seed=1) == model.generate("我", 20, seed=1)


def test_a_loaded_model_can_be_changed(run: Path) -> None:
    model = load(run, backend="numpy")
    for array in model.parameters.values():
        array += 1


def test_a_loaded_model_does_not_hang_on_its_file(run: Path) -> None:
    model, path = load(run, backend="numpy"), newest(run) / "model.safetensors"
    before = path.read_bytes()
    kept = {name: array.copy() for name, array in model.parameters.items()}
    said = model.generate("我", 20, seed=1)
    for array in load(run, backend="numpy").parameters.values():
        array += 1
    assert path.read_bytes() == before
    save_checkpoint(run, tiny(seed=8), training_of(tiny(), 4))
    assert not path.exists()
    for name, array in model.parameters.items():
        assert np.array_equal(array, kept[name])
    assert model.generate("我", 20, seed=1) == said


def test_arrays_of_any_kind_are_read(tmp_path: Path) -> None:
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    arrays = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in kinds}
    arrays |= {"empty": np.zeros((0, 4, 4), np.float32), "number": np.array(3.5)}
    save_file(arrays, tmp_path / "a.safetensors", metadata={"name": "value"})
    again = read_arrays(tmp_path / "a.safetensors")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert np.array_equal(again[name], array)


def test_training_round_trip(run: Path) -> None:
    state, expected = load_training(run), training_of(tiny(), 3)
    assert (state.step, state.settings) == (3, expected.settings)
    assert state.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert np.array_equal(state.arrays[name], array)


def test_a_checkpoint_folder_can_be_named_itself(run: Path) -> None:
    model = load(newest(run), backend="numpy")
    assert model.config == tiny().config
    assert load_training(newest(run)).step == 3


def test_the_backend_is_the_reader_s_choice(run: Path) -> None:
    assert load(run, backend="numpy").backend == "numpy"
    assert load(run).backend == "numba"
    with pytest.raises(UserError, match="there is no backend 'cuda'"):
        load(run, backend="cuda")


# which checkpoint


def test_only_the_newest_is_kept(run: Path) -> None:
    model = tiny()
    for step in (4, 99_999_999, 100_000_000):
        path = save_checkpoint(run, model, training_of(model, step))
        assert [p.name for p in (run / "checkpoints").iterdir()] == [path.name]
        assert load_training(run).step == step


def test_the_newest_is_the_one_of_the_highest_step(run: Path) -> None:
    here = run / "checkpoints"
    for name in ("step-00000020", "step-99999999", "step-100000000"):
        shutil.copytree(newest(run), here / name)
    (here / "step-999999999").write_text("a file is no checkpoint", encoding="utf-8")
    shutil.copytree(newest(run), here / "tmp-123")
    assert newest(run).name == "step-100000000"


def test_the_same_step_can_be_saved_again(run: Path) -> None:
    model = tiny(seed=9)
    save_checkpoint(run, model, training_of(model, 3))
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000003"]
    again = load(run, backend="numpy")
    assert np.array_equal(again.parameters["axon_weight"], model.parameters["axon_weight"])


def test_leftovers_of_killed_processes_are_swept_away(run: Path) -> None:
    rubbish = run / "checkpoints" / "tmp-1"
    rubbish.mkdir()
    (rubbish / "model.json").write_text("{", encoding="utf-8")
    assert newest(run).name == "step-00000003"
    save_checkpoint(run, tiny(), training_of(tiny(), 4))
    assert not rubbish.exists()


def test_killed_between_the_two_renames_of_one_step(run: Path) -> None:
    newest(run).rename(run / "checkpoints" / "old")
    assert load_training(run).step == 3


# refusals


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; make a run with"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no checkpoint; make a run with"):
        load(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint"):
        load_training(tmp_path)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None])
def test_another_format_version(run: Path, version: object) -> None:
    path = newest(run) / "model.json"
    about = read_json(path) | {"format": version, "minibrillm": "77.0"}
    path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(run)
    for part in (f"format {version!r}", "minibrillm 77.0", __version__, f"reads format {FORMAT}"):
        assert part in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9, 0.9999])
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_a_truncated_file(run: Path, name: str, share: float) -> None:
    path = newest(run) / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    reads: Callable[[Path], object] = load if name.startswith("model") else load_training
    with pytest.raises(UserError, match=rf"{name} is damaged or cut short"):
        reads(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(run: Path, value: float) -> None:
    path = newest(run) / "model.safetensors"
    arrays = dict(load_file(path))
    arrays["dendrite_bias"][1, 2] = value
    save_file(arrays, path)
    with pytest.raises(UserError, match="'dendrite_bias' holds NaN or infinity"):
        load(run)


@pytest.mark.parametrize(
    ("missing", "reads"),
    [
        ("model.safetensors", load),
        ("training.safetensors", load_training),
    ],
)
def test_a_missing_file(run: Path, missing: str, reads: Callable[[Path], object]) -> None:
    (newest(run) / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing} is missing"):
        reads(run)


def test_missing_settings(run: Path) -> None:
    (newest(run) / "training.json").unlink()
    with pytest.raises(UserError, match="without training state"):
        load_training(run)
    (newest(run) / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json is missing"):
        load(run)


def test_a_model_without_training_state_is_usable(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny())
    load(tmp_path, backend="numpy")
    with pytest.raises(UserError, match="without training state; train anew"):
        load_training(tmp_path)


def change(arrays: dict[str, np.ndarray], name: str, array: np.ndarray | None) -> None:
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("axon_weight", np.zeros((3, 4, 4), np.float32), "'axon_weight' has shape"),
        ("axon_weight", np.zeros((0, 4, 4), np.float32), "'axon_weight' has shape"),
        ("decay_logit", None, "'decay_logit' is missing"),
        ("edge_weight", np.zeros((3, 4, 4), np.float32), "'edge_weight' is not part"),
        ("graph.indptr", np.zeros(2, np.int64), "do not fit each other"),
        ("graph.counts", np.zeros(2, np.int64), "do not fit each other"),
        ("graph.targets", None, "lacks the array 'graph.targets'"),
        ("prior.log_backoff", None, "lacks the array 'prior.log_backoff'"),
    ],
)
def test_arrays_that_do_not_fit(run: Path, name: str, array: np.ndarray | None, said: str) -> None:
    path = newest(run) / "model.safetensors"
    arrays = dict(load_file(path))
    change(arrays, name, array)
    save_file(arrays, path)
    with pytest.raises(UserError, match=said) as caught:
        load(run)
    assert "step-00000003" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("prior.2.keys", np.zeros(2, np.int64), "do not fit each other"),
        ("prior.3.counts", np.zeros((2, 2), np.int64), "do not fit each other"),
        ("prior.1.discounts", np.full(3, np.nan), "do not fit each other"),
        ("prior.7.discounts", None, "lacks the array 'prior.7.discounts'"),
        ("prior.7.keys", None, "n-grams of order 6"),
    ],
)
def test_ngrams_that_do_not_fit(
    tmp_path: Path, name: str, array: np.ndarray | None, said: str
) -> None:
    save_checkpoint(tmp_path / "run", tiny("mini-ngrams"))
    path = newest(tmp_path / "run") / "model.safetensors"
    arrays = dict(load_file(path))
    change(arrays, name, array)
    save_file(arrays, path)
    with pytest.raises(UserError, match=said):
        load(tmp_path / "run")


def test_tokenizer_and_graph_of_different_runs(run: Path) -> None:
    path = newest(run) / "model.json"
    about = read_json(path) | {"tokenizer": {"kind": "characters", "alphabet": "ab"}}
    path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer knows 3 tokens, the graph has"):
        load(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "is damaged"),
        (b'{"format": 1, ', "is damaged"),
        (b'["format", 1]', "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"\xff\xfe\x00", "is damaged"),
        (b'{"format": 1}', "lacks 'config'"),
        (b'{"format": 1, "config": {}}', "lacks 'tokenizer'"),
        (b'{"format": 1, "config": [], "tokenizer": {}}', "expected a dictionary"),
        (b'{"format": 1, "config": {"d_node": "4"}, "tokenizer": {}}', "d_node is '4'"),
        (b'{"format": 1, "config": {"nodes": 4}, "tokenizer": {}}', "no setting 'nodes'"),
        (b'{"format": 1, "config": {}, "tokenizer": {}}', "'kind' is missing"),
        (b'{"format": 1, "config": {}, "tokenizer": 3}', "expected a dictionary"),
    ],
)
def test_damaged_model_json(run: Path, damage: bytes, said: str) -> None:
    (newest(run) / "model.json").write_bytes(damage)
    with pytest.raises(UserError, match=said):
        load(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "is damaged"),
        (b"3", "expected a JSON object"),
        (b"{}", "lacks the step"),
        (b'{"step": null}', "lacks the step"),
        (b'{"step": "three"}', "lacks the step"),
    ],
)
def test_damaged_training_json(run: Path, damage: bytes, said: str) -> None:
    (newest(run) / "training.json").write_bytes(damage)
    with pytest.raises(UserError, match=said):
        load_training(run)


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write a checkpoint"):
        save_checkpoint(tmp_path / "file" / "run", tiny())
    with pytest.raises(UserError, match="cannot write"):
        save_arrays(tmp_path / "nowhere" / "text.safetensors", {"a": np.zeros(3)})
