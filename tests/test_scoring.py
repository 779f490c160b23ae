"""Held-out losses are what a plain loop finds, and every token counts once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.scoring import losses, stream_loss, window_loss

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 4
PRESETS = pytest.mark.parametrize("preset", ["mini", "paper", "released"])


def tiny(preset: str = "mini", **changes: Any) -> BriLLM:
    few = {"d_node": 4, "min_count": 1, "backend": "numpy", "dtype": np.float64}
    return BriLLM.from_text(TEXT, preset, **{**few, **changes})


def heldout(model: BriLLM, n: int) -> np.ndarray:
    return model.tokenizer.encode(TEXT[7 : 7 + n])


class Echo:
    """Stands in for a model: the loss of a token is its id, and the memory is the last token."""

    max_positions = None

    def __init__(self) -> None:
        self.scored: list[int] = []

    def nll(self, tokens: np.ndarray, state: int | None = None) -> tuple[np.ndarray, int]:
        assert tokens.ndim == 2
        if state is not None:
            assert tokens[0, 0] == state  # a chunk begins where the one before ended
        self.scored += tokens[:, 1:].ravel().tolist()
        return tokens[:, 1:].astype(np.float32), int(tokens[-1, -1])


@PRESETS
@pytest.mark.parametrize("width", [1, 5, 30, 100])
def test_window_loss_against_a_plain_loop(preset: str, width: int) -> None:
    model = tiny(preset)
    ids = heldout(model, 73)
    total = 0.0
    for first in range(0, 72, width):
        window = ids[first : first + width + 1]
        total += model.loss(window) * (len(window) - 1)
    assert window_loss(model, ids, width) == pytest.approx(total / 72, rel=1e-12)


@PRESETS
def test_stream_loss_is_the_loss_of_the_whole(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(preset)
    ids = heldout(model, 73)
    whole = model.loss(ids)
    for chunk in (1, 7, 36, 72, 4096):
        monkeypatch.setattr(losses, "_STREAM_CHUNK", chunk)
        assert stream_loss(model, ids) == pytest.approx(whole, rel=1e-10)


def test_a_stream_remembers_more_than_windows() -> None:
    model = tiny()
    ids = heldout(model, 73)
    assert abs(stream_loss(model, ids) - window_loss(model, ids, 5)) > 1e-5


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10, 64, 65, 66, 200])
def test_every_token_is_scored_once(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_STREAM_CHUNK", 9)
    monkeypatch.setattr(losses, "_BATCH_POSITIONS", 24)  # three windows of 8 at once
    ids = np.arange(1000, 1000 + n)
    for loss in (lambda m: window_loss(m, ids, 8), lambda m: stream_loss(m, ids)):
        echo: Any = Echo()
        assert loss(echo) == pytest.approx(ids[1:].mean(), rel=1e-12)
        assert set(echo.scored) == set(ids[1:].tolist())  # shorter windows are filled up


@pytest.mark.parametrize("preset", ["mini", "paper", "released"])
def test_documents_are_scored_each_from_an_empty_memory(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(preset)
    ids = heldout(model, 73)
    documents = [ids[:30], ids[30:31], ids[31:36], ids[36:]]
    total = sum(model.loss(d) * (len(d) - 1) for d in documents if len(d) > 1)
    assert stream_loss(model, documents) == pytest.approx(total / 69, rel=1e-12)
    monkeypatch.setattr(losses, "_STREAM_CHUNK", 7)
    assert stream_loss(model, documents) == pytest.approx(total / 69, rel=1e-12)
    cut = [d[k : k + 6] for d in documents for k in range(0, len(d) - 1, 5)]
    total = sum(model.loss(d) * (len(d) - 1) for d in cut)
    assert window_loss(model, documents, 5) == pytest.approx(total / 69, rel=1e-12)


def test_float32_losses_are_summed_in_float64() -> None:
    echo: Any = Echo()
    ids = np.full(20_001, 2**23 + 1)  # float32 holds it, but not the sum of two of them and one
    assert stream_loss(echo, ids) == 2**23 + 1
    assert window_loss(echo, ids) == 2**23 + 1


def test_few_positions_make_short_windows() -> None:
    model = tiny("released", max_positions=10)
    ids = heldout(model, 73)
    assert window_loss(model, ids) == window_loss(model, ids, 10)
    with pytest.raises(UserError, match="knows 10 positions"):
        stream_loss(model, ids)
