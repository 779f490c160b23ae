"""Training a twin: our steps, taken by PyTorch's own optimiser."""

from __future__ import annotations

import numpy as np

from minibrillm.config import TrainConfig
from minibrillm.rivals.pytorch import Tensor, nn, torch
from minibrillm.rivals.twin import Twin


class TwinTrainer:
    """Takes the steps of `minibrillm.optim.AdamW` with PyTorch's own optimiser.

    Parameters
    ----------
    twin : Twin
        Updated in place.
    config : TrainConfig
        Its optimiser settings; the learning rate is given step by step.
    """

    def __init__(self, twin: Twin, config: TrainConfig) -> None:
        self.twin, self.config = twin, config
        self.n_steps = 0
        self.weights = dict(twin.named_parameters())
        decays = twin.config.edge_kind.decaying
        groups = [
            {
                "params": [p for name, p in self.weights.items() if (name in decays) == decaying],
                "weight_decay": config.weight_decay if decaying else 0.0,
            }
            for decaying in (True, False)
        ]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
        # The moving average of the weights, which is what one evaluates; without one, themselves.
        self.average = {name: p.detach() for name, p in self.weights.items()}
        if config.average_decay:
            self.average = {name: p.clone() for name, p in self.average.items()}
        self._frozen = []
        if twin.shared and not twin.config.train_shared_edge:
            self._frozen = [twin.edge_weight, twin.edge_bias]

    def step(
        self,
        tokens: np.ndarray | Tensor,
        rate: float,
        candidates: np.ndarray | Tensor | None = None,
    ) -> float:
        """One step of training on tokens (B, n + 1) at a learning rate; returns the loss before."""
        config = self.config
        self.optimiser.zero_grad()
        loss = self.twin(tokens, candidates)
        loss.backward()
        kept = [p.detach()[0].clone() for p in self._frozen]
        for p in self._frozen:
            assert p.grad is not None
            p.grad[0] = 0
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.weights.values(), config.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            for p, value in zip(self._frozen, kept, strict=True):
                p[0] = value  # weight decay has moved it
            self.n_steps += 1
            if config.average_decay:
                decay = min(config.average_decay, (1 + self.n_steps) / (10 + self.n_steps))
                torch._foreach_lerp_(
                    list(self.average.values()), list(self.weights.values()), 1 - decay
                )
        return float(loss.detach())
