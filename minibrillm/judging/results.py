"""What came out: rows of the table, curves of the figure, and under which conditions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numba

from minibrillm.judging.tables import table
from minibrillm.judging.task import HELD_OUT, Task

_OURS = ("released", "mini", "mini-ngrams")


@dataclass(frozen=True)
class Row:
    """One model, read in one way.

    Parameters
    ----------
    contender : str
        One of `minibrillm.judging.CONTENDERS`, or "ladder".
    name, reading : str
        "BriLLM mini", "windows of 256".
    parameters, tokens : int
        Numbers it stores (those of a counted prior too), and tokens it read in training (the same
        ones again and again).
    seconds : float
        Of training, mean over the seeds.
    validation, test, whole : list of float
        Held-out nats per token, one for each seed; the whole is both parts together.
    bits_per_character : float
        On the test part, mean over the seeds.
    settings : dict
        What was chosen, and from what.
    """

    contender: str
    name: str
    reading: str
    parameters: int
    seconds: float
    tokens: int
    validation: list[float]
    test: list[float]
    whole: list[float]
    bits_per_character: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean nats per token on the test part."""
        return statistics.fmean(self.test)

    @property
    def ours(self) -> bool:
        """Whether this is BriLLM."""
        return self.contender in _OURS

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, with mean and spread (standard deviation) of each part."""
        out = asdict(self)
        for part in (*HELD_OUT, "whole"):
            mean, spread = _mean_and_spread(getattr(self, part))
            out |= {f"{part}_mean": mean, f"{part}_spread": spread}
        return out

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        """A row from what its `to_json` gave."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Curve:
    """Held-out loss (first part of the validation text) as training goes on, of the first seed."""

    name: str
    seconds: list[float]
    tokens: list[int]
    losses: list[float]


@dataclass(frozen=True)
class Contender:
    """A model that was trained, with every seed, and scored.

    Parameters
    ----------
    name, parameters, seconds, tokens, settings
        As those of a `Row`.
    losses : dict
        By reading and part, nats per token, one for each seed.
    curve : Curve, optional
    """

    name: str
    parameters: int
    seconds: float
    tokens: int
    losses: dict[str, dict[str, list[float]]]
    settings: dict[str, Any]
    curve: Curve | None = None

    def rows(self, kind: str, task: Task) -> list[Row]:
        """A row for each reading, the best one (on the validation part) first."""
        n = {part: task.n_scored(part) for part in HELD_OUT}
        rows = []
        for reading, losses in self.losses.items():
            validation, test = (losses[part] for part in HELD_OUT)
            whole = [
                (a * n["validation"] + b * n["test"]) / sum(n.values())
                for a, b in zip(validation, test, strict=True)
            ]
            bits = statistics.fmean(test) * n["test"] / math.log(2)
            rows.append(
                Row(
                    kind,
                    self.name,
                    reading,
                    self.parameters,
                    self.seconds,
                    self.tokens,
                    validation,
                    test,
                    whole,
                    bits / task.characters["test"],
                    self.settings,
                )
            )
        return sorted(rows, key=lambda row: sum(row.validation))


@dataclass
class Comparison:
    """What came out: rows for the table, curves for the figure, and under which conditions."""

    conditions: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task) -> Comparison:
        """Nothing yet, but the conditions."""
        return cls(
            {
                "minutes": task.minutes,
                "seeds": list(task.seeds),
                "threads": numba.get_num_threads(),
                "n_nodes": task.n_nodes,
                "tokens": {part: sum(map(len, ids)) for part, ids in task.ids.items()},
            }
        )

    def add(self, kind: str, task: Task, contender: Contender) -> None:
        """Take up a contender of this kind: its rows, and its curve if there is one."""
        self.rows += contender.rows(kind, task)
        if contender.curve is not None:
            self.curves.append(contender.curve)

    def best(self) -> list[Row]:
        """The rows with the best reading (on the validation part) of each model."""
        found: dict[str, Row] = {}
        for row in self.rows:
            known = found.get(row.name)
            if known is None or sum(row.validation) < sum(known.validation):
                found[row.name] = row
        return list(found.values())

    def table(self) -> str:
        """The rows as lines of text, and where BriLLM loses."""
        head = ("", "read in", "parameters", "seconds", "tokens read", *HELD_OUT, "whole")
        rows: list[tuple[str, ...]] = []
        last = ""
        for row in self.rows:
            sizes = (f"{row.parameters:,}", f"{row.seconds:.0f}", f"{row.tokens:,}")
            losses = [_shown(getattr(row, part)) for part in (*HELD_OUT, "whole")]
            same = row.name == last
            first = ("", row.reading, "", "", "") if same else (row.name, row.reading, *sizes)
            rows.append((*first, *losses, f"{row.bits_per_character:.4f}"))
            last = row.name
        lines = table((*head, "bits/char"), rows, n_left=2)
        return "\n".join([*lines, self._explanation(), *self.notes, *self.verdict()])

    def newest(self) -> str:
        """The model that was added last, in one line."""
        row = self.best()[-1]
        losses = ", ".join(f"{part} {_shown(getattr(row, part))}" for part in HELD_OUT)
        return f"{row.name}, {row.reading}: {losses}"

    def _explanation(self) -> str:
        facts = self.conditions
        text = (
            f"held-out nats per token, bits per character of the test part; "
            f"{facts['minutes']:g} min of training each, {facts['threads']} threads; "
            f"{facts['tokens']['train']:,} tokens to train on, "
            f"{facts['tokens']['validation']:,} to choose by (validation), "
            f"{facts['tokens']['test']:,} to report (test)"
        )
        n_seeds = len(facts["seeds"])
        return text + (f"; ± standard deviation of {n_seeds} seeds" if n_seeds > 1 else "")

    def verdict(self) -> list[str]:
        """Lines that say whether the better BriLLM loses on the test part, and to what."""
        best = self.best()
        ours = min((r for r in best if r.ours), key=lambda r: sum(r.validation), default=None)
        others = [r for r in best if not r.ours]
        if ours is None or not others:
            return []
        ahead = [r for r in others if r.loss < ours.loss]
        if not ahead:
            nearest = min(others, key=lambda r: r.loss)
            by = f"by {nearest.loss - ours.loss:.4f} nats per token"
            return [f"{ours.name} is ahead of all others on the test part, of {nearest.name} {by}"]
        return [
            f"{ours.name} loses to {r.name} on the test part: "
            f"{ours.loss:.4f} against {r.loss:.4f} nats per token"
            for r in ahead
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of everything."""
        return {
            "conditions": self.conditions,
            "rows": [row.to_json() for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        """A comparison from what its `to_json` gave."""
        rows = [Row.from_json(row) for row in data["rows"]]
        curves = [Curve(**curve) for curve in data["curves"]]
        return cls(data["conditions"], rows, curves, data["notes"])


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation where there are several."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _shown(values: Sequence[float]) -> str:
    mean, spread = _mean_and_spread(values)
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"
