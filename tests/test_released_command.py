"""import-released and export-released."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, is_refused, random_model
from released_files import (
    ENGLISH,
    IN_ORDER,
    N_EDGES,
    N_POSITIONS,
    TEXT,
    energies_by_hand,
    library_tokenizer,
    loss_by_hand,
    read,
    released_files,
    same_model,
    save_state,
    slots_of,
    state_of,
    table_of,
    write_json,
)

from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM
from minibrillm.runs import load
from minibrillm.storage import save_checkpoint
from minibrillm.text import (
    HuggingFaceTokenizer,
    VocabularyTokenizer,
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A released model in files; its vocabulary is in order."""
    return released_files(tmp_path, IN_ORDER)


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
    same_model(load(imported, "numpy"), read(files))
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
    assert made.err == "note: the vocabulary lacks '龘': read as unknown\n"
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
    ours, theirs = load(Path("again"), "numpy"), load(imported, "numpy")
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
    assert "note: the vocabulary lacks '龘'" in found.err


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
    same_model(load(Path("run"), "numpy"), read(files))


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
