"""Where the best possible loss is known, the model comes close to it, also where no bigram can."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import loss_by_order
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.scoring import window_loss
from minibrillm.text import AGREEMENT, Grammar, MarkovChain, VocabularyTokenizer
from minibrillm.training import Trainer


def learned(
    symbols: list[str], train: np.ndarray, heldout: np.ndarray, prior: str = "hebbian"
) -> float:
    """Held-out loss, in nats per symbol, of a small model after a second of training."""
    tokenizer = VocabularyTokenizer(symbols)
    config = ModelConfig(d_node=16, min_count=1, prior=prior)
    graph = TokenGraph.from_ids(train, tokenizer.n_nodes, prior=prior == "hebbian")
    training = TrainConfig(
        steps=400,
        batch_size=32,
        sequence_length=48,
        weight_decay=0.05,
        average_decay=0.98,
        evaluate_every=0,
        checkpoint_every=0,
    )
    trainer = Trainer(BriLLM.create(config, tokenizer, graph), train, heldout, training)
    trainer.train(progress_bar=False)
    return window_loss(trainer.model, heldout)


def texts(chain: MarkovChain, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([chain.alphabet.index(c) for c in chain.sample(400_000, rng)])
    return ids[:250_000], ids[250_000:]


@pytest.mark.parametrize("prior", ["hebbian", "none"])
def test_order_1_within_2_percent(prior: str) -> None:
    rng = np.random.default_rng(1)
    chain = MarkovChain.random(8, 1, rng)
    loss = learned(list(chain.alphabet), *texts(chain, rng), prior)
    assert loss == pytest.approx(chain.entropy(), rel=0.02)


def test_order_2_within_5_percent_where_a_bigram_cannot() -> None:
    rng = np.random.default_rng(2)
    chain = MarkovChain.random(8, 2, rng)
    train, heldout = texts(chain, rng)
    assert learned(list(chain.alphabet), train, heldout) == pytest.approx(chain.entropy(), rel=0.05)
    bigram = loss_by_order(train, heldout, 8, 2)[2]
    assert bigram == pytest.approx(chain.entropy(1), rel=0.01)
    assert bigram > 1.3 * chain.entropy()


def test_a_walk_on_a_graph_within_2_percent() -> None:
    """The model finds the edges of the graph that the walk was on: 20 nodes, 3 edges from each."""
    rng = np.random.default_rng(3)
    graph = networkx.random_k_out_graph(20, 3, alpha=1e9, self_loops=False, seed=4)
    weights = np.minimum(networkx.to_numpy_array(graph), 1)
    chain = MarkovChain.walk(weights)
    loss = learned(list(chain.alphabet), *texts(chain, rng))
    assert loss == pytest.approx(chain.entropy(), rel=0.02)


def test_agreement_over_any_distance_within_1_percent_where_a_7_gram_cannot() -> None:
    grammar, rng = Grammar(AGREEMENT), np.random.default_rng(0)
    words = grammar.words
    train, heldout = (
        np.array([words.index(w) for s in grammar.sample(n, rng) for w in s])
        for n in (40_000, 20_000)
    )
    loss = learned(words, train, heldout)
    assert loss == pytest.approx(grammar.entropy, rel=0.01)
    assert min(loss_by_order(train, heldout, len(words)).values()) > 1.02 * grammar.entropy
