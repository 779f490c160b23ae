"""Does a training fit into memory: what it takes, what is free, and what is said if it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_trainings import begin, contents, train

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.machine import free_memory
from minibrillm.runs import Run, check_memory, training_memory


@pytest.mark.parametrize("preset", ["released", "mini"])
def test_training_memory_counts_the_matrices(preset: str) -> None:
    """Of weights, gradients, two moments, the average, and the best."""
    config = ModelConfig.preset(preset, d_node=24)
    found = training_memory(config, 4000, 900_000)
    assert found == pytest.approx(4 * 900_000 * 6 * 24**2, rel=0.06)  # biases, nodes
    assert found == 4 * 6 * config.n_parameters(4000, 900_000)


def test_memory_that_is_too_small() -> None:
    config = ModelConfig.preset("released")
    need = training_memory(config, 4000, 900_000)
    check_memory(config, 4000, 900_000, need)
    with pytest.raises(UserError) as caught:
        check_memory(config, 4000, 900_000, need - 1)
    assert str(caught.value) == (
        "training needs about 22.8 GB of memory, 22.8 GB are free; a new run with d_node=16 "
        "needs about 5.9 GB, and a larger min_count leaves fewer edges"
    )
    with pytest.raises(UserError, match=r"2\.4 GB are free; a new run with d_node=[48] needs"):
        check_memory(config, 4000, 900_000, 2_400_000_000)
    for free in (1000, -1):
        with pytest.raises(UserError, match=r" 0\.0 GB are free; a larger min_count leaves"):
            check_memory(config, 4000, 900_000, free)


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibrillm.machine.memory._CGROUP", tmp_path)
    machine = free_memory()
    assert machine > 10**7
    (tmp_path / "memory.stat").write_text("anon 4000\nfile 9000\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text("10000\n", encoding="utf-8")
    assert free_memory() == 6000
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert free_memory() == pytest.approx(machine, rel=0.5)
    (tmp_path / "memory.max").write_text("10000\n", encoding="utf-8")
    (tmp_path / "memory.stat").write_text("file 9000\n", encoding="utf-8")
    assert free_memory() == pytest.approx(machine, rel=0.5)


def test_resuming_without_enough_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(begin(tmp_path, steps=1))
    before = contents(tmp_path)
    monkeypatch.setattr("minibrillm.runs.run.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="training needs about"):
        Run.resume(tmp_path, "numpy")
    assert contents(tmp_path) == before
