"""The command `demo`: two models in two minutes, and what to try next."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minibrillm.cli.options import Backend, Seed
from minibrillm.cli.reports import plan, sample, scores, train_to_the_end
from minibrillm.cli.terminal import say

if TYPE_CHECKING:
    from minibrillm.config import TrainConfig
    from minibrillm.runs import Run
    from minibrillm.training import Trainer


def demo(
    minutes: Annotated[float, typer.Option(help="Train so long, both languages together.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option(help="Or at most so many optimiser steps for each language.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the runs in OUT/zh and OUT/en.")] = None,
    seed: Seed = 0,
    backend: Backend = "numba",
) -> None:
    """Train on the bundled pieces, offline, and write.

    A model for Chinese and one for English, each beside n-grams on pieces held out.
    """
    from minibrillm.config import TrainConfig
    from minibrillm.presets import DEMO
    from minibrillm.text import bundled

    training = TrainConfig.preset("mini-ngrams", minutes=minutes, steps=steps, seed=seed)
    # What is refused is refused before any training.
    started = {name: _start(name, training, out, backend) for name in DEMO}
    for name, (run, trainer) in started.items():
        about = DEMO[name]
        say(f"{about.language}\n")
        plan(trainer, None if out is None else out / name)
        train_to_the_end(run or trainer, trainer)
        say(f"pieces not trained on, {about.language}:")
        texts = bundled("test", name)
        scores(trainer, [trainer.model.tokenizer.encode(text) for text in texts], texts)
        say(f"\na piece that begins with {about.beginning!r} (temperature 0.4):")
        prompt = f"\n{about.beginning}"
        sample(trainer.model, prompt, 200, temperature=0.4, seed=seed, stop="\n")
        say()
    _what_next(None if out is None else out / "en")


def _start(
    language: str, training: TrainConfig, out: Path | None, backend: str
) -> tuple[Run | None, Trainer]:
    """The training of one language, and its run if it is to be kept."""
    from minibrillm.model import BriLLM
    from minibrillm.presets import for_demo
    from minibrillm.runs import Run
    from minibrillm.text import bundled
    from minibrillm.training import Trainer

    texts, chosen_by = (bundled(split, language) for split in ("train", "validation"))
    model = BriLLM.from_text(texts, "mini-ngrams", seed=training.seed, backend=backend)
    training = for_demo(language, model.graph.n_nodes, model.config, training)
    encode = model.tokenizer.encode
    train_ids, heldout_ids = ([encode(text) for text in part] for part in (texts, chosen_by))
    if out is None:
        return None, Trainer(model, train_ids, heldout_ids, training)
    run = Run.start(out / language, model, train_ids, heldout_ids, training)
    return run, run.trainer


def _what_next(kept: Path | None) -> None:
    """Three commands that work as they stand, one after the other."""
    names = (Path("runs") / f"mine{k}" for k in itertools.chain([""], itertools.count(2)))
    new = next(folder for folder in names if not folder.exists())
    ours, quoted = beside("minibrillm", "minibrillm"), _quoted(str(kept or new))
    notebook = first_notebook()
    say("Three commands to try next. Train; your own file can stand for 'bundled --field en':")
    say(f"  {ours} train bundled --field en --minutes 1 --out {_quoted(str(new))}")
    say("Write with the model that was kept:" if kept else "Write with the model that this makes:")
    say(f"  {ours} generate {quoted} --prompt {_quoted('One morning')}")
    if notebook is None:
        say("See what longer contexts bring, and what counting alone does:")
        say(f"  {ours} compare bundled --field en --only ngrams --only mini-ngrams --grid 1")
    else:
        say("See how it works in the first notebook (in Chinese: the same name in notebooks/zh):")
        say(f"  {beside('jupyter-lab', 'jupyterlab')} {_quoted(notebook)}")


def first_notebook() -> str | None:
    """The first notebook as a user finds it; None where the package came without notebooks."""
    path = Path(__file__).parents[2] / "notebooks" / "en" / "00_start_here.ipynb"
    if not path.is_file():
        return None
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def beside(command: str, module: str) -> str:
    """How to call a command that is installed beside this one, as this one was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_quoted(sys.orig_argv[0])} -m {module}"
    if shutil.which(called.name) == sys.argv[0]:
        return command  # the shell finds it
    return _quoted(str(called.with_name(command)))


def _quoted(word: str) -> str:
    """A word as the shell reads it back."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)
