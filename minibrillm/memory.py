"""What a node remembers of earlier signals: a state of fixed size, and one class for each kind.

Every kind is one recurrence, acc ← keep ⊙ acc + gain · s, read as a = acc / z (MODEL.md, eq. 7). A
kind says what keep and gain are, and how gradients reach its parameters. To add one, write a
subclass, ``class Mine(Memory, name="mine")``: that is then a value of `ModelConfig.memory`, for the
textbook and the kernels. (Import it before you load a model that has it.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minibrillm.checks import Network, Settings, register
from minibrillm.functional import Named, gelu, position_encoding, sigmoid

Array = np.ndarray
Rates = tuple[Array, Array, float]
Sums = tuple[Array, Array, Array]


class State(NamedTuple):
    """The memory of B streams, each at a node, before its next edge: O(d) however long the past.

    acc_i and z_i are divided by exp(``log_scale``), so that neither can overflow.
    """

    node: Array  # (B,) the node each stream stands at
    incoming: Array  # (B, d) a_i = acc_i / z_i, which the next edge receives
    accumulator: Array  # (B, d) acc_i
    normaliser: Array  # (d,) z_i
    log_scale: float  # running maximum of α (memory "position"); -inf where nothing is remembered
    position: int  # i, the number of edges crossed
    recent: Array | None = None  # (B, ≤ prior_order - 1) the last tokens, if the prior needs them


class Schedule(NamedTuple):
    """How the memory moves over n edges; it depends on parameters, not on signals (eq. 7)."""

    keep: Array  # (n, d) λ, times the change of scale
    gain: Array  # (n,) g_j
    normaliser: Array  # (n + 1, d) z_i … z_{i+n}
    log_scale: float  # after the last edge
    first: int  # position of the first edge; 0 unless a state was carried on


class Path(NamedTuple):
    """What `path_forward` leaves for the competition and the way back: B sequences, n edges."""

    incoming: Array  # (B, n, d) a_i, what arrives at each source
    signal: Array  # (B, n, d) s_i, what leaves each edge of the path
    pre_activation: Array  # (B, n, d) h_i of those edges
    start_pre_activation: Array  # (B, d) of r_0
    schedule: Schedule
    final: State  # at the last token


class Competition(NamedTuple):
    """What all answers found: losses in nats and, if asked for, gradients of their mean."""

    nll: Array  # (B, n) −log p(x_{i+1})
    d_incoming: Array  # (B, n, d), empty without gradients
    gradients: Named  # by parameter name, empty without gradients


class Memory:
    """A kind of memory."""

    remembers_start = False  # whether r_0 belongs to the memory (eq. 2), with gain 1 and M = 0

    def __init_subclass__(cls, *, name: str) -> None:  # where a subclass is defined
        register(MEMORIES, name, cls())

    def first_values(self, config: Settings) -> Named:
        """Its parameters by name, as they are before training."""
        return {}

    def limit(self, config: Settings) -> int | None:
        """Edges a stream may cross; None: any number."""
        return None

    def rates(self, parameters: Named, n: int, state: State) -> Rates:
        """keep, (n, d) or what broadcasts to it, gain (n,), and the scale after the n edges from
        number ``state.position`` on (eq. 7)."""
        raise NotImplementedError

    def rates_backward(self, parameters: Named, schedule: Schedule, d_rates: Sums) -> Named:
        """Gradients of its parameters from those of keep (n, d), in two parts that add up, by way
        of acc and of z, and of gain (n,) (eq. 18-19); M counts as a constant."""
        raise NotImplementedError

    def schedule(self, parameters: Named, n: int, state: State) -> Schedule:
        """Unroll the recurrence over the n edges after a state (eq. 7)."""
        keep, gain, log_scale = self.rates(parameters, n, state)
        z = np.empty((n + 1, len(state.normaliser)), state.normaliser.dtype)
        keep, gain = np.array(np.broadcast_to(keep, z[1:].shape), z.dtype), gain.astype(z.dtype)
        z[0] = state.normaliser
        for i in range(n):
            z[i + 1] = keep[i] * z[i] + gain[i]
        return Schedule(keep, gain, z, log_scale, state.position)

    def schedule_backward(self, parameters: Named, schedule: Schedule, sums: Sums) -> Named:
        """Gradients of its parameters from those of the unrolled schedule (eq. 17-19).

        ``sums`` over sequences: da_i ⊙ a_i and dacc_{i+1} ⊙ acc_i (n, d), ⟨dacc_{i+1}, s_i⟩ (n,).
        """
        da_times_a, d_keep, d_gain = sums
        n, z = len(schedule.gain), schedule.normaliser
        sent = -da_times_a[1:] / z[1:n]  # a_i = acc_i / z_i, so this reaches z_i, (n - 1, d)
        dz = np.zeros_like(schedule.keep)  # row i holds dz_{i+1}; dz_n = 0
        for i in reversed(range(n - 1)):
            dz[i] = schedule.keep[i + 1] * dz[i + 1] + sent[i]  # eq. 17
        d_rates = d_keep, dz * z[:n], d_gain + dz.sum(axis=1)
        return self.rates_backward(parameters, schedule, d_rates)


MEMORIES: dict[str, Memory] = {}


class Chain(Memory, name="chain"):
    """The last signal only: λ = 0, so a_i = s_{i-1}."""

    def rates(self, parameters: Named, n: int, state: State) -> Rates:
        return np.zeros(1), np.ones(n), state.log_scale

    def rates_backward(self, parameters: Named, schedule: Schedule, d_rates: Sums) -> Named:
        return {}


class Position(Memory, name="position"):
    """A mean of all earlier signals, weighted by their position: λ = 1, g_j = exp(α_j).

    Both are divided by the exponential of the running maximum of α, so that no gain is above 1.
    """

    def first_values(self, config: Settings) -> Named:
        return {"position_logits": np.zeros(config.max_positions)}  # α: a plain mean

    def limit(self, config: Settings) -> int | None:
        return config.max_positions

    def rates(self, parameters: Named, n: int, state: State) -> Rates:
        here = slice(state.position, state.position + n)
        alpha = parameters["position_logits"][here].astype(np.float64)
        top = np.maximum.accumulate(np.concatenate([[state.log_scale], alpha]))
        keep = np.exp(top[:-1] - top[1:])[:, None]  # 0 where nothing is remembered yet
        return keep, np.exp(alpha - top[1:]), float(top[-1])

    def rates_backward(self, parameters: Named, schedule: Schedule, d_rates: Sums) -> Named:
        d_alpha, (_, _, d_gain) = np.zeros_like(parameters["position_logits"]), d_rates
        d_alpha[schedule.first : schedule.first + len(d_gain)] = d_gain * schedule.gain  # eq. 19
        return {"position_logits": d_alpha}


class Leaky(Memory, name="leaky"):
    """A leaky mean, like the membrane of a neuron: λ = sigmoid(ρ), one a dimension; g = 1."""

    remembers_start = True

    def first_values(self, config: Settings) -> Named:
        return {"decay_logit": np.linspace(-2, 3, config.d_node)}  # ρ: from 0.5 to 21 steps

    def rates(self, parameters: Named, n: int, state: State) -> Rates:
        return sigmoid(parameters["decay_logit"]), np.ones(n), state.log_scale

    def rates_backward(self, parameters: Named, schedule: Schedule, d_rates: Sums) -> Named:
        d_decay = sum(d_rates[0][::-1]) + d_rates[1].sum(
            axis=0
        )  # the last edge first, as they came
        decay = schedule.keep[0]
        return {"decay_logit": d_decay * decay * (1 - decay)}  # eq. 18


def start_state(model: Network, nodes: Array) -> tuple[State, Array]:
    """Memory of streams that begin at ``nodes`` (B,), and the pre-activation of r_0 (eq. 1-2)."""
    config, parameters = model.config, model.parameters
    d, dtype = config.d_node, next(iter(parameters.values())).dtype
    if config.start == "ones":
        h, r = np.zeros((len(nodes), d), dtype), np.ones((len(nodes), d), dtype)
    else:
        p = position_encoding(config.positions, 0, 1, d).astype(dtype)
        h = dtype.type(1 / d) + parameters["node_bias"][nodes] + p  # (B, d)
        r = gelu(h)
    recent = nodes[:, None] if config.prior == "ngrams" else None
    if config.memory_kind.remembers_start:
        return State(nodes, r, r, np.ones(d, dtype), 0.0, 0, recent), h
    return State(nodes, r, np.zeros_like(r), np.zeros(d, dtype), -np.inf, 0, recent), h
