"""BriLLM as a user meets it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import VARIANTS, random_model

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM

TEXT = "the cat sat on the mat. 妈妈爱猫，猫爱妈妈。" * 5


@pytest.mark.parametrize("preset", ["paper", "released", "mini"])
@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_from_text(preset: str, tokenizer: str) -> None:
    model = BriLLM.from_text(TEXT, preset, tokenizer=tokenizer, backend="numpy", d_node=4)
    ids = model.tokenizer.encode(TEXT)
    loss, gradients = model.loss_and_gradients(ids[:40])
    assert loss == pytest.approx(model.loss(ids[:40]))
    assert {n: g.shape for n, g in gradients.items()} == {
        n: a.shape for n, a in model.parameters.items()
    }
    assert model.n_parameters == model.config.n_parameters(model.graph.n_nodes, model.graph.n_edges)
    assert model.energies(ids[:6]).shape == (6, model.graph.n_nodes)
    assert model.energies(ids[None, :6]).shape == (1, 6, model.graph.n_nodes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stream_answers_as_the_whole_text_does(variant: str) -> None:
    """softmax(next_logits) after each token gives the loss of the text."""
    model = random_model(VARIANTS[variant])
    ids = np.array([0, 3, 3, 8, 1, 0, 2, 5])
    nll = model.nll(ids)[0][0]
    state = model.read(ids[:1])
    for k, true in enumerate(ids[1:]):
        logits = model.next_logits(state)
        assert np.log(np.exp(logits).sum()) - logits[true] == pytest.approx(nll[k], abs=1e-12)
        np.testing.assert_allclose(
            logits, model.energies(ids)[k] + model.prior(ids[: k + 1])[k], atol=1e-12
        )
        state = model.read(np.array([true]), state)


def test_the_state_has_the_same_size_however_long_the_past() -> None:
    model = random_model(ModelConfig.preset("mini", d_node=4))
    short = model.read(np.array([1, 2]))
    long = model.read(np.tile([1, 2, 3], 500), short)
    assert long.position == short.position + 1500
    assert [np.shape(x) for x in short] == [np.shape(x) for x in long]


def test_bad_tokens_are_refused() -> None:
    model = random_model(ModelConfig.preset("released", d_node=4, max_positions=8))
    cases = [
        (np.array([1]), "T >= 2"),
        (np.array([[]]), "T >= 2"),
        (np.array([0.5, 1]), "must be integers"),
        (np.array([0, 9]), "0 … 8; got 0 … 9"),
        (np.array([0, -1]), "got -1 … 0"),
        (np.zeros(10, int), "knows 8 positions"),
    ]
    for tokens, message in cases:
        with pytest.raises(UserError, match=message):
            model.loss(tokens)
    with pytest.raises(UserError, match="no backend 'cuda'; choose one of numba, numpy"):
        random_model(ModelConfig.preset("mini", d_node=3), backend="cuda")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_bad_candidates_and_states_are_refused(backend: str) -> None:
    """The kernels trust what they get: a wrong index must not reach them."""
    model = random_model(ModelConfig.preset("mini", d_node=4, min_count=2), backend=backend)
    tokens = np.array([[0, 3, 1], [2, 2, 5]])
    good = np.concatenate([tokens[:, 1:, None], np.zeros((2, 2, 3), np.int64)], axis=2)
    cases = [
        (good.transpose(2, 1, 0), "must have shape"),
        (good[:, :, :0], "must have shape"),
        (good * 1.0, "must be integers"),
        (good + 10**7, "must lie in 0 … 8"),
        (good - 9, "must lie in 0 … 8"),
        (good[:, :, ::-1], "first candidate"),
    ]
    for candidates, message in cases:
        with pytest.raises(UserError, match=message):
            model.loss_and_gradients(tokens, candidates)
        with pytest.raises(UserError, match=message):
            model.nll(tokens, candidates=candidates)
    one = model.read(np.array([4, 0]))
    with pytest.raises(UserError, match="holds 1 stream"):
        model.nll(tokens, one)
    with pytest.raises(UserError, match="prepend the last token"):
        model.nll(np.array([3, 1]), one)


def test_config_and_graph_must_agree_on_the_prior() -> None:
    model = random_model(ModelConfig.preset("released", d_node=4, max_positions=9))
    config = model.config.replace(prior="hebbian")
    with pytest.raises(UserError, match=r"'hebbian' .* but the graph has no prior"):
        BriLLM(config, model.tokenizer, model.graph, model.parameters)
