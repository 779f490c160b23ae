"""Grammars: sentences whose entropy is known, with agreement over any distance."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from minibrillm.checks import UserError

Array = np.ndarray

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]

# Subject and verb agree in number, however long the clause between them: no n-gram sees that far.
AGREEMENT: Rules = {
    "S": [(0.5, ["ONE", "DOES", "."]), (0.5, ["MANY", "DO", "."])],
    "ONE": [(0.7, ["a", "NOUN"]), (0.3, ["a", "NOUN", "that", "DOES"])],
    "MANY": [(0.7, ["two", "NOUNS"]), (0.3, ["two", "NOUNS", "that", "DO"])],
    "DOES": [(0.5, ["sleeps"]), (0.2, ["sings"]), (0.3, ["sees", "OBJECT"])],
    "DO": [(0.5, ["sleep"]), (0.2, ["sing"]), (0.3, ["see", "OBJECT"])],
    "OBJECT": [(0.6, ["ONE"]), (0.4, ["MANY"])],
    "NOUN": [(0.5, ["dog"]), (0.3, ["cat"]), (0.2, ["bird"])],
    "NOUNS": [(0.5, ["dogs"]), (0.3, ["cats"]), (0.2, ["birds"])],
}


@dataclass(frozen=True, eq=False)
class Grammar:
    """A probabilistic context-free grammar, and the entropy of the sentences it makes.

    The entropy is that of the derivations. It is the entropy of the sentences where no sentence
    has two derivations, as in `AGREEMENT`, whose next word always tells which rule was taken.

    Parameters
    ----------
    rules : dict from symbol to list of (probability, symbols)
        What is no key is a word.
    start : str

    Raises
    ------
    UserError
        Probabilities that do not sum to 1, a start without rules, or sentences without end.
    """

    rules: Rules
    start: str = "S"

    def __post_init__(self) -> None:
        if self.start not in self.rules:
            raise UserError(f"the start symbol {self.start!r} has no rules")
        for symbol, choices in self.rules.items():
            p = [share for share, _ in choices]
            if min(p, default=0) <= 0 or abs(sum(p) - 1) > 1e-9:
                raise UserError(f"the probabilities of {symbol!r} are {p}; expected a sum of 1")
        uses = self._uses
        if np.abs(np.linalg.eigvals(uses)).max() >= 1 - 1e-12:
            raise UserError("the rules make sentences of infinite mean length; end them more often")

    @cached_property
    def _uses(self) -> Array:
        """How often each symbol's expansion holds each symbol on average, (symbols, symbols)."""
        place = {symbol: k for k, symbol in enumerate(self.rules)}
        uses = np.zeros((len(place), len(place)))
        for symbol, choices in self.rules.items():
            for share, parts in choices:
                for part in parts:
                    if part in place:
                        uses[place[symbol], place[part]] += share
        return uses

    def _expected(self, own: Callable[[float, Sequence[str]], float]) -> float:
        """Mean of a sum over the rules of a derivation: x = own + uses x, at the start symbol."""
        owns = [sum(p * own(p, parts) for p, parts in rules) for rules in self.rules.values()]
        x = np.linalg.solve(np.eye(len(owns)) - self._uses, np.array(owns))
        return float(x[list(self.rules).index(self.start)])

    @property
    def sentence_entropy(self) -> float:
        """Entropy of a sentence, in nats."""
        return self._expected(lambda p, _: -math.log(p))

    @property
    def mean_length(self) -> float:
        """Words a sentence has on average."""
        return self._expected(lambda _, parts: sum(part not in self.rules for part in parts))

    @property
    def entropy(self) -> float:
        """Least possible loss in nats per word, of a text whose sentences show where they end."""
        return self.sentence_entropy / self.mean_length

    @property
    def words(self) -> list[str]:
        """Every word, in alphabetical order."""
        return sorted(
            {part for rules in self.rules.values() for _, parts in rules for part in parts}
            - set(self.rules)
        )

    def sample(self, n_sentences: int, rng: np.random.Generator) -> list[list[str]]:
        """So many sentences, each a list of words."""
        totals = {s: list(accumulate(p for p, _ in rules)) for s, rules in self.rules.items()}
        sentences = []
        for _ in range(n_sentences):
            words: list[str] = []
            open_symbols = [self.start]
            while open_symbols:
                symbol = open_symbols.pop()
                if symbol not in self.rules:
                    words.append(symbol)
                    continue
                chosen = bisect_right(totals[symbol], float(rng.random()))
                choices = self.rules[symbol]
                open_symbols += reversed(choices[min(chosen, len(choices) - 1)][1])
            sentences.append(words)
        return sentences
