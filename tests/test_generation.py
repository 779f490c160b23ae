"""From logits to text: the distribution is the one asked for, and streams stay whole."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import without_bound
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibrillm.checks import UserError
from minibrillm.config import TrainConfig
from minibrillm.generation import Sampling, generate, probabilities
from minibrillm.memory import State
from minibrillm.model import BriLLM
from minibrillm.text import until
from minibrillm.training import Trainer

FEW: dict[str, Any] = {"d_node": 4, "min_count": 1, "backend": "numpy"}
TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 6
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
TOKENIZERS = pytest.mark.parametrize("tokenizer", ["characters", "bpe"])

unhurried = settings(deadline=None)
LOGITS = st.lists(st.floats(-30, 30), min_size=1, max_size=12)


def tiny(preset: str = "mini", text: str = TEXT, **changes: Any) -> BriLLM:
    return BriLLM.from_text(text, preset, **{**FEW, **changes})


@functools.cache
def mother() -> BriLLM:
    """A model that has learned one sentence in which a character follows itself."""
    text = "我爱妈妈。" * 40
    model = tiny(text=text, d_node=8)
    ids = model.tokenizer.encode(text)
    few = TrainConfig(steps=60, batch_size=8, sequence_length=10, warmup_steps=5, average_decay=0.5)
    trainer = Trainer(model, ids, ids[:50], few)
    trainer.train(progress_bar=False)
    return trainer.model


# the distribution


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / math.fsum(weights) for w in weights]


@unhurried
@given(LOGITS, st.floats(0.05, 5), st.integers(0, 14), st.floats(0.01, 1))
def test_distribution_against_plain_python(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    p = softmax([x / temperature for x in logits])
    ranked = sorted(range(len(p)), key=lambda v: -(logits[v] - max(logits)) / temperature)
    ranked = ranked[: top_k or None]
    whole = math.fsum(p[v] for v in ranked)
    sums = list(itertools.accumulate(p[v] / whole for v in ranked))
    assume(all(abs(s - top_p) > 1e-9 for s in sums[:-1]))
    kept = ranked[: 1 + sum(s < top_p for s in sums[:-1])]
    expected = np.zeros(len(p))
    expected[kept] = [p[v] / math.fsum(p[u] for u in kept) for v in kept]
    got = probabilities(np.array(logits), Sampling(temperature, top_k, top_p))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert got.sum() == pytest.approx(1, abs=1e-12)
    assert set(np.flatnonzero(got)) <= set(kept)


def test_temperature_divides_the_logits() -> None:
    logits = np.array([1.0, 0.25, -2.0])
    for temperature in (0.5, 1.0, 3.0):
        p = probabilities(logits, Sampling(temperature))
        assert math.log(p[0] / p[1]) == pytest.approx(0.75 / temperature)
        assert math.log(p[0] / p[2]) == pytest.approx(3.0 / temperature)


def test_greedy_is_the_loudest_and_the_first_of_equals() -> None:
    p = probabilities(np.array([1.0, 3.0, 3.0, 2.0]), Sampling(0.0))
    assert p.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-320])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        p = probabilities(np.array([1.0, 3.0, 2.0, -np.inf]), Sampling(temperature))
    assert p.tolist() == [0, 1, 0, 0]


def test_a_huge_temperature_is_uniform_over_what_is_allowed() -> None:
    p = probabilities(np.array([1.0, 3.0, -np.inf]), Sampling(1e9))
    np.testing.assert_allclose(p, [0.5, 0.5, 0], atol=1e-8)


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, [1]), (2, [0, 1]), (3, [0, 1, 3]), (4, [0, 1, 3]), (99, [0, 1, 3])]
)
def test_top_k(top_k: int, kept: list[int]) -> None:
    """Of equals the first ids stay; what is banned never comes back."""
    p = probabilities(np.array([0.5, 2.0, -np.inf, 0.5]), Sampling(top_k=top_k))
    assert np.flatnonzero(p).tolist() == kept


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.001, 1), (0.25, 1), (0.2500001, 2), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4), (1.0, 4)],
)
def test_top_p_among_equals(top_p: float, kept: int) -> None:
    """Four times a quarter, which binary fractions hold exactly."""
    p = probabilities(np.zeros(4), Sampling(top_p=top_p))
    assert p.tolist() == [1 / kept] * kept + [0] * (4 - kept)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.59, [2]), (0.61, [0, 2]), (0.89, [0, 2]), (0.91, [0, 1, 2])]
)
def test_top_p_keeps_the_fewest_that_hold_enough(top_p: float, kept: list[int]) -> None:
    p = probabilities(np.log([0.3, 0.1, 0.6]), Sampling(top_p=top_p))
    assert np.flatnonzero(p).tolist() == kept


def test_top_p_comes_after_temperature_and_top_k() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    # Of the two likeliest the first holds 4/7 = 0.571; at temperature 0.5 it holds 16/25 = 0.64.
    assert np.count_nonzero(probabilities(logits, Sampling(1.0, 2, 0.6))) == 2
    assert np.count_nonzero(probabilities(logits, Sampling(0.5, 2, 0.6))) == 1
    assert np.count_nonzero(probabilities(logits, Sampling(1.0, 2, 0.55))) == 1


def test_logits_are_left_alone() -> None:
    logits = np.array([1.0, 2.0])
    probabilities(logits, Sampling(0.5, 1, 0.5))
    assert logits.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("temperature", x) for x in (-0.1, math.nan, math.inf)),
        ("top_k", -1),
        *(("top_p", x) for x in (0.0, -0.5, 1.01, math.nan)),
    ],
)
def test_impossible_sampling(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^Sampling\.{setting} is {value}; expected"):
        Sampling(**{setting: value})
    with pytest.raises(UserError, match=setting):
        tiny().generate("我", 3, **{setting: value})


# the loop


class Script:
    """A reader that answers with a fixed text, whatever it reads, and keeps what it has read."""

    def __init__(self, answers: list[int], max_positions: int | None = None) -> None:
        self.answers = answers
        self.max_positions = max_positions
        self.seen: list[list[int]] = []

    def read(self, tokens: np.ndarray, state: State | None = None) -> State:
        self.seen.append(tokens.tolist())
        position = len(tokens) - 1 if state is None else state.position + len(tokens)
        nothing = np.zeros((1, 1))
        return State(tokens[-1:], nothing, nothing, nothing[0], 0.0, position)

    def next_logits(self, state: State) -> np.ndarray:
        logits = np.zeros(6)
        logits[self.answers[len(self.seen) - 1]] = 100.0
        return logits


def answers(reader: Script, n_tokens: int, **settings: Any) -> list[int]:
    rng = np.random.default_rng(0)
    return list(generate(reader, np.array([5, 4]), n_tokens, Sampling(), rng, **settings))


def test_every_token_is_read_once() -> None:
    reader = Script([1, 1, 0, 3, 2])
    assert answers(reader, 4) == [1, 1, 0, 3]
    assert reader.seen[:4] == [[5, 4], [1], [1], [0]]


def test_no_tokens_wanted() -> None:
    assert answers(Script([1]), 0) == []


def test_a_banned_token_is_never_drawn() -> None:
    assert 2 not in answers(Script([2] * 200), 200, banned=(2,))


@BACKENDS
def test_a_signal_without_bound_ends_the_text_and_says_so(backend: str) -> None:
    model = without_bound(tiny(backend=backend))
    text: list[str] = []
    with warnings.catch_warnings(), pytest.raises(UserError, match=r"after (\d+) tokens") as told:
        warnings.simplefilter("error")
        for piece in model.stream("我", 2000, seed=0):
            text.append(piece)
    assert f"after {1 + len(text)} tokens" in str(told.value)
    assert len(text) > 5


def test_positions_run_out() -> None:
    # Two tokens of prompt cross one edge; an answer is the end of one more.
    reader = Script([1] * 20, max_positions=5)
    found = answers(reader, 20)
    assert found == [1] * len(found)
    assert 1 + len(found) in (5, 6)  # the last answer needs no edge behind it
    assert sum(map(len, reader.seen)) - 1 <= 5


# a model


@BACKENDS
@TOKENIZERS
def test_the_same_seed_gives_the_same_text(backend: str, tokenizer: str) -> None:
    model = tiny(backend=backend, tokenizer=tokenizer, n_nodes=280)
    texts = [model.generate("我", 40, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("我")


def test_without_a_seed_texts_differ() -> None:
    model = tiny()
    assert len({model.generate("我", 40, temperature=2.0) for _ in range(3)}) > 1


@TOKENIZERS
@pytest.mark.parametrize("prompt", ["", "我", "龘 the"])
def test_streamed_pieces_are_the_generated_text(tokenizer: str, prompt: str) -> None:
    model = tiny(tokenizer=tokenizer, n_nodes=280)
    pieces = list(model.stream(prompt, 60, temperature=1.5, top_p=0.95, seed=4))
    assert len(pieces) > 5
    assert all(pieces)
    assert prompt + "".join(pieces) == model.generate(
        prompt, 60, temperature=1.5, top_p=0.95, seed=4
    )


def test_bytes_are_streamed_as_whole_characters() -> None:
    """Every token is one byte of a character of three; the likeliest bytes repeat one of them."""
    model = tiny(text="妈妈妈爱" * 30, tokenizer="bpe", n_nodes=256, initial_range=0.0)
    assert model.graph.n_nodes == 256
    for n_tokens in (9, 10, 11):
        pieces = list(model.stream("妈", n_tokens, temperature=0))
        # A character that the end cuts off is marked as such.
        assert pieces == ["妈"] * 3 + ["\ufffd"] * (n_tokens > 9)


def test_a_character_may_follow_itself() -> None:
    text = mother().generate("我爱", 13, temperature=0)
    assert text == "我爱妈妈。我爱妈妈。我爱妈妈。"


def test_sampling_finds_the_self_loop_too() -> None:
    assert "妈妈" in mother().generate("我", 20, temperature=0.5, seed=0)


def test_a_stop_text() -> None:
    assert mother().generate("我爱", 50, temperature=0, stop="。") == "我爱妈妈"
    assert mother().generate("我爱", 50, temperature=0, stop="。我") == "我爱妈妈"
    assert mother().generate("我爱", 9, temperature=0, stop="。我。") == "我爱妈妈。我爱妈妈。我"


PIECES = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=12)


@unhurried
@given(PIECES, st.text("ab.", min_size=1, max_size=9))
def test_a_text_ends_before_the_stop_text_wherever_it_lies(pieces: list[str], stop: str) -> None:
    text = "".join(pieces)
    asked: list[str] = []
    written = ""
    for piece in until((asked.append(p) or p for p in pieces), stop):  # type: ignore[func-returns-value]
        assert piece
        written += piece
        assert text.startswith(written)
        assert stop not in written
        held = "".join(asked).removeprefix(written)
        assert len(held) < len(stop) or stop in "".join(asked)  # only what may be its beginning
    assert written == text.partition(stop)[0]
    assert stop not in "".join(asked[:-1])  # nothing is asked for once it is there


QUOTES = 'He said "no." She said "yes." They said "go.".\nWho?\n爱妈妈。\n' * 9


@TOKENIZERS
@pytest.mark.parametrize("length", [1, 2, 3, 20])
def test_a_stop_text_may_lie_inside_tokens_or_across_them(tokenizer: str, length: int) -> None:
    model = tiny(text=QUOTES, tokenizer=tokenizer, n_nodes=300)
    how: dict[str, Any] = {"temperature": 0.3, "seed": 1}
    whole = "".join(model.stream("He", 60, **how))
    for begin in range(0, len(whole) - length, 7):
        stop = whole[begin : begin + length]
        if "\ufffd" not in stop:
            assert "".join(model.stream("He", 60, stop=stop, **how)) == whole.partition(stop)[0]


@TOKENIZERS
def test_no_text_begins_with_what_holds_the_stop_text(tokenizer: str) -> None:
    model = tiny(text=QUOTES, tokenizer=tokenizer, n_nodes=300)
    for stop in ("a", " ", "."):
        assert all(model.generate("", 1, stop=stop, seed=seed) for seed in range(60))


@pytest.mark.parametrize("stop", ["", "龘", "。龘", 5, "\ud800"])
def test_a_stop_text_that_cannot_be(stop: Any) -> None:
    with pytest.raises(UserError, match=r"stop is empty|stop .* never comes|a string|lone"):
        mother().generate("我", 5, stop=stop)


def test_an_empty_prompt_starts_as_the_text_is_made() -> None:
    model = tiny(text="aaaaaabbbc" * 20)
    n = 600
    first = Counter(model.generate("", 1, seed=seed) for seed in range(n))
    assert set(first) == {"a", "b", "c"}
    for letter, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        assert first[letter] / n == pytest.approx(share, abs=4 * math.sqrt(share / n))


@pytest.mark.parametrize("n_tokens", [1, 2, 30])
def test_the_number_of_tokens(n_tokens: int) -> None:
    assert len(tiny().generate("", n_tokens, seed=0)) == n_tokens
    assert len(tiny().generate("我爱", n_tokens, seed=0)) == 2 + n_tokens


def test_characters_that_are_not_known_can_be_read() -> None:
    with pytest.warns(UserWarning, match="the vocabulary lacks '䶮' '龘': read as unknown"):
        text = tiny().generate("龘䶮the", 10, seed=0)
    assert text.startswith("龘䶮the")
    assert len(text) == 15
    assert "\ufffd" not in text


@pytest.mark.parametrize("temperature", [0, 1.0, 50.0])
@pytest.mark.parametrize("prompt", ["", "a", "z"])
def test_the_unknown_token_is_never_written(prompt: str, temperature: float) -> None:
    """Most of the training text is unknown to this model, so <unk> answers loudest."""
    text = "a" + "".join(f"x{c}" for c in "bcdefghijklmnopq") * 4 + "a" * 40
    model = tiny(text=text, n_nodes=3)
    assert model.graph.node_counts[0] > 60
    for seed in range(5):
        made = model.generate(prompt, 60, temperature=temperature, seed=seed)
        assert set(made) <= {"a", "x", *prompt}
        assert len(made) == 60 + len(prompt)


@BACKENDS
def test_the_released_model_ends_where_its_positions_do(backend: str) -> None:
    model = tiny("released", max_positions=10, backend=backend)
    text = model.generate("我爱", 100, seed=0)
    assert len(text) - 1 in (10, 11)
    model.nll(model.tokenizer.encode(text)[:11])
    assert len(model.generate("我爱", 4, seed=0)) == 6
    with pytest.raises(UserError, match="knows 10 positions"):
        model.generate("the cat sat on", 4, seed=0)


@pytest.mark.parametrize("preset", ["mini", "paper"])
def test_the_others_do_not_end(preset: str) -> None:
    model = tiny(preset, max_positions=10)
    assert len(model.generate("我爱", 700, seed=0)) == 702


def test_one_step_at_a_time_is_reading_it_all() -> None:
    model = mother()
    ids = model.tokenizer.encode("我爱妈妈。我爱")
    energies = model.energies(ids)
    state = model.read(ids[:2])
    for k in range(2, len(ids)):
        logits = model.next_logits(state)
        np.testing.assert_allclose(logits, energies[k - 1] + model.prior(ids[k - 1]), rtol=1e-5)
        state = model.read(ids[k : k + 1], state)
