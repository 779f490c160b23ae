"""A trace is what the model says of a sentence, edge by edge."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minibrillm.checks import UserError
from minibrillm.look import trace
from minibrillm.model import BriLLM
from minibrillm.text import VocabularyTokenizer

TEXT = "妈妈爱我，我爱妈妈。The cat sat on the mat.\n" * 4


@pytest.fixture(scope="module")
def model() -> BriLLM:
    return BriLLM.from_text(TEXT, d_node=4, backend="numpy", dtype=np.float64)


def test_trace_is_what_the_model_says(model: BriLLM) -> None:
    text = "我爱妈妈。"
    seen, ids = trace(model, text), model.tokenizer.encode(text)
    assert seen.text == text
    np.testing.assert_array_equal(seen.tokens, ids)
    np.testing.assert_allclose(seen.nll, model.nll(ids)[0][0], atol=1e-12)
    np.testing.assert_allclose(seen.probabilities.sum(1), 1)
    np.testing.assert_allclose(seen.energies, model.energies(ids)[:-1])
    assert seen.signal.shape == seen.incoming.shape == (4, 4)
    lines = seen.table().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("我 → 爱")


def test_a_cell_that_ends_in_a_trace_shows_one_line(model: BriLLM) -> None:
    seen = trace(model, "the cat")
    assert repr(seen) == f"Trace('the cat', 6 edges, {seen.nll.mean():.2f} nats per token)"
    assert repr(trace(model, "我爱")).startswith("Trace('我爱', 1 edge, ")
    long = repr(trace(model, TEXT))
    assert len(long) < 100
    assert "\n" not in long


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' has 0 token"),
        ("我", "'我' has 1 token"),
        (None, "text is None; expected a string"),
        (3, "text is 3; expected a string"),
        (b"the cat", "text is b'the cat'; expected a string"),
        (["the cat"], r"text is \['the cat'\]; expected a string"),
        (np.arange(999), "expected a string"),
    ],
    ids=["empty", "one token", "None", "number", "bytes", "list", "array"],
)
def test_what_is_no_sentence(model: BriLLM, text: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        trace(model, text)  # type: ignore[arg-type]
    assert len(str(raised.value)) < 120


def test_a_character_without_a_node_is_read_as_the_unknown_one(model: BriLLM) -> None:
    seen = trace(model, "我龘爱")
    assert seen.tokens[1] == model.tokenizer.unknown_id
    assert [seen.label(int(v)) for v in seen.tokens] == ["我", model.tokenizer.token(0), "爱"]
    assert np.isfinite(seen.nll).all()


def test_a_tokenizer_without_an_unknown_one_says_what_it_cannot_read(model: BriLLM) -> None:
    letters = [chr(ord("a") + k) for k in range(model.graph.n_nodes)]
    strict = BriLLM(
        model.config, VocabularyTokenizer(letters), model.graph, model.parameters, "numpy"
    )
    with pytest.raises(UserError, match="neither a node for '龘' '龙'"):
        trace(strict, "a龘b龙")


def test_a_text_longer_than_the_model_knows() -> None:
    model = BriLLM.from_text(TEXT, "released", d_node=4, max_positions=5, backend="numpy")
    assert len(trace(model, "the ca").nll) == 5
    with pytest.raises(UserError, match="knows 5 positions"):
        trace(model, "the cat")


def test_reading_a_trace_needs_no_matplotlib() -> None:
    code = (
        "import sys; from minibrillm.look import trace, plot_trace; "
        "print({'matplotlib', 'networkx'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert said.stdout == "set()\n"
