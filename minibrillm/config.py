"""What a model is made of (`ModelConfig`) and how it is trained (`TrainConfig`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minibrillm.checks import Record, UserError, check_prior, ranges
from minibrillm.edges import EDGES, Edges, Shapes
from minibrillm.functional import Named
from minibrillm.memory import MEMORIES, Memory
from minibrillm.presets.named import model_settings, training_settings


@dataclass(frozen=True)
class ModelConfig(Record):
    """The variant of the model (MODEL.md, "Variants"); the defaults are the preset ``mini``.

    An impossible value is a `UserError` with the name of the setting.
    """

    d_node: int = 32  # d, how many numbers a signal carries; multiples of 16 are fastest
    memory: str = "leaky"  # what a node remembers of earlier signals: `minibrillm.memory`
    start: str = "node"  # r_0: all ones, or gelu(1/d + n_{x_0} + P_0)
    edges: str = "three_part"  # what an edge is made of: `minibrillm.edges`
    positions: str = "none"  # encoding added on every edge: none, sinusoidal, released
    first_position: int = 0  # edge i carries P_{i + first_position}
    prior: str = "hebbian"  # π: none, the bigram (hebbian), or with an n-gram beside it (ngrams)
    prior_order: int = 7  # n, the tokens of an n-gram, the next one included
    prior_weight: float = 0.5  # κ, the n-gram's share in that mean, to start from
    min_count: int = 10  # how often a bigram must be seen to have an edge (synapse) of its own
    max_positions: int = 512  # T_max, the number of α (memory "position")
    train_shared_edge: bool = True  # whether the shared edge learns
    initial_range: float = 0.3  # weights start uniform in ± this
    signal_bound: float = 8.0  # what c starts from, the length no signal reaches; 0: no bound

    _ranges = ranges.MODEL
    _choices = ranges.WORDS | {"memory": MEMORIES, "edges": EDGES}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prior(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """One of "paper", "released" (the authors' code), "mini" (ours), "mini-ngrams"."""
        return cls.from_json({**model_settings(name), **changes})

    @property
    def memory_kind(self) -> Memory:
        """What `memory` names."""
        return MEMORIES[self.memory]

    @property
    def edge_kind(self) -> Edges:
        """What `edges` names."""
        return EDGES[self.edges]

    def first_values(self) -> Named:
        """Parameters that start at given values, by name: all but those of edges and nodes."""
        values = dict(self.memory_kind.first_values(self))
        if self.signal_bound:
            values["log_bound"] = np.full(1, math.log(self.signal_bound))
        if self.prior == "ngrams":
            values["context_trust"] = np.full(self.prior_order, self.prior_weight)  # κ_l
        return values

    def shapes(self, n_nodes: int, n_edges: int) -> Shapes:
        """Shape of every parameter, by name (MODEL.md, "Objects"), for V nodes and E edges."""
        shapes = self.edge_kind.shapes(self.d_node, n_nodes, n_edges)
        if self.start == "node":
            shapes["node_bias"] = (n_nodes, self.d_node)
        return shapes | {name: array.shape for name, array in self.first_values().items()}

    def n_parameters(self, n_nodes: int, n_edges: int) -> int:
        """Number of parameters; for ``released`` (E+1)(d² + d) + V d + 512 (MODEL.md, eq. 20)."""
        return sum(math.prod(shape) for shape in self.shapes(n_nodes, n_edges).values())


@dataclass(frozen=True)
class TrainConfig(Record):
    """How a model is trained, the defaults as for ``mini``; give steps, or minutes, or both: then
    the first reached ends the run, and the learning rate follows whichever is nearer its end."""

    steps: int | None = None  # optimiser steps
    minutes: float | None = None  # of the training loop, evaluations included
    batch_size: int = 128  # sequences a step
    sequence_length: int = 64  # edges each crosses
    learning_rate: float = 0.02  # peak, reached linearly, then cosine to zero
    warmup_steps: int = 50
    weight_decay: float = 0.5  # decoupled (AdamW), on what `Edges.decaying` names
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # largest L2 norm of the whole gradient; 0: no clipping
    average_decay: float = 0.995  # a step, of the moving average that is evaluated; 0: none
    negatives: int = 0  # k: a softmax of the target and k negatives (`variance`); 0: of all nodes
    dropout: float = 0.0  # share of a signal's numbers that do not compete (MODEL.md, "Dropout")
    leave_one_out: float = 0.0  # share of steps that count n-grams without the place foretold
    round_below: float = 0.0  # targets less probable are rounded at random (eq. 11b); 0: exact
    evaluate_every: int = 200  # steps between held-out evaluations; 0: only at the end
    checkpoint_every: int = 200  # likewise, of a training that is kept in a folder
    seed: int = 0  # of initial weights and batches

    _ranges = ranges.TRAINING

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise UserError("TrainConfig: give steps or minutes, else training would never end")
        super().__post_init__()

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Settings that suit the model preset of that name."""
        return cls.from_json({**training_settings(name), **changes})
