"""Small models, the runner of commands and small runs that several test files share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from minibrillm.cli import main
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import CharacterTokenizer

# Every preset, and variants that no preset holds: the parts must fit in any combination.
VARIANTS: dict[str, ModelConfig] = {
    "paper": ModelConfig.preset("paper", d_node=5),
    "released": ModelConfig.preset("released", d_node=6, max_positions=40),
    "mini": ModelConfig.preset("mini", d_node=7, min_count=2),
    "released, hebbian": ModelConfig.preset(
        "released", d_node=4, max_positions=40, prior="hebbian", min_count=2
    ),
    "mini, shared edges": ModelConfig.preset("mini", d_node=5, edges="shared", min_count=3),
    "mini, by position": ModelConfig.preset(
        "mini",
        d_node=6,
        memory="position",
        positions="sinusoidal",
        max_positions=40,
        min_count=2,
    ),
    "mini, 4-grams": ModelConfig.preset("mini-ngrams", d_node=5, min_count=2, prior_order=4),
    "paper, node start": ModelConfig.preset("paper", d_node=6, start="node", memory="leaky"),
    "mini, tight": ModelConfig.preset("mini", d_node=6, min_count=2, signal_bound=0.7),
    "released, bound": ModelConfig.preset("released", d_node=5, max_positions=40, signal_bound=0.9),
}


def random_ids(n: int, n_nodes: int, rng: np.random.Generator) -> np.ndarray:
    """A stream in which low ids are frequent and the highest is never seen."""
    return (rng.random(n) ** 2 * (n_nodes - 1)).astype(np.int64)


def tokenizer_of(n_nodes: int) -> CharacterTokenizer:
    """Stands in for a tokenizer where no text is needed: V tokens, the first unknown."""
    return CharacterTokenizer("".join(chr(ord("a") + k) for k in range(n_nodes - 1)))


def random_model(
    config: ModelConfig,
    *,
    n_nodes: int = 9,
    dtype: type = np.float64,
    backend: str = "numpy",
    seed: int = 0,
    n_ids: int = 60,
) -> BriLLM:
    """A model with every parameter (synapses, biases, α, ρ) away from zero."""
    rng = np.random.default_rng(seed)
    ids = random_ids(n_ids, n_nodes, rng)
    graph, tokenizer = TokenGraph.for_config(config, ids, n_nodes), tokenizer_of(n_nodes)
    parameters = {
        name: (rng.normal(size=shape) * 0.5).astype(dtype)
        for name, shape in config.shapes(n_nodes, graph.n_edges).items()
    }
    return BriLLM(config, tokenizer, graph, parameters, backend)


def check_gradients(
    model: BriLLM,
    tokens: np.ndarray,
    candidates: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> None:
    """Every single parameter against central differences, in float64: relative error below 1e-6."""
    _, gradients = model.loss_and_gradients(tokens, candidates, weights)
    assert gradients.keys() == model.parameters.keys()
    step = 1e-5
    for name, parameter in model.parameters.items():
        numeric = np.zeros_like(parameter)
        for index in np.ndindex(parameter.shape):
            kept = parameter[index]
            parameter[index] = kept + step
            up = model.loss(tokens, candidates, weights)
            parameter[index] = kept - step
            down = model.loss(tokens, candidates, weights)
            parameter[index] = kept
            numeric[index] = (up - down) / (2 * step)
        assert np.abs(numeric).max() > 1e-6, f"{name} has no influence: nothing was tested"
        error = np.abs(gradients[name] - numeric).max() / np.abs(numeric).max()
        assert error < 1e-6, f"{name}: relative error {error:.1e}"


def without_bound(model: BriLLM) -> BriLLM:
    """The model itself, its edges so strong that a signal outgrows its numbers."""
    model.config = model.config.replace(signal_bound=0.0)
    model.parameters.pop("log_bound", None)
    kind = "axon" if "axon_weight" in model.parameters else "edge"
    model.parameters[f"{kind}_weight"] *= 40
    model.parameters[f"{kind}_bias"] += 1
    return model


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def minibrillm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run a command in this process, in an empty folder."""
    monkeypatch.setenv("MINIBRILLM_CACHE", str(tmp_path / "cache"))  # whatever the user has
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["minibrillm", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Result(code, out, err)

    return command


TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 12
FEW = ("--d-node", 4, "--batch-size", 4, "--sequence-length", 8)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "mama.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(text: Path) -> Path:
    """A run of 4 steps; no test changes it."""
    run = text.parent / "run"
    train = ["train", text, "--steps", 4, "--out", run, "--backend", "numpy", *FEW]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["minibrillm", *map(str, train)])
        main()
    assert not end.value.code
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of 4 steps to do with as one likes."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def is_refused(result: Result, *said: str) -> None:
    """Exit code 2, nothing on stdout, and one line that says what is wrong."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    for part in said:
        assert part in result.err
