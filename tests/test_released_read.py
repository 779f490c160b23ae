"""A released model computes here what it computes there, and files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from released_files import (
    IN_ORDER,
    N_EDGES,
    N_POSITIONS,
    SHUFFLED,
    TEXT,
    D,
    energies_by_hand,
    library_tokenizer,
    library_vocabulary,
    loss_by_hand,
    read,
    refuses,
    released_files,
    same_model,
    save_state,
    slots_of,
    state_of,
    table_of,
    write_json,
)

from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM
from minibrillm.released import read_released


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A released model in files; its vocabulary is in order."""
    return released_files(tmp_path, IN_ORDER)


# the same numbers


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 2e-5)])
@pytest.mark.parametrize("vocabulary", [IN_ORDER, SHUFFLED], ids=["in order", "shuffled"])
def test_energies_and_loss(
    tmp_path: Path, vocabulary: dict[str, int], dtype: type, tolerance: float, backend: str
) -> None:
    model = read(released_files(tmp_path, vocabulary, dtype), backend)
    slots = slots_of(vocabulary, table_of(vocabulary))
    ids = model.tokenizer.encode(TEXT)
    assert ids.tolist() == [vocabulary[c] for c in TEXT]
    expected = energies_by_hand(state_of(slots, dtype), slots, ids.tolist())
    found = model.energies(ids)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert model.loss(ids) == pytest.approx(loss_by_hand(expected, ids.tolist()), rel=tolerance)


def test_what_is_read(files: dict[str, Path]) -> None:
    model, table = read(files), table_of(IN_ORDER)
    assert model.config == ModelConfig.preset("released", d_node=D, max_positions=N_POSITIONS)
    private = {(s, t) for s in IN_ORDER for t in IN_ORDER if table[s].get(t) != 0}
    edges = {(u, v): c for u, v, c in zip(*edge_list(model), strict=True)}
    assert edges.keys() == {(IN_ORDER[s], IN_ORDER[t]) for s, t in private}
    assert 0 < len(edges) < len(IN_ORDER) ** 2
    for s, t in private:
        assert edges[IN_ORDER[s], IN_ORDER[t]] == table[s].get(t, 0)
    sums = [sum(table[s].values()) for s in IN_ORDER]
    assert model.graph.node_counts.tolist() == sums
    assert {*edges.values()} >= {0, 1, 2}  # not listed, seen once, seen twice


def edge_list(model: BriLLM) -> list[list[int]]:
    graph = model.graph
    return [graph.sources.tolist(), graph.targets.tolist(), graph.counts.tolist()]


def test_counts_belong_to_ids(tmp_path: Path) -> None:
    model, table = read(released_files(tmp_path, SHUFFLED)), table_of(SHUFFLED)
    token = {k: t for t, k in SHUFFLED.items()}
    assert model.tokenizer.vocabulary == [token[k] for k in range(len(token))]
    for u, v, count in zip(*edge_list(model), strict=True):
        assert count == table[token[u]].get(token[v], 0)
    sums = [sum(table[token[u]].values()) for u in range(len(token))]
    assert model.graph.node_counts.tolist() == sums


def test_pairs_that_are_not_listed_are_shared_where_only_that_fits(
    files: dict[str, Path], tmp_path: Path
) -> None:
    seen = {s: {t: c for t, c in row.items() if c} for s, row in table_of(IN_ORDER).items()}
    complete = {s: {t: seen[s].get(t, 0) for t in IN_ORDER} for s in IN_ORDER}
    slots = slots_of(IN_ORDER, complete)
    files["model"] = save_state(tmp_path / "seen.bin", state_of(slots))
    ours = read(files, frequencies=write_json(tmp_path / "seen.json", seen))
    same_model(ours, read(files, frequencies=write_json(tmp_path / "all.json", complete)))
    ids = ours.tokenizer.encode(TEXT)
    expected = energies_by_hand(state_of(slots), slots, ids.tolist())
    np.testing.assert_allclose(ours.energies(ids), expected, rtol=2e-5)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_edges_in_any_order(files: dict[str, Path], tmp_path: Path, backend: str) -> None:
    slots = slots_of(IN_ORDER, table_of(IN_ORDER))
    pairs = sorted((pair for pair in slots if slots[pair]), key=lambda pair: slots[pair])
    order = np.random.default_rng(3).permutation(len(pairs))
    shuffled = {pairs[k]: place + 1 for place, k in enumerate(order)}
    lines = "".join(f"{u}\t{v}\n" for u, v in shuffled)
    (tmp_path / "edges.tsv").write_text(lines, encoding="utf-8")
    model = read(files, backend, frequencies=None, edges=tmp_path / "edges.tsv")
    ids = model.tokenizer.encode(TEXT)
    state = state_of(slots)
    expected = energies_by_hand(state, dict.fromkeys(slots, 0) | shuffled, ids.tolist())
    np.testing.assert_allclose(model.energies(ids), expected, rtol=2e-5)
    assert set(model.graph.counts.tolist()) == {1}
    assert model.graph.node_counts.tolist() == model.graph.out_degree.tolist()
    # The same edges in order are the same model with other weights.
    ordered = "".join(f"{u}\t{v}\n" for u, v in pairs)
    (tmp_path / "ordered.tsv").write_text(ordered, encoding="utf-8")
    other = read(files, frequencies=None, edges=tmp_path / "ordered.tsv")
    assert np.array_equal(other.parameters["edge_weight"], state["weights"])
    assert not np.array_equal(model.parameters["edge_weight"], state["weights"])


def test_every_pair_has_an_edge(files: dict[str, Path], tmp_path: Path) -> None:
    slots = slots_of(IN_ORDER, None)
    files["model"] = save_state(tmp_path / "dense.bin", state_of(slots))
    model = read(files, frequencies=None)
    assert model.graph.n_edges == len(IN_ORDER) ** 2
    ids = model.tokenizer.encode(TEXT)
    expected = energies_by_hand(state_of(slots), slots, ids.tolist())
    np.testing.assert_allclose(model.energies(ids), expected, rtol=2e-5)


def test_no_pair_was_ever_counted(files: dict[str, Path], tmp_path: Path) -> None:
    files["model"] = save_state(tmp_path / "dense.bin", state_of(slots_of(IN_ORDER, None)))
    model = read(files, frequencies=write_json(tmp_path / "none.json", {"的": {}}))
    assert model.generate("", 5, seed=0)


# mistakes: vocabulary (found before PyTorch is needed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds a list"),
        ("{}", "is not a vocabulary"),
        ('{"a": "0"}', "integer ids"),
        ('{"a": false}', "integer ids"),
        ('{"a": 0, "b": 1.0}', "integer ids"),
        ('{"a": 0, "b": 2}', "0 … 1, each once; 1 is missing"),
        ('{"a": 1, "b": 2}', "0 is missing"),
        ('{"a": 0, "b": 0}', "1 is missing"),
        ('{"a": 0, "b": -1}', "1 is missing"),
        ('{"a": 0, "a": 1}', "0 is missing"),
        ('{"the": 0, "a": 1}', "such as 'the'; give the tokenizer"),
        ('{"Ġt": 0, "a": 1}', "(a tokenizer.json)"),
        ('{"<unk>": 0, "[PAD]": 1}', "no token of one character"),
        ('{"a": 0, "\\ud800": 1}', "surrogate"),
    ],
)
def test_bad_vocabularies(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    message = refuses(read_released, [tmp_path / "m.bin"], tmp_path / "v.json")
    assert said in message
    assert "v.json" in message


# mistakes: frequencies and edges


def test_frequencies_of_another_model(files: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(IN_ORDER)
    n_private = sum(slot > 0 for slot in slots_of(IN_ORDER, table).values())
    table["的"] = dict.fromkeys(IN_ORDER, 0)
    fewer = sum(slot > 0 for slot in slots_of(IN_ORDER, table).values())
    seen = sum(c > 0 for row in table.values() for c in row.values())
    assert len({n_private, fewer, seen}) == 3
    said = refuses(read, files, frequencies=write_json(tmp_path / "f.json", table))
    assert f"has {n_private} private edges" in said
    assert f"gives {fewer} (or {seen}" in said


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": 3}, "is not {source: {target: count}}; look at 'a'"),
        ({"a": {"b": "3"}}, "counts after 'a' are not integers"),
        ({"a": {"b": 1.5}}, "counts after 'a' are not integers"),
        ({"a": {"b": -1}}, "counts after 'a' are not integers"),
        ({"a": {"b": None}}, "counts after 'a' are not integers"),
        ({"a": {"b": [1]}}, "counts after 'a' are not integers"),
        ({"a": {"b": [1], "-": 2}}, "counts after 'a' are not integers"),
        ({"a": {"b": 1 << 70}}, "counts after 'a' are not integers"),
        ([], "holds a list"),
    ],
)
def test_bad_frequencies(files: dict[str, Path], tmp_path: Path, table: object, said: str) -> None:
    path = write_json(tmp_path / "bad.json", table)
    message = refuses(read, files, frequencies=path)
    assert said in message
    assert "bad.json" in message


def test_frequencies_of_tokens_that_are_not_in_the_vocabulary(
    files: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(IN_ORDER)
    more = {"Q": {"a": 0}} | {s: {"Q": 0, **row, "R": 3} for s, row in table.items()}
    same_model(read(files, frequencies=write_json(tmp_path / "more.json", more)), read(files))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], f"lists {N_EDGES - 1} edges, the checkpoint has {N_EDGES}"),
        (
            lambda lines: [*lines, "6\t6"],
            f"lists {N_EDGES + 1} edges, the checkpoint has {N_EDGES}",
        ),
        (lambda lines: [*lines[:-1], lines[0]], f"line {N_EDGES} lists an edge that an earlier"),
        (lambda lines: [*lines[:-1], "6\t7"], "must lie in 0 … 6; got 0 … 7"),
        (lambda lines: [*lines[:-1], "-1\t6"], "must lie in 0 … 6; got -1"),
        (lambda lines: [*lines[:-1], "1 6"], "two ids a line"),
        (lambda lines: [*lines[:-1], "1\t2\t3"], "two ids a line"),
        (lambda lines: [line + "\t1" for line in lines], "two ids a line"),
        (lambda lines: [*lines, ""], "two ids a line"),
        (lambda lines: [*lines[:-1], "的\ta"], "two ids a line"),
        (lambda lines: [*lines[:-1], "1\t99999999999999999999"], "two ids a line"),
        (lambda lines: [], "is empty"),
    ],
)
def test_bad_edges(files: dict[str, Path], tmp_path: Path, change: Any, said: str) -> None:
    slots = slots_of(IN_ORDER, table_of(IN_ORDER))
    lines = [f"{u}\t{v}" for (u, v), slot in slots.items() if slot]
    path = tmp_path / "edges.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    read(files, frequencies=None, edges=path)
    path.write_text("".join(line + "\n" for line in change(lines)), encoding="utf-8")
    assert said in refuses(read, files, frequencies=None, edges=path)


def test_neither_or_both(files: dict[str, Path], tmp_path: Path) -> None:
    said = refuses(read, files, frequencies=None)
    assert f"{N_EDGES} private edges for 7 tokens" in said
    assert "by frequencies (a word_frequency.json) or by a list of edges" in said
    assert "give one" in refuses(read, files, edges=tmp_path / "edges.tsv")


def test_the_tokenizer_must_be_that_of_the_vocabulary(tmp_path: Path) -> None:
    data = library_tokenizer()
    path = write_json(tmp_path / "tokenizer.json", data)
    names = library_vocabulary(data)
    a, b = list(names)[5:7]
    swapped = {**names, a: names[b], b: names[a]}
    fewer = {name: k for name, k in names.items() if k < len(names) - 1}
    for vocabulary, said in ((swapped, f"id {names[a]} is {a!r} in"), (fewer, "tokens, ")):
        where = write_json(tmp_path / "vocab.json", vocabulary)
        message = refuses(read_released, [tmp_path / "m"], where, tokenizer=path)
        assert said in message
        assert "vocab.json" in message
        assert "tokenizer.json" in message
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    where = write_json(tmp_path / "vocab.json", names)
    said = refuses(read_released, [tmp_path / "m"], where, tokenizer=tmp_path / "bad.json")
    assert "bad.json: no tokenizer" in said
