"""What a model is made of (`ModelConfig`) and how it is trained (`TrainConfig`)."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from minibrillm.checks import UserError

_MODEL_CHOICES = {
    "memory": ("chain", "position", "leaky"),
    "start": ("ones", "node"),
    "edges": ("shared", "three_part"),
    "positions": ("none", "sinusoidal", "released"),
    "prior": ("none", "hebbian", "ngrams"),
}

_MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "memory": "chain",
        "start": "ones",
        "edges": "shared",
        "positions": "sinusoidal",
        "first_position": 0,
        "prior": "none",
        "min_count": 1,
        "train_shared_edge": False,
        "initial_range": 0.5,
        "signal_bound": 0.0,
    },
    "released": {
        "memory": "position",
        "start": "node",
        "edges": "shared",
        "positions": "released",
        "first_position": 1,
        "prior": "none",
        "min_count": 1,
        "train_shared_edge": True,
        "initial_range": 0.5,
        "signal_bound": 0.0,
    },
    "mini": {},  # the defaults of ModelConfig
    "mini-ngrams": {"prior": "ngrams"},
}


class _Record:
    """Checked, immutable settings that go to JSON and back."""

    _choices: ClassVar[dict[str, tuple[str, ...]]] = {}

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of every setting."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """Build from a dictionary; an unknown key or an impossible value is refused by name."""
        if not isinstance(settings, dict):
            raise UserError(f"{cls.__name__}: expected a dictionary of settings, got {settings!r}")
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise UserError(
                    f"{cls.__name__} has no setting {key!r}{hint}; it has {', '.join(known)}"
                )
        return cls(**settings)

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return type(self).from_json({**self.to_json(), **changes})

    def _check_choice(self, name: str) -> None:
        value, allowed = getattr(self, name), self._choices[name]
        if value not in allowed:
            raise UserError(
                f"{type(self).__name__}.{name} is {value!r}; choose one of {', '.join(allowed)}"
            )

    def _check_number(
        self,
        name: str,
        kind: type,
        low: float,
        high: float = float("inf"),
        *,
        open_low: bool = False,
    ) -> None:
        value = getattr(self, name)
        right = isinstance(value, int) or (kind is float and isinstance(value, float))
        inside = (
            right
            and not isinstance(value, bool)
            and (value > low if open_low else value >= low)
            and value <= high
            and (name == "minutes" or value < float("inf"))
        )
        if not inside:
            sort = "an integer" if kind is int else "a number"
            bound = f"{'above' if open_low else 'at least'} {low:g}"
            bound += f" and at most {high:g}" if high < float("inf") else ""
            raise UserError(f"{type(self).__name__}.{name} is {value!r}; expected {sort} {bound}")

    def _check_flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise UserError(
                f"{type(self).__name__}.{name} is {getattr(self, name)!r}; expected true or false"
            )


def preset_names() -> tuple[str, ...]:
    """Names of the model presets."""
    return tuple(_MODEL_PRESETS)


def _check_preset(name: str) -> None:
    if name not in _MODEL_PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(_MODEL_PRESETS)}")


@dataclass(frozen=True)
class ModelConfig(_Record):
    """The variant of the model (MODEL.md, "Variants"); the defaults are the preset ``mini``.

    Parameters
    ----------
    d_node : int
        Node width d: how many numbers a signal carries. The kernels are fastest in multiples of 16.
    memory : "chain", "position" or "leaky"
        What a node remembers of earlier signals: the last one only; a mean weighted by position
        (α); a leaky mean with one learned decay per dimension.
    start : "ones" or "node"
        r_0: all ones, or gelu(1/d + n_{x_0} + P_0).
    edges : "shared" or "three_part"
        Private edges and one shared edge for bigrams never seen; or axon + dendrite + synapse.
    positions : "none", "sinusoidal" or "released"
        Position encoding added on every edge.
    first_position : int
        The encoding on edge i is P_{i + first_position}.
    prior : "none", "hebbian" or "ngrams"
        π: zero; the log-probability of the modified Kneser-Ney bigram; or a weighted mean of it
        and of that of the n-gram of order ``prior_order``.
    prior_order : int
        n, the tokens of an n-gram, the next one included (prior ``ngrams`` only).
    prior_weight : float
        κ, the n-gram's share in that mean (prior ``ngrams`` only); where training leaves one out,
        what it starts from.
    min_count : int
        How often a bigram must be seen to have an edge (or synapse) of its own.
    max_positions : int
        T_max, the number of α (memory ``position`` only).
    train_shared_edge : bool
        Whether the shared edge learns (``edges="shared"`` only).
    initial_range : float
        Weights start uniform in ± this (synapses at zero).
    signal_bound : float
        What c starts from, the length that no signal reaches (MODEL.md, eq. 6); it is learned.
        0: no bound.

    Raises
    ------
    UserError
        An impossible value, with the name of the setting.
    """

    d_node: int = 32
    memory: str = "leaky"
    start: str = "node"
    edges: str = "three_part"
    positions: str = "none"
    first_position: int = 0
    prior: str = "hebbian"
    prior_order: int = 7
    prior_weight: float = 0.5
    min_count: int = 10
    max_positions: int = 512
    train_shared_edge: bool = True
    initial_range: float = 0.3
    signal_bound: float = 8.0

    _choices = _MODEL_CHOICES

    def __post_init__(self) -> None:
        for name in _MODEL_CHOICES:
            self._check_choice(name)
        self._check_number("d_node", int, 1, 4096)
        self._check_number("first_position", int, 0)
        self._check_number("min_count", int, 1)
        self._check_number("max_positions", int, 1)
        self._check_number("prior_order", int, 2, 16)
        self._check_number("prior_weight", float, 0, 1)
        self._check_number("initial_range", float, 0)
        self._check_number("signal_bound", float, 0)
        if self.prior == "ngrams" and self.edges == "shared":
            raise UserError(
                "the prior 'ngrams' tells unseen targets apart, shared edges make one class of "
                "them; take edges='three_part', or prior='hebbian'"
            )
        self._check_flag("train_shared_edge")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """``paper`` (its equation), ``released`` (the authors' code), ``mini`` (ours), or ``mini-ngrams``
        (ours with a prior of 7-grams)."""
        _check_preset(name)
        return cls.from_json({**_MODEL_PRESETS[name], **changes})

    def shapes(self, n_nodes: int, n_edges: int) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter array, by name (MODEL.md, "Objects").

        Parameters
        ----------
        n_nodes : int
            V.
        n_edges : int
            E, the private edges (``shared``: slot 0 is the shared edge, so E + 1 slots).
        """
        d = self.d_node
        shapes: dict[str, tuple[int, ...]] = {}
        if self.edges == "shared":
            shapes["edge_weight"] = (n_edges + 1, d, d)
            shapes["edge_bias"] = (n_edges + 1, d)
        else:
            for part, count in (("axon", n_nodes), ("dendrite", n_nodes), ("synapse", n_edges)):
                shapes[f"{part}_weight"] = (count, d, d)
                shapes[f"{part}_bias"] = (count, d)
        if self.start == "node":
            shapes["node_bias"] = (n_nodes, d)
        if self.memory == "position":
            shapes["position_logits"] = (self.max_positions,)
        elif self.memory == "leaky":
            shapes["decay_logit"] = (d,)
        if self.signal_bound:
            shapes["log_bound"] = (1,)
        if self.prior == "ngrams":
            shapes["context_trust"] = (self.prior_order,)
        return shapes

    def n_parameters(self, n_nodes: int, n_edges: int) -> int:
        """Number of parameters; for ``released`` (E+1)(d² + d) + V d + 512 (MODEL.md, eq. 20)."""
        total = 0
        for shape in self.shapes(n_nodes, n_edges).values():
            size = 1
            for length in shape:
                size *= length
            total += size
        return total


@dataclass(frozen=True)
class TrainConfig(_Record):
    """How a model is trained. Defaults are those of ``mini``; see `preset` for the others.

    Parameters
    ----------
    steps : int or None
        Optimiser steps; None: until ``minutes`` are over.
    minutes : float or None
        Wall-clock limit of the training loop, evaluations included. With both, the first reached
        ends the run. The learning rate follows whichever is nearer its end.
    batch_size, sequence_length : int
        Sequences a step, and edges each crosses.
    learning_rate, warmup_steps : float, int
        Peak rate, reached linearly, then cosine to zero.
    weight_decay : float
        Decoupled (AdamW); on the matrices of edges (`minibrillm.parameters.decays`) only.
    beta1, beta2, epsilon : float
        AdamW's moments.
    clip_norm : float
        Largest L2 norm of the whole gradient; 0: no clipping.
    average_decay : float
        Decay a step of the moving average of the weights that is evaluated; 0: none.
    negatives : int
        0: exact softmax over the vocabulary. k: the target and k negatives, the most frequent
        successors of each source (the released training).
    dropout : float
        Share of a signal's numbers that are set to 0 where it competes, the same ones along a
        sequence (MODEL.md, "Dropout"): for long training on a small text.
    leave_one_out : float
        Share of the steps, evenly spread, in which an n-gram prior is counted as if what is to be
        foretold had not been read there; they learn κ, how far to trust it (MODEL.md, "The Hebbian
        prior"). 1 for many nodes, where few contexts return; a quarter for short texts.
    round_below : float
        Targets less probable than this are rounded at random, to 0 or to it, before gradients
        are made (MODEL.md, eq. 11b): no bias, some noise, and with many nodes much less work.
        0: exact gradients.
    evaluate_every, checkpoint_every : int
        Steps between held-out evaluations and between checkpoints; 0: only at the end.
    seed : int
        Of initialisation and batches.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    sequence_length: int = 64
    learning_rate: float = 0.02
    warmup_steps: int = 50
    weight_decay: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    average_decay: float = 0.995
    negatives: int = 0
    dropout: float = 0.0
    leave_one_out: float = 0.0
    round_below: float = 0.0
    evaluate_every: int = 200
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise UserError("TrainConfig: give steps or minutes, else training would never end")
        if self.steps is not None:
            self._check_number("steps", int, 1)
        if self.minutes is not None:
            self._check_number("minutes", float, 0, open_low=True)
        for name in ("batch_size", "sequence_length"):
            self._check_number(name, int, 1)
        for name in ("warmup_steps", "negatives", "evaluate_every", "checkpoint_every", "seed"):
            self._check_number(name, int, 0)
        for name in ("weight_decay", "clip_norm"):
            self._check_number(name, float, 0)
        for name in ("learning_rate", "epsilon"):
            self._check_number(name, float, 0, open_low=True)
        for name in ("beta1", "beta2", "average_decay", "dropout", "round_below"):
            self._check_number(name, float, 0, 0.999999)
        self._check_number("leave_one_out", float, 0, 1)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Settings that suit the model preset of that name."""
        _check_preset(name)
        settings: dict[str, Any] = dict(_TRAIN_PRESETS.get(name, {}))
        return cls.from_json({**settings, **changes})


_TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    # The published settings: 8 processes of 32 sequences, 400 negatives, no clipping.
    "released": {
        "sequence_length": 32,
        "batch_size": 256,
        "learning_rate": 0.05,
        "warmup_steps": 0,
        "clip_norm": 0.0,
        "negatives": 400,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "average_decay": 0.0,
    },
    "paper": {
        "sequence_length": 16,
        "batch_size": 256,
        "learning_rate": 0.01,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "average_decay": 0.0,
    },
}
