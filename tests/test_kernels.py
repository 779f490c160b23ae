"""The kernels answer to the textbook: same results, same bits whatever the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from conftest import VARIANTS, random_ids, random_model
from scipy.special import ndtr

from minibrillm import kernels, reference
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey, PriorRows, Withheld
from minibrillm.functional import gelu, gelu_derivative
from minibrillm.graph import TokenGraph
from minibrillm.kernels import passes
from minibrillm.kernels.gelu import gelu_and_product
from minibrillm.machine import SQUARES_BLOCK
from minibrillm.model import BriLLM
from minibrillm.variance import Rounding

# Large enough for the competition with the parts of an edge kept apart, which small graphs skip,
# and so do wide ones if many positions share a source.
LARGE = {
    "mini, wide": (ModelConfig.preset("mini", d_node=48, min_count=2), 60),
    "mini, large": (ModelConfig.preset("mini", d_node=16, min_count=3), 1100),
    "mini, large, encoded": (
        ModelConfig.preset("mini", d_node=17, min_count=2, positions="sinusoidal", prior="none"),
        1000,
    ),
    "mini, large, 3-grams": (
        ModelConfig.preset("mini-ngrams", d_node=16, min_count=3, prior_order=3),
        1000,
    ),
}
ALL = [*VARIANTS, *LARGE]


def model_of(variant: str, dtype: type) -> BriLLM:
    if variant in VARIANTS:
        return random_model(VARIANTS[variant], dtype=dtype, n_nodes=23, n_ids=300)
    config, n_nodes = LARGE[variant]
    model = random_model(config, dtype=dtype, n_nodes=n_nodes, n_ids=60_000)
    tokens, _ = batch_of(model, candidates=False)
    elements = n_nodes * config.d_node**2
    assert elements > passes.PARTS_ABOVE
    shared = tokens[:, :-1].size / len(np.unique(tokens[:, :-1]))
    assert passes.keeps_apart(elements, shared) == (variant != "mini, wide")
    if variant == "mini, wide":  # or signals would grow a thousandfold on every edge
        for array in model.parameters.values():
            array *= 0.25
    return model


def batch_of(model: BriLLM, *, candidates: bool) -> tuple[np.ndarray, np.ndarray | None]:
    rng, v = np.random.default_rng(3), model.graph.n_nodes
    tokens = random_ids(6 * 31, v, rng).reshape(6, 31)
    tokens[0, 3] = tokens[2, 8] = v - 1  # never seen in the text
    if not candidates:
        return tokens, None
    others = rng.integers(0, v, size=(6, 30, 8))
    return tokens, np.concatenate([tokens[:, 1:, None], others], axis=2)


def run(
    model: BriLLM, backend: str, mode: str = "full"
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    model.backend = backend
    tokens, chosen = batch_of(model, candidates=mode == "candidates")
    rng = np.random.default_rng(4)
    # Sampled candidates and weighted positions do not depend on each other: one run tests both.
    weights = rng.random((6, 30)).round(1) if mode == "candidates" else None
    rounding = None
    if mode == "rounded":
        rounding = Rounding(2 / model.graph.n_nodes, rng.random((6, 30)))
    return (
        model.nll(tokens, candidates=chosen)[0],
        model.energies(tokens),
        model.loss_and_gradients(tokens, chosen, weights, rounding)[1],
    )


def python(program: str, folder: Path = Path(__file__).parent, **environment: str) -> str:
    """What a program says in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    scale = float(np.abs(theirs).max())
    assert scale > 0
    return float(np.abs(ours - theirs).max()) / scale


@pytest.mark.parametrize(
    ("mode", "dtype", "tolerance"),
    [
        ("full", np.float64, 1e-10),
        ("full", np.float32, 1e-4),
        ("candidates", np.float64, 1e-10),
        ("candidates", np.float32, 1e-4),
        ("rounded", np.float64, 1e-10),  # in single precision another target may be hit
    ],
)
@pytest.mark.parametrize("variant", ALL)
def test_kernels_agree_with_the_reference(
    variant: str, mode: str, dtype: type, tolerance: float
) -> None:
    textbook = run(model_of(variant, np.float64), "numpy", mode)
    compiled = run(model_of(variant, dtype), "numba", mode)
    assert compiled[0].dtype == dtype
    assert difference(compiled[0], textbook[0]) < tolerance
    assert difference(compiled[1], textbook[1]) < tolerance
    assert compiled[2].keys() == textbook[2].keys()
    for name, gradient in textbook[2].items():
        # These κ have three numbers, made of the few positions that are not certain.
        few = 20 if name == "context_trust" and dtype == np.float32 else 1
        assert difference(compiled[2][name], gradient) < few * tolerance, name


@pytest.mark.parametrize("mode", ["full", "rounded"])
@pytest.mark.parametrize("variant", ["mini", "mini, large"])
def test_gradients_where_a_node_hardly_answers(variant: str, mode: str) -> None:
    """Energies from 1e-2 down to nothing, all of a node's pre-activations far below zero."""
    models = [model_of(variant, dtype) for dtype in (np.float64, np.float32)]
    for model in models:
        for array in model.parameters.values():
            array *= 0.1
        depth = np.linspace(2, 15, model.graph.n_nodes)
        model.parameters["dendrite_bias"][:] -= depth[:, None]
    textbook, compiled = run(models[0], "numpy", mode), run(models[1], "numba", mode)
    assert textbook[1].min() < 1e-12
    for name, gradient in textbook[2].items():
        if mode == "full":
            assert difference(compiled[2][name], gradient) < 1e-4, name
        else:  # in single precision another target may be hit
            assert np.linalg.norm(compiled[2][name]) < 2 * np.linalg.norm(gradient), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
def test_rows_of_an_ngram_prior_agree_with_the_reference(dtype: type, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    graph = TokenGraph.from_ids(random_ids(4000, 30, rng), 30, order=5)
    tokens = random_ids(60, 30, rng).reshape(3, 20)
    trust = np.array([0.3, 0.5, 0.7, 0.9, 1.1])
    for n in (20, 7, 1):
        theirs = reference.prior_rows(graph, trust, tokens, n)
        ours = kernels.prior_rows(graph, trust.astype(dtype), tokens, n)
        compare_rows(ours, theirs, dtype, tolerance)
    for b in range(3):
        alone = kernels.prior_rows(graph, trust.astype(dtype), tokens[b : b + 1], 1)
        for one, many in zip(alone, ours, strict=True):
            np.testing.assert_array_equal(one[0], many[b])


def compare_rows(ours: PriorRows, theirs: PriorRows, dtype: type, tolerance: float) -> None:
    assert ours.log_prior.dtype == ours.change.dtype == dtype
    assert difference(ours.log_prior, theirs.log_prior) < tolerance
    assert difference(ours.change, theirs.change) < tolerance
    np.testing.assert_array_equal(ours.length, theirs.length)
    assert len(np.unique(theirs.length)) > 1 or theirs.length.size < 9


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
def test_rows_that_leave_out_what_follows_agree_with_the_reference(
    dtype: type, tolerance: float
) -> None:
    ids = random_ids(4000, 30, np.random.default_rng(0))
    graph = TokenGraph.from_ids(ids, 30, order=5)
    path = np.stack([ids[:41], ids[1000:1041], ids[-41:]])
    withheld = Withheld(path[:, 1:], KneserNey.fit(ids, 30, 2))
    trust = np.array([0.3, 0.5, 0.7, 0.9, 1.1])
    theirs = reference.prior_rows(graph, trust, path[:, :-1], 40, withheld)
    ours = kernels.prior_rows(graph, trust.astype(dtype), path[:, :-1], 40, withheld)
    compare_rows(ours, theirs, dtype, tolerance)
    known = reference.prior_rows(graph, trust, path[:, :-1], 40)
    assert known.length.mean() > theirs.length.mean() + 1


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("mode", ["full", "rounded"])
@pytest.mark.parametrize("variant", ALL)
def test_same_bits_with_one_thread_and_with_two(variant: str, mode: str) -> None:
    results = []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(run(model_of(variant, np.float32), "numba", mode))
    finally:
        numba.set_num_threads(before)
    one, two = results
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1].tobytes() == two[1].tobytes()
    for name, gradient in one[2].items():
        assert gradient.tobytes() == two[2][name].tobytes(), name


def test_same_bits_compiled_now_or_loaded_from_the_cache(tmp_path: Path) -> None:
    program = (
        "import numpy as np\n"
        "from test_kernels import model_of, run\n"
        "nll, energies, gradients = run(model_of('mini, large', np.float32), 'numba', 'rounded')\n"
        "print([hash(x.tobytes()) for x in (nll, energies, *gradients.values())])\n"
    )
    settings = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}
    compiled, loaded = (python(program, **settings) for _ in range(2))
    assert compiled.count(",") > 5
    assert compiled == loaded


@numba.njit
def activate(h: np.ndarray, y: np.ndarray) -> None:
    gelu_and_product(h, y)


def test_activation_in_single_precision_is_good_to_a_millionth() -> None:
    h = np.concatenate([np.linspace(-14, 14, 200_001), [-1e4, -40.0, 0.0, 40.0, 1e4]])
    single = h.astype(np.float32)
    y, product = np.empty_like(single), single.copy()
    activate(product, y)
    exact = gelu(single.astype(np.float64))
    scale = np.maximum(1, np.abs(single))
    assert (np.abs(y - exact) / scale).max() < 1e-6
    exact *= gelu_derivative(single.astype(np.float64))
    assert (np.abs(product - exact) / scale).max() < 1e-6
    inside = np.abs(single) > 1e-3
    phi = y[inside] / single[inside]
    assert np.abs(phi - ndtr(single[inside].astype(np.float64))).max() < 1e-6


def test_energies_in_single_precision_are_good_to_a_millionth() -> None:
    h = np.concatenate([np.linspace(-14, 14, 16_000), np.geomspace(1e-8, 1e4, 80)])
    h = np.random.default_rng(0).permutation(h)[:16_000].astype(np.float32)
    n = len(h) // 16 - 3  # no whole number of vectors
    biases = h[: 16 * n].reshape(n, 16)
    exact = np.linalg.norm(gelu(biases.astype(np.float64)), axis=1)
    config = ModelConfig.preset("mini", d_node=16, min_count=3)
    model = random_model(config, dtype=np.float32, n_nodes=n, backend="numba")
    for array in model.parameters.values():
        array[:] = 0
    model.parameters["dendrite_bias"][:] = biases  # all that is left of each answer
    energies = model.energies(np.array([3]))[0]
    assert (np.abs(energies - exact) / np.maximum(1, exact)).max() < 1e-6


def test_activation_in_double_precision_is_exact() -> None:
    h = np.linspace(-10, 10, 10_001)
    y, product = np.empty_like(h), h.copy()
    activate(product, y)
    np.testing.assert_allclose(y, gelu(h), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(product, gelu(h) * gelu_derivative(h), rtol=1e-12, atol=1e-15)


def test_nan_in_a_weight_comes_out_as_nan() -> None:
    model = model_of("mini", np.float32)
    model.parameters["dendrite_weight"][3] = np.nan
    model.backend = "numba"
    tokens, _ = batch_of(model, candidates=False)
    assert np.isnan(model.loss(tokens))


def test_two_python_threads_take_turns() -> None:
    """Two callers in a parallel kernel at once abort the process under one threading layer."""
    model = model_of("mini", np.float32)
    model.backend = "numba"
    tokens, _ = batch_of(model, candidates=False)
    expected, found = model.loss_and_gradients(tokens)[0], []

    def work() -> None:
        for _ in range(20):
            found.append(model.loss_and_gradients(tokens)[0])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 60


def test_adamw_agrees_with_the_textbook() -> None:
    rng = np.random.default_rng(0)
    ours = [rng.normal(size=(40, 5)) for _ in range(3)] + [rng.random((40, 5)) for _ in range(2)]
    theirs = [a.copy() for a in ours]
    config = TrainConfig(steps=9, average_decay=0.95)
    for operations, (parameter, gradient, *moments) in ((kernels, ours), (reference, theirs)):
        operations.adamw(parameter, gradient, tuple(moments), 0.7, 3, 0.01, 0.5, config)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_kernels_run_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """Neither the package's folder nor a home can be written: compile without a disk cache."""
    program = (
        "import numpy as np\n"
        "from numba.core import caching\n"
        "nowhere = classmethod(lambda *_: None)\n"
        "caching.UserProvidedCacheLocator.from_function = nowhere\n"
        "caching.InTreeCacheLocator.from_function = nowhere\n"
        "caching.UserWideCacheLocator.from_function = nowhere\n"
        "from minibrillm import kernels\n"
        "assert kernels.sum_of_squares(np.ones((1, 3))) == 3\n"
        "print(kernels.cache_folder())\n"
    )
    assert python(program, tmp_path).startswith("none")


def test_kernels_run_without_the_compiler() -> None:
    """``NUMBA_DISABLE_JIT=1`` is how the coverage of kernels is measured."""
    program = (
        "from conftest import VARIANTS, random_model, random_ids\n"
        "import numpy as np\n"
        "for config in VARIANTS.values():\n"
        "    tokens = random_ids(12, 9, np.random.default_rng(0)).reshape(2, 6)\n"
        "    a = random_model(config, backend='numpy').loss_and_gradients(tokens)\n"
        "    b = random_model(config, backend='numba').loss_and_gradients(tokens)\n"
        "    assert abs(a[0] - b[0]) < 1e-12\n"
        "    assert all(np.allclose(g, b[1][k], atol=1e-12) for k, g in a[1].items())\n"
    )
    python(program, NUMBA_DISABLE_JIT="1")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 15, 16, 17, SQUARES_BLOCK, 2 * SQUARES_BLOCK + 5])
def test_squares_add_up_to_the_same_bits(size: int, dtype: type) -> None:
    x = np.random.default_rng(size).standard_normal((1, size)).astype(dtype)
    found = kernels.sum_of_squares(x)
    assert found == reference.sum_of_squares(x)
    assert found == pytest.approx(float((x.astype(np.longdouble) ** 2).sum()), rel=1e-13)
