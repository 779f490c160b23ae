"""The history of a training: a record a step, kept in a CSV file that grows as it goes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from minibrillm.checks import UserError

_COLUMNS = (
    "step",
    "seconds",
    "tokens",
    "learning_rate",
    "train_loss",
    "gradient_norm",
    "heldout_loss",
)


@dataclass(frozen=True)
class Record:
    """One step of the history. Losses in nats per token; ``heldout_loss`` nan if not measured."""

    step: int
    seconds: float
    tokens: int
    learning_rate: float
    train_loss: float
    gradient_norm: float
    heldout_loss: float = math.nan


class History(list[Record]):
    """All records of a training, in order."""

    def __repr__(self) -> str:
        if not self:
            return "History(no step yet)"
        last = self[-1]
        text = f"{last.step:,} steps in {last.seconds:.0f} s, loss {last.train_loss:.4f}"
        heldout = [r.heldout_loss for r in self if not math.isnan(r.heldout_loss)]
        return f"History({text}" + (f", held out {min(heldout):.4f})" if heldout else ")")


@contextmanager
def history_file(run: Path, history: History) -> Iterator[Callable[[Record], None]]:
    """A function that appends to history.csv of a run as it goes.

    The file holds the records of ``history`` first, and nothing else: rows after the checkpoint
    that a run goes on from are dropped.
    """
    path = run / "history.csv"
    kept = path.with_name("history.csv.tmp")
    try:
        with kept.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *map(_row, history)])
        kept.replace(path)
        file = path.open("a", encoding="utf-8", newline="")
    except OSError as error:
        kept.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    writer = csv.writer(file)

    def write(record: Record) -> None:
        try:
            writer.writerow(_row(record))
            file.flush()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None

    try:
        yield write
    finally:
        with suppress(OSError):  # a row that did not fit on the disk was reported by write
            file.close()


def _row(record: Record) -> list[float | str]:
    """A line of history.csv; what was not measured stays empty."""
    values = [getattr(record, name) for name in _COLUMNS]
    return ["" if isinstance(x, float) and math.isnan(x) else x for x in values]


def read_history(run: Path) -> History:
    """The history of a run, from its CSV file; a row cut short by a crash ends it."""
    path = run / "history.csv"
    if not path.is_file():
        return History()
    records = History()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                step, tokens = int(row["step"]), int(row["tokens"])
                rest = {k: float(row[k]) if row[k] else math.nan for k in _COLUMNS[3:]}
                records.append(Record(step, float(row["seconds"]), tokens, **rest))
            except (KeyError, TypeError, ValueError):
                break
    return records
