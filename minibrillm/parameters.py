"""The named arrays of a model: initialisation, which of them decay, which learn."""

from __future__ import annotations

import numpy as np

from minibrillm.config import ModelConfig
from minibrillm.errors import UserError

Array = np.ndarray
Parameters = dict[str, Array]

_ZERO_AT_FIRST = (
    "synapse_weight",
    "synapse_bias",
    "axon_bias",
    "dendrite_bias",
    "position_logits",
)


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
    mean.

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
    for name, shape in config.shapes(n_nodes, n_edges).items():
        if name == "decay_logit":
            array = np.linspace(-2, 3, shape[0])
        elif name in _ZERO_AT_FIRST:
            array = np.zeros(shape)
        else:
            array = rng.uniform(-config.initial_range, config.initial_range, shape)
        parameters[name] = array.astype(dtype)
    return parameters


def decays(name: str) -> bool:
    """Whether weight decay pulls this parameter to zero.

    The matrices of edges decay (private, shared, axon, dendrite, synapse) and so does a
    synapse's bias, since a synapse is an addition that must earn its place. Other biases,
    λ and α do not.
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
        if not np.isfinite(array).all():
            raise UserError(
                f"the parameter {name!r} holds NaN or infinity; go back to an earlier checkpoint"
            )


def training_memory(config: ModelConfig, n_nodes: int, n_edges: int) -> int:
    """Bytes that training keeps in float32: parameters, gradients, two moments, the average."""
    return 4 * 5 * config.n_parameters(n_nodes, n_edges)
