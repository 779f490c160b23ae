"""A third kind of memory, written here and nowhere else: trained, derived, read on, compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import check_gradients, random_ids, random_model
from small_trainings import LEARN, loose, tiny, train

from minibrillm.checks import Settings, UserError
from minibrillm.config import ModelConfig
from minibrillm.functional import sigmoid
from minibrillm.memory import MEMORIES, Memory, Named, Rates, Schedule, State, Sums
from minibrillm.model import BriLLM
from minibrillm.runs import load

Array = np.ndarray


class Fading(Memory, name="fading"):
    """A leaky mean that keeps more and more, or less and less: λ_i = sigmoid(ρ + τ i), the same for
    all numbers; a signal weighs exp(γ) where r_0 weighs 1."""

    remembers_start = True

    def first_values(self, config: Settings) -> Named:
        return {"fade": np.ones(1), "drift": np.zeros(1), "log_gain": np.zeros(1)}  # ρ, τ, γ

    def rates(self, parameters: Named, n: int, state: State) -> Rates:
        gain = np.repeat(np.exp(parameters["log_gain"]), n)
        place = np.arange(state.position, state.position + n)[:, None]  # (n, 1)
        return sigmoid(parameters["fade"] + parameters["drift"] * place), gain, state.log_scale

    def rates_backward(self, parameters: Named, schedule: Schedule, d_rates: Sums) -> Named:
        d_keep, by_way_of_z, d_gain = d_rates
        keep, dtype = schedule.keep, d_gain.dtype
        d_logit = ((d_keep + by_way_of_z) * keep * (1 - keep)).sum(axis=1)  # (n,)
        place = np.arange(schedule.first, schedule.first + len(keep))
        return {
            "fade": d_logit.sum(keepdims=True),
            "drift": (d_logit * place).sum(keepdims=True).astype(dtype),
            "log_gain": (d_gain * schedule.gain).sum(keepdims=True),
        }


FADING = MEMORIES.pop("fading")  # no other test shall meet it


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEMORIES, "fading", FADING)


CONFIG = ModelConfig.preset("mini", d_node=6, min_count=2).to_json()


def model_of(backend: str = "numpy", **changes: object) -> BriLLM:
    config = ModelConfig.from_json({**CONFIG, "memory": "fading", **changes})
    return random_model(config, backend=backend)


def tokens_of(n_streams: int = 3, n: int = 7) -> Array:
    return random_ids(n_streams * (n + 1), 9, np.random.default_rng(5)).reshape(n_streams, n + 1)


@pytest.mark.parametrize("start", ["node", "ones"])
def test_gradients_are_those_of_central_differences(start: str) -> None:
    model = model_of(start=start)
    assert {"fade", "drift", "log_gain"} <= model.parameters.keys()
    check_gradients(model, tokens_of())


def test_the_memory_is_the_mean_that_it_says() -> None:
    model, tokens = model_of(), tokens_of()
    path = model.path(tokens)
    n, gain = tokens.shape[1] - 1, np.exp(model.parameters["log_gain"])
    keep = sigmoid(model.parameters["fade"] + model.parameters["drift"] * np.arange(n))
    for i in range(n):
        signals = np.concatenate([path.incoming[:, :1], path.signal[:, :i]], axis=1)  # r_0 first
        weights = np.array([np.prod(keep[j:i]) for j in range(i + 1)])
        weights *= np.where(np.arange(i + 1) > 0, gain, 1)
        mean = np.einsum("j,bjd->bd", weights / weights.sum(), signals)
        np.testing.assert_allclose(path.incoming[:, i], mean, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_stream_read_in_pieces_is_the_stream_read_at_once(backend: str) -> None:
    model, tokens = model_of(backend), tokens_of(n=17)
    whole, final = model.nll(tokens)
    first, state = model.nll(tokens[:, :6])
    rest, state = model.nll(tokens[:, 5:], state)
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, atol=1e-12)
    np.testing.assert_allclose(state.incoming, final.incoming, atol=1e-13)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_it_learns_writes_and_comes_back(tmp_path: Path, backend: str) -> None:
    trainer = loose(tiny(memory="fading", prior="none", backend=backend), **LEARN)
    before = {name: trainer.model.parameters[name].copy() for name in ("fade", "drift", "log_gain")}
    history = train(trainer)
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    for name, array in before.items():
        assert np.abs(trainer.model.parameters[name] - array).max() > 0.001, name
    text = trainer.model.generate("我", 30, seed=0)
    assert text.startswith("我")
    assert len(text) == 31
    trainer.model.save(tmp_path)
    assert load(tmp_path, backend).generate("我", 30, seed=0) == text


def test_kernels_compute_the_same() -> None:
    textbook, compiled, tokens = model_of(), model_of("numba"), tokens_of()
    assert compiled.operations is not textbook.operations
    np.testing.assert_allclose(compiled.nll(tokens)[0], textbook.nll(tokens)[0], rtol=1e-10)
    np.testing.assert_allclose(compiled.energies(tokens), textbook.energies(tokens), rtol=1e-10)
    found, expected = (m.loss_and_gradients(tokens)[1] for m in (compiled, textbook))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = np.abs(gradient).max()
        assert scale > 0, name
        assert np.abs(found[name] - gradient).max() < 1e-10 * scale, name


def test_where_it_is_not_written_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MEMORIES, "fading")
    with pytest.raises(UserError, match="memory is 'fading'; choose one of chain, position, leaky"):
        ModelConfig(memory="fading")
