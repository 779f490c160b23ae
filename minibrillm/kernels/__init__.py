"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba."""

from minibrillm.kernels import passes
from minibrillm.kernels.passes import adamw as adamw
from minibrillm.kernels.passes import cache_folder as cache_folder
from minibrillm.kernels.passes import prior_rows as prior_rows
from minibrillm.kernels.passes import sum_of_squares as sum_of_squares

SUPPORTED_EDGES = ("shared", "three_part")


def path_forward(model, tokens, state=None):
    return passes.path_forward(model.parameters, model.graph, model.config, tokens, state)


def compete(model, tokens, path, **how):
    return passes.compete(model.parameters, model.graph, model.config, tokens, path, **how)


def path_backward(model, tokens, path, found):
    return passes.path_backward(model.parameters, model.graph, model.config, tokens, path, found)


def energies(model, nodes, incoming, first=0):
    return passes.energies(model.parameters, model.graph, model.config, nodes, incoming, first)


def adamw(p, g, moments, rates):
    return passes.adamw(p, g, *moments, *rates)
