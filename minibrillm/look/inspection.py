"""Look inside: one sentence followed edge by edge."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

import numpy as np

from minibrillm.checks import UserError
from minibrillm.functional import logsumexp
from minibrillm.model import BriLLM

Array = np.ndarray


@dataclass(frozen=True, repr=False)
class Trace:
    """What happened while a sentence of n + 1 tokens was read.

    Parameters
    ----------
    text : str
    tokens : int64 array (n + 1,)
    labels : list of V strings
    incoming, signal : arrays (n, d)
        a_i before each edge and s_i after it.
    energies : array (n, V)
        How strongly every node answered at each step.
    probabilities : float64 array (n, V)
        softmax of energy + prior.
    nll : float64 array (n,)
        −log p of the true next token, nats.
    """

    text: str
    tokens: Array
    labels: list[str]
    incoming: Array
    signal: Array
    energies: Array
    probabilities: Array
    nll: Array

    def __repr__(self) -> str:
        """One line: a notebook shows it where a cell ends in a trace."""
        n = len(self.nll)
        edges = "1 edge" if n == 1 else f"{n} edges"
        return f"Trace({reprlib.repr(self.text)}, {edges}, {self.nll.mean():.2f} nats per token)"

    def label(self, node: int) -> str:
        """Readable name of a node."""
        return self.labels[node]

    def table(self, top: int = 3) -> str:
        """One line an edge: token read, the likeliest answers with energy and p, the true next."""
        lines = []
        for i in range(len(self.nll)):
            order = np.argsort(-self.probabilities[i], kind="stable")[:top]
            answers = "  ".join(
                f"{self.label(int(v))} E={self.energies[i, v]:.2f} p={self.probabilities[i, v]:.2f}"
                for v in order
            )
            u, v = int(self.tokens[i]), int(self.tokens[i + 1])
            p = self.probabilities[i, v]
            lines.append(f"{self.label(u)} → {self.label(v)}  p={p:.3f}   | {answers}")
        return "\n".join(lines)


def trace(model: BriLLM, text: str) -> Trace:
    """Read a sentence and keep everything: signals, energies, probabilities.

    Parameters
    ----------
    model : BriLLM
    text : str
        At least two tokens. A character without a node is read as the unknown one, if there is one.

    Raises
    ------
    UserError
        No string, fewer than two tokens, more than the model knows positions, or a character that
        the tokenizer cannot read.
    """
    if not isinstance(text, str):
        raise UserError(f"text is {reprlib.repr(text)}; expected a string of at least two tokens")
    tokens = model.tokenizer.encode(text)
    if len(tokens) < 2:
        raise UserError(
            f"{text!r} has {len(tokens)} token(s); a trace follows edges, so give at least two"
        )
    path = model.path(tokens)
    energies = model.energies(tokens)[:-1]
    logits = energies.astype(np.float64) + model.prior(tokens[:-1])
    probabilities = np.exp(logits - logsumexp(logits)[:, None])
    nll = -np.log(probabilities[np.arange(len(tokens) - 1), tokens[1:]])
    labels = [model.tokenizer.token(v) for v in range(model.graph.n_nodes)]
    return Trace(
        text, tokens, labels, path.incoming[0], path.signal[0], energies, probabilities, nll
    )
