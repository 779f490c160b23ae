"""A progress bar over steps or over seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minibrillm.checks import Settings


@contextmanager
def progress_bar(config: Settings, step: int, seconds: float, shown: bool) -> Iterator[Callable]:
    """A function that is given each record of the history and moves the bar on.

    Parameters
    ----------
    step, seconds : int, float
        Where the training is already.
    """
    from tqdm.auto import tqdm

    by_steps = config.minutes is None
    limit = 60 * (config.minutes or 0)  # infinite: until Ctrl-C
    timed = round(limit) if math.isfinite(limit) else None
    heldout = ""
    with tqdm(
        total=config.steps if by_steps else timed,
        initial=step if by_steps else int(seconds),
        unit="step" if by_steps else "s",
        disable=not shown,
        dynamic_ncols=True,
    ) as bar:

        def show(record: Any) -> None:
            nonlocal heldout
            done = record.step if by_steps else int(record.seconds)
            bar.update(min(done, bar.total or done) - bar.n)  # a dozen times a second at most
            if not math.isnan(record.heldout_loss):
                heldout = f", held out {record.heldout_loss:.3f}"
            bar.set_postfix_str(f"loss {record.train_loss:.3f}{heldout}", refresh=False)

        yield show
