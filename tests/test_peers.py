"""The GPT and the LSTM are what they say, score every token once, and learn with the same means."""

from __future__ import annotations

import importlib
import time

import numpy as np
import pytest
from conftest import random_ids
from small_trainings import stop_at, train

from minibrillm import rivals
from minibrillm.checks import UserError
from minibrillm.config import TrainConfig
from minibrillm.machine import Interrupted
from minibrillm.presets import MANY_NODES
from minibrillm.scoring import stream_loss, window_loss

torch = pytest.importorskip("torch")
training = importlib.import_module("minibrillm.rivals.training")

V = 11
SIZES = {
    "gpt": rivals.GPTConfig(n_layers=2, n_heads=2, width=8, context=12),
    "lstm": rivals.LSTMConfig(n_layers=2, width=8),
}
PEERS = pytest.mark.parametrize("kind", SIZES)


def peer_of(kind: str, **changes: object) -> rivals.Peer:
    """A small peer whose weights are far from those at the start."""
    size = type(SIZES[kind])(**{**vars(SIZES[kind]), **changes})
    peer = rivals.Recipe(size, {}).build(V)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return peer.double()


def ids_of(n: int, seed: int = 0) -> np.ndarray:
    return random_ids(n, V, np.random.default_rng(seed))


def config_of(**changes: object) -> TrainConfig:
    few = {"steps": 6, "batch_size": 4, "sequence_length": 8, "warmup_steps": 2}
    return TrainConfig(**{**few, **changes})


# The models


@PEERS
def test_probabilities_sum_to_one(kind: str) -> None:
    peer, before = peer_of(kind), ids_of(9)
    tokens = np.array([[*before, v] for v in range(V)])
    nll, _ = peer.nll(tokens)
    assert nll.shape == (V, 9)
    assert np.exp(-nll[:, -1]).sum() == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(nll[:, :-1], nll[:1, :-1].repeat(V, 0), rtol=1e-10)


@PEERS
@pytest.mark.parametrize("place", [0, 1, 5, 11])
def test_no_token_is_seen_before_its_time(kind: str, place: int) -> None:
    peer = peer_of(kind)
    tokens = ids_of(13)[None].repeat(2, 0)
    tokens[1, place] = (tokens[0, place] + 1) % V
    one, other = peer.nll(tokens)[0]
    scored_before = max(place - 1, 0)
    np.testing.assert_allclose(one[:scored_before], other[:scored_before], rtol=1e-12)
    assert (np.abs(one[scored_before:] - other[scored_before:]) > 1e-9).all()


@PEERS
def test_loss_is_the_mean_and_weight_zero_is_ignored(kind: str) -> None:
    peer = peer_of(kind)
    tokens = np.stack([ids_of(9, seed) for seed in range(3)])
    nll, _ = peer.nll(tokens)
    assert peer.loss(tokens).item() == pytest.approx(nll.mean(), rel=1e-12)
    weights = np.ones((3, 8))
    weights[1, 5:] = 0
    assert peer.loss(tokens, weights).item() == pytest.approx(nll[weights > 0].mean(), rel=1e-12)
    tokens[1, 6:] = (tokens[1, 6:] + 1) % V  # what is filled up may be anything
    assert peer.loss(tokens, weights).item() == pytest.approx(nll[weights > 0].mean(), rel=1e-12)


@PEERS
def test_dropout_only_in_training(kind: str) -> None:
    peer, tokens = peer_of(kind, dropout=0.5), ids_of(9)[None]
    with training._dropout_from(0):
        first, second = peer.loss(tokens).item(), peer.loss(tokens).item()
    assert first != second
    assert peer.training
    np.testing.assert_array_equal(peer.nll(tokens)[0], peer.nll(tokens)[0])
    assert peer.training  # as it was


def test_dropout_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with training._dropout_from(3):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


@PEERS
def test_the_seed_makes_the_weights(kind: str) -> None:
    recipe = rivals.Recipe(SIZES[kind], {})
    one, same, other = (recipe.build(V, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding"], other["embedding"])


def test_number_of_parameters() -> None:
    d, layers, context = 8, 2, 12
    block = 12 * d * d + 13 * d  # attention, mlp and their biases, two norms
    assert peer_of("gpt").n_parameters == V * d + context * d + layers * block + 2 * d
    assert peer_of("lstm").n_parameters == V * d + V + layers * (8 * d * d + 8 * d)


def test_a_gpt_sees_its_context_and_no_more() -> None:
    gpt = peer_of("gpt")
    assert gpt.nll(ids_of(13)[None])[0].shape == (1, 12)
    with pytest.raises(UserError, match="sees 12 tokens"):
        gpt.nll(ids_of(14)[None])


# Evaluation


def plain_sliding_loss(gpt: rivals.GPT, ids: np.ndarray) -> tuple[float, int]:
    """Nats of all edges but the first, one by one, and the shortest context of a late one."""
    context, total, shortest = gpt.max_positions, 0.0, 10**9
    starts = [0]  # of the window that scores each edge
    for edge in range(len(ids) - 1):
        if edge >= starts[-1] + context:
            starts.append(min(starts[-1] + context // 2, len(ids) - 1 - context))
        first = starts[-1]
        total += gpt.nll(ids[None, first : edge + 2])[0][0, -1]
        if first:
            shortest = min(shortest, edge - first + 1)
    return total, shortest


@pytest.mark.parametrize("n", [2, 7, 12, 13, 14, 18, 19, 20, 31, 50, 100])
def test_sliding_loss_is_a_plain_loop(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibrillm.rivals.peer._BATCH_POSITIONS", 36)  # three windows at once
    gpt, ids = peer_of("gpt"), ids_of(n)
    total, shortest = plain_sliding_loss(gpt, ids)
    assert rivals.sliding_loss(gpt, ids) == pytest.approx(total / (n - 1), rel=1e-12)
    assert gpt.score(ids) == rivals.sliding_loss(gpt, ids)
    assert shortest > gpt.config.context // 2


class Echo:
    """Stands in for a GPT: the loss of a token is its id."""

    max_positions = 8

    def nll(self, tokens: np.ndarray) -> tuple[np.ndarray, None]:
        assert tokens.shape[1] <= 9
        return tokens[:, 1:].astype(np.float32), None


@pytest.mark.parametrize("lengths", [[2], [9], [10], [40], [1, 2, 30], [8, 9, 10, 11, 12, 13]])
def test_sliding_loss_scores_every_token_once(lengths: list[int]) -> None:
    documents = np.split(np.arange(sum(lengths)) ** 2, np.cumsum(lengths)[:-1])
    scored = np.concatenate([d[1:] for d in documents])
    assert rivals.sliding_loss(Echo(), documents) == pytest.approx(scored.mean(), rel=1e-12)


def test_an_lstm_is_one_stream_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, ids = peer_of("lstm"), ids_of(50)
    whole = lstm.nll(ids[None])[0].mean()
    monkeypatch.setattr("minibrillm.scoring.losses._STREAM_CHUNK", 7)
    assert stream_loss(lstm, ids) == pytest.approx(whole, rel=1e-12)
    windows = [lstm.nll(ids[None, k : k + 8])[0].sum() for k in range(0, 49, 7)]
    assert window_loss(lstm, ids, 7) == pytest.approx(sum(windows) / 49, rel=1e-12)


# Training


@PEERS
def test_the_same_seed_gives_the_same_weights(kind: str) -> None:
    weights = []
    for seed in (0, 0, 1):
        recipe = rivals.Recipe(type(SIZES[kind])(**{**vars(SIZES[kind]), "dropout": 0.2}), {})
        trainer = rivals.PeerTrainer(
            recipe.build(V), ids_of(300), ids_of(40, 1), config_of(seed=seed)
        )
        trainer.train(progress_bar=False)
        weights.append(trainer.model.state_dict())
    one, same, other = weights
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding"], other["embedding"])


@PEERS
def test_it_learns_a_cycle(kind: str) -> None:
    ids = np.arange(400) % 5
    config = config_of(steps=150, learning_rate=0.05, evaluate_every=50)
    peer = rivals.Recipe(SIZES[kind], {}).build(V)
    trainer = rivals.PeerTrainer(peer, ids, ids[:60], config)
    history = trainer.train(progress_bar=False)
    assert [r.step for r in history if not np.isnan(r.heldout_loss)] == [50, 100, 150]
    assert history[-1].tokens == 150 * 4 * 8
    assert history[-1].learning_rate < history[10].learning_rate
    assert history[-1].heldout_loss == pytest.approx(trainer.model.score(ids[:60]), rel=1e-6)
    assert history[-1].heldout_loss < 0.3


def test_the_better_of_average_and_last_weights_is_kept() -> None:
    ids = np.arange(400) % 5
    for decay in (0.0, 0.999999):
        config = config_of(steps=30, learning_rate=0.02, average_decay=decay)
        peer = rivals.Recipe(SIZES["gpt"], {}).build(V)
        trainer = rivals.PeerTrainer(peer, ids, ids[:60], config)
        trainer.train(progress_bar=False)
        kept, last = (m.score(ids[:60]) for m in (trainer.model, trainer.learner))
        assert trainer.model is peer
        assert kept <= last
        assert trainer.history[-1].heldout_loss == kept


def test_short_documents_are_learned_from() -> None:
    documents = [np.array([1, 2, 3]), np.array([4]), ids_of(30)]
    peer = rivals.Recipe(SIZES["lstm"], {}).build(V)
    trainer = rivals.PeerTrainer(peer, documents, documents, config_of())
    assert trainer.train(progress_bar=False)[-1].step == 6
    assert trainer.windows.draw(50, trainer.rng).weights is not None


def test_minutes_end_the_run() -> None:
    peer = rivals.Recipe(SIZES["gpt"], {}).build(V)
    config = config_of(steps=None, minutes=0.005)
    trainer = rivals.PeerTrainer(peer, ids_of(300), ids_of(40, 1), config)
    history = trainer.train(progress_bar=False)
    assert history[-2].seconds < 0.3 <= history[-1].seconds


def test_what_is_measured_on_the_way_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = rivals.Recipe(SIZES["lstm"], {}).build(V)
    config = config_of(steps=None, minutes=0.002, evaluate_every=1)
    trainer = rivals.PeerTrainer(peer, ids_of(300), ids_of(40, 1), config)
    spent, measure = 0.0, trainer.heldout_loss

    def slow() -> float:
        nonlocal spent
        began = time.perf_counter()
        time.sleep(0.05)
        loss = measure()
        spent += time.perf_counter() - began
        return loss

    monkeypatch.setattr(trainer, "heldout_loss", slow)
    began = time.perf_counter()
    history = trainer.train(progress_bar=False)
    assert history[-2].seconds < 0.12 <= history[-1].seconds
    assert spent >= 0.05 * len(history)
    assert history[-1].seconds <= time.perf_counter() - began - spent


def test_training_and_the_global_generator_leave_each_other_alone() -> None:
    losses = []
    for seed in (0, 1):
        peer = rivals.Recipe(rivals.LSTMConfig(width=8, dropout=0.3), {}).build(V)
        trainer = rivals.PeerTrainer(peer, ids_of(300), ids_of(40, 1), config_of())
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append([r.train_loss for r in trainer.train(progress_bar=False)])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


def test_ctrl_c_leaves_the_average_so_far() -> None:
    peer = rivals.Recipe(SIZES["gpt"], {}).build(V)
    trainer = rivals.PeerTrainer(peer, ids_of(300), ids_of(40, 1), config_of())
    with pytest.raises(Interrupted, match="after step 3"):
        train(trainer, stop_at(3))
    for name, array in trainer.averaged.state_dict().items():
        assert torch.equal(peer.state_dict()[name], array)
    assert len(trainer.train(progress_bar=False)) == 6


def test_only_matrices_decay() -> None:
    peer = rivals.Recipe(SIZES["gpt"], {}).build(V)
    trainer = rivals.PeerTrainer(peer, ids_of(300), ids_of(40), config_of(weight_decay=0.3))
    for group in trainer.optimiser.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.3 if p.ndim > 1 else 0)
    assert sum(len(g["params"]) for g in trainer.optimiser.param_groups) == len(trainer.weights)


# Recipes


@pytest.mark.parametrize("n_nodes", [66, MANY_NODES, MANY_NODES + 1, 2048])
def test_recipes_can_be_trained(n_nodes: int) -> None:
    gpts = rivals.gpt_recipes(n_nodes)
    assert len({str(r) for r in gpts}) == len(gpts) >= 4
    for recipe in (*gpts, *rivals.lstm_recipes(n_nodes)):
        config = recipe.train_config(minutes=1.0, seed=7)
        assert (config.minutes, config.seed) == (1.0, 7)
        assert config.sequence_length <= (recipe.build(9).max_positions or 10**9)
        assert recipe.to_json()["learning_rate"] == config.learning_rate
    assert (gpts == rivals.gpt_recipes(66)) == (n_nodes <= MANY_NODES)


# Mistakes


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("gpt", {"n_layers": 0}, "n_layers is 0"),
        ("gpt", {"width": 9}, "width 9 is no multiple of n_heads 2"),
        ("gpt", {"dropout": 1.0}, "dropout is 1.0"),
        ("lstm", {"width": 0}, "width is 0"),
        ("lstm", {"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_impossible_sizes(kind: str, changes: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        type(SIZES[kind])(**{**vars(SIZES[kind]), **changes})


def test_sequences_longer_than_the_context() -> None:
    with pytest.raises(UserError, match="sequence_length is 13, but the model knows only 12"):
        rivals.PeerTrainer(peer_of("gpt"), ids_of(99), ids_of(9), config_of(sequence_length=13))


def test_a_loss_that_is_no_number_ends_training() -> None:
    peer = rivals.Recipe(SIZES["lstm"], {}).build(V)
    with torch.no_grad():
        peer.embedding[3] = float("nan")
    trainer = rivals.PeerTrainer(peer, ids_of(99), ids_of(9), config_of())
    with pytest.raises(UserError, match="became nan at step 1; train with a smaller learning_rate"):
        trainer.train(progress_bar=False)
