"""Figures: Chinese labels without tofu, and they show what they say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from minibrillm.look import (
    chinese_font,
    plot_history,
    plot_model,
    plot_trace,
    trace,
    use_fonts,
)
from minibrillm.model import BriLLM
from minibrillm.storage import Record

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def model() -> BriLLM:
    text = "妈妈爱我，我爱妈妈。The cat sat on the mat.\n" * 4
    return BriLLM.from_text(text, d_node=4, backend="numpy", dtype=np.float64)


def draw() -> None:
    """Draw the current figure; a missing glyph is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plt.gcf().canvas.draw()


def test_a_missing_glyph_would_be_noticed() -> None:
    use_fonts()
    plt.figure().text(0.5, 0.5, "\U00013080")  # an Egyptian hieroglyph: no font here has it
    with pytest.raises(UserWarning, match="missing"):
        draw()


def test_chinese_font_draws_chinese() -> None:
    assert chinese_font() == "Noto Sans SC"
    use_fonts()
    plt.figure().text(0.5, 0.5, "妈妈爱我，−1 ␣⏎ 龘")
    draw()


def test_plot_model() -> None:
    axes = plot_model()
    assert "妈妈" in {t.get_text() for t in axes.texts}
    draw()


def test_plot_trace_frames_the_true_next_token(model: BriLLM) -> None:
    seen = trace(model, "我爱妈妈。The mat")
    axes = plot_trace(seen, top=5)
    n = len(seen.tokens) - 1
    ranks = [
        int(np.flatnonzero(np.argsort(-seen.probabilities[i], kind="stable") == v)[0])
        for i, v in enumerate(seen.tokens[1:])
    ]
    frames = [p for p in axes.patches if isinstance(p, plt.Rectangle)]
    assert len(frames) == sum(rank < 5 for rank in ranks)
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        seen.label(int(v)) for v in seen.tokens[:n]
    ]
    draw()


def test_plot_history_has_both_losses_and_the_baselines() -> None:
    history = [
        Record(k, k * 1.0, k * 10, 0.1, 3.0 / k, 1.0, 3.1 / k if k % 5 == 0 else float("nan"))
        for k in range(1, 11)
    ]
    axes = plot_history(history, {"二元": 1.5})
    train, heldout, baseline = axes.get_lines()
    assert len(train.get_xdata()) == 10
    assert list(heldout.get_xdata()) == [5, 10]
    assert baseline.get_label() == "二元"
    draw()


def test_plot_trace_of_a_tiny_vocabulary() -> None:
    tiny = BriLLM.from_text("abcabcab", d_node=3, backend="numpy")
    axes = plot_trace(trace(tiny, "abc"))
    assert len(axes.get_yticks()) == tiny.graph.n_nodes == 4
    draw()
