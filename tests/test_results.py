"""Tables stand in columns, the verdict says where BriLLM loses, JSON keeps everything."""

from __future__ import annotations

import json
import statistics

import matplotlib
import matplotlib.pyplot as plt
import pytest

from minibrillm.judging import Comparison, Curve, Row, number, table

matplotlib.use("Agg")


def test_a_table_of_names_and_figures() -> None:
    lines = table(("", "of", "s"), [("long name", "x", "1"), ("y", "", "100")], n_left=2)
    assert lines == ["           of    s", "long name  x     1", "y              100"]
    assert table(("", "s"), [("x", ""), ("long name", "1")]) == [
        "           s",
        "x",  # nothing after the last word
        "long name  1",
    ]


def test_numbers_stay_narrow() -> None:
    assert number(12.34567) == "12.3457"
    assert number(12.34567, 2) == "12.35"
    assert number(1.234567e9) == "1.235e+09"


def row_of(contender: str, name: str, reading: str, loss: float, seeds: int = 1) -> Row:
    losses = [loss + 0.01 * k for k in range(seeds)]
    return Row(contender, name, reading, 12345, 60.4, 10**6, losses, losses, losses, loss / 2)


def comparison_of(*rows: Row) -> Comparison:
    facts = {"minutes": 1.0, "seeds": [0], "threads": 2, "n_nodes": 66}
    tokens = {"train": 9000, "validation": 500, "test": 500}
    curves = [
        Curve(row.name, [20.0, 60.0], [10, 30], [row.loss + 1, row.loss])
        for row in rows
        if row.contender != "ngrams"
    ]
    return Comparison({**facts, "tokens": tokens}, list(rows), curves, ["a note"])


MINI = row_of("mini", "BriLLM mini", "one stream", 1.46)
WINDOWS = row_of("mini", "BriLLM mini", "windows of 256", 1.47)
GPT = row_of("gpt", "GPT", "windows of 64, sliding", 1.44, seeds=3)
SEVEN = row_of("ngrams", "7-gram, Kneser-Ney", "full context", 1.5165)


def test_columns_of_the_table_stand_below_each_other() -> None:
    lines = comparison_of(SEVEN, MINI, WINDOWS, GPT).table().splitlines()
    head, rows = lines[0], lines[1:5]
    assert len({len(line) for line in (head, *rows)}) == 1
    for word in ("parameters", "seconds", "validation", "test", "whole", "bits/char"):
        end = head.index(word) + len(word)
        assert all(line[end - 1] != " " for line in (rows[0], rows[1], rows[3]))
        assert all(line[end : end + 2].strip() == "" for line in rows)
    assert rows[2].lstrip().startswith("windows of 256")  # the name is not said again
    assert "1.4500 ± 0.0100" in rows[3]
    assert "12,345" in rows[0]


def test_it_says_where_brillm_loses() -> None:
    (line,) = comparison_of(SEVEN, MINI, WINDOWS, GPT).verdict()
    assert line == "BriLLM mini loses to GPT on the test part: 1.4600 against 1.4500 nats per token"
    (line,) = comparison_of(SEVEN, MINI, WINDOWS).verdict()
    assert line.startswith("BriLLM mini is ahead of all others on the test part, of 7-gram")
    assert line.endswith("by 0.0565 nats per token")
    for rows in ([SEVEN, GPT], [MINI, WINDOWS], []):
        assert comparison_of(*rows).verdict() == []


def test_the_newest_is_the_last_model_in_its_best_reading() -> None:
    found = comparison_of(SEVEN, GPT, WINDOWS, MINI)
    assert found.newest() == "BriLLM mini, one stream: validation 1.4600, test 1.4600"


def test_json_and_back() -> None:
    found = comparison_of(SEVEN, MINI, WINDOWS, GPT)
    data = json.loads(json.dumps(found.to_json()))
    assert Comparison.from_json(data) == found
    row = data["rows"][-1]
    assert row["test_mean"] == pytest.approx(statistics.fmean(GPT.test))
    assert row["test_spread"] == pytest.approx(0.01)
    assert data["rows"][0]["test_spread"] is None


def test_figure() -> None:
    from minibrillm.look import plot_comparison

    figure = plot_comparison(comparison_of(SEVEN, MINI, WINDOWS, GPT))
    left, right = figure.axes
    assert left.get_xlabel() == "seconds of training"
    assert {t.get_text() for t in right.texts} == {"7-gram, Kneser-Ney", "BriLLM mini", "GPT"}
    assert right.get_xscale() == "log"
    figure.canvas.draw()
    plt.close(figure)


def test_ladder_shows_each_rung_and_its_change() -> None:
    rows = [("paper", 3.0), ("a step up", 2.0), ("a step down", 2.5)]
    found = comparison_of(*(row_of("ladder", name, "one stream", loss) for name, loss in rows))
    from minibrillm.look import plot_ladder

    axes = plot_ladder(found)
    assert [t.get_text() for t in axes.get_yticklabels()] == [name for name, _ in rows]
    assert [bar.get_width() for bar in axes.patches] == [loss for _, loss in rows]
    assert [t.get_text().split()[1:] for t in axes.texts] == [[], ["-1.00"], ["+0.50"]]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]
    axes.figure.canvas.draw()
    plt.close(axes.figure)
