"""Whatever text comes: signals stay bounded, settings fit, the best step is kept, and the last line
says the truth."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import VARIANTS, Command, random_ids, random_model, without_bound
from hill_climbing import climb

from minibrillm import kernels, reference
from minibrillm.bench import MAKERS, fill, small_text
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey
from minibrillm.functional import Withheld, saturate, saturate_backward, signal_bound
from minibrillm.graph import TokenGraph
from minibrillm.judging import Evaluation, evaluate, number
from minibrillm.model import BriLLM
from minibrillm.presets import MANY_NODES, for_text
from minibrillm.runs import kept_steps, load, read_json, save_checkpoint
from minibrillm.scoring import window_loss
from minibrillm.text import longest_run
from minibrillm.training import Trainer

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
TEXT = "我爱妈妈，妈妈爱我。I love my mom, my mom loves me. " * 12


# The bound


@BACKENDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", ["mini, tight", "released, bound", "mini, 4-grams"])
def test_no_signal_is_longer_than_the_bound(variant: str, dtype: type, backend: str) -> None:
    """MODEL.md, "How large a signal can grow", where matrices are as large as numbers allow."""
    model = random_model(VARIANTS[variant], dtype=dtype, backend=backend)
    bound = signal_bound(model.parameters)
    tokens = random_ids(4 * 40, 9, np.random.default_rng(1)).reshape(4, 40)
    for factor in (0.1, 1, 40, 1e6):
        for name, array in model.parameters.items():
            if name.endswith(("weight", "bias")) and name != "node_bias":
                array *= factor
        path = model.path(tokens)
        rounding = 1 + 20 * np.finfo(dtype).eps
        assert np.linalg.norm(path.signal, axis=-1).max() <= bound * rounding
        largest = max(bound, float(np.abs(path.incoming[:, 0]).max()))
        assert np.abs(path.incoming).max() <= largest * rounding
        assert np.isfinite(model.nll(tokens)[0]).all()
    loud = np.linalg.norm(path.signal, axis=-1) > 0.9 * bound
    assert loud.any(), "no signal came near the bound: nothing was tested"


def test_a_quiet_answer_goes_on_as_it_is_and_of_a_loud_one_the_direction() -> None:
    y = np.random.default_rng(0).normal(size=(5, 7))
    np.testing.assert_allclose(saturate(1e-3 * y, 8.0), 1e-3 * y, rtol=1e-5)
    loud = saturate(1e9 * y, 8.0)
    np.testing.assert_allclose(loud, 8 * y / np.linalg.norm(y, axis=1)[:, None], rtol=1e-9)
    np.testing.assert_array_equal(saturate(y, 0.0), y)
    assert np.isfinite(saturate(np.full(4, 1e30, np.float32), 8.0)).all()


def test_the_gradient_of_a_saturated_signal_is_that_of_central_differences() -> None:
    rng = np.random.default_rng(0)
    y, ds = rng.normal(size=(6, 5)) * 10 ** rng.uniform(-2, 2, (6, 1)), rng.normal(size=(6, 5))
    (found, d_log_bound), step = saturate_backward(ds, y, 1.3), 1e-6
    for index in np.ndindex(y.shape):
        change = np.zeros_like(y)
        change[index] = step * max(abs(y[index]), 1e-3)
        slope = ((saturate(y + change, 1.3) - saturate(y - change, 1.3)) * ds).sum()
        assert found[index] == pytest.approx(slope / (2 * change[index]), rel=1e-5, abs=1e-8)
    wider, tighter = (saturate(y, 1.3 * math.exp(x)) for x in (step, -step))
    slope = ((wider - tighter) * ds).sum(axis=1) / (2 * step)
    np.testing.assert_allclose(d_log_bound, slope, rtol=1e-6, atol=1e-9)
    unbounded, nothing = saturate_backward(ds, y, 0.0)
    np.testing.assert_array_equal(unbounded, ds)
    assert not nothing.any()


def test_a_checkpoint_from_before_the_bound_has_none(tmp_path: Path) -> None:
    model = without_bound(BriLLM.from_text(TEXT, d_node=4, backend="numpy"))
    folder = save_checkpoint(tmp_path, model)
    about = folder / "model.json"
    written = about.read_text(encoding="utf-8")
    older = re.sub(r',\s*"signal_bound": 0.0', "", written)
    assert older != written
    about.write_text(older, encoding="utf-8")
    assert load(tmp_path).config.signal_bound == 0


@pytest.mark.parametrize("preset", ["mini", "mini-ngrams"])
def test_hill_climbing_finds_no_text_with_an_infinite_loss(preset: str) -> None:
    """`tests/hill_climbing.py` does the same for ten minutes."""
    found = climb(preset, seed=1, texts=12)
    assert found.tried == 12 * 25
    assert math.isfinite(found.worst), found


def test_hill_climbing_can_find_one() -> None:
    """It would: a model without bound is driven to infinity, or nearly."""
    found = climb("mini", seed=1, texts=200, signal_bound=0.0)
    assert found.worst > 1e6


# Settings that fit


def fitted(
    n_nodes: int, lengths: list[int], preset: str = "mini-ngrams", given: Any = (), **limits: Any
) -> tuple[ModelConfig, TrainConfig]:
    limits = limits or {"minutes": 3.0}
    training = TrainConfig.preset(preset, **limits)
    heldout = sum(lengths) // 9
    return for_text(n_nodes, lengths, heldout, ModelConfig.preset(preset), training, given)


def test_the_shorter_the_text_the_smaller_the_model() -> None:
    sizes = [fitted(60, [n]) for n in (1_000, 20_000, 200_000, 1_000_000)]
    assert [model.d_node for model, _ in sizes] == [16, 32, 32, 48]
    decay = [training.weight_decay for _, training in sizes]
    assert decay == sorted(decay, reverse=True)
    batch = [training.batch_size for _, training in sizes]
    assert batch == sorted(batch)
    assert fitted(60, [10**6], minutes=10.0)[0].d_node == 64
    assert fitted(MANY_NODES + 1, [10**6])[0].d_node == 16
    assert fitted(MANY_NODES + 1, [10**6])[1].leave_one_out == 1


def test_a_short_text_is_read_so_often_and_no_more() -> None:
    _, training = fitted(60, [20_000])
    assert training.steps is not None
    readings = training.steps * training.batch_size * training.sequence_length / 20_000
    assert 40 <= readings < 41
    assert training.minutes == 3.0
    assert fitted(60, [10**6])[1].steps is None
    assert fitted(60, [500])[1].steps == 150
    assert fitted(60, [20_000], steps=7)[1].steps == 7
    assert fitted(60, [20_000], steps=7)[1].warmup_steps == 1


def test_sequences_are_no_longer_than_documents() -> None:
    assert fitted(60, [30])[1].sequence_length == 29
    assert fitted(60, [12] * 100)[1].sequence_length == 11
    assert fitted(60, [1, 1, 2])[1].sequence_length == 1
    assert fitted(60, [12] * 99 + [5000])[1].sequence_length == 11  # the one is cut
    short, long = (fitted(60, [n] * (30_000 // n))[1] for n in (17, 300))
    assert short.batch_size == 4 * long.batch_size  # as many positions a step
    assert fitted(60, [30], "released")[1].sequence_length == 29


def test_what_is_given_stays() -> None:
    given = {"d_node": 5, "weight_decay": 0.1, "batch_size": 3, "sequence_length": 9}
    config = ModelConfig.preset("mini-ngrams", d_node=5)
    training = TrainConfig(steps=9, weight_decay=0.1, batch_size=3, sequence_length=9)
    config, training = for_text(60, [500], 50, config, training, given)
    assert config.d_node == 5
    for name in ("weight_decay", "batch_size", "sequence_length"):
        assert getattr(training, name) == given[name]
    for preset in ("paper", "released"):
        config, training = fitted(60, [10**6], preset, steps=9)
        assert config == ModelConfig.preset(preset)
        published = TrainConfig.preset(preset, steps=9)
        assert dataclasses.replace(training, evaluate_every=200) == published


def test_evaluations_cost_little() -> None:
    for n in (500, 20_000, 10**6):
        _, training = fitted(60, [n])
        positions = training.batch_size * training.sequence_length * training.evaluate_every
        assert n // 9 < 0.1 * 3 * positions or training.evaluate_every == 200
        assert 5 <= training.evaluate_every <= 200


# The best step is kept


def trainer_of(run: Path | None = None, **changes: Any) -> Trainer:
    model = BriLLM.from_text(TEXT, d_node=4, backend="numpy")
    ids = model.tokenizer.encode(TEXT)
    settings = {"steps": 6, "evaluate_every": 1, "batch_size": 2, "sequence_length": 8}
    config = TrainConfig(**(settings | changes))
    if run is None:
        return Trainer(model, ids[:-60], ids[-60:], config)
    return Trainer.start(model, ids[:-60], ids[-60:], config, run)


def scripted(trainer: Trainer, losses: list[float]) -> dict[int, np.ndarray]:
    """Let the held-out losses be these; the averaged axons at every step are noted down."""
    seen: dict[int, np.ndarray] = {}

    def loss() -> float:
        seen[trainer.step] = trainer.averaged.parameters["axon_weight"].copy()
        return losses[trainer.step - 1]

    trainer.heldout_loss = loss  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([5, 4, 3, 2, 1, 0.5], 6),
        ([5, 1, 3, 2, 4, 6], 2),
        ([1, 2, 3, 4, 5, 6], 1),
        ([2, 2, 2, 2, 2, 2], 1),
        ([math.inf, math.nan, 3, math.inf, math.nan, 3], 3),
    ],
)
def test_the_best_step_is_kept(tmp_path: Path, losses: list[float], best: int) -> None:
    trainer = trainer_of(tmp_path)
    seen = scripted(trainer, losses)
    trainer.train(progress_bar=False)
    assert trainer.kept == (best, 6)
    np.testing.assert_array_equal(trainer.model.parameters["axon_weight"], seen[best])
    saved = load(tmp_path, "numpy").parameters["axon_weight"]
    np.testing.assert_array_equal(saved, seen[best])
    assert kept_steps(tmp_path) == (best, 6)


def test_where_no_loss_is_a_number_the_last_step_is_kept() -> None:
    trainer = trainer_of()
    seen = scripted(trainer, [math.nan] * 6)
    trainer.train(progress_bar=False)
    assert trainer.kept == (6, 6)
    np.testing.assert_array_equal(trainer.model.parameters["axon_weight"], seen[6])


def test_a_resumed_run_remembers_its_best_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    seen = scripted(trainer, [5, 1, 3, 2, 4, 6])
    trainer.train(progress_bar=False)
    resumed = Trainer.resume(tmp_path, "numpy", steps=8)
    assert resumed.kept == (2, 6)
    for name, array in trainer.averaged.parameters.items():
        np.testing.assert_array_equal(resumed.averaged.parameters[name], array)
    scripted(resumed, [9] * 8)
    resumed.train(progress_bar=False)
    assert resumed.kept == (2, 8)
    np.testing.assert_array_equal(resumed.model.parameters["axon_weight"], seen[2])
    better = Trainer.resume(tmp_path, "numpy", steps=10)
    later = scripted(better, [0.1] * 10)
    better.train(progress_bar=False)
    assert better.kept == (9, 10)
    np.testing.assert_array_equal(better.model.parameters["axon_weight"], later[9])


def test_longer_training_is_never_worse() -> None:
    """A text of 500 characters, learned by heart: what is kept does not get worse."""
    text = small_text("templates, en, 2 kB")[:500]
    losses = []
    for steps in (20, 200):
        model = BriLLM.from_text(text[:450], d_node=16, backend="numba")
        ids = model.tokenizer.encode(text)
        config = TrainConfig(
            steps=steps, batch_size=16, evaluate_every=5, warmup_steps=5, sequence_length=32
        )
        trainer = Trainer(model, ids[:450], ids[450:], config)
        trainer.train(progress_bar=False)
        losses.append(window_loss(trainer.model, ids[450:]))
        worst = window_loss(trainer.averaged, ids[450:])
    assert losses[1] < losses[0] + 0.05
    assert worst > losses[1] + 0.05, "nothing was learned by heart: nothing was tested"


# The last line


def found_for(model: BriLLM, text: str = TEXT, kept: tuple[int, int] | None = None) -> Evaluation:
    ids = model.tokenizer.encode(text)
    return evaluate(model, ids[-60:], ids[:-60], None, kept)


def test_the_verdict_says_who_is_ahead_and_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BriLLM.from_text(TEXT, d_node=4, backend="numpy")
    counted = min(s.nats_per_token for s in found_for(model).scores[:3])

    def last_line(ours: float, kept: tuple[int, int] | None = None) -> str:
        monkeypatch.setattr("minibrillm.judging.evaluation.window_loss", lambda *_: ours)
        monkeypatch.setattr("minibrillm.judging.evaluation.stream_loss", lambda *_: ours + 0.01)
        return found_for(model, kept=kept).table().splitlines()[-1]

    assert re.match(r"BriLLM is ahead of .*-gram\) by 0\.0300 nats", last_line(counted - 0.03))
    assert "are level: +0.0004 nats" in last_line(counted - 0.0004)
    assert "are level: -0.0004 nats" in last_line(counted + 0.0004)
    assert re.search(r"Counting wins: .* by 0\.2000 nats per token\.$", last_line(counted + 0.2))
    assert "still learning in its last step" in last_line(counted + 0.2, (9, 9))
    by_heart = last_line(counted + 0.2, (3, 9))
    assert "after step 3 of 9" in by_heart
    n = len(model.tokenizer.encode(TEXT)) - 60
    assert f"{n:,} tokens for {model.n_parameters:,} parameters" in by_heart


def test_large_numbers_do_not_break_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert number(1.23456) == "1.2346"
    assert number(36_456_022_154.0) == "3.646e+10"
    assert number(math.inf) == "inf"
    model = BriLLM.from_text(TEXT, d_node=4, backend="numpy")
    for loss in (600.0, 29_582.0, 3.6e10, math.inf):
        monkeypatch.setattr("minibrillm.judging.evaluation.window_loss", lambda *_, loss=loss: loss)
        lines = found_for(model).table().splitlines()
        assert max(map(len, lines[:6])) < 90
        assert "guessing blindly" in lines[-1]
        assert "smaller learning_rate" in lines[-1]  # this one is bounded


def test_a_text_in_runs_breaks_a_model_without_bound_and_the_advice_mends_it(
    minibrillm: Command, tmp_path: Path
) -> None:
    (tmp_path / "ruled.txt").write_text("He found the moon.\n" + "~" * 900 + "\n", "utf-8")
    run = ("--preset", "paper", "--steps", 30, "--learning-rate", 0.1, "--heldout", 0.4)
    made = minibrillm("train", "ruled.txt", *run, "--out", "a")
    said = made.out + made.err
    assert "'~' stands 533 times in a row" in made.err  # to train on; the rest is held out
    assert "train with --signal-bound 8" in said, said
    mended = minibrillm("train", "ruled.txt", *run, "--out", "b", "--signal-bound", 8)
    assert mended.code == 0
    assert "guessing blindly" not in mended.out
    assert "in a row" not in mended.err
    settings = read_json(next((tmp_path / "b/checkpoints").iterdir()) / "model.json")
    assert settings["config"]["signal_bound"] == 8


def test_the_longest_run() -> None:
    assert longest_run([np.array([1, 1, 2, 2, 2, 1])]) == (3, 2)
    assert longest_run([np.array([4]), np.array([], int), np.array([5, 5])]) == (2, 5)


@pytest.mark.parametrize("unit", ["ab", "abc", "aab", "哈哈！", "x"])
def test_a_period_is_learned(minibrillm: Command, tmp_path: Path, unit: str) -> None:
    (tmp_path / "t.txt").write_text(unit * 700, "utf-8")
    made = minibrillm("train", "t.txt", "--steps", 40, "--out", "r")
    assert made.code == 0, made.err
    losses = [float(x) for x in re.findall(r"BriLLM of step.*?  +(\d\.\d+)", made.out)]
    assert len(losses) == 2
    assert max(losses) < 0.02
    assert re.search(r"(is ahead|are level)", made.out)


@pytest.mark.parametrize("kind", ["500 characters", "documents", "bpe", "names"])
def test_texts_of_other_shapes(minibrillm: Command, tmp_path: Path, kind: str) -> None:
    source: list[object] = ["t.txt"]
    text = small_text("templates, en")
    if kind == "500 characters":
        (tmp_path / "t.txt").write_text(text[:500], "utf-8")
    elif kind == "documents":
        (tmp_path / "d").mkdir()
        for k in range(12):
            (tmp_path / "d" / f"{k}.txt").write_text(text[300 * k : 300 * k + 290], "utf-8")
        source = ["d"]
    elif kind == "bpe":
        (tmp_path / "t.txt").write_text(text[:8000], "utf-8")
        source += ["--tokenizer", "bpe", "--vocab-size", 300]
    else:
        lines = [
            fill("{who} {noun}", {"who": ["Ann", "Bob"], "noun": ["Li", "Wu"]}, rng)
            for rng in [np.random.default_rng(0)]
            for _ in range(60)
        ]
        (tmp_path / "n.jsonl").write_text("".join(f'{{"t": "{x}"}}\n' for x in lines), "utf-8")
        source = ["n.jsonl", "--field", "t"]
    made = minibrillm("train", *source, "--steps", 30, "--out", "r")
    assert made.code == 0, made.err
    assert re.search(r"^(BriLLM( and .*)? (is ahead|are level)|Counting wins)", made.out, re.M)
    assert "guessing blindly" not in made.out
    assert minibrillm("evaluate", "r").code == 0


# The texts


def test_there_are_thirty_texts_of_many_kinds() -> None:
    texts = {name: small_text(name) for name in MAKERS}
    assert len(texts) >= 30
    assert len(set(texts.values())) == len(texts)
    for name, text in texts.items():
        assert 1_900 <= len(text.encode()) <= 200_000, name
        assert small_text(name) == text
        assert "{" not in text or name in ("JSON lines",), name
    assert longest_run([np.frombuffer(texts["ruled lines"].encode(), np.uint8)]) == (96, ord("~"))


# Documents shorter than an n-gram


@pytest.mark.parametrize("left_out", [False, True])
def test_rows_of_documents_shorter_than_the_prior_agree(left_out: bool) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 12, size=4) for _ in range(30)]
    graph = TokenGraph.from_ids(documents, 12, order=7)
    assert graph.ngrams is not None
    assert [len(level.keys) > 0 for level in graph.ngrams.levels] == [True] * 4 + [False] * 3
    tokens = np.stack(documents)
    withheld = Withheld(tokens[:, 1:], KneserNey.fit(documents, 12, 2)) if left_out else None
    trust = np.linspace(0.3, 0.9, 7)
    ours, theirs = (
        backend.prior_rows(graph, trust, tokens[:, :-1], 3, withheld)
        for backend in (kernels, reference)
    )
    np.testing.assert_allclose(ours.log_prior, theirs.log_prior, atol=1e-12)
    np.testing.assert_array_equal(ours.length, theirs.length)
    np.testing.assert_allclose(
        np.exp(reference.prior_rows(graph, 0 * trust, tokens, 1).log_prior).sum(axis=-1), 1
    )
    again = TokenGraph.from_arrays(graph.to_arrays())
    assert again.ngrams is not None
    assert again.ngrams.order == 7


@pytest.mark.parametrize("kind", ["idioms", "one character"])
def test_what_is_shorter_than_a_7_gram_can_be_read_again(
    minibrillm: Command, tmp_path: Path, kind: str
) -> None:
    source: tuple[object, ...] = ("t.txt",)
    if kind == "idioms":
        lines = "".join(f'{{"zh": "{line}"}}\n' for line in small_text("idioms, 2 kB").split())
        (tmp_path / "t.jsonl").write_text(lines, "utf-8")
        source = ("t.jsonl", "--field", "zh")
    else:
        (tmp_path / "t.txt").write_text("a" * 500, "utf-8")
    assert minibrillm("train", *source, "--steps", 3, "--out", "r").code == 0
    for command in (
        ("generate", "r", "--tokens", 9),
        ("train", "--resume", "--out", "r", "--steps", 5),
        ("evaluate", "r"),
    ):
        said = minibrillm(*command)
        assert (said.code, said.err) == (0, ""), said
