"""Look inside: one sentence followed edge by edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minibrillm.functional import logsumexp
from minibrillm.model import BriLLM

Array = np.ndarray


@dataclass(frozen=True)
class Trace:
    """What happened while a sentence of n + 1 tokens was read.

    Parameters
    ----------
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

    tokens: Array
    labels: list[str]
    incoming: Array
    signal: Array
    energies: Array
    probabilities: Array
    nll: Array

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
    text : str
        At least two tokens.
    """
    tokens = model.tokenizer.encode(text)
    path = model.path(tokens)
    energies = model.energies(tokens)[:-1]
    logits = energies.astype(np.float64) + model.prior(tokens[:-1])
    probabilities = np.exp(logits - logsumexp(logits)[:, None])
    nll = -np.log(probabilities[np.arange(len(tokens) - 1), tokens[1:]])
    labels = [model.tokenizer.token(v) for v in range(model.graph.n_nodes)]
    return Trace(tokens, labels, path.incoming[0], path.signal[0], energies, probabilities, nll)
