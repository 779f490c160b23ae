"""Look for a text that drives a model's signal to infinity: change what hurts most, a step a time.

`python tests/hill_climbing.py --minutes 10` climbs over short texts (each trained for a moment, all
defaults) and over prompts to the models they give; the tests do so for a few seconds.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from minibrillm.bench import MAKERS, small_text
from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.presets import for_text
from minibrillm.text import train_tokenizer
from minibrillm.training import Trainer

PROMPT = 400  # tokens: longer than any training window


class Found(NamedTuple):
    """The worst mean loss of all, in nats per token; NaN counts as infinite."""

    worst: float
    text: str
    prompt: str
    tried: int


def train_on(text: str, preset: str, steps: int, **changes: Any) -> BriLLM:
    """A model with the settings that fit, after a few steps, in float32."""
    tokenizer = train_tokenizer(text, "characters")
    ids = tokenizer.encode(text)
    config, training = for_text(
        tokenizer.n_nodes,
        [len(ids)],
        len(ids),
        ModelConfig.preset(preset, **changes),
        TrainConfig.preset(preset, steps=steps, learning_rate=0.05),
        given=("learning_rate",),
    )
    graph = TokenGraph.for_config(config, ids, tokenizer.n_nodes)
    trainer = Trainer(BriLLM.create(config, tokenizer, graph), ids, ids[:2], training)
    trainer.train(progress_bar=False)
    return trainer.learner  # not the average: the wildest there is


def height(model: BriLLM, prompt: np.ndarray) -> float:
    """Mean loss of a prompt read as one stream."""
    with np.errstate(all="ignore"):
        nll = model.nll(prompt)[0].astype(np.float64).mean()
    return math.inf if math.isnan(nll) else float(nll)


def mutate(ids: np.ndarray, n_nodes: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch becomes other tokens, one token again and again, or what stands elsewhere."""
    out = ids.copy()
    at = int(rng.integers(len(ids)))
    length = int(rng.integers(1, len(ids) - at + 1))
    period = int(rng.integers(1, 5))
    kind = rng.integers(3)
    if kind == 0:
        out[at : at + length] = np.resize(rng.integers(n_nodes, size=period), length)
    elif kind == 1:
        out[at : at + length] = np.resize(ids[at : at + period], length)
    else:
        out[at] = rng.integers(n_nodes)
    return out


def climb(
    preset: str, seed: int, *, texts: float = math.inf, seconds: float = math.inf, **changes: Any
) -> Found:
    """Climb over so many texts, or so long, and for each over 25 prompts.

    Changes are settings of `ModelConfig`.
    """
    rng = np.random.default_rng(seed)
    until = time.monotonic() + seconds
    best = Found(-math.inf, "", "", 0)
    tried = 0
    names = list(MAKERS)
    text = ("ab" * 200)[: int(rng.integers(60, 400))]
    highest = -math.inf  # of the texts so far
    while tried < 25 * texts and time.monotonic() < until and best.worst < math.inf:
        candidate = text
        if tried:  # another text: one of ours, or a change of the last
            source = small_text(names[int(rng.integers(len(names)))])
            at = int(rng.integers(max(len(source) - 400, 1)))
            piece = source[at : at + 400]
            characters = sorted(set(text if rng.random() < 0.7 else piece))
            places = {c: k for k, c in enumerate(characters)}
            ids = np.array([places.get(c, 0) for c in text])
            mutated = mutate(ids, len(characters), rng)
            candidate = "".join(characters[k] for k in mutated) if rng.random() < 0.8 else piece
        try:
            model = train_on(candidate, preset, int(rng.choice([10, 30, 60])), **changes)
        except UserError as error:  # training itself broke off: there is nothing higher
            if "became" not in str(error):
                raise
            return Found(math.inf, candidate, str(error), tried + 1)
        n_nodes = model.graph.n_nodes
        prompt = np.resize(model.tokenizer.encode(candidate), PROMPT)
        here = height(model, prompt)
        for _ in range(25):
            tried += 1
            other = mutate(prompt, n_nodes, rng)
            there = height(model, other)
            if there > here:
                here, prompt = there, other
        if here > best.worst:
            best = Found(here, candidate, model.tokenizer.decode(prompt), tried)
        if here >= highest:
            highest, text = here, candidate
    return best._replace(tried=tried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for preset in ("mini", "mini-ngrams"):
        found = climb(preset, arguments.seed, seconds=30 * arguments.minutes)
        print(f"{preset}: {found.tried} prompts, the worst at {found.worst:.4g} nats per token")
        print(f"  text {found.text[:60]!r}\n  prompt {found.prompt[:60]!r}")


if __name__ == "__main__":
    main()
