"""From answers to energies, and from energies to −log p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minibrillm.checks import UserError
from minibrillm.rivals.pytorch import F, Tensor, torch


class _Norm(torch.autograd.Function):
    """‖y‖₂ over the last axis, back in one pass over y where PyTorch's own takes three."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(y, dim=-1)
        ctx.save_for_backward(y, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, norm = ctx.saved_tensors
        # Where the norm is 0, so is y: the gradient is 0 (eq. 11) whatever the divisor.
        return y * (gradient / norm.clamp_min(1e-30))[..., None]


def energy_of(h: Tensor) -> Tensor:
    """Energy of the answers to pre-activations: ‖gelu(h)‖₂, (P, d) -> (P,) (MODEL.md, eq. 5)."""
    return _Norm.apply(F.gelu(h))


def compiled_energy(d: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """`energy_of` by ``torch.compile``, forward and backward, compiled once for any number of rows.

    Raises
    ------
    UserError
        The machine has no C++ compiler, or the like.
    """

    def fused(h: Tensor) -> Tensor:
        return torch.linalg.vector_norm(F.gelu(h), dim=-1)

    probe = torch.ones(64, d, dtype=dtype, requires_grad=True)
    try:
        compiled = torch.compile(fused, dynamic=False)
        torch._dynamo.mark_dynamic(probe, 0)
        compiled(probe).sum().backward()
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch.compile does not work on this machine ({reason}); "
            "install a C++ compiler, or go without it"
        ) from None
    # No or one row would be compiled anew.
    return lambda h: compiled(h) if len(h) > 1 else energy_of(h)


def nll_of(energies: Tensor, log_weight: Tensor, column: Tensor, log_prior: Tensor) -> Tensor:
    """−log p of the truth: (N, K), (N, K), (N,), (N,) -> (N,) (eq. 8-10).

    ``log_prior`` is the truth's own π: a column may stand for a class.
    """
    truth = energies.gather(1, column[:, None])[:, 0] + log_prior
    return torch.logsumexp(energies + log_weight, dim=1) - truth
