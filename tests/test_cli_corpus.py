"""The commands `corpus list`, `fetch` and `path`, and corpora by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from conftest import FEW, TEXT, Command, is_refused

from minibrillm.runs import load_training
from minibrillm.text import bundled_path


def test_corpora_by_name(
    minibrillm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIBRILLM_CACHE", str(tmp_path / "cache"))
    said = minibrillm("corpus", "list")
    assert (said.code, said.err) == (0, "")
    for part in ("bundled", str(bundled_path()), "yuan", "minibrillm corpus fetch tinyshakespeare"):
        assert part in said.out
    rows = json.loads(minibrillm("corpus", "list", "--json").out)
    assert [(r["name"], r["path"]) for r in rows] == [
        ("bundled", str(bundled_path())),
        ("tinyshakespeare", None),
        ("yuan", None),
    ]
    for command in ("path", "fetch"):
        assert minibrillm("corpus", command, "bundled").out == f"{bundled_path()}\n"
        is_refused(minibrillm("corpus", command, "nothing"), "there is no corpus 'nothing'")
    is_refused(minibrillm("corpus", "path", "yuan"), "run: minibrillm corpus fetch yuan")


def test_a_corpus_once_cached_is_trained_on_by_name(
    minibrillm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minibrillm.text import DOWNLOADS, Download

    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "mama.txt").write_text(TEXT, encoding="utf-8")
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    known = Download("about", "http://127.0.0.1:9/mama", "mama.txt", digest, "mama.txt", digest)
    monkeypatch.setitem(DOWNLOADS, "mama", known)
    monkeypatch.setenv("MINIBRILLM_CACHE", str(cache))
    assert minibrillm("corpus", "fetch", "mama").out == f"{cache / 'mama.txt'}\n"
    said = minibrillm("train", "mama", "--steps", 1, "--backend", "numpy", *FEW)
    assert (said.code, said.err) == (0, "")
    assert load_training(Path("runs/mama-mini-ngrams")).step == 1
    said = minibrillm("evaluate", "runs/mama-mini-ngrams", "mama", "--backend", "numpy")
    assert "one stream" in said.out
    (cache / "mama.txt").unlink()
    is_refused(minibrillm("corpus", "fetch", "mama"), "no connection to http://127.0.0.1:9/mama")
