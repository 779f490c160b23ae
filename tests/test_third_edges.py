"""A third kind of edge, written here and nowhere else: trained, derived, read on, kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import check_gradients, random_ids, random_model
from small_trainings import LEARN, loose, tiny, train

from minibrillm import reference
from minibrillm.checks import Network, UserError
from minibrillm.config import ModelConfig
from minibrillm.edges import EDGES, Edge, Edges, Named, Shapes
from minibrillm.model import BriLLM
from minibrillm.runs import load

Array = np.ndarray


class Narrow(Edges, name="narrow"):
    """W = A_u B_v of rank 2: the source squeezes a signal into two numbers, the target spreads
    them out again, and adds its bias."""

    zero_at_first = ("spread_bias",)
    decaying = ("squeeze_weight", "spread_weight")

    def shapes(self, d: int, n_nodes: int, n_edges: int) -> Shapes:
        squeeze, spread = (n_nodes, d, 2), (n_nodes, 2, d)
        return {"squeeze_weight": squeeze, "spread_weight": spread, "spread_bias": (n_nodes, d)}

    def between(self, model: Network, u: Array, v: Array) -> Edge:
        p = model.parameters
        return p["squeeze_weight"][u] @ p["spread_weight"][v], p["spread_bias"][v]

    def add_gradient(self, out: Named, model: Network, u: Array, v: Array, d_edge: Edge) -> None:
        p, (d_weight, d_bias) = model.parameters, d_edge
        squeeze, spread = p["squeeze_weight"][u], p["spread_weight"][v]
        np.add.at(out["squeeze_weight"], u, d_weight @ spread.swapaxes(1, 2))
        np.add.at(out["spread_weight"], v, squeeze.swapaxes(1, 2) @ d_weight)
        np.add.at(out["spread_bias"], v, d_bias)


NARROW = EDGES.pop("narrow")  # no other test shall meet it


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EDGES, "narrow", NARROW)


def model_of(preset: str = "mini", **changes: object) -> BriLLM:
    settings = {"d_node": 5, "edges": "narrow", **changes}
    return random_model(ModelConfig.preset(preset, **settings))


def tokens_of(n_streams: int = 3, n: int = 7) -> Array:
    return random_ids(n_streams * (n + 1), 9, np.random.default_rng(5)).reshape(n_streams, n + 1)


@pytest.mark.parametrize("preset", ["mini", "paper", "released", "mini-ngrams"])
def test_gradients_are_those_of_central_differences(preset: str) -> None:
    few = {"max_positions": 9} if preset == "released" else {}
    check_gradients(model_of(preset, **few), tokens_of())


def test_gradients_of_sampled_candidates_too() -> None:
    model, tokens = model_of(), tokens_of()
    others = np.array([[np.delete(np.arange(9), v)[:4] for v in row[1:]] for row in tokens])
    check_gradients(model, tokens, np.concatenate([tokens[:, 1:, None], others], axis=2))


def test_a_stream_read_in_pieces_is_the_stream_read_at_once() -> None:
    model, tokens = model_of(), tokens_of(n=17)
    whole, final = model.nll(tokens)
    first, state = model.nll(tokens[:, :6])
    rest, state = model.nll(tokens[:, 5:], state)
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, atol=1e-12)
    np.testing.assert_allclose(state.incoming, final.incoming, atol=1e-13)


def test_it_learns_writes_and_comes_back(tmp_path: Path) -> None:
    trainer = loose(
        tiny(edges="narrow", prior="none"), **LEARN | {"steps": 100, "learning_rate": 0.05}
    )
    history = train(trainer)
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    text = trainer.model.generate("我", 30, seed=0)
    assert text.startswith("我")
    assert len(text) == 31
    trainer.model.save(tmp_path)
    assert load(tmp_path, "numpy").generate("我", 30, seed=0) == text


def test_the_kernels_do_not_know_it_and_say_so_once() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = tiny(edges="narrow", backend="numba")
        train(loose(model, steps=3, evaluate_every=1))
        model.generate("我", 5, seed=0)
    assert [str(warning.message) for warning in told] == [
        "the kernels do not know edges 'narrow': the textbook computes, which is slower"
    ]
    assert model.backend == "numpy"
    assert model.operations is reference
    same = tiny(edges="narrow", backend="numpy")
    train(loose(same, steps=3, evaluate_every=1))
    for name, array in same.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], array)


def test_where_it_is_not_written_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(EDGES, "narrow")
    with pytest.raises(UserError, match="edges is 'narrow'; choose one of shared, three_part"):
        ModelConfig(edges="narrow")
