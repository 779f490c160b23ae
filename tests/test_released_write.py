"""Files are written as the released code reads them, and over nothing that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import random_model
from released_files import (
    IN_ORDER,
    read,
    refuses,
    released_files,
    slots_of,
    table_of,
)

from minibrillm.config import ModelConfig
from minibrillm.released import write_released


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A released model in files; its vocabulary is in order."""
    return released_files(tmp_path, IN_ORDER)


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
