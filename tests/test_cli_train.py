"""The command `train`: from a text to a run, and on with it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import FEW, TEXT, Command, is_refused
from safetensors.numpy import load_file

from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.runs import load, load_training


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_from_text_to_text(minibrillm: Command, text: Path, tmp_path: Path, backend: str) -> None:
    out = tmp_path / "runs" / "mine"
    said = minibrillm("train", text, "--steps", 3, "--out", out, "--backend", backend, *FEW)
    assert said.code == 0
    assert said.err == ""
    for part in ("tokens to train on", "private edges", "3 steps", "nats/token", "a sample"):
        assert part in said.out
    assert load_training(out).step == 3
    assert load(out, "numpy").config.d_node == 4

    table = minibrillm("evaluate", out, "--backend", backend)
    assert (table.code, table.err) == (0, "")
    assert table.out.strip() in said.out  # the same scores as after training
    scores = json.loads(minibrillm("evaluate", out, "--backend", backend, "--json").out)
    assert [row["model"] for row in scores["scores"]][-1] == "BriLLM of step 3, one stream"
    for row in scores["scores"]:
        assert f"{row['nats_per_token']:.4f}" in table.out

    for prompt in ("妈妈", "the cat"):
        made = minibrillm(
            "generate", out, "--prompt", prompt, "--tokens", 12, "--seed", 1, "--backend", backend
        )
        assert (made.code, made.err) == (0, "")
        assert made.out.startswith(prompt)
        assert len(made.out) == len(prompt) + 12 + 1

    more = minibrillm("train", "--resume", "--out", out, "--steps", 5, "--backend", backend)
    assert (more.code, more.err) == (0, "")
    assert f"resuming {out} at step 3" in more.out
    assert load_training(out).step == 5


def test_out_is_made_up_of_text_and_preset(minibrillm: Command, text: Path) -> None:
    tell = ("--preset", "paper", "--steps", 1, "--backend", "numpy", *FEW)
    assert minibrillm("train", text, *tell).code == 0
    assert load_training(Path("runs/mama-paper")).step == 1
    again = minibrillm("train", text, "--preset", "paper", "--resume", "--backend", "numpy")
    assert again.code == 0
    assert "resuming" in again.out


@pytest.mark.parametrize("preset", ["mini", "paper", "released"])
def test_every_option_reaches_the_run(
    minibrillm: Command, text: Path, tmp_path: Path, preset: str
) -> None:
    options: dict[str, object] = {"steps": 2, "minutes": 9, "seed": 5, "backend": "numpy"}
    options |= {"tokenizer": "bpe", "vocab-size": 262, "heldout": 0.3, "d-node": 3}
    options |= {"min-count": 2, "batch-size": 3, "sequence-length": 7, "learning-rate": 0.004}
    options |= {"weight-decay": 0.25, "dropout": 0.5, "negatives": 2, "checkpoint-every": 1}
    options |= {"preset": preset, "out": tmp_path / "run"}
    out = tmp_path / "run"
    pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert minibrillm("train", text, *pairs).code == 0
    model, training = load(out, "numpy"), load_training(out).settings["config"]
    assert (model.config.d_node, model.config.min_count) == (3, 2)
    assert (model.tokenizer.kind, model.tokenizer.n_nodes) == ("bpe", 262)
    expected = {"steps": 2, "minutes": 9.0, "seed": 5, "batch_size": 3, "sequence_length": 7}
    expected |= {"learning_rate": 0.004, "weight_decay": 0.25, "dropout": 0.5}
    expected |= {"negatives": 2, "checkpoint_every": 1}
    assert expected.items() <= training.items()
    ids = load_file(out / "text.safetensors")
    heldout = model.tokenizer.decode(ids["heldout"])
    assert model.tokenizer.decode(ids["train"]) + heldout == TEXT
    assert len(heldout) == pytest.approx(0.3 * len(TEXT), abs=1)


def test_folders_and_fields_are_documents(minibrillm: Command, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for k in range(20):
        text = TEXT[:99].encode("gb18030" if k % 2 else "utf-8")
        (tmp_path / "texts" / f"{k:02}.txt").write_bytes(text)
    records = [{"zh": TEXT[:99], "en": "a dog ran."}] * 20
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "texts.jsonl").write_text(lines, encoding="utf-8")
    few = ("--steps", 1, "--backend", "numpy", *FEW)
    said = minibrillm("train", "texts", "--out", "a", *few)
    assert (said.code, said.err) == (0, "")
    assert "tokens to train on in 18 documents" in said.out
    assert "BriLLM of step 1, document by document" in said.out
    assert minibrillm("train", "texts.jsonl", "--field", "zh", "--out", "b", *few).code == 0
    a, b = (load_file(tmp_path / run / "text.safetensors") for run in "ab")
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name])
    assert len(a["train_lengths"]) == 18
    for text, run in (("texts", "b"), ("texts.jsonl", "a")):
        field = ("--field", "zh") if text.endswith("l") else ()
        resumed = minibrillm("train", text, *field, "--resume", "--out", run, "--steps", 2)
        assert (resumed.code, resumed.err) == (0, "")
        scored = minibrillm("evaluate", run, text, *field, "--backend", "numpy")
        assert "document by document" in scored.out
    said = minibrillm("train", "texts", "--resume", "--out", "a", "--cross-documents", "--steps", 3)
    is_refused(said, "is not the text this run was trained on")


def test_documents_are_crossed_if_asked(minibrillm: Command, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"t": f"line {k} of ten"}) + "\n" for k in range(10))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    few = ("--field", "t", "--steps", 1, "--backend", "numpy", "--sequence-length", 40)
    said = minibrillm("train", "a.jsonl", "--cross-documents", *few)
    assert (said.code, said.err) == (0, "")
    assert "documents" not in said.out.split("graph")[0]
    kept = load_file(tmp_path / "runs" / "a-mini-ngrams" / "text.safetensors")
    assert kept["train_lengths"].tolist() == [len("\n" + 9 * "line 0 of ten\n")]


def test_many_nodes_make_mini_narrower_and_leave_released_alone(
    minibrillm: Command, tmp_path: Path
) -> None:
    text = tmp_path / "many.txt"
    text.write_text("".join(chr(0x4E00 + k) for k in range(1200)) * 2, encoding="utf-8")
    few = ("--steps", 1, "--sequence-length", 4, "--backend", "numpy", "--negatives", 0)
    assert minibrillm("train", text, *few, "--out", "a").code == 0
    assert load(Path("a")).config.d_node == 16
    assert load_training(Path("a")).settings["config"]["batch_size"] == 32
    released = (*few, "--preset", "released", "--batch-size", 2)
    assert minibrillm("train", text, *released, "--out", "b").code == 0
    assert load(Path("b")).config.d_node == 32


def test_a_sample_that_breaks_off_is_no_failure_of_training(
    minibrillm: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*arguments: object, **settings: object) -> Iterator[str]:
        yield "我"
        raise UserError("the signal grew")

    monkeypatch.setattr(BriLLM, "stream", stream)
    said = minibrillm("train", "--resume", "--out", run, "--steps", 5, "--backend", "numpy")
    assert (said.code, said.err) == (0, "note: the signal grew\n")
    assert "\n我\n\nsaved in" in said.out


# Going on


def test_resume_takes_a_new_limit(minibrillm: Command, run: Path) -> None:
    said = minibrillm("train", "--resume", "--out", run, "--steps", 6)
    assert said.code == 0
    assert load_training(run).step == 6
    assert minibrillm("train", "--resume", "--out", run, "--minutes", 0.01).code == 0
    settings = load_training(run).settings["config"]
    assert settings["steps"] is None
    assert settings["minutes"] == 0.01


def test_a_run_that_is_over_is_scored_and_no_more(minibrillm: Command, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for limit in ((), ("--steps", 4), ("--steps", 2)):
        said = minibrillm("train", "--resume", "--out", run, *limit)
        assert (said.code, said.err) == (0, "")
        for part in ("at step 4", "4 steps", "BriLLM of step 4, one stream", "a sample"):
            assert part in said.out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_resume_with_another_text(
    minibrillm: Command, run: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text(TEXT.replace("cat", "mat"), encoding="utf-8")
    tell = ("--resume", "--out", run, "--backend", "numpy", "--steps", 5)
    is_refused(minibrillm("train", "other.txt", *tell), "is not the text this run was trained on")
    assert load_training(run).step == 4
    assert minibrillm("train", text, *tell).code == 0
    assert load_training(run).step == 5


def test_resume_without_a_name(minibrillm: Command) -> None:
    is_refused(minibrillm("train", "--resume"), "--resume needs --out RUN")


@pytest.mark.parametrize("option", ["--seed", "--d-node", "--min-count", "--vocab-size"])
def test_what_made_the_model_cannot_change_on_resume(
    minibrillm: Command, run: Path, option: str
) -> None:
    is_refused(minibrillm("train", "--resume", "--out", run, option, 5), option, "--resume")


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send to one process")
def test_ctrl_c(minibrillm: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tell = ["train", text, "--steps", 10**9, "--out", out, "--backend", "numpy", *FEW]
    child = subprocess.Popen(
        [sys.executable, "-m", "minibrillm", *map(str, tell)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        history = out / "history.csv"
        deadline = time.monotonic() + 60
        while not history.is_file() or history.read_bytes().count(b"\n") < 3:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    step = load_training(out).step
    assert step >= 2
    assert err == (
        f"interrupted after step {step}; saved, go on with: minibrillm train --resume --out {out}\n"
    )
    more = minibrillm("train", "--resume", "--out", out, "--steps", step + 2, "--backend", "numpy")
    assert more.code == 0
    assert load_training(out).step == step + 2


# Mistakes: the text


def test_texts_that_cannot_be_read(minibrillm: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\x00\x01")
    (tmp_path / "latin.txt").write_bytes("für Bäume".encode("latin-1"))
    (tmp_path / "lines.jsonl").write_text('{"zh": "a", "en": "b"}\n', encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("nowhere.txt", "there is no file nowhere.txt"),
        ("empty.txt", "is empty"),
        ("binary.txt", "binary"),
        ("latin.txt", "latin.txt is no UTF-8 text (byte 1, line 1, does not fit)"),
        ("lines.jsonl", "name the field that holds the text; there are zh, en"),
        ("folder", "holds no .txt file"),
        ("yuan", "not on this machine; run: minibrillm corpus fetch yuan"),
    ):
        is_refused(minibrillm("train", name, "--steps", 1), said)
    said = minibrillm("train", "lines.jsonl", "--field", "fr", "--steps", 1)
    is_refused(said, "line 1: no field 'fr'")
    is_refused(minibrillm("train", "latin.txt", "--field", "fr"), "has no field 'fr'")
    assert not (tmp_path / "runs").exists()


def test_a_short_text_gets_short_sequences(minibrillm: Command, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:30], encoding="utf-8")
    assert minibrillm("train", "short.txt", "--steps", 1, "--backend", "numpy").code == 0
    said = minibrillm("train", "short.txt", "--steps", 1, "--sequence-length", 64, "--out", "b")
    is_refused(said, "27 tokens, shorter than one sequence of 65", "smaller --sequence-length")


@pytest.mark.parametrize("n", [1, 2])
def test_a_text_shorter_than_a_sequence(minibrillm: Command, tmp_path: Path, n: int) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:n], encoding="utf-8")
    said = minibrillm("train", "short.txt", "--steps", 1)
    is_refused(said, "short.txt", "short", "give more text")
    assert not (tmp_path / "runs").exists()


def test_no_text(minibrillm: Command) -> None:
    is_refused(minibrillm("train", "--steps", 1), "name a text to train on")


# Mistakes: options


BAD_TRAINING = {
    "--minutes 0": "--minutes is 0",
    "--minutes -1": "--minutes is -1",
    "--minutes nan": "--minutes is nan",
    "--steps 0": "--steps is 0",
    "--preset tiny": "no preset 'tiny'; choose one of paper, released, mini",
    "--backend cuda": "no backend 'cuda'; choose one of numba, numpy",
    "--tokenizer words": "no tokenizer of kind 'words'; choose one of characters, bpe",
    "--vocab-size 1": "--vocab-size is 1",
    "--tokenizer bpe --vocab-size 9": "--vocab-size is 9",
    "--d-node 0": "--d-node is 0",
    "--d-node 1000000": "error: --d-node is 1000000; expected an integer at least 1",
    "--min-count 0": "--min-count is 0",
    "--heldout 0": "the share held out is 0",
    "--heldout 1": "the share held out is 1",
    "--heldout nan": "the share held out is nan",
    "--heldout 0.9999": "too short",
    "--batch-size 0": "--batch-size is 0",
    "--sequence-length 0": "--sequence-length is 0",
    "--sequence-length 100000": "shorter than one sequence",
    "--learning-rate 0": "--learning-rate is 0",
    "--learning-rate nan": "--learning-rate is nan",
    "--weight-decay -1": "--weight-decay is -1",
    "--dropout 1": "--dropout is 1",
    "--negatives -1": "--negatives is -1",
    "--checkpoint-every -1": "--checkpoint-every is -1",
    "--seed -1": "--seed is -1",
}


@pytest.mark.parametrize("options", BAD_TRAINING)
def test_impossible_training(minibrillm: Command, text: Path, tmp_path: Path, options: str) -> None:
    steps = [] if "--minutes" in options or "--steps" in options else ["--steps", "1"]
    out = tmp_path / "run"
    said = minibrillm("train", text, "--out", out, *steps, *options.split())
    is_refused(said, BAD_TRAINING[options])
    assert not out.exists()


def test_a_loss_that_is_no_number(minibrillm: Command, text: Path, tmp_path: Path) -> None:
    tell = ("--steps", 50, "--learning-rate", 1e30, "--backend", "numpy", "--out", tmp_path / "r")
    with np.errstate(all="ignore"):
        said = minibrillm("train", text, *tell, *FEW)
    assert said.code == 2
    assert "Traceback" not in said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("error: the ")
    assert "smaller --learning-rate" in last


# Mistakes: the folder


def test_out_that_cannot_be_written(minibrillm: Command, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for out in ("file", "file/run"):
        said = minibrillm("train", text, "--steps", 1, "--backend", "numpy", "--out", out, *FEW)
        is_refused(said, "cannot write to", "choose another")
        is_refused(minibrillm("demo", "--steps", 1, "--out", out), "cannot write to")


def test_too_little_memory_is_said_before_the_weights_are_drawn(
    minibrillm: Command, text: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*arguments: object, **settings: object) -> None:
        raise AssertionError

    monkeypatch.setattr("minibrillm.runs.new.free_memory", lambda: 100_000)
    monkeypatch.setattr("minibrillm.model.BriLLM.create", drawn)
    out = tmp_path / "new"
    said = minibrillm("train", text, "--steps", 1, "--out", out, "--sequence-length", 8)
    is_refused(said, "training needs about", "are free", "--min-count")
    assert not out.exists()
    monkeypatch.setattr("minibrillm.runs.run.free_memory", lambda: 100)
    is_refused(minibrillm("train", "--resume", "--out", run), "training needs about")


def test_out_that_holds_a_run(minibrillm: Command, text: Path, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    said = minibrillm("train", text, "--steps", 9, "--backend", "numpy", "--out", run, *FEW)
    is_refused(said, "already holds a run", "go on with it (resume)")
    (run.parent / "both").mkdir()
    shutil.copytree(run, run.parent / "both" / "en")
    said = minibrillm("demo", "--steps", 1, "--out", run.parent / "both")
    is_refused(said, "already holds a run")  # before any training
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
