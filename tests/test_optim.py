"""AdamW is the textbook's, both backends agree, and only what should decay or move does."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from minibrillm.parameters import Parameters, decays

from minibrillm import kernels, reference
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.optim import AdamW, learning_rate

SHAPES = ModelConfig.preset("mini", d_node=4).shapes(5, 7) | {
    "node_bias": (5, 4),
    "edge_weight": (3, 4, 4),
    "edge_bias": (3, 4),
    "position_logits": (6,),
}
BACKENDS = pytest.mark.parametrize("operations", [reference, kernels], ids=["numpy", "numba"])


def config(**changes: float | int) -> TrainConfig:
    settings = {"steps": 10, "clip_norm": 0.0, "weight_decay": 0.3, "average_decay": 0.9}
    return TrainConfig.from_json({**settings, **changes})


def arrays(seed: int, dtype: type = np.float64, scale: float = 1.0) -> Parameters:
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.normal(size=shape)).astype(dtype) for n, shape in SHAPES.items()}


def run(
    operations: ModuleType, settings: TrainConfig, dtype: type, n_steps: int = 6
) -> tuple[AdamW, list[float]]:
    optimiser = AdamW(arrays(0, dtype), settings, operations)
    norms = [
        optimiser.update(arrays(step, dtype), step, 0.02 / step) for step in range(1, n_steps + 1)
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


def textbook(settings: TrainConfig, n_steps: int = 6) -> tuple[Parameters, Parameters]:
    """Loshchilov & Hutter 2019, algorithm 2, one array at a time; and the average of weights."""
    parameters, averages = arrays(0), arrays(0)
    for name, theta in parameters.items():
        m = v = np.zeros(theta.shape)
        for t in range(1, n_steps + 1):
            rate = 0.02 / t
            g = arrays(t)[name]
            m = settings.beta1 * m + (1 - settings.beta1) * g
            v = settings.beta2 * v + (1 - settings.beta2) * g**2
            m_hat, v_hat = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
            decay = settings.weight_decay if decays(name) else 0.0
            theta = theta - rate * (m_hat / (np.sqrt(v_hat) + settings.epsilon) + decay * theta)
            keep = min(settings.average_decay, (1 + t) / (10 + t))
            averages[name] = keep * averages[name] + (1 - keep) * theta
        parameters[name] = theta
    return parameters, averages


@BACKENDS
@pytest.mark.parametrize("epsilon", [1e-8, 0.5])
def test_adamw_is_the_textbook_s(operations: ModuleType, epsilon: float) -> None:
    settings = config(epsilon=epsilon, beta2=0.95)
    optimiser, _ = run(operations, settings, np.float64)
    expected, averages = textbook(settings)
    for name in SHAPES:
        np.testing.assert_allclose(optimiser.parameters[name], expected[name], rtol=1e-12)
        np.testing.assert_allclose(optimiser.average[name], averages[name], rtol=1e-12)


def test_backends_agree_in_float32() -> None:
    settings = config(clip_norm=1.0)
    ours, norms = run(kernels, settings, np.float32)
    theirs, other_norms = run(reference, settings, np.float32)
    assert norms == other_norms
    for group in ("parameters", "mean", "square", "average"):
        for name in SHAPES:
            a, b = getattr(ours, group)[name], getattr(theirs, group)[name]
            assert a.dtype == b.dtype == np.float32
            assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max(), (group, name)


@BACKENDS
def test_only_what_decays_decays(operations: ModuleType) -> None:
    optimiser = AdamW(arrays(0), config(), operations)
    nothing = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    optimiser.update(nothing, 1, 0.1)
    decayed = {"axon_weight", "dendrite_weight", "synapse_weight", "synapse_bias", "edge_weight"}
    for name, before in arrays(0).items():
        keep = 1 - 0.1 * 0.3 if name in decayed else 1.0
        np.testing.assert_allclose(optimiser.parameters[name], keep * before, rtol=1e-14)


@BACKENDS
def test_clipping_scales_the_whole_gradient(operations: ModuleType) -> None:
    gradients = arrays(1)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm > 2
    clipped = AdamW(arrays(0), config(clip_norm=2.0), operations)
    assert clipped.update(arrays(1), 1, 0.01) == pytest.approx(norm)
    by_hand = AdamW(arrays(0), config(), operations)
    by_hand.update({name: g * (2 / norm) for name, g in gradients.items()}, 1, 0.01)
    for name in SHAPES:
        np.testing.assert_allclose(clipped.mean[name], by_hand.mean[name], rtol=1e-10)
        np.testing.assert_allclose(clipped.square[name], by_hand.square[name], rtol=1e-10)


@BACKENDS
@pytest.mark.parametrize("clip_norm", [0.0, 1e6])
def test_a_small_gradient_is_not_scaled(operations: ModuleType, clip_norm: float) -> None:
    optimiser = AdamW(arrays(0), config(clip_norm=clip_norm), operations)
    optimiser.update(arrays(1), 1, 0.01)
    for name, gradient in arrays(1).items():
        np.testing.assert_allclose(optimiser.mean[name], 0.1 * gradient, rtol=1e-12)


@BACKENDS
def test_average_forgets_the_first_weights_early(operations: ModuleType) -> None:
    start = np.array([[1.0]])
    optimiser = AdamW(
        {"edge_weight": start.copy()}, config(average_decay=0.25, weight_decay=0.0), operations
    )
    mean = 1.0
    for step, keep in ((1, 2 / 11), (2, 3 / 12), (3, 0.25), (4, 0.25)):
        optimiser.update({"edge_weight": np.array([[1.0]])}, step, 0.1)
        weight = float(optimiser.parameters["edge_weight"][0, 0])
        mean = keep * mean + (1 - keep) * weight
        assert float(optimiser.average["edge_weight"][0, 0]) == pytest.approx(mean, rel=1e-12)
    assert weight < 1


@BACKENDS
def test_without_averaging_the_average_is_the_weights(operations: ModuleType) -> None:
    optimiser, _ = run(operations, config(average_decay=0.0), np.float64)
    for name in SHAPES:
        np.testing.assert_allclose(optimiser.average[name], optimiser.parameters[name], rtol=1e-12)


# the shared edge of the paper


@BACKENDS
def test_a_fixed_shared_edge_never_moves(operations: ModuleType) -> None:
    names = ("edge_weight", "edge_bias")
    fixed = AdamW({n: arrays(0)[n] for n in names}, config(), operations, train_shared_edge=False)
    gradients = {n: arrays(1)[n] for n in names}
    private = sum(float((gradients[n][1:] ** 2).sum()) for n in names)
    assert fixed.update(gradients, 1, 0.1) == pytest.approx(math.sqrt(private))
    for name in names:
        before = arrays(0)[name]
        for group in (fixed.parameters, fixed.average):
            assert np.array_equal(group[name][0], before[0])
            assert (group[name][1:] != before[1:]).all()
        assert not fixed.mean[name][0].any()
        assert not fixed.square[name][0].any()


@BACKENDS
def test_a_trained_shared_edge_moves(operations: ModuleType) -> None:
    optimiser, _ = run(operations, config(), np.float64)
    assert (optimiser.parameters["edge_weight"][0] != arrays(0)["edge_weight"][0]).all()


def test_edges_in_three_parts_have_no_shared_edge_to_fix() -> None:
    shapes = ModelConfig.preset("mini", d_node=4).shapes(5, 7)
    parameters = {name: np.ones(shape) for name, shape in shapes.items()}
    optimiser = AdamW(parameters, config(), reference, train_shared_edge=False)
    optimiser.update({name: np.ones(shape) for name, shape in shapes.items()}, 1, 0.1)
    assert (parameters["axon_weight"] < 1).all()
