"""The PyTorch twins are the same model: same losses, gradients, steps and logits as ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import VARIANTS, random_ids, random_model

from minibrillm import rivals
from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.edges import EDGES
from minibrillm.memory import MEMORIES
from minibrillm.model import BriLLM
from minibrillm.optim import AdamW, learning_rate

torch = pytest.importorskip("torch")

MODELS = {name: config for name, config in VARIANTS.items() if config.prior != "ngrams"} | {
    "paper, three part": ModelConfig.preset("paper", d_node=5, edges="three_part", min_count=2),
    "mini, no prior": ModelConfig.preset(
        "mini", d_node=4, prior="none", start="ones", positions="released", min_count=2
    ),
}
LAYOUTS = pytest.mark.parametrize("layout", rivals.LAYOUTS)


@pytest.fixture
def parts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies go the way of large ones: nothing composed, a few positions a piece."""
    monkeypatch.setattr("minibrillm.rivals.twin._PARTS_ABOVE", -1)
    monkeypatch.setattr("minibrillm.rivals.grouped._PIECE", 1000)


def model_of(variant: str, dtype: type = np.float64) -> BriLLM:
    return random_model(MODELS[variant], dtype=dtype, n_nodes=23, n_ids=300)


def batch_of(model: BriLLM, length: int = 31, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, some of them never seen, and candidates."""
    rng, v = np.random.default_rng(seed), model.graph.n_nodes
    tokens = random_ids(6 * length, v, rng).reshape(6, length)
    tokens[0, length // 2] = tokens[2, -1] = v - 1
    others = rng.integers(0, v, size=(6, length - 1, 8))
    return tokens, np.concatenate([tokens[:, 1:, None], others], axis=2)


def check_against_reference(
    model: BriLLM, layout: str, tokens: np.ndarray, candidates: np.ndarray | None
) -> None:
    twin = rivals.Twin(model, layout)
    loss = twin(tokens, candidates)
    loss.backward()
    expected, gradients = model.loss_and_gradients(tokens, candidates)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert dict(twin.named_parameters()).keys() == gradients.keys()
    for name, parameter in twin.named_parameters():
        scale = np.abs(gradients[name]).max()
        found = np.zeros_like(gradients[name]) if parameter.grad is None else parameter.grad.numpy()
        assert np.abs(found - gradients[name]).max() <= 1e-9 * scale, name


# The same model


def test_a_prior_of_ngrams_is_refused() -> None:
    with pytest.raises(UserError, match="take the preset 'mini'"):
        rivals.Twin(random_model(VARIANTS["mini, 4-grams"]))


@pytest.mark.parametrize(("setting", "kinds"), [("memory", MEMORIES), ("edges", EDGES)])
def test_other_kinds_of_memory_and_edges_are_refused(
    setting: str, kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("mini")
    monkeypatch.setitem(kinds, "other", kinds[getattr(model.config, setting)])
    model.config = model.config.replace(**{setting: "other"})
    with pytest.raises(UserError, match=f"a twin does not know {setting} 'other': "):
        rivals.Twin(model)


@pytest.mark.parametrize("with_candidates", [False, True], ids=["full", "candidates"])
@LAYOUTS
@pytest.mark.parametrize("variant", MODELS)
def test_loss_and_gradients(variant: str, layout: str, with_candidates: bool) -> None:
    model = model_of(variant)
    tokens, candidates = batch_of(model)
    check_against_reference(model, layout, tokens, candidates if with_candidates else None)


@pytest.mark.usefixtures("parts_apart")
@pytest.mark.parametrize("with_candidates", [False, True], ids=["full", "candidates"])
@LAYOUTS
@pytest.mark.parametrize("variant", [v for v in MODELS if MODELS[v].edges == "three_part"])
def test_loss_and_gradients_with_parts_apart(
    variant: str, layout: str, with_candidates: bool
) -> None:
    model = model_of(variant)
    assert not rivals.Twin(model).composes
    tokens, candidates = batch_of(model)
    check_against_reference(model, layout, tokens, candidates if with_candidates else None)


@LAYOUTS
@pytest.mark.parametrize("variant", MODELS)
def test_a_single_edge(variant: str, layout: str) -> None:
    model = model_of(variant)
    check_against_reference(model, layout, batch_of(model, length=2)[0], None)


@LAYOUTS
@pytest.mark.parametrize("variant", ["paper", "released", "mini"])
def test_single_precision_and_tensors(variant: str, layout: str) -> None:
    model = model_of(variant, np.float32)
    tokens, candidates = batch_of(model)
    twin = rivals.Twin(model, layout)
    assert twin(torch.from_numpy(tokens)).item() == pytest.approx(model.loss(tokens), rel=1e-4)
    loss = twin(torch.from_numpy(tokens), torch.from_numpy(candidates)).item()
    assert loss == pytest.approx(model.loss(tokens, candidates), rel=1e-4)


@LAYOUTS
def test_gradient_at_energy_zero_is_zero(layout: str) -> None:
    model = model_of("mini")
    for array in model.parameters.values():
        array[:] = 0
    check_against_reference(model, layout, batch_of(model)[0], None)


@LAYOUTS
def test_weights_of_positions_may_differ_widely(layout: str) -> None:
    model = model_of("released")
    model.parameters["position_logits"][:5] -= 1000
    model.parameters["position_logits"][5:] += 1000
    check_against_reference(model, layout, batch_of(model)[0], None)


def test_a_twin_has_its_own_weights() -> None:
    model = model_of("mini")
    twin = rivals.Twin(model)
    before = model.parameters["node_bias"].copy()
    with torch.no_grad():
        twin.node_bias.zero_()
    np.testing.assert_array_equal(model.parameters["node_bias"], before)


@LAYOUTS
def test_compiled(layout: str) -> None:
    model = model_of("mini", np.float32)
    tokens, _ = batch_of(model)
    try:
        twin = rivals.Twin(model, layout, compiled=True)
    except UserError as error:
        pytest.skip(str(error))
    plain = rivals.Twin(model, layout)
    losses = [each(tokens) for each in (twin, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(twin.get_parameter(name).grad, parameter.grad, msg=name)


# The same steps


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("paper", {"weight_decay": 0.5, "clip_norm": 0.05}),  # whose shared edge is frozen
        ("released", {"clip_norm": 0.2, "average_decay": 0.9}),
        ("mini", {"clip_norm": 0.1}),
        ("mini, by position", {"average_decay": 0.0}),
    ],
)
def test_steps_of_training(variant: str, changes: dict[str, float]) -> None:
    config = TrainConfig.preset(variant.split(",")[0], steps=3, warmup_steps=2, **changes)
    model = model_of(variant)
    trainer = rivals.TwinTrainer(rivals.Twin(model), config)
    ours = AdamW(model, config)
    for step in range(3):
        tokens, candidates = batch_of(model, seed=step)
        chosen = candidates if variant == "released" else None
        rate = learning_rate(config, step, step / 3)
        loss, gradients = model.loss_and_gradients(tokens, chosen)
        ours.update(gradients, step + 1, rate)
        assert trainer.step(tokens, rate, chosen) == pytest.approx(loss, rel=1e-5)
    for name, array in model.parameters.items():
        found = (trainer.twin.get_parameter(name).detach(), trainer.average[name])
        for theirs, mine in zip(found, (array, ours.average[name]), strict=True):
            np.testing.assert_allclose(theirs.numpy(), mine, atol=1e-5, err_msg=name)


# The same logits


@pytest.mark.parametrize("n_read", [1, 4])
@pytest.mark.parametrize("variant", MODELS)
def test_decoder(variant: str, n_read: int) -> None:
    model = model_of(variant, np.float32)
    tokens = batch_of(model)[0][0, :24]
    decoder = rivals.PerStepDecoder(model)
    for _ in range(2):  # read begins anew
        logits = decoder.read(tokens[:n_read])
        for n in range(n_read, len(tokens) + 1):
            expected = model.next_logits(model.read(tokens[:n]))
            np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)
            if n < len(tokens):
                logits = decoder.step(int(tokens[n]))


# Mistakes


def test_unknown_layout() -> None:
    with pytest.raises(UserError, match="sideways"):
        rivals.Twin(model_of("mini"), "sideways")


def test_more_positions_than_the_model_knows() -> None:
    model = model_of("released")  # which knows 40
    with pytest.raises(UserError, match="40"):
        rivals.Twin(model)(batch_of(model, length=42)[0])
    decoder = rivals.PerStepDecoder(model)
    decoder.read(batch_of(model, length=41)[0][0])
    with pytest.raises(UserError, match="40"):
        decoder.step(0)


def test_torch_compile_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    with pytest.raises(UserError, match=r"No working C\+\+ compiler found\); install"):
        rivals.Twin(model_of("mini"), compiled=True)


# The face


def test_the_room_has_the_names_that_it_lists() -> None:
    for name in rivals.__all__:
        assert getattr(rivals, name) is not None
    assert sorted(rivals.__all__) == sorted(n for names in rivals._FILES.values() for n in names)
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        rivals.Transformer  # noqa: B018
