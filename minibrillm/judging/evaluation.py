"""How good is a model on text it has not seen? Beside n-grams, on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.counting import loss_by_order
from minibrillm.model import BriLLM
from minibrillm.scoring import WINDOW, n_edges, stream_loss, width_of, window_loss

Array = np.ndarray

_LARGEST_EXPONENT = 709.0  # of e, in double precision
_LEVEL = 0.001  # nats per token: closer than this, nobody is ahead


def number(x: float, decimals: int = 4) -> str:
    """A figure for a table: so many decimals, or, where it would not fit, four digits in all."""
    return f"{x:.{decimals}f}" if abs(x) < 1e6 else f"{x:.4g}"


@dataclass(frozen=True)
class Score:
    """One line of the table of results."""

    model: str
    nats_per_token: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float | None  # None: the bytes of unknown characters are not known


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of n-grams on one held-out text."""

    tokens: int
    characters: int
    bytes: int | None
    unknown: int  # tokens that the vocabulary lacks; they are predicted as <unk>
    scores: list[Score]
    note: str = ""
    verdict: str = ""  # who is ahead, and why if it is not BriLLM

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; None stands for infinity, which JSON does not know."""
        scores = [
            {k: None if v == math.inf else v for k, v in vars(score).items()}
            for score in self.scores
        ]
        return {**asdict(self), "scores": scores}

    def table(self) -> str:
        """The scores as lines of text, and the verdict as the last."""
        head = ("", "nats/token", "perplexity", "bits/char", "bits/byte")
        rows = [
            (
                s.model,
                number(s.nats_per_token),
                number(s.perplexity, 2),
                number(s.bits_per_character),
                "-" if s.bits_per_byte is None else number(s.bits_per_byte),
            )
            for s in self.scores
        ]
        wide = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(pairs)
            )
            for pairs in (list(zip(row, wide, strict=True)) for row in (head, *rows))
        ]
        note = f"held-out text: {self.tokens} tokens, {self.characters} characters"
        if self.unknown:
            note += f"; {self.unknown} ({self.unknown / self.tokens:.1%}) of them scored as <unk>"
        return "\n".join([*lines, note, *(x for x in (self.note, self.verdict) if x)])


def evaluate(
    model: BriLLM,
    ids: Array | Sequence[Array],
    train_ids: Array | Sequence[Array] | None = None,
    text: str | Sequence[str] | None = None,
    kept: tuple[int, int] | None = None,
) -> Evaluation:
    """Score a held-out text: as one stream, in windows of 256, and with n-grams beside.

    Parameters
    ----------
    ids : integer array (N,), or a sequence of them, one a document
        The held-out text; its first token is given, the N - 1 others are predicted.
    train_ids : integer array or a sequence of them, optional
        The training text, for the n-grams: unigram, bigram and the best order up to 7 (modified
        Kneser-Ney; the best is chosen on this very text, to the n-grams' favour).
    text : str or sequence of str, optional
        The text that ``ids`` encodes: counts the bytes of characters that read as <unk>.
    kept : (int, int), optional
        The step whose weights the model has, and the last step of its training.

    Returns
    -------
    Evaluation: nats per token and perplexity over the whole vocabulary, bits per character and
    per byte of the text (bytes are None where they cannot be known)
    """
    documents = as_documents(ids)
    n, longest = n_edges(documents), max(len(d) for d in documents)
    if n == 0:
        raise UserError(f"an evaluation needs at least 2 tokens of text; got {longest}")
    tokenizer = model.tokenizer
    unknown = tokenizer.unknown_id
    missing = 0 if unknown is None else sum(int((d[1:] == unknown).sum()) for d in documents)
    scored = "".join(tokenizer.decode(d[1:]) for d in documents)
    characters, size = len(scored), len(scored.encode("utf-8"))
    size_known = size if missing == 0 else None
    if missing and text is not None:  # an unknown token is not the text that was read
        texts = [text] if isinstance(text, str) else text
        pairs = zip(texts, documents, strict=True)
        scored = "".join(t[len(tokenizer.decode(d[:1])) :] for t, d in pairs)
        characters, size_known = len(scored), len(scored.encode("utf-8"))

    def score(name: str, nats: float) -> Score:
        bits = nats * n / math.log(2)
        per_byte = None if size_known is None else bits / size_known
        perplexity = math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf
        return Score(name, nats, perplexity, bits / characters, per_byte)

    scores, note = [], ""
    if train_ids is not None:
        by_order = loss_by_order(train_ids, ids, model.graph.n_nodes, 7)
        best = min(by_order, key=lambda order: by_order[order])
        scores += [score("unigram", by_order[1]), score("bigram, Kneser-Ney", by_order[2])]
        scores.append(score(f"best n-gram, Kneser-Ney ({best}-gram)", by_order[best]))
    counted = len(scores)
    width = width_of(model, WINDOW)
    name = "BriLLM" if kept is None else f"BriLLM of step {kept[0]}"
    scores.append(score(f"{name}, windows of {width}", window_loss(model, ids, width)))
    if model.max_positions is None or longest - 1 <= model.max_positions:
        how = "one stream" if len(documents) == 1 else "document by document"
        scores.append(score(f"{name}, {how}", stream_loss(model, ids)))
    else:
        note = f"not read as one stream: the model knows {model.max_positions} positions"
    verdict = _no_better_than_guessing(model, scores[counted:])
    if not verdict and train_ids is not None:
        ours = min(s.nats_per_token for s in scores[counted:])
        n_tokens = sum(map(len, as_documents(train_ids)))
        verdict = _verdict(ours, by_order[best], best, n_tokens, model.n_parameters, kept)
    return Evaluation(n, characters, size_known, missing, scores, note, verdict)


def _no_better_than_guessing(model: BriLLM, ours: Sequence[Score]) -> str:
    """What is wrong with a model worse than all nodes alike, in its worst reading, and the cure."""
    worst = max(ours, key=lambda s: s.nats_per_token)
    blind = math.log(model.graph.n_nodes)
    if worst.nats_per_token <= blind + 1:
        return ""
    if worst.nats_per_token < math.inf:
        found = f"{number(worst.nats_per_token)} nats per token are more than"
    else:
        found = "the signal grew past the largest number: the loss is infinite,"
    return f"{worst.model}: {found} guessing blindly costs (log V = {blind:.4f}); {remedy(model)}"


def remedy(model: BriLLM) -> str:
    """What helps a model whose signals, or whose loss, have run away."""
    if model.config.signal_bound == 0:
        return "nothing bounds its signals: train with --signal-bound 8, or with the preset mini-ngrams"
    return "train with a smaller --learning-rate"


def _verdict(
    ours: float,
    counted: float,
    order: int,
    n_tokens: int,
    n_parameters: int,
    kept: tuple[int, int] | None,
) -> str:
    """One sentence: which is ahead, by how much, and why if counting is."""
    lead = counted - ours
    if abs(lead) < _LEVEL:
        return f"BriLLM and the best n-gram ({order}-gram) are level: {lead:+.4f} nats per token."
    if lead > 0:
        return f"BriLLM is ahead of the best n-gram ({order}-gram) by {lead:.4f} nats per token."
    why = ""
    if kept is not None and kept[0] == kept[1]:
        why = ": BriLLM was still learning in its last step, so give it more --minutes or --steps"
    elif kept is not None:
        why = (
            f": after step {kept[0]} of {kept[1]} BriLLM only learned the training text by heart, "
            f"{n_tokens:,} tokens for {n_parameters:,} parameters; more text would help most"
        )
    return f"Counting wins: the {order}-gram is ahead of BriLLM by {-lead:.4f} nats per token{why}."
