"""A run that was damaged, or whose disk is full, is refused in one line and loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_trainings import begin, train

from minibrillm.checks import UserError
from minibrillm.runs import Run, load_text, text_digest
from minibrillm.runs.texts import save_text
from minibrillm.storage import latest_checkpoint, read_json

# settings and arrays


def change_settings(run: Path, **changes: Any) -> None:
    path = latest_checkpoint(run)
    assert path is not None
    kept = read_json(path / "training.json") | changes
    kept = {name: value for name, value in kept.items() if value != "absent"}
    (path / "training.json").write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "absent"},
        {"config": [1]},
        {"random_state": "absent"},
        {"random_state": 3},
        {"random_state": {"bit_generator": "MT19937"}},
        {"text_sha256": "absent"},
    ],
    ids=str,
)
def test_damaged_training_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    train(begin(tmp_path, steps=1))
    change_settings(tmp_path, **changes)
    with pytest.raises(UserError, match=r"the training state of .* is damaged"):
        Run.resume(tmp_path, "numpy")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("weights.axon_bias", None, "weights.axon_bias"),
        ("mean.axon_bias", np.zeros((1, 8), np.float32), "'axon_bias' has shape"),
        ("square.decay_logit", np.full(8, np.nan, np.float32), "'decay_logit' holds NaN"),
    ],
)
def test_damaged_training_arrays(
    tmp_path: Path, name: str, array: np.ndarray | None, said: str
) -> None:
    train(begin(tmp_path, steps=1))
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    arrays = dict(load_file(folder / "training.safetensors"))
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    save_file(arrays, folder / "training.safetensors")
    with pytest.raises(UserError, match=f"damaged .*{said}"):
        Run.resume(tmp_path, "numpy")


def test_a_text_that_was_exchanged(tmp_path: Path) -> None:
    train(begin(tmp_path, steps=1))
    kept = load_file(tmp_path / "text.safetensors")
    save_file({**kept, "train": kept["train"][::-1].copy()}, tmp_path / "text.safetensors")
    with pytest.raises(UserError, match="is not the text of this run"):
        Run.resume(tmp_path, "numpy")
    for damaged in (
        {name: kept[name] for name in ("train", "train_lengths")},
        {name: kept[name] for name in ("train", "heldout")},
        {**kept, "heldout_lengths": kept["heldout_lengths"] + 1},
    ):
        save_file(damaged, tmp_path / "text.safetensors")
        with pytest.raises(UserError, match=r"is damaged: no \w+ text with the lengths"):
            load_text(tmp_path)
    (tmp_path / "text.safetensors").unlink()
    with pytest.raises(UserError, match=r"text\.safetensors is missing"):
        Run.resume(tmp_path, "numpy")


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    train, heldout = [np.array([1, 2]), np.array([3])], [np.array([4, 5, 6])]
    save_text(tmp_path, train, heldout)
    kept = load_text(tmp_path)
    assert [d.tolist() for d in kept["train"]] == [[1, 2], [3]]
    assert [d.tolist() for d in kept["heldout"]] == [[4, 5, 6]]


def test_digest_tells_texts_apart() -> None:
    a, b, c = np.array([1, 2]), np.array([3]), np.array([1, 2, 3])
    texts = [
        ([a], [b]),
        ([b], [a]),
        ([a, b], [b]),
        ([c], [b]),
        ([a], [b, b]),
        ([c[:1], c[1:]], [b]),
    ]
    assert len({text_digest(*text) for text in texts}) == len(texts)
    assert text_digest([a.astype(np.int32)], [b]) == text_digest([a], [b])


# a full disk


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from minibrillm.config import TrainConfig
from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.runs import Run, load_training

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def attempt(size, action):
    limit(size)
    try:
        action()
    except UserError as error:
        print(error)
    limit(resource.RLIM_INFINITY)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Path(sys.argv[1])
text = "the cat sat on the mat. " * 9
model = BriLLM.from_text(text, d_node=2, backend="numpy")
ids = model.tokenizer.encode(text)
few = TrainConfig(steps=2, batch_size=2, sequence_length=4)
attempt(100, lambda: Run.start(run, model, ids, ids, few))
assert list(run.iterdir()) == []
Run.start(run, model, ids, ids, few).train(progress_bar=False)
size = (run / "history.csv").stat().st_size
more = Run.resume(run, "numpy", steps=9)
attempt(size + 50, lambda: more.train(progress_bar=False))
assert load_training(run).step == 2
attempt(10, lambda: Run.resume(run, "numpy", steps=9).train(progress_bar=False))
assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "history.csv", "text.safetensors"]
Run.resume(run, "numpy", steps=9).train(progress_bar=False)
print(load_training(run).step)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "run")],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert child.stderr == ""
    *said, step = child.stdout.splitlines()
    assert step == "9"
    assert len(said) == 3
    assert all(line.startswith("cannot write ") and "too large" in line for line in said)
    assert "text.safetensors" in said[0]
    assert "history.csv" in said[1]
    assert "history.csv" in said[2]
