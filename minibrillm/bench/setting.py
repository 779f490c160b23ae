"""What the sections share: how much is measured, the two texts, and how a section reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np

from minibrillm.bench.stand_ins import stand_in
from minibrillm.bench.timing import Spread
from minibrillm.config import TrainConfig
from minibrillm.judging import table
from minibrillm.model import BriLLM
from minibrillm.text import locate, read_text
from minibrillm.training import Trainer


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Batches are (sequences, edges each); d_node is the node width d."""

    repeats: int = 15
    in_a_row: int = 4  # training steps at each turn
    gemm: int = 2048  # width of the square matrices
    copied_mb: int = 256
    letters: int = 1_000_000  # characters of the stand-in text
    batch: tuple[int, int] = (128, 64)
    numpy_streams: int = 4  # the textbook is slow, per_step hungry: fewer sequences for them
    per_step_streams: int = 16
    compiled: bool = True
    released_peers: bool = True
    d_letters: int = 32
    chinese: int = 850_000
    n_chinese: int = 2048  # nodes
    d_chinese: tuple[int, ...] = (16, 32)
    chinese_batch: tuple[int, int] = (32, 64)
    contexts: tuple[int, ...] = (10, 1_000, 100_000)
    generated: int = 300
    decoded: int = 20  # tokens in a row, where ours and the rival's decoder take turns
    positions: int = 8192  # of one batch, where it grows
    lengths: tuple[int, ...] = (16, 64, 256, 1024)
    degrees: tuple[int, ...] = (8, 16, 32, 64, 96)
    widths: tuple[int, ...] = (8, 16, 32, 64)
    vocabularies: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    memory: tuple[int, int, int] = (2000, 25, 32)  # V, out-degree, d: 211 MB of parameters
    cold_starts: int = 3
    warm_starts: int = 7
    texts: tuple[str, ...] = ()  # of `small_texts.MAKERS`; none: all
    text_minutes: float = 0.5


FULL = Sizes()
QUICK = Sizes(
    repeats=5,
    in_a_row=2,
    letters=200_000,
    compiled=False,
    released_peers=False,
    d_chinese=(),
    generated=100,
    positions=2048,
    degrees=(8, 16, 32, 64),
    vocabularies=(128, 256, 512, 1024),
    cold_starts=1,
    warm_starts=3,
    texts=("templates, zh, 2 kB", "music", "ab × 2000"),
    text_minutes=0.05,
)


@dataclass
class Bench:
    """What the sections share: how much to measure, the two texts, where progress is told."""

    sizes: Sizes = FULL
    text: Path | None = None
    chinese: Path | None = None
    note: Callable[[str], None] = lambda line: None
    threads: int = field(default_factory=numba.get_num_threads)

    def __post_init__(self) -> None:
        sizes, rng = self.sizes, np.random.default_rng(0)
        given = {"letters": self.text, "chinese": self.chinese}
        made = {
            "letters": (65, sizes.letters, "!"),
            "chinese": (sizes.n_chinese - 1, sizes.chinese if sizes.d_chinese else 0, "一"),
        }
        self.texts: dict[str, str] = {}
        self.facts: dict[str, str] = {}  # which texts these are, for the report
        for name, path in given.items():
            if path is None and made[name][1] == 0:
                continue
            text = self.texts[name] = (
                read_text(locate(path)) if path else stand_in(*made[name], rng)
            )
            source = path.name if path else "made up, a random bigram chain"
            self.facts[f"text_{name}"] = f"{source}: {len(text):,} characters"

    def trainer(
        self, preset: str = "mini", d_chinese: int = 0, backend: str = "numba", streams: int = 0
    ) -> Trainer:
        """A trainer on the letters, or on the Chinese text with d_chinese as width.

        Every preset trains with the settings of ``mini`` (exact softmax, clipping, averaging).
        """
        sizes = self.sizes
        batch, length = sizes.chinese_batch if d_chinese else sizes.batch
        text = self.texts["chinese" if d_chinese else "letters"]
        n_nodes = sizes.n_chinese if d_chinese else None
        d_node = d_chinese or sizes.d_letters
        model = BriLLM.from_text(text, preset, n_nodes=n_nodes, d_node=d_node, backend=backend)
        config = TrainConfig(steps=10**6, batch_size=streams or batch, sequence_length=length)
        ids = model.tokenizer.encode(text)
        return Trainer(model, ids, ids[:2], config)

    def cases(self) -> dict[str, Callable[[], Trainer]]:
        """What is trained, by suffix of the JSON keys."""

        def chinese(d: int) -> Callable[[], Trainer]:
            return lambda: self.trainer(d_chinese=d)

        letters = {"": self.trainer, "_released": lambda: self.trainer("released")}
        return letters | {f"_zh{d}": chinese(d) for d in self.sizes.d_chinese}


def title(suffix: str, trainer: Trainer) -> str:
    """What is trained, in words."""
    model, config = trainer.model, trainer.config
    name = {"": "mini, letters", "_released": "released, letters"}.get(suffix, "mini, Chinese")
    batch = f"{config.batch_size} × {config.sequence_length} a step"
    return f"{name}: V {model.graph.n_nodes:,}, d {model.config.d_node}, {batch}"


@dataclass
class Section:
    """What one section found: a table for people, figures for programs."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, found: Spread) -> Spread:
        """Keep a figure, with its quartiles as NAME_low and NAME_high."""
        self.figures |= {name: found.median, f"{name}_low": found.low, f"{name}_high": found.high}
        return found

    def table(self) -> str:
        """Title, table and notes as lines of text."""
        return "\n".join([f"== {self.title}", *table(self.head, self.rows), *self.notes])
