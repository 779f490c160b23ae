"""Settings: presets, JSON, refusals by name, parameter counts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import tokenizer_of

from minibrillm.checks import UserError, check_parameters
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.presets.named import MODELS


def fresh(config: ModelConfig, n_nodes: int, n_edges: int) -> dict[str, np.ndarray]:
    """Parameters before training, of a model with so many nodes and private edges."""
    pairs = [np.array(divmod(k, n_nodes)) for k in range(n_edges)]
    graph = TokenGraph.for_config(config.replace(min_count=1), pairs, n_nodes)
    assert (graph.n_nodes, graph.n_edges) == (n_nodes, n_edges)
    return BriLLM.create(config, tokenizer_of(n_nodes), graph, backend="numpy").parameters


def test_parameter_counts_are_the_published_ones() -> None:
    released = ModelConfig.preset("released")
    assert released.n_parameters(4000, 906_998 - 1) == 957_918_400
    dense = released.n_parameters(4000, 4000**2 - 1)
    assert round(dense / 1e9, 1) == 16.9
    assert round(957_918_400 / dense, 3) == 0.057
    chinese = released.n_parameters(4001, 2_074_000 - 1)
    assert round(chinese / 1e9, 2) == 2.19


def test_parameters_of_mini_are_two_per_node_and_one_per_synapse() -> None:
    d, v, e = 32, 66, 1380
    expected = (2 * v + e) * (d * d + d) + v * d + d + 1  # the last is the bound
    assert ModelConfig.preset("mini").n_parameters(v, e) == expected


@pytest.mark.parametrize("name", MODELS)
def test_json_round_trip(name: str) -> None:
    for config in (ModelConfig.preset(name), TrainConfig.preset(name, steps=3)):
        assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_key_is_refused_by_name_with_a_hint() -> None:
    with pytest.raises(UserError, match=r"no setting 'd_nodes' \(did you mean 'd_node'\?\)"):
        ModelConfig.from_json({"d_nodes": 3})
    with pytest.raises(UserError, match="no preset 'huge'; choose one of paper, released, mini"):
        ModelConfig.preset("huge")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("d_node", 0),
        ("d_node", 3.5),
        ("d_node", True),
        ("d_node", "32"),
        ("min_count", 0),
        ("memory", "long"),
        ("edges", None),
        ("initial_range", float("nan")),
        ("initial_range", -1),
        ("train_shared_edge", 1),
        ("first_position", -1),
    ],
)
def test_impossible_model_values_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"ModelConfig\.{setting} is "):
        ModelConfig.from_json({setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("minutes", 0),
        ("minutes", float("nan")),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("beta1", 1.0),
        ("average_decay", 1.5),
        ("seed", -1),
        ("clip_norm", -0.1),
    ],
)
def test_impossible_training_values_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"TrainConfig\.{setting} is "):
        TrainConfig.from_json({"steps": 5, setting: value})


def test_training_must_end() -> None:
    with pytest.raises(UserError, match="steps or minutes"):
        TrainConfig()


@pytest.mark.parametrize("name", MODELS)
def test_initial_parameters(name: str) -> None:
    config = ModelConfig.preset(name, d_node=6)
    parameters = fresh(config, 11, 17)
    again = fresh(config, 11, 17)
    assert {n: a.shape for n, a in parameters.items()} == config.shapes(11, 17)
    assert sum(a.size for a in parameters.values()) == config.n_parameters(11, 17)
    for array_name, array in parameters.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[array_name])
        if array_name == "context_trust":
            assert (array == config.prior_weight).all()
        elif array_name == "log_bound":
            np.testing.assert_allclose(np.exp(array), config.signal_bound, rtol=1e-6)
        elif array_name != "decay_logit":
            assert np.abs(array).max() <= config.initial_range
    check_parameters(config.shapes(11, 17), parameters)


def test_large_arrays_are_drawn_and_checked_whole() -> None:
    config = ModelConfig.preset("released")
    parameters = fresh(config, 10, 90)
    weight = parameters["edge_weight"]
    at_once = np.random.default_rng(0).uniform(-0.5, 0.5, weight.shape)
    np.testing.assert_array_equal(weight, at_once.astype(np.float32))
    weight[-1, -1, -1] = np.inf
    with pytest.raises(UserError, match="'edge_weight' holds NaN or infinity"):
        check_parameters(config.shapes(10, 90), parameters)


def test_synapses_start_at_zero_and_time_constants_are_spread() -> None:
    parameters = fresh(ModelConfig.preset("mini", d_node=6), 11, 17)
    assert not parameters["synapse_weight"].any()
    np.testing.assert_allclose(parameters["decay_logit"], np.linspace(-2, 3, 6))


def test_misfit_parameters_are_refused_by_name() -> None:
    config = ModelConfig.preset("mini", d_node=3)
    good = fresh(config, 5, 4)
    cases: list[tuple[dict[str, np.ndarray], str]] = [
        ({k: a for k, a in good.items() if k != "axon_bias"}, "'axon_bias' is missing"),
        (good | {"extra": np.zeros(1)}, "'extra' is not part"),
        (good | {"node_bias": np.zeros((5, 4))}, "'node_bias' has shape"),
        (good | {"node_bias": np.full((5, 3), np.nan, np.float32)}, "'node_bias' holds NaN"),
        (good | {"node_bias": np.zeros((5, 3))}, "'node_bias' is float64"),
    ]
    for parameters, message in cases:
        with pytest.raises(UserError, match=message):
            check_parameters(config.shapes(5, 4), parameters)


def test_what_decays() -> None:
    found: set[str] = set()
    for name in MODELS:
        config = ModelConfig.preset(name)
        assert set(config.edge_kind.decaying) <= config.shapes(3, 2).keys()
        found |= set(config.edge_kind.decaying)
    assert found == {
        "edge_weight",
        "axon_weight",
        "dendrite_weight",
        "synapse_weight",
        "synapse_bias",
    }


def test_a_preset_that_was_renamed_is_still_found() -> None:
    with pytest.warns(UserWarning, match="the preset mini7 is now called mini-ngrams"):
        assert ModelConfig.preset("mini7") == ModelConfig.preset("mini-ngrams")
