"""AdamW is the textbook's, both backends agree, and only what should decay or move does."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minibrillm import kernels, reference
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.functional import Named
from minibrillm.optim import AdamW, learning_rate

CONFIGS = {
    "three_part": ModelConfig.preset("mini", d_node=4),
    "shared": ModelConfig.preset("released", d_node=4, max_positions=6),
}
EDGES = pytest.mark.parametrize("edges", CONFIGS)
BACKENDS = pytest.mark.parametrize("operations", [reference, kernels], ids=["numpy", "numba"])


def config(**changes: float | int) -> TrainConfig:
    settings = {"steps": 10, "clip_norm": 0.0, "weight_decay": 0.3, "average_decay": 0.9}
    return TrainConfig.from_json({**settings, **changes})


def arrays(edges: str, seed: int, dtype: type = np.float64) -> Named:
    rng, shapes = np.random.default_rng(seed), CONFIGS[edges].shapes(5, 7)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def model_of(
    edges: str, operations: ModuleType, parameters: Named | None = None, **changes: Any
) -> Any:
    """What an optimiser asks of a model."""
    parameters = arrays(edges, 0) if parameters is None else parameters
    settings = CONFIGS[edges].replace(**changes)
    return SimpleNamespace(parameters=parameters, config=settings, operations=operations)


def run(
    edges: str, operations: ModuleType, settings: TrainConfig, dtype: type, n_steps: int = 6
) -> tuple[AdamW, list[float]]:
    optimiser = AdamW(model_of(edges, operations, arrays(edges, 0, dtype)), settings)
    norms = [
        optimiser.update(arrays(edges, step, dtype), step, 0.02 / step)
        for step in range(1, n_steps + 1)
    ]
    return optimiser, norms


# learning_rate


def test_warm_up_is_linear() -> None:
    settings = config(learning_rate=0.8, warmup_steps=8)
    rates = [learning_rate(settings, step, 0.0) for step in range(12)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_cosine_goes_to_zero() -> None:
    settings = config(learning_rate=0.8, warmup_steps=0)
    rates = [learning_rate(settings, 100, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    root = math.sqrt(0.5)
    assert rates == pytest.approx([0.8, 0.4 * (1 + root), 0.4, 0.4 * (1 - root), 0.0], abs=1e-15)
    assert learning_rate(settings, 100, 1.7) == pytest.approx(0.0, abs=1e-15)


def test_warm_up_and_cosine_multiply() -> None:
    settings = config(learning_rate=0.8, warmup_steps=10)
    assert learning_rate(settings, 4, 0.5) == pytest.approx(0.8 * 0.5 * 0.5)


# AdamW

DECAYING = {"axon_weight", "dendrite_weight", "synapse_weight", "synapse_bias", "edge_weight"}


def textbook(edges: str, settings: TrainConfig, n_steps: int = 6) -> tuple[Named, Named]:
    """Loshchilov & Hutter 2019, algorithm 2, one array at a time; and the average of weights."""
    parameters, averages = arrays(edges, 0), arrays(edges, 0)
    for name, theta in parameters.items():
        m = v = np.zeros(theta.shape)
        for t in range(1, n_steps + 1):
            rate = 0.02 / t
            g = arrays(edges, t)[name]
            m = settings.beta1 * m + (1 - settings.beta1) * g
            v = settings.beta2 * v + (1 - settings.beta2) * g**2
            m_hat, v_hat = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
            decay = settings.weight_decay if name in DECAYING else 0.0
            theta = theta - rate * (m_hat / (np.sqrt(v_hat) + settings.epsilon) + decay * theta)
            keep = min(settings.average_decay, (1 + t) / (10 + t))
            averages[name] = keep * averages[name] + (1 - keep) * theta
        parameters[name] = theta
    return parameters, averages


@BACKENDS
@EDGES
@pytest.mark.parametrize("epsilon", [1e-8, 0.5])
def test_adamw_is_the_textbook_s(epsilon: float, edges: str, operations: ModuleType) -> None:
    settings = config(epsilon=epsilon, beta2=0.95)
    optimiser, _ = run(edges, operations, settings, np.float64)
    expected, averages = textbook(edges, settings)
    for name in expected:
        np.testing.assert_allclose(optimiser.parameters[name], expected[name], rtol=1e-12)
        np.testing.assert_allclose(optimiser.average[name], averages[name], rtol=1e-12)


@EDGES
def test_backends_agree_in_float32(edges: str) -> None:
    settings = config(clip_norm=1.0)
    ours, norms = run(edges, kernels, settings, np.float32)
    theirs, other_norms = run(edges, reference, settings, np.float32)
    assert norms == other_norms
    for group in ("parameters", "mean", "square", "average"):
        for name, b in getattr(theirs, group).items():
            a = getattr(ours, group)[name]
            assert a.dtype == b.dtype == np.float32
            assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max(), (group, name)


@BACKENDS
@EDGES
def test_only_what_decays_decays(edges: str, operations: ModuleType) -> None:
    optimiser = AdamW(model_of(edges, operations), config())
    optimiser.update({n: np.zeros_like(a) for n, a in arrays(edges, 0).items()}, 1, 0.1)
    for name, before in arrays(edges, 0).items():
        keep = 1 - 0.1 * 0.3 if name in DECAYING else 1.0
        np.testing.assert_allclose(optimiser.parameters[name], keep * before, rtol=1e-14)


@BACKENDS
@EDGES
def test_clipping_scales_the_whole_gradient(edges: str, operations: ModuleType) -> None:
    gradients = arrays(edges, 1)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm > 2
    clipped = AdamW(model_of(edges, operations), config(clip_norm=2.0))
    assert clipped.update(arrays(edges, 1), 1, 0.01) == pytest.approx(norm)
    by_hand = AdamW(model_of(edges, operations), config())
    by_hand.update({name: g * (2 / norm) for name, g in gradients.items()}, 1, 0.01)
    for name in gradients:
        np.testing.assert_allclose(clipped.mean[name], by_hand.mean[name], rtol=1e-10)
        np.testing.assert_allclose(clipped.square[name], by_hand.square[name], rtol=1e-10)


@BACKENDS
@EDGES
@pytest.mark.parametrize("clip_norm", [0.0, 1e6])
def test_a_small_gradient_is_not_scaled(
    clip_norm: float, edges: str, operations: ModuleType
) -> None:
    optimiser = AdamW(model_of(edges, operations), config(clip_norm=clip_norm))
    optimiser.update(arrays(edges, 1), 1, 0.01)
    for name, gradient in arrays(edges, 1).items():
        np.testing.assert_allclose(optimiser.mean[name], 0.1 * gradient, rtol=1e-12)


@BACKENDS
def test_average_forgets_the_first_weights_early(operations: ModuleType) -> None:
    model = model_of("shared", operations, {"edge_weight": np.array([[1.0]])})
    optimiser = AdamW(model, config(average_decay=0.25, weight_decay=0.0))
    mean = 1.0
    for step, keep in ((1, 2 / 11), (2, 3 / 12), (3, 0.25), (4, 0.25)):
        optimiser.update({"edge_weight": np.array([[1.0]])}, step, 0.1)
        weight = float(optimiser.parameters["edge_weight"][0, 0])
        mean = keep * mean + (1 - keep) * weight
        assert float(optimiser.average["edge_weight"][0, 0]) == pytest.approx(mean, rel=1e-12)
    assert weight < 1


@BACKENDS
@EDGES
def test_without_averaging_the_average_is_the_weights(edges: str, operations: ModuleType) -> None:
    optimiser, _ = run(edges, operations, config(average_decay=0.0), np.float64)
    for name, average in optimiser.average.items():
        np.testing.assert_allclose(average, optimiser.parameters[name], rtol=1e-12)


# the shared edge of the paper


@BACKENDS
def test_a_fixed_shared_edge_never_moves(operations: ModuleType) -> None:
    names = ("edge_weight", "edge_bias")
    fixed = AdamW(
        model_of(
            "shared",
            operations,
            {n: arrays("shared", 0)[n] for n in names},
            train_shared_edge=False,
        ),
        config(),
    )
    gradients = {n: arrays("shared", 1)[n] for n in names}
    private = sum(float((gradients[n][1:] ** 2).sum()) for n in names)
    assert fixed.update(gradients, 1, 0.1) == pytest.approx(math.sqrt(private))
    for name in names:
        before = arrays("shared", 0)[name]
        for group in (fixed.parameters, fixed.average):
            assert np.array_equal(group[name][0], before[0])
            assert (group[name][1:] != before[1:]).all()
        assert not fixed.mean[name][0].any()
        assert not fixed.square[name][0].any()


@BACKENDS
def test_a_trained_shared_edge_moves(operations: ModuleType) -> None:
    optimiser, _ = run("shared", operations, config(), np.float64)
    before = arrays("shared", 0)["edge_weight"][0]
    assert (optimiser.parameters["edge_weight"][0] != before).all()


def test_edges_in_three_parts_have_no_shared_edge_to_fix() -> None:
    shapes = CONFIGS["three_part"].shapes(5, 7)
    parameters = {name: np.ones(shape) for name, shape in shapes.items()}
    model = model_of("three_part", reference, parameters, train_shared_edge=False)
    AdamW(model, config()).update({n: np.ones(shape) for n, shape in shapes.items()}, 1, 0.1)
    assert (parameters["axon_weight"] < 1).all()
