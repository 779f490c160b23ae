"""The textbook: gradients against central differences, the class trick, the memory."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import VARIANTS, check_gradients, random_ids, random_model, tokenizer_of

from minibrillm import reference
from minibrillm.config import ModelConfig
from minibrillm.counting import KneserNey
from minibrillm.functional import energy, gelu, position_encoding, sigmoid
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.variance import Rounding

V = 9


def tokens_for(model: BriLLM, n_streams: int = 3, n: int = 7, seed: int = 5) -> np.ndarray:
    """Tokens that also cross edges never seen, and the node never seen."""
    rng = np.random.default_rng(seed)
    tokens = random_ids(n_streams * (n + 1), V, rng).reshape(n_streams, n + 1)
    tokens[0, 2] = tokens[1, 4] = V - 1
    return tokens


def candidates_for(tokens: np.ndarray, seed: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.empty((tokens.shape[0], tokens.shape[1] - 1, 5), np.int64)
    for place in np.ndindex(out.shape[:2]):
        true = tokens[place[0], place[1] + 1]
        others = rng.permutation(np.delete(np.arange(V), true))[:4]
        out[place] = [true, *others]
    return out


@pytest.mark.parametrize("sampled", [False, True], ids=["full softmax", "candidates"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_central_differences(variant: str, sampled: bool) -> None:
    model = random_model(VARIANTS[variant])
    tokens = tokens_for(model)
    candidates = candidates_for(tokens) if sampled else None
    weights = None if sampled else np.random.default_rng(7).integers(0, 3, (3, 7))
    check_gradients(model, tokens, candidates, weights)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_with_dropout_and_left_out_counts_are_those_of_central_differences(
    variant: str, backend: str
) -> None:
    model, rng = random_model(VARIANTS[variant], backend=backend), np.random.default_rng(8)
    tokens = tokens_for(model)
    mask = (rng.random((3, model.config.d_node)) > 0.3) / 0.7
    bigrams = KneserNey.fit(tokens.reshape(-1), model.graph.n_nodes, 2)
    loss, gradients = model.loss_and_gradients(tokens, mask=mask, bigrams=bigrams)
    assert loss != model.loss(tokens)
    if model.graph.ngrams is not None:
        assert loss != model.loss_and_gradients(tokens, mask=mask)[0]
    step = 1e-5
    for name, parameter in model.parameters.items():
        flat, gradient = parameter.reshape(-1), gradients[name].reshape(-1)
        for index in rng.choice(flat.size, min(flat.size, 8), replace=False):
            kept = flat[index]
            flat[index] = kept + step
            up, _ = model.loss_and_gradients(tokens, mask=mask, bigrams=bigrams)
            flat[index] = kept - step
            down, _ = model.loss_and_gradients(tokens, mask=mask, bigrams=bigrams)
            flat[index] = kept
            slope = (up - down) / (2 * step)
            assert abs(gradient[index] - slope) < 1e-6 * np.abs(gradient).max() + 1e-9, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_rounded_probabilities_are_right_on_average(variant: str) -> None:
    model, n = random_model(VARIANTS[variant]), 200
    tokens = tokens_for(model)
    loss, exact = model.loss_and_gradients(tokens)
    mean = {name: np.zeros_like(gradient) for name, gradient in exact.items()}
    far = 0.0
    for k in range(n):
        rounding = Rounding(0.2, np.full((3, 7), (k + 0.5) / n))
        rounded_loss, rounded = model.loss_and_gradients(tokens, rounding=rounding)
        assert rounded_loss == loss
        for name, gradient in rounded.items():
            mean[name] += gradient / n
            far = max(far, float(np.abs(gradient - exact[name]).max()))
    assert far > 1e-3
    for name, gradient in exact.items():
        scale = np.abs(gradient).max()
        if name == "log_bound":  # one number, a sum over all positions that nearly cancels
            scale = max(scale, 2e-3)
        assert np.abs(mean[name] - gradient).max() < 0.05 * scale, name


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_positions_of_weight_0_do_not_count(variant: str, backend: str) -> None:
    """A sequence filled up to the length of another teaches what it teaches alone."""
    model = random_model(VARIANTS[variant], backend=backend)
    tokens = tokens_for(model, n_streams=2)
    weights = np.ones((2, 7))
    weights[1, 4:] = 0  # of the second sequence only 4 edges are real
    loss, gradients = model.loss_and_gradients(tokens, weights=weights)
    long, short = model.loss_and_gradients(tokens[0]), model.loss_and_gradients(tokens[1, :5])
    assert loss == pytest.approx((7 * long[0] + 4 * short[0]) / 11, rel=1e-12)
    assert loss == pytest.approx(model.loss(tokens, weights=weights), rel=1e-12)
    for name, gradient in gradients.items():
        alone = (7 * long[1][name] + 4 * short[1][name]) / 11
        np.testing.assert_allclose(gradient, alone, rtol=1e-9, atol=1e-12, err_msg=name)


def written_out(model: BriLLM, tokens: np.ndarray) -> np.ndarray:
    """−log p with the plainest code there is: one sequence, one target, one edge at a time, the
    softmax written out over all V and the past summed anew at every step."""
    config, p = model.config, model.parameters
    graph, d = model.graph, model.config.d_node
    out = []
    for sequence in tokens:
        start = np.ones(d)
        if config.start == "node":
            start = gelu(
                1 / d
                + p["node_bias"][sequence[0]]
                + position_encoding(config.positions, 0, 1, d)[0]
            )
        signals: list[np.ndarray] = []
        for i in range(len(sequence) - 1):
            u = sequence[i : i + 1]
            if i == 0:
                a = start
            elif config.memory == "chain":
                a = signals[-1]
            elif config.memory == "position":
                g = np.exp(p["position_logits"][:i])
                a = (g[:, None] * signals).sum(0) / g.sum()
            else:
                decay = sigmoid(p["decay_logit"])
                powers = [decay ** (i - j) for j in range(i + 1)]  # r_0 is the oldest signal
                a = sum(w * s for w, s in zip(powers, [start, *signals], strict=True)) / sum(powers)
            encoding = position_encoding(config.positions, i + config.first_position, 1, d)[0]
            answers = []
            for v in range(graph.n_nodes):
                weight, bias = config.edge_kind.between(model, u, np.array([v]))
                answers.append(gelu(a @ weight[0] + bias[0] + encoding))
            logits = energy(np.array(answers))
            far = 0.0
            if graph.ngrams is not None:
                far = p["context_trust"][known_context(graph, sequence[: i + 1])]
            if graph.prior is not None:
                logits = logits + (1 - far) * graph.prior.row(int(u[0]))
            if graph.ngrams is not None:
                logits = logits + far * np.log(graph.ngrams.conditional(sequence[: i + 1]))
            true = sequence[i + 1]
            out.append(np.log(np.exp(logits).sum()) - logits[true])
            bound = np.exp(p["log_bound"][0]) if config.signal_bound else 0.0
            signals.append(turned_down(answers[true], bound))
    return np.reshape(out, (len(tokens), -1))


def turned_down(y: np.ndarray, bound: float) -> np.ndarray:
    return y / np.sqrt(1 + y @ y / bound**2) if bound else y


def known_context(graph: TokenGraph, read: np.ndarray) -> int:
    """How many of the last tokens are a context that something follows in the training text."""
    assert graph.ngrams is not None
    longest = min(len(read), graph.ngrams.order - 1)
    for k in range(longest, 0, -1):
        rank = graph.ngrams.grams(read[-k:])[-1, k - 1]
        if rank >= 0 and graph.ngrams.levels[k].total[rank] > 0:
            return k
    return 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_class_trick_equals_the_softmax_written_out_over_all_nodes(variant: str) -> None:
    model = random_model(VARIANTS[variant])
    tokens = tokens_for(model)
    np.testing.assert_allclose(model.nll(tokens)[0], written_out(model, tokens), atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_candidates_over_all_nodes_are_the_full_softmax(variant: str) -> None:
    model = random_model(VARIANTS[variant])
    tokens = tokens_for(model)
    everyone = np.array([[[v, *np.delete(np.arange(V), v)] for v in row[1:]] for row in tokens])
    full, full_gradients = model.loss_and_gradients(tokens)
    sampled, gradients = model.loss_and_gradients(tokens, everyone)
    assert sampled == pytest.approx(full, abs=1e-13)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, full_gradients[name], atol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_read_in_pieces_is_the_stream_read_at_once(variant: str, backend: str) -> None:
    model = random_model(VARIANTS[variant], backend=backend)
    tokens = tokens_for(model, n=17)
    whole, final = model.nll(tokens)
    pieces, state = [], None
    for first, last in ((0, 1), (1, 6), (6, 13), (13, 17)):
        nll, state = model.nll(tokens[:, first : last + 1], state)
        pieces.append(nll)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-12)
    assert state is not None
    np.testing.assert_allclose(state.incoming, final.incoming, atol=1e-13)
    by_one = None
    for k in range(tokens.shape[1]):
        by_one = model.read(tokens[:, k : k + 1], by_one)
    assert by_one is not None
    np.testing.assert_allclose(by_one.incoming, final.incoming, atol=1e-13)
    assert by_one.position == final.position == 17


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_with_huge_logits_do_not_overflow(dtype: type) -> None:
    """exp(α) leaves float32 at α = 88; the running maximum must keep the mean finite."""
    config = ModelConfig.preset("released", d_node=4, max_positions=40)
    model = random_model(config, dtype=dtype)
    tokens = tokens_for(model, n=20)
    alpha = model.parameters["position_logits"]
    small = model.loss(tokens)
    alpha += 400
    assert model.loss(tokens) == pytest.approx(small, rel=1e-4)
    alpha[:] = np.linspace(-500, 500, len(alpha))  # later signals outweigh earlier ones by e^25
    loss, gradients = model.loss_and_gradients(tokens)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients.values())


def test_a_leaky_memory_stays_stable_over_thousands_of_steps() -> None:
    model = random_model(ModelConfig.preset("mini", d_node=6), dtype=np.float32)
    model.parameters["decay_logit"][:] = np.linspace(-4, 12, 6)
    ids = random_ids(5000, V, np.random.default_rng(1))
    nll, state = model.nll(ids)
    assert np.isfinite(nll).all()
    assert np.isfinite(state.incoming).all()
    assert state.normaliser.max() < 1 / (1 - sigmoid(np.float32(12))) * 1.01


def test_first_loss_of_the_released_model_with_401_candidates_is_6_34() -> None:
    """V = 4000, d = 32, uniform ±0.5: ln 401 plus about half the variance of the energies."""
    n_nodes, n_sources, own = 4000, 12, 500
    rng = np.random.default_rng(0)
    # A dozen sources with 500 private edges each (a full graph of this V would hold 16 million);
    # every true bigram has an edge, as those of a training text do.
    targets = [
        np.append(np.arange(n_sources), rng.permutation(np.arange(n_sources, n_nodes))[: own - 12])
        for _ in range(n_sources)
    ]
    pairs = [np.array([u, v]) for u in range(n_sources) for v in targets[u]]
    graph = TokenGraph.from_ids(pairs, n_nodes, prior=False)
    losses = []
    for seed in range(6):
        config = ModelConfig.preset("released")
        model = BriLLM.create(config, tokenizer_of(n_nodes), graph, seed=seed, backend="numpy")
        tokens = rng.integers(0, n_sources, size=(8, 33))
        candidates = np.empty((8, 32, 401), np.int64)
        for b, i in np.ndindex(8, 32):
            v = tokens[b, i + 1]
            others = targets[tokens[b, i]]
            candidates[b, i] = [v, *rng.permutation(others[others != v])[:400]]
        losses.append(model.loss(tokens, candidates))
    assert np.mean(losses) == pytest.approx(6.34, abs=0.1)


@pytest.mark.parametrize("high", [5, 70_000])
def test_positions_are_grouped_by_source_in_order(high: int) -> None:
    nodes = np.random.default_rng(0).integers(0, high, size=(7, 31))
    groups = list(reference._by_source(nodes))
    np.testing.assert_array_equal([u for u, _ in groups], np.unique(nodes))
    for u, rows in groups:
        np.testing.assert_array_equal(rows, np.flatnonzero(nodes.ravel() == u))
