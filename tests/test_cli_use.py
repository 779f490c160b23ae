"""The commands `evaluate` and `generate`; and runs that nothing can be read from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import Command, is_refused, without_bound
from safetensors.numpy import load_file, save_file

from minibrillm import __version__
from minibrillm.runs import load
from minibrillm.storage import latest_checkpoint, read_json, save_checkpoint


def test_backends_say_the_same(minibrillm: Command, trained: Path) -> None:
    tell = ("generate", trained, "--greedy", "--prompt", "我", "--tokens", 30, "--backend")
    assert minibrillm(*tell, "numpy") == minibrillm(*tell, "numba")


def test_seeds(minibrillm: Command, trained: Path) -> None:
    tell = ("generate", trained, "--backend", "numpy", "--temperature", 2, "--seed")
    first, again, other = (minibrillm(*tell, seed).out for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 200 + 1


def test_sampling_options(minibrillm: Command, trained: Path) -> None:
    tell = ("generate", trained, "--backend", "numpy", "--prompt", "我", "--tokens", 30)
    greedy = minibrillm(*tell, "--greedy").out
    assert minibrillm(*tell, "--temperature", 0).out == greedy
    assert minibrillm(*tell, "--top-k", 1, "--temperature", 9).out == greedy
    assert minibrillm(*tell, "--top-p", 1e-9, "--temperature", 9).out == greedy


def test_a_text_that_cannot_go_on_keeps_what_there_is(
    minibrillm: Command, trained: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "wild", without_bound(load(trained)))
    made = minibrillm("generate", tmp_path / "wild", "--prompt", "我", "--tokens", 2000)
    assert made.code == 2
    assert made.out.startswith("我")
    assert made.out.endswith("\n")
    assert made.err.startswith("error: the signal grew past the largest number after ")
    assert made.err.count("\n") == 1


def test_stop(minibrillm: Command, trained: Path) -> None:
    tell = ("generate", trained, "--backend", "numpy", "--prompt", "我", "--seed", 3)
    whole = minibrillm(*tell).out
    assert "\n" in whole[:-1]
    assert minibrillm(*tell, "--stop", "\\n").out == whole.split("\n")[0] + "\n"
    long = whole[20:27]
    assert minibrillm(*tell, "--stop", long.replace("\n", "\\n")).out == (
        whole.partition(long)[0] + "\n"
    )


def test_unknown_characters_give_a_notice(minibrillm: Command, run: Path, tmp_path: Path) -> None:
    made = minibrillm("generate", run, "--prompt", "龘我Q", "--tokens", 5, "--backend", "numpy")
    assert made.code == 0
    assert made.out.startswith("龘我Q")
    assert len(made.out) == 3 + 5 + 1
    assert made.err == "note: the vocabulary lacks 'Q' '龘': read as unknown\n"
    (tmp_path / "other.txt").write_text("the Cat\n", encoding="utf-8")
    table = minibrillm("evaluate", run, tmp_path / "other.txt", "--backend", "numpy")
    assert table.code == 0
    assert table.err == "note: the vocabulary lacks 'C': read as unknown\n"
    assert "1 (14.3%) of them scored as <unk>" in table.out


def test_evaluate_another_text(minibrillm: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("妈妈爱我", encoding="utf-8")
    found = minibrillm("evaluate", trained, tmp_path / "other.txt", "--json", "--backend", "numpy")
    data = json.loads(found.out)
    assert (data["tokens"], data["bytes"], data["unknown"]) == (3, 9, 0)


def test_evaluate_a_text_that_is_too_short(
    minibrillm: Command, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("我", encoding="utf-8")
    is_refused(minibrillm("evaluate", trained, "short.txt"), "at least 2 tokens")
    is_refused(minibrillm("evaluate", trained, "nowhere.txt"), "there is no file")


BAD_GENERATION = {
    "--tokens 0": "--tokens is 0",
    "--temperature -1": "--temperature is -1",
    "--temperature nan": "--temperature is nan",
    "--top-k -1": "--top-k is -1",
    "--top-p 0": "--top-p is 0",
    "--top-p 1.5": "--top-p is 1.5",
    "--seed -1": "seed is -1",
    "--stop 龘我": "'龘我' never comes: the vocabulary lacks '龘'",
    "--backend cuda": "no backend 'cuda'",
}


@pytest.mark.parametrize("options", BAD_GENERATION)
def test_impossible_generation(minibrillm: Command, trained: Path, options: str) -> None:
    is_refused(minibrillm("generate", trained, *options.split()), BAD_GENERATION[options])


# Runs that cannot be read


def newest(run: Path) -> Path:
    found = latest_checkpoint(run)
    assert found is not None
    return found


READERS = (["evaluate"], ["generate"], ["train", "--resume", "--out"])


READS = pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])


@READS
def test_no_run(minibrillm: Command, tmp_path: Path, text: Path, command: list[str]) -> None:
    is_refused(minibrillm(*command, "nowhere"), "nowhere is not a folder; make a run with")
    is_refused(minibrillm(*command, tmp_path), "has no checkpoint; make a run with")
    is_refused(minibrillm(*command, text), "is not a folder")


@READS
def test_a_checkpoint_of_another_version(
    minibrillm: Command, run: Path, command: list[str]
) -> None:
    path = newest(run) / "model.json"
    path.write_text(json.dumps(read_json(path) | {"format": 99}), encoding="utf-8")
    is_refused(minibrillm(*command, run), "checkpoint format 99", __version__)


@READS
def test_a_truncated_checkpoint(minibrillm: Command, run: Path, command: list[str]) -> None:
    path = newest(run) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    is_refused(minibrillm(*command, run), "model.safetensors is damaged or cut short")


@READS
def test_a_checkpoint_with_nan(minibrillm: Command, run: Path, command: list[str]) -> None:
    path = newest(run) / "model.safetensors"
    arrays = dict(load_file(path))
    arrays["axon_bias"][0, 0] = math.nan
    save_file(arrays, path)
    is_refused(minibrillm(*command, run), "'axon_bias' holds NaN or infinity")


def test_a_truncated_training_state(minibrillm: Command, run: Path) -> None:
    path = newest(run) / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    is_refused(minibrillm("train", "--resume", "--out", run), "training.safetensors is damaged")
    assert minibrillm("generate", run, "--backend", "numpy").code == 0


@pytest.mark.parametrize("command", [READERS[0], READERS[2]], ids=lambda command: command[0])
def test_a_run_without_its_text(minibrillm: Command, run: Path, command: list[str]) -> None:
    (run / "text.safetensors").write_bytes(b"")
    is_refused(minibrillm(*command, run), "text.safetensors is damaged")
    (run / "text.safetensors").unlink()
    is_refused(minibrillm(*command, run), "text.safetensors is missing")
