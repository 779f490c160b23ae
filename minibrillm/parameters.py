"""The named arrays of a model: initialisation, which of them decay, which learn."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig

Array = np.ndarray
Parameters = dict[str, Array]

_ZERO_AT_FIRST = (
    "synapse_weight",
    "synapse_bias",
    "axon_bias",
    "dendrite_bias",
    "position_logits",
)
_AT_ONCE = 1 << 16  # numbers drawn or checked in one go: whole arrays would take temporary copies


def initialise(
    config: ModelConfig,
    n_nodes: int,
    n_edges: int,
    rng: np.random.Generator,
    dtype: type = np.float32,
) -> Parameters:
    """Draw fresh parameters.

    Weights are uniform in ± ``config.initial_range`` (synapses zero, so that an edge starts as
    axon + dendrite). Biases are uniform likewise, but zero for the parts of a three-part edge.
    ρ is spread evenly over [-2, 3]: time constants from 0.5 to 21 steps. α starts at 0, a plain
    mean; κ at ``config.prior_weight``; c at ``config.signal_bound``.

    Parameters
    ----------
    n_nodes, n_edges : int
        V and E.
    rng : numpy.random.Generator
        Drawn from in the order of `ModelConfig.shapes`.
    dtype : float32 or float64

    Returns
    -------
    dict of arrays, named and shaped as `ModelConfig.shapes` says
    """
    parameters: Parameters = {}
    array: Array
    for name, shape in config.shapes(n_nodes, n_edges).items():
        if name == "decay_logit":
            array = np.linspace(-2, 3, shape[0]).astype(dtype)
        elif name == "log_bound":
            array = np.full(shape, math.log(config.signal_bound), dtype)
        elif name == "context_trust":
            array = np.full(shape, config.prior_weight, dtype)
        elif name in _ZERO_AT_FIRST:
            array = np.zeros(shape, dtype)
        else:
            array = np.empty(shape, dtype)
            for block in _blocks(array):
                block[...] = rng.uniform(-config.initial_range, config.initial_range, block.size)
        parameters[name] = array
    return parameters


def _blocks(array: Array) -> Iterator[Array]:
    """A contiguous array piece by piece, as views."""
    flat = array.reshape(-1)
    return (flat[first : first + _AT_ONCE] for first in range(0, flat.size, _AT_ONCE))


def decays(name: str) -> bool:
    """Whether weight decay pulls this parameter to zero.

    The matrices of edges decay (private, shared, axon, dendrite, synapse) and so does a
    synapse's bias, since a synapse is an addition that must earn its place. Other biases,
    λ, α, κ and c do not.
    """
    return name.endswith("weight") or name == "synapse_bias"


def check_parameters(
    config: ModelConfig, n_nodes: int, n_edges: int, parameters: Parameters
) -> None:
    """Refuse a missing, unknown, misshapen or non-finite array, by name (`UserError`)."""
    shapes = config.shapes(n_nodes, n_edges)
    for name in shapes.keys() ^ parameters.keys():
        state = "is missing" if name in shapes else "is not part of this model"
        raise UserError(f"the parameter {name!r} {state}")
    dtype = next(iter(parameters.values())).dtype
    for name, array in parameters.items():
        if array.shape != shapes[name]:
            raise UserError(
                f"the parameter {name!r} has shape {array.shape}, expected {shapes[name]}"
            )
        if array.dtype not in (np.float32, np.float64) or array.dtype != dtype:
            raise UserError(
                f"the parameter {name!r} is {array.dtype}; expected all float32 or all float64"
            )
        if not all(np.isfinite(block).all() for block in _blocks(array)):
            raise UserError(
                f"the parameter {name!r} holds NaN or infinity; go back to an earlier checkpoint"
            )
